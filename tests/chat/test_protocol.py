"""What a command is read into: as little as is needed."""

from typing import Any, get_type_hints

import msgspec
import pytest

from chat import protocol
from chat.errors import BadRequest
from chat.protocol import Command, CommandError, Malformed, decode_command, unknown_method
from chat.rpc import METHODS


def fields(kind: Any) -> list[str]:
    """The fields of a struct, and of those in it, that would make objects of any JSON."""
    found = []
    for name, hint in get_type_hints(kind).items():
        parts = getattr(hint, "__args__", (hint,))
        inner = [part for part in parts if isinstance(part, type) and issubclass(part, msgspec.Struct)]
        found += [name] if Any in parts else []
        found += [f"{name}.{field}" for part in inner for field in fields(part)]
    return found


def test_no_command_makes_objects_of_json_that_nobody_reads() -> None:
    """A frame of a million numbers takes a second to decode, and is not looked at."""
    assert fields(Command) == []
    assert [fields(kind) for kind, _ in METHODS.values()] == [[]] * len(METHODS)
    for name in ("send", "ping", "connect", "nothing"):
        assert decode_command(b'{"id":1,"%b":{"data":[1e308,{}],"user":[]}}' % name.encode()).id == 1


@pytest.mark.parametrize(
    ("data", "name"),
    [
        ("{}", ""),
        ('{"user":"sara"}', "sara"),
        ('{"x":1,"user":"\\u0633"}', "س"),
        ("null", ""),
        ("[1]", ""),
        ('"a"', ""),
    ],
)
def test_the_name_of_who_connects(data: str, name: str) -> None:
    connect = decode_command(f'{{"id":1,"connect":{{"data":{data}}}}}'.encode()).connect
    assert connect is not None and connect.username() == name
    assert protocol.Connect().username() == ""


@pytest.mark.parametrize("user", ["1", "null", "[]", "{}"])
def test_a_name_that_is_no_text(user: str) -> None:
    connect = decode_command(f'{{"id":1,"connect":{{"data":{{"user":{user}}}}}}}'.encode()).connect
    assert connect is not None
    with pytest.raises(BadRequest, match="must be a string"):
        connect.username()


HALVES = [r"\ud800", r"\uDFFF", r"\\\udbff x", r"\ud83d\ud83d\ude00", r"\ude00\ud83d"]


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize(
    "line",
    [
        '{"id":5,"publish":{"channel":"c","data":"%s"}}',
        '{"publish":{"channel":"c","data":{"id":7,"%s":["\\"id\\":8"]}},"id":5}',
        '{"id":5,"subscribe":{"channel":"%s"}}',
        '{"%s":{},"id":5}',
        '{"rpc":{"method":"publish","data":"%s"},"id":5}',
    ],
)
def test_half_of_a_surrogate_pair_is_answered_wherever_the_id_stands(line: str, half: str) -> None:
    with pytest.raises(CommandError, match="half of a surrogate pair") as raised:
        decode_command((line % half).encode())
    assert raised.value.id == 5


@pytest.mark.parametrize("data", [r"\ud83d\ude00", r"\\ud800", r"\uf800"])
def test_whole_pairs_and_what_only_looks_like_a_half_are_text(data: str) -> None:
    publish = decode_command(b'{"id":5,"publish":{"channel":"c","data":"%b"}}' % data.encode()).publish
    assert publish is not None and bytes(publish.data) == f'"{data}"'.encode()


@pytest.mark.parametrize("line", [r'{"id":"5","x":"\ud800"}', r'{"id":5,"x":"\ud800"', r'{"id":5,"x":"\ud8zz"}', "[5]"])
def test_what_has_no_readable_id_ends_the_connection(line: str) -> None:
    with pytest.raises(Malformed):
        decode_command(line.encode())


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ('{"id":1,"dance":{}}', "dance"),
        (' { "id" : 12 ,\t"رقص":[]}', "رقص"),
        ('{"dance":{"id":3},"id":1}', "dance"),
        ('{"id":1,"%s":1}' % ("x" * 300), "x" * 100),
        ('{"id":1}', ""),
        ("{}", ""),
    ],
)
def test_what_an_unknown_command_asked_for(line: str, name: str) -> None:
    assert unknown_method(line.encode()) == name


def test_of_an_unknown_command_only_the_beginning_is_looked_at() -> None:
    """A frame of 110,000 names took 60 ms; what comes after the first name need not even be JSON."""
    assert unknown_method(b'{"id":1,"dance":0' + b',"x":0' * 110_000) == "dance"
    assert unknown_method(b'{"id":1,' + b" " * 1_000_000 + b'"dance":0}') == ""
