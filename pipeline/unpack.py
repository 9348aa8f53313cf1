"""What came compressed, unpacked: never more than the limit, however much a few bytes would become. Pure."""

import zlib

from chat.errors import BadRequest, TooLarge

GZIP = ("gzip", "x-gzip")
_PLAIN = ("", "identity", "utf-8", "utf8", "us-ascii", "ascii", "binary", "8bit", "7bit")  # AMQP clients say such, too
_WRAPPED = 16 + zlib.MAX_WBITS  # zlib's word for gzip


def unpacked(body: bytes, encoding: str, limit: int) -> bytes:
    """`body` without its content-encoding. Raises BadRequest for one that is not known, TooLarge over `limit` bytes."""
    name = encoding.strip().lower()
    if name in _PLAIN:
        return body
    if name not in GZIP:
        raise BadRequest(f"content-encoding {encoding[:50]!r} is not read here; send gzip, or none")
    found = bytearray()
    while body:  # a file of gzip may have several members, one behind the other
        member = zlib.decompressobj(_WRAPPED)
        try:
            found += member.decompress(body, limit + 1 - len(found))
        except zlib.error as error:
            raise BadRequest(f"the body is not gzip, as its content-encoding says: {error}") from None
        if len(found) > limit:
            raise TooLarge(f"unpacked, a body has at most {limit} bytes; this one has more")
        if not member.eof:
            raise BadRequest("the body ends before its gzip does")
        body = member.unused_data
    return bytes(found)
