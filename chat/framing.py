"""Where the bytes of one HTTP/1.1 request end (RFC 9112), pure: so its parser is never given a byte of the next one.

What the bytes mean is for the parser to judge. It takes no line that ends otherwise than in CRLF, so a head ends with
the first empty line, and a chunked body can be walked line by line.
"""

import re
from enum import Enum

_CRLF = b"\r\n"
_HEAD_END = b"\r\n\r\n"
_BARE_LF = re.compile(rb"(?<!\r)\n")
_CHUNK_SIZE = re.compile(rb"[0-9A-Fa-f]{1,15}")


class Part(Enum):
    """What of a request comes next."""

    HEAD = 1
    BODY = 2  # of a known length
    CHUNK_SIZE = 3
    CHUNK = 4
    TRAILER = 5


class RequestExtent:
    """Cuts what comes into pieces of one request; `begin` it anew for each."""

    __slots__ = ("left", "part", "trailers")

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        self.part = Part.HEAD
        self.left = 0  # bytes to come of the body, or of the chunk
        self.trailers = 0  # bytes of trailers that came

    def begin_body(self, length: int | None) -> None:
        """The head is read; the body has this length, or comes in chunks (None)."""
        self.part = Part.CHUNK_SIZE if length is None else Part.BODY
        self.left = length or 0

    def piece(self, data: bytes, at: int) -> int:
        """Where the piece that begins at `at` ends; `at` itself: it is not all here."""
        if self.part is Part.HEAD:
            end = data.find(_HEAD_END, at)
            return at if end < 0 else end + len(_HEAD_END)
        if self.part is Part.BODY or self.part is Part.CHUNK:
            return self._bytes(data, at)
        end = data.find(_CRLF, at)
        if end < 0:
            return at
        end += len(_CRLF)
        if self.part is Part.TRAILER:
            self.trailers += end - at
        else:
            self._begin_chunk(_CHUNK_SIZE.match(data, at))
        return end

    def is_foreign(self, data: bytes, at: int) -> bool:
        """Whether what is not all here can never become a line of HTTP/1.1: its sender would wait for nothing."""
        if self.part is Part.HEAD and not data[at : at + 1].isupper():
            return True
        return _BARE_LF.search(data, at) is not None

    def _bytes(self, data: bytes, at: int) -> int:
        size = min(self.left, len(data) - at)
        self.left -= size
        if not self.left and self.part is Part.CHUNK:
            self.part = Part.CHUNK_SIZE
        return at + size

    def _begin_chunk(self, size: re.Match[bytes] | None) -> None:
        """A size that is no number is the parser's to refuse."""
        self.left = int(size[0], 16) if size is not None else 0
        if self.left:
            self.left += len(_CRLF)
            self.part = Part.CHUNK
        else:
            self.part = Part.TRAILER
