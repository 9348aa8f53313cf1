"""Where the bytes of a request end, without a server: however they are cut, no piece holds any of the next request."""

import random

import httptools
import pytest

from chat.framing import Part, RequestExtent

HEAD = b"POST /x HTTP/1.1\r\nHost: a\r\n"
REQUESTS = [
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    HEAD + b"Content-Length: 5\r\n\r\nab\r\n\r",
    HEAD + b"Content-Length: 0\r\n\r\n",
    HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    HEAD + b"Transfer-Encoding: chunked\r\n\r\n5;a=b\r\n0\r\n\r\n\r\n00;last\r\nX-Api-Key: k\r\nY: z\r\n\r\n",
    HEAD + b"Transfer-Encoding: gzip, Chunked\r\n\r\n0A\r\n0123456789\r\n1\r\n0\r\n000\r\n\r\n",
]


class Reader:
    """Parses what it is given as the server does; what belongs to which request."""

    def __init__(self) -> None:
        self.extent = RequestExtent()
        self.parser = httptools.HttpRequestParser(self)
        self.requests: list[bytes] = []
        self._request = b""
        self._length: int | None = 0
        self._whole = False

    def on_message_begin(self) -> None:
        self._length = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.extent.part is Part.HEAD:
            if name == b"Transfer-Encoding":
                self._length = None
            elif name == b"Content-Length":
                self._length = int(value)

    def on_headers_complete(self) -> None:
        if self._length != 0:
            self.extent.begin_body(self._length)

    def on_message_complete(self) -> None:
        assert not self._whole, "a piece held two requests"
        self._whole = True
        self.extent.begin()

    def read(self, data: bytes) -> bytes:
        """Read what is all here; the rest."""
        at = 0
        while at < len(data) and (end := self.extent.piece(data, at)) > at:
            self.parser.feed_data(data[at:end])
            self._request += data[at:end]
            at = end
            if self._whole:
                self.requests.append(self._request)
                self._request, self._whole = b"", False
        return data[at:]


@pytest.mark.parametrize("seed", range(20))
def test_requests_are_told_apart_however_they_are_cut(seed: int) -> None:
    chance = random.Random(seed)
    sent = [chance.choice(REQUESTS) for _ in range(12)]
    stream, rest, reader = b"".join(sent), b"", Reader()
    while stream:
        size = chance.choice([1, 2, 7, 40, 400])
        rest = reader.read(rest + stream[:size])
        stream = stream[size:]
    assert reader.requests == sent and not rest


@pytest.mark.parametrize("rest", [b"\x16\x03\x01\x02", b"get / HTTP/1.1\r\n", b"GET / HTTP/1.1\nHost: a\n", b"{}"])
def test_what_can_never_be_a_request_is_not_waited_for(rest: bytes) -> None:
    extent = RequestExtent()
    assert extent.piece(rest, 0) == 0 and extent.is_foreign(rest, 0)
    assert not extent.is_foreign(b"GET / HTTP/1.1\r\nHost: a\r\n\r", 0)
