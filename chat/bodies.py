"""The body of a request: what it is said to be, how it is packed, and how large it may be. For every JSON route alike.

JSON is UTF-8, with or without a byte order mark, under any JSON media type; gzip is unpacked, piece by piece, so that a
small body which unpacks to a large one costs no more than a large one.
"""

import codecs
import zlib
from collections.abc import Collection
from typing import TypeVar

import msgspec
from starlette.requests import ClientDisconnect, Request

from chat.errors import BadRequest, TooLarge, UnsupportedType
from chat.requests import JSON, node_of, weigh
from pipeline.content import UNREADABLE

TEXT = "text/plain"
FORM = "application/x-www-form-urlencoded"
_UTF8 = ("utf-8", "utf8", "us-ascii")
_GZIP = 16 + zlib.MAX_WBITS  # with the header of gzip, as zlib has it
_MEMBERS = 100  # each takes a while to begin, and may hold nothing
Body = TypeVar("Body")


async def body_of(request: Request, kind: type[Body]) -> Body:
    """The request's JSON body as `kind`. Raises BadRequest, UnsupportedType and TooLarge."""
    media_type(request, (JSON,))
    return decode(await raw_body(request, 2 * node_of(request).settings.message_limit), kind)


def decode(data: bytes, kind: type[Body]) -> Body:
    """Raises BadRequest."""
    try:
        return msgspec.json.decode(data, type=kind)
    except UNREADABLE as error:
        raise BadRequest(f"the body must be a JSON {kind.__name__} (see /openapi.json): {error}") from None


def media_type(request: Request, taken: Collection[str]) -> str:
    """Which of `taken` the body is said to be; JSON if nothing is said. Raises UnsupportedType."""
    said = request.headers.get("content-type", JSON)
    if said in taken:
        return said
    named, _, parameters = said.partition(";")
    kind = named.strip().lower()
    if kind == "text/json" or (kind.startswith("application/") and kind.endswith("+json")):
        kind = JSON
    if kind not in taken:
        hint = f"; with curl: -H 'content-type: {JSON}'" if kind == FORM else ""
        raise UnsupportedType(
            f"a body is {' or '.join(taken)} here, not {kind[:100] or 'nothing'}: send content-type: {JSON}{hint}"
        )
    for parameter in parameters.lower().split(";"):
        name, _, value = parameter.partition("=")
        charset = value.strip().strip('"')
        if name.strip() == "charset" and charset not in _UTF8:
            raise UnsupportedType(
                f"a body is UTF-8 here, not {charset[:100]}; send content-type: {kind}; charset=utf-8"
            )
    return kind


async def raw_body(request: Request, limit: int) -> bytes:
    """The request's body, unpacked, without a byte order mark, at most `limit` bytes.

    Raises TooLarge; UnsupportedType for another packing than gzip; BadRequest if it does not come to its end.
    """
    packing = ", ".join(request.headers.getlist("content-encoding")).strip().lower()
    if packing not in ("", "identity", "gzip", "x-gzip"):
        raise UnsupportedType(f"a body is packed with gzip or not at all, not with {packing[:100]}")
    if int(request.headers.get("content-length", "0")) > limit:
        raise _too_large(limit)  # before it is sent
    data = bytearray()
    came = 0
    unpacker = _Gunzip(limit) if "gzip" in packing else None
    try:
        async for part in request.stream():
            came += len(part)
            data += part if unpacker is None else unpacker.unpack(part)
            if max(came, len(data)) > limit:
                raise _too_large(limit)
    except ClientDisconnect:
        raise BadRequest("the request ended before its body did") from None
    finally:
        weigh(request.scope, came if unpacker is None else unpacker.size)
    if unpacker is not None:
        unpacker.check_end()
    return bytes(data.removeprefix(codecs.BOM_UTF8))


class _Gunzip:
    """Unpacks gzip, one member or several, and never more than `limit` bytes and one."""

    def __init__(self, limit: int) -> None:
        self._most = limit + 1
        self._left = self._most
        self._member = zlib.decompressobj(_GZIP)
        self._members = 1

    @property
    def size(self) -> int:
        """Bytes it unpacked."""
        return self._most - self._left

    def unpack(self, data: bytes) -> bytes:
        """Raises BadRequest."""
        found = bytearray()
        while data and self._left > 0:
            if self._member.eof:
                self._members += 1
                if self._members > _MEMBERS:
                    raise BadRequest(f"a gzip body has at most {_MEMBERS} members")
                self._member = zlib.decompressobj(_GZIP)
            try:
                piece = self._member.decompress(data, self._left)
            except zlib.error as error:
                self._left = 0  # it does not say how much it had unpacked
                raise BadRequest(f"the body is not gzip, as content-encoding says: {error}") from None
            self._left -= len(piece)
            found += piece
            data = self._member.unused_data or self._member.unconsumed_tail
        return bytes(found)

    def check_end(self) -> None:
        """Raises BadRequest."""
        if not self._member.eof:
            raise BadRequest("the body ends before its gzip does")


def _too_large(limit: int) -> TooLarge:
    return TooLarge(f"a request body has at most {limit} bytes, unpacked")
