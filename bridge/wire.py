"""What AMQP's library cannot read or write itself: bytes that are no text, times that are none, damaged tables,
names of exchanges and queues that are not ASCII or longer than 127 letters.

One such property would end the connection, over and over. A short string keeps its bytes, whatever they are, so that a
message that is set aside or given back is the one that came; `readable` makes a text of it.
"""

from datetime import datetime
from typing import Any

import pamqp.commands
import pamqp.decode
import pamqp.encode

UNREADABLE_HEADERS = ""  # the one header of a message whose headers cannot be read
_SHORT = 255  # bytes of a short string


def readable(text: str) -> str:
    """A short string as text that can be shown, stored and sent: bytes that are not UTF-8 as \\xff."""
    return text if text.isascii() else text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _read_short_string(value: bytes) -> tuple[int, str]:
    length = value[0]
    return length + 1, value[1 : length + 1].decode("utf-8", "surrogateescape")


def _write_short_string(value: str) -> bytes:
    if not isinstance(value, str):
        raise TypeError(f"a short string is text, not {type(value)}")
    data = value.encode("utf-8", "surrogateescape")
    if len(data) > _SHORT:
        raise TypeError(f"a short string has at most {_SHORT} bytes; this one has {len(data)}")
    return bytes([len(data)]) + data


def _table(value: bytes) -> tuple[int, Any]:
    """As pamqp's; a table that cannot be read, such as one with names that are not UTF-8, is one that says so."""
    try:
        return pamqp.decode.field_table(value)
    except Exception:  # whatever it holds
        return 4 + int.from_bytes(value[:4], "big"), {UNREADABLE_HEADERS: True}


def _timestamp(value: bytes) -> tuple[int, datetime | None]:
    """As pamqp's; what is no time, such as one in microseconds, is None."""
    try:
        return pamqp.decode.timestamp(value)
    except (ValueError, OverflowError, OSError):
        return 8, None


def teach() -> None:
    """Put these in the places of the library's own."""
    pamqp.decode.METHODS |= {"shortstr": _read_short_string, "table": _table, "timestamp": _timestamp}
    pamqp.decode.TABLE_MAPPING |= {b"F": _table, b"T": _timestamp}
    pamqp.encode.METHODS |= {"shortstr": _write_short_string}
    for command in pamqp.commands.INDEX_MAPPING.values():
        setattr(command, "validate", lambda self: None)  # noqa: B010  # the broker judges names itself


teach()
