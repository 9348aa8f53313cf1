"""Batches of JSON, as an array or in lines: counted before they are unfolded, so that one too large costs little."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, TypeVar

import msgspec

from chat.errors import TooLarge, Unprocessable

One = TypeVar("One", bound=msgspec.Struct)


def array(body: bytes, kind: type[One], limit: int) -> list[One]:
    """The 1 to `limit` objects of a JSON array. Raises Unprocessable, TooLarge, and what decoding JSON raises."""
    try:
        found = _decoder(kind, limit)(body)
    except msgspec.ValidationError as error:
        if str(error) == f"Expected `array` of at most length {limit}":
            raise TooLarge(_allowed(limit, "more")) from None
        raise
    return _counted([one for one in msgspec.structs.astuple(found) if one is not None], limit)


@lru_cache(maxsize=16)
def _decoder(kind: type, limit: int) -> Callable[[bytes], msgspec.Struct]:
    """Reads an array into a struct, which ends where its fields end: a list would be made whole and then measured."""
    fields = [(f"_{n}", kind, None) for n in range(limit)]
    return msgspec.json.Decoder(msgspec.defstruct("_Array", fields, array_like=True, forbid_unknown_fields=True)).decode


def lines(body: bytes, limit: int) -> list[bytes]:
    """The 1 to `limit` lines of NDJSON, of which as many again may be blank. Raises Unprocessable and TooLarge."""
    body = body.strip()
    ends = body.count(b"\n")
    if ends >= 2 * limit:
        raise TooLarge(_allowed(limit, f"{ends + 1} lines"))
    return _counted([line for line in body.split(b"\n") if line.strip()], limit)


def _counted(batch: list[Any], limit: int) -> list[Any]:
    """The batch, if it may have so many. Raises Unprocessable and TooLarge."""
    if not batch:
        raise Unprocessable(_allowed(limit, "none"))
    if len(batch) > limit:
        raise TooLarge(_allowed(limit, str(len(batch))))
    return batch


def _allowed(limit: int, found: str) -> str:
    return f"a batch has 1 to {limit} events; this one has {found}"
