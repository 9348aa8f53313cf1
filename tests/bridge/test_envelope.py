"""The JSON of calls: read strictly, written as our neighbours expect it."""

import json
from typing import Any

import pytest

from bridge import envelope
from bridge.envelope import Malformed, read

LIMIT = 1000


def test_a_request_is_what_the_neighbours_expect() -> None:
    written = envelope.request("configs", {"a": "سلام"}, "7f")
    assert list(json.loads(written).items()) == [
        ("action", "configs"),
        ("data", {"a": "سلام"}),
        ("requestId", "7f"),
        ("source", "python"),
    ]


def test_a_request_without_an_answer_has_no_id() -> None:
    assert json.loads(envelope.request("seen", None)) == {"action": "seen", "data": None, "source": "python"}


def test_a_reply_spreads_an_object_and_names_anything_else() -> None:
    head = {"source": "python", "action": "sum", "requestId": "7f"}
    assert json.loads(envelope.reply("sum", "7f", {"total": 3})) == head | {"total": 3}
    assert json.loads(envelope.reply("sum", "7f", 3)) == head | {"result": 3}
    assert json.loads(envelope.reply("sum", "7f", [3])) == head | {"result": [3]}
    assert json.loads(envelope.reply("sum", "7f", {"source": "me", "requestId": 1})) == head


def test_a_failure_says_so() -> None:
    result = read(envelope.failure("sum", "7f", 107, "no"), LIMIT).result
    assert result == {"error": {"code": 107, "message": "no"}} and envelope.failed(result) == "no"


@pytest.mark.parametrize("result", [{}, {"error": None}, {"error": "text"}, {"error": {"message": 7}}])
def test_other_fields_named_error_are_data(result: dict[str, Any]) -> None:
    assert envelope.failed(result) is None


def test_what_is_read() -> None:
    said = read(b'{"source":"laravel","action":"configs","requestId":null,"a":1}', LIMIT)
    assert (said.source, said.action, said.request, said.result) == ("laravel", "configs", None, {"a": 1})
    bare = read(b"{}", LIMIT)
    assert (bare.source, bare.action, bare.request) == ("", None, None)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"null",
        b"[]",
        b'"x"',
        b"{",
        b'{"a":NaN}',
        b'{"a":"\xff"}',
        b'{"a":' * 5000,
        b'{"a":"' + b"x" * LIMIT + b'"}',
        b'{"action":7}',
        b'{"action":""}',
        b'{"action":"a\\nb"}',
        b'{"requestId":7}',
        b'{"requestId":["x"]}',
        b'{"requestId":"' + b"x" * 129 + b'"}',
        b'{"source":{}}',
    ],
)
def test_what_is_malformed(payload: bytes) -> None:
    with pytest.raises(Malformed):
        read(payload, 10 * LIMIT if payload.startswith(b'{"a":{') else LIMIT)
