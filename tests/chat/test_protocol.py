"""What a command is read into: as little as is needed."""

from typing import Any, get_type_hints

import msgspec
import pytest

from chat import protocol
from chat.errors import BadRequest
from chat.protocol import Command, decode_command
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
