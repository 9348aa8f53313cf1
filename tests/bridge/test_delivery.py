"""The message handler: what a message from a queue means, and why some can never be an event."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.delivery import Delivery, Limits, Reader, Template
from bridge.topology import Queue
from chat.errors import BadRequest, TooLarge
from pipeline.event import key_of

OURS = {"type": "order.created", "channel": "Orders", "payload": {"n": 1}, "id": "e1"}


def read(body: Any, queue: Queue | None = None, limits: Limits | None = None, **more: Any) -> Any:
    data = body if isinstance(body, bytes) else json.dumps(body, ensure_ascii=False).encode()
    reader = Reader(queue or Queue(name="q"), limits or Limits())
    return reader.process_message(Delivery(data, **{"queue": "q", "routing_key": "a.b.c", **more}))


def reason(body: Any, queue: Queue | None = None, limits: Limits | None = None, **more: Any) -> str:
    with pytest.raises(BadRequest) as raised:
        read(body, queue, limits, **more)
    return str(raised.value)


def test_an_event_as_it_is_posted() -> None:
    incoming = read(OURS)
    assert incoming.event.channel == "orders" and incoming.event.type == "order.created"
    assert json.loads(incoming.data) == {"id": "e1", "type": "order.created", "payload": {"n": 1}}
    assert incoming.key == key_of("e1") and incoming.event.user == "rabbitmq"


def test_the_message_id_is_the_key_and_the_events_id_its_own() -> None:
    incoming = read(OURS, message_id="m1")
    assert incoming.key == key_of("m1") and incoming.event.id == "e1"
    assert read({**OURS, "id": 5}).event.id == "5"
    without = {name: value for name, value in OURS.items() if name != "id"}
    assert read(without, message_id="m1").event.id == "m1"


def test_without_any_id_there_is_no_key_and_a_name_all_the_same() -> None:
    one, other = read({"channel": "c"}), read({"channel": "c"})
    assert one.key == other.key == "" and one.event.id != other.event.id


def test_other_json_is_an_event_with_the_body_as_payload() -> None:
    body = {"channel": "c", "amount": 3, "type": "x"}
    incoming = read(body)
    assert incoming.event.type == "a.b.c" and json.loads(incoming.data)["payload"] == body
    more = {**OURS, "trace": "t"}  # nothing of it is thrown away
    assert json.loads(read(more).data)["payload"] == more
    assert read([1, 2], Queue(name="q", channel="numbers")).event.channel == "numbers"
    assert read({"channel": "c"}, routing_key="").event.type == "q"


TEMPLATES = [
    ("orders", "orders"),
    ("orders-{body.region}", "orders-tehran"),
    ("{body.customer.city}", "shiraz"),
    ("{body.number}", "7"),
    ("{routing_key}", "a.b.c"),
    ("{word.1}-{word.3}", "a-c"),
    ("{header.kind}", "big"),
    ("{exchange}-{queue}", "shop-q"),
    ("{body.missing}-x", ""),
    ("{body.flag}", ""),
    ("{word.4}", ""),
    ("{header.missing}", ""),
]


@pytest.mark.parametrize(("template", "text"), TEMPLATES)
def test_templates(template: str, text: str) -> None:
    body = {"region": "tehran", "customer": {"city": "shiraz"}, "number": 7, "flag": True}
    delivery = Delivery(json.dumps(body).encode(), "q", "shop", "a.b.c", headers={"kind": "big"})
    assert Template(template).fill(delivery) == text


def test_what_bridge_toml_says_goes_before_what_the_body_says() -> None:
    assert read(OURS, Queue(name="q", channel="all-orders")).event.channel == "all-orders"
    assert read(OURS, Queue(name="q", event_type="other")).event.type == "order.created"
    assert read({"channel": "c"}, Queue(name="q", event_type="{word.1}")).event.type == "a"


def test_who_it_is_from() -> None:
    assert read(OURS, app_id="shop").event.user == "shop"
    assert read(OURS, app_id="no name!").event.user == "rabbitmq"
    assert read(OURS, app_id="shop", headers={"peyk-user": "سارا"}).event.user == "سارا"
    assert "user name" in reason(OURS, headers={"peyk-user": "no name!"})


NEVER: list[tuple[bytes, str]] = [
    (b"", "not JSON"),
    (b"{", "not JSON"),
    (b"hello", "not JSON"),
    (b'{"channel":"c","n":NaN}', "not JSON"),
    (b'{"channel":"c","n":1}x', "not JSON"),
    ('{"channel":"c","text":"سلام"}'.encode("utf-16"), "not JSON"),
    ('{"channel":"c","text":"salut \xe9"}'.encode("latin-1"), "JSON"),
    ('{"type":"t","channel":"c","payload":"\xe9"}'.encode("latin-1"), "JSON"),
    (b'\xef\xbb\xbf{"channel":"c"}', "not JSON"),
    (b"[" * 100_000, "not JSON"),
    (b"[1]", "no channel"),
    (b'"text"', "no channel"),
    (b'{"n":1}', "no channel"),
    (b'{"channel":null}', "no channel"),
    (b'{"channel":"no such name!"}', "a channel name has"),
    (b'{"type":"t","channel":"","payload":1}', "no channel"),
    (b'{"type":"","channel":"c","payload":1}', "type has 1 to 128"),
    (b'{"type":"a\\nb","channel":"c","payload":1}', "type has 1 to 128"),
    (b'{"type":"t","channel":"c","payload":1,"id":"a\\u0007"}', "id has 1 to 128"),
    (b'{"type":"t","channel":"c","payload":{"s":"\\u0000"}}', "U+0000"),
    (b'{"type":"t","channel":"c","payload":18446744073709551616}', "64 bits"),
    (b'{"type":"t","channel":"c","payload":' + b"[" * 32 + b"]" * 32 + b"}", "32"),
]


@pytest.mark.parametrize(("body", "why"), NEVER)
def test_what_can_never_be_an_event(body: bytes, why: str) -> None:
    assert why in reason(body)


def test_what_is_too_large() -> None:
    limits = Limits(100)
    with pytest.raises(TooLarge, match="at most 100 bytes"):
        read({**OURS, "payload": "x" * 100}, limits=limits)
    assert "characters here" in reason(OURS, limits=Limits(name=5))
    assert "id has 1 to 128" in reason({"channel": "c"}, message_id="x" * 129)
    assert "not UTF-8" in reason(OURS, headers={"": True})


def test_an_event_is_as_deep_as_a_message_may_be() -> None:
    assert read(b'{"type":"t","channel":"c","payload":' + b"[" * 31 + b"]" * 31 + b"}").data


@given(st.binary(max_size=200))
def test_any_bytes_are_an_event_or_a_reason(body: bytes) -> None:
    try:
        incoming = read(body)
    except BadRequest as error:
        assert str(error)
    else:
        assert json.loads(incoming.data)["type"] and b"\n" not in incoming.data
