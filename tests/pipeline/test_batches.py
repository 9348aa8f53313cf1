"""Batches of JSON are counted before they are unfolded."""

import tracemalloc
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from chat.errors import TooLarge, Unprocessable
from pipeline.batches import array, lines

MIB = 1 << 20


class Named(msgspec.Struct):
    name: str = ""


def names(body: bytes, limit: int = 3) -> list[str]:
    return [one.name for one in array(body, Named, limit)]


def test_an_array_has_so_many_and_keeps_its_order() -> None:
    assert names(b'[{"name":"a"}]') == ["a"]
    assert names(b' [ {"name":"a"},{},\n{"name":"b"} ] ') == ["a", "", "b"]
    assert names(b'[{"name":"a"}]', 1) == ["a"]
    for body in (b"[]", b" [ ] "):
        with pytest.raises(Unprocessable, match="1 to 3 events; this one has none"):
            names(body)
    with pytest.raises(TooLarge, match="1 to 3 events; this one has more"):
        names(b"[{},{},{},{}]")


@pytest.mark.parametrize(
    ("body", "where"),
    [(b"{}", "got `object`"), (b"[{},null]", r"\$\[1\]"), (b'[{},{"name":1}]', r"\$\[1\].name"), (b"[{}", "truncated")],
)
def test_an_array_of_something_else(body: bytes, where: str) -> None:
    with pytest.raises(msgspec.DecodeError, match=where):
        names(body)


def test_lines_may_be_blank_as_often_again() -> None:
    assert lines(b"a\nb\r\n\n c", 3) == [b"a", b"b\r", b" c"]
    assert lines(b"\n\n\n\n\n\n\na\n \n\n\n\n\n\n\n", 1) == [b"a"]
    assert lines(b"a\n\n\n\n\nb", 3) == [b"a", b"b"]
    with pytest.raises(TooLarge, match="1 to 3 events; this one has 7 lines"):
        lines(b"a\n\n\n\n\n\nb", 3)
    with pytest.raises(TooLarge, match="1 to 3 events; this one has 4"):
        lines(b"a\nb\nc\nd", 3)
    for body in (b"", b"\n", b" \n" * 100):
        with pytest.raises(Unprocessable, match="this one has none"):
            lines(body, 3)


@pytest.mark.parametrize(
    ("read", "body"),
    [
        (lambda body: array(body, Named, 1000), b"[" + b"{}," * (MIB // 3)),
        (lambda body: array(body, Named, 1000), b"[" + b"0," * (MIB // 2)),
        (lambda body: array(body, Named, 1000), b"[" + b'{"name":"","x":[[],[]]},' * (MIB // 24)),
        (lambda body: lines(body, 1000), b"\n" * MIB),
        (lambda body: lines(body, 1000), b"a" + b"\n" * (MIB - 2) + b"a"),
        (lambda body: lines(body, 1000), b"{}\n" * (MIB // 3)),
    ],
    ids=["objects", "numbers", "nested", "blank lines", "blank lines between", "lines"],
)
def test_what_is_refused_is_not_unfolded(read: Callable[[bytes], Any], body: bytes) -> None:
    """A mebibyte took 25 to 45 ms, and memory for a million objects."""
    tracemalloc.start()
    try:
        with pytest.raises((TooLarge, Unprocessable, msgspec.ValidationError)):  # not for its end, which is no JSON
            read(body)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2 * MIB  # a copy of the body, and little more
