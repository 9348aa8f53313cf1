"""The message handler: what a message from a queue means, and why some can never be an event."""

import gzip
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
    (incoming,) = read_all(data, queue, limits, **more)
    return incoming


def read_all(data: bytes, queue: Queue | None = None, limits: Limits | None = None, **more: Any) -> Any:
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
    (b"[" * 100_000, "not JSON"),
    (b"[1]", "no channel"),
    (b'"text"', "no channel"),
    (b'{"n":1}', "no channel"),
    (b'{"channel":null}', "no channel"),
    (b'{"channel":"no such name!"}', "a channel name has"),
    (b'{"type":"t","channel":"","payload":1}', "no channel"),
    (b'{"type":"","channel":"c","payload":1}', "type has 1 to 255"),
    (b'{"type":"a\\nb","channel":"c","payload":1}', "type has 1 to 255"),
    (b'{"type":"t","channel":"c","payload":1,"id":"a\\u0007"}', "id has 1 to 255"),
    (b'{"type":"t","channel":"c","payload":{"s":"\\u0000"}}', "U+0000"),
    (b'{"type":"t","channel":"c","payload":18446744073709551616}', "64 bits"),
    (b'{"type":"t","channel":"c","payload":' + b"[" * 32 + b"]" * 32 + b"}", "32"),
]


@pytest.mark.parametrize(("body", "why"), NEVER)
def test_what_can_never_be_an_event(body: bytes, why: str) -> None:
    assert why in reason(body)


# -- plain text

TEXT = "text/plain"


def test_plain_text_is_a_chat_message_where_the_content_type_says_so() -> None:
    queue = Queue(name="q", channel="c")
    incoming = read(b"Hello World!\r\n", queue, content_type=TEXT, message_id="m")
    assert incoming.data == b'{"text":"Hello World!"}' and incoming.event is None
    assert (incoming.channel, incoming.user, incoming.key) == ("c", "rabbitmq", key_of("m"))
    assert read(b"42", queue, content_type="text/plain; charset=utf-8").data == b'{"text":"42"}'
    assert read(b"[1]", queue, content_type=TEXT).data == b'{"text":"[1]"}'
    persian = "سلام".encode("windows-1256")
    assert json.loads(read(persian, queue, content_type='text/plain; charset="windows-1256"').data) == {"text": "سلام"}


def test_plain_text_is_what_bridge_toml_says_it_is() -> None:
    said = Queue(name="q", channel="c", body="text")
    for body in (b"on", b"", b'{"type":"t","channel":"d","payload":1}', b"17.5"):
        incoming = read(body, said)
        assert (incoming.channel, json.loads(incoming.data)) == ("c", {"text": body.decode()})
    named = read(b"on", Queue(name="q", channel="c", body="text", event_type="{word.1}"))
    assert json.loads(named.data) == {"id": named.event.id, "type": "a", "payload": "on"}
    assert read(b"on", said, type="lamp").event.type == "lamp"
    assert "not JSON" in reason(b"on", Queue(name="q", channel="c", body="json"), content_type=TEXT)


def test_text_that_cannot_be_read_says_why() -> None:
    said = Queue(name="q", channel="c", body="text")
    assert "not UTF-8" in reason(b"\xff", said)
    assert "'utf-7'" in reason(b"a", said, content_type="text/plain; charset=utf-7")
    assert "not WINDOWS-1253" in reason(b"\xd2", said, content_type="text/plain; charset=windows-1253")
    assert "U+001B" in reason(b"\x1b[31m", said)
    assert "no channel" in reason(b"a", Queue(name="q", body="text"))
    assert 'body = "text"' in reason(b"on", Queue(name="q", channel="c"))


def test_json_that_is_only_a_text_is_a_chat_message() -> None:
    incoming = read({"text": "hi"}, Queue(name="q", channel="c"))
    assert incoming.data == b'{"text":"hi"}' and incoming.event is None
    assert read({"text": "hi", "channel": "c"}).data == b'{"text":"hi"}'
    assert read(b'{"text":"hi"}', Queue(name="q", channel="c"), content_type=TEXT).data == b'{"text":"hi"}'
    assert read({"text": "hi"}, Queue(name="q", channel="c", event_type="said")).event.type == "said"
    assert read({"text": "hi"}, Queue(name="q", channel="c"), type="said").event.type == "said"
    assert read({"text": 1}, Queue(name="q", channel="c")).event.type == "a.b.c"
    assert read({"text": "hi", "n": 1}, Queue(name="q", channel="c")).event.type == "a.b.c"


# -- as other languages' clients publish


def test_a_byte_order_mark_is_no_part_of_the_body() -> None:
    assert json.loads(read(b'\xef\xbb\xbf{"channel":"c","n":1}').data)["payload"] == {"channel": "c", "n": 1}
    assert read(b"\xef\xbb\xbfhi", Queue(name="q", channel="c", body="text")).data == b'{"text":"hi"}'


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "x-gzip", "", "identity", "utf-8", "binary"])
def test_a_compressed_body_is_unpacked(encoding: str) -> None:
    body = json.dumps(OURS).encode()
    packed = gzip.compress(body[:10]) + gzip.compress(body[10:]) if "gzip" in encoding.lower() else body
    assert read(packed, encoding=encoding).event.id == "e1"


def test_a_compressed_body_that_cannot_be_unpacked_says_why() -> None:
    assert "'br' is not read here; send gzip" in reason(OURS, encoding="br")
    assert "is not gzip" in reason(OURS, encoding="gzip")
    assert "ends before its gzip does" in reason(gzip.compress(b"x" * 1000)[:-9], encoding="gzip")
    bomb = gzip.compress(b" " * 50_000_000)
    for packed in (bomb, gzip.compress(b"x" * 1_000_000) * 5):
        with pytest.raises(TooLarge, match="at most 1048576 bytes"):
            read(packed, encoding="gzip")
    with pytest.raises(TooLarge, match="at most 1048576 bytes"):
        read(b'"' + b"x" * 2_000_000 + b'"')


def test_an_id_may_be_as_long_as_amqps_and_blanks_are_none() -> None:
    assert read({"channel": "c"}, message_id="x" * 255).event.id == "x" * 255
    blank = read({"channel": "c"}, message_id=" ")
    assert blank.key == "" and len(blank.event.id) > 10
    assert read({**OURS, "id": " "}, message_id="m").event.id == "m"
    assert read({**OURS, "id": " "}, message_id=" ").key == ""
    assert read({"channel": "c"}, routing_key="k" * 255).event.type == "k" * 255


def test_the_property_names_an_event_that_does_not_name_itself() -> None:
    assert read({"channel": "c"}, type="order.created", routing_key="go.exp").event.type == "order.created"
    assert read(OURS, type="other").event.type == "order.created"
    assert read({"channel": "c"}, Queue(name="q", event_type="{word.1}"), type="other").event.type == "a"
    assert read({"channel": "c"}, Queue(name="q", event_type="{word.9}"), type="other").event.type == "other"


CLOUD = {"specversion": "1.0", "id": "c1", "source": "/shop", "type": "order.created", "subject": "order 7"}
CLOUD |= {"time": "2026-01-31T12:00:00Z"}


@pytest.mark.parametrize("prefix", ["cloudEvents:", "cloudEvents_"])
def test_a_cloud_event_is_the_same_event_in_both_modes(prefix: str) -> None:
    queue = Queue(name="q", channel="orders-{body.region}")
    structured = {**CLOUD, "data": {"region": "eu", "n": 1}}
    one = read(structured, queue, content_type="application/cloudevents+json; charset=utf-8")
    headers = {prefix + name: value for name, value in CLOUD.items()}
    other = read({"region": "eu", "n": 1}, queue, content_type="application/json", headers=headers)
    assert one == other and one.channel == "orders-eu" and one.key == key_of("c1")
    assert json.loads(one.data) == {
        "id": "c1", "type": "order.created", "payload": {"region": "eu", "n": 1},
        "subject": "order 7", "time": "2026-01-31T12:00:00Z", "source": "/shop",
    }  # fmt: skip
    assert one.event.subject == "order 7"


def test_a_cloud_event_may_name_its_channel() -> None:
    kind = "application/cloudevents+json"
    assert read({**CLOUD, "channel": "Orders"}, content_type=kind).channel == "orders"
    assert read({**CLOUD, "data": {"channel": "c"}}, content_type=kind).channel == "c"
    assert "no channel" in reason(CLOUD, content_type=kind)
    text = read(b"on", headers={"cloudEvents:type": "lamp", "cloudEvents:channel": "c"}, content_type=TEXT)
    assert json.loads(text.data)["payload"] == "on"


def test_a_batch_of_cloud_events_is_its_events_or_none() -> None:
    kind = "application/cloudevents-batch+json"
    batch = [{**CLOUD, "id": str(n), "channel": "c", "data": n} for n in range(3)]
    found = read_all(json.dumps(batch).encode(), content_type=kind, message_id="m")
    assert [(one.event.id, one.key, one.event.payload) for one in found] == [
        (str(n), key_of(str(n)), b"%d" % n) for n in range(3)
    ]
    assert "a batch has 1 to 2 events" in reason(batch, limits=Limits(events=2), content_type=kind)
    assert "a batch has 1 to" in reason([], content_type=kind)
    assert "has a type" in reason([*batch, {"id": "x"}], content_type=kind)


def test_an_event_that_says_what_it_is_about() -> None:
    about = {"subject": "order 7", "time": "2026-01-31T12:00:00+03:30", "source": "/shop"}
    assert json.loads(read({**OURS, **about}).data) == {
        "id": "e1",
        "type": "order.created",
        "payload": {"n": 1},
        **about,
    }
    assert "RFC 3339" in reason({**OURS, "time": "yesterday"})
    assert "subject has at most" in reason({**OURS, "subject": "a\nb"})


def test_what_is_too_large() -> None:
    limits = Limits(100)
    with pytest.raises(TooLarge, match="at most 100 bytes"):
        read({**OURS, "payload": "x" * 100}, limits=limits)
    assert "characters here" in reason(OURS, limits=Limits(name=5))
    assert "id has 1 to 255" in reason({"channel": "c"}, message_id="x" * 256)
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
