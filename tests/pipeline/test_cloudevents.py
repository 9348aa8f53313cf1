"""CloudEvents as they come: structured, in batches, and as headers beside a body."""

import base64
import json
import tracemalloc
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chat.errors import BadRequest
from pipeline.cloudevents import BATCH, STRUCTURED, CloudEvent, read

LIMIT = 3  # events in a batch
EVENT = {"specversion": "1.0", "id": "1", "source": "s", "type": "t"}


def one(body: Any, kind: str = STRUCTURED, headers: dict[str, object] | None = None) -> CloudEvent:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    found = read(kind, headers or {}, data, LIMIT)
    assert found is not None and len(found) == 1
    return found[0]


def test_what_is_no_cloud_event_is_somebody_elses() -> None:
    assert read("application/json", {"type": "t", "ce-id": "1", "center": "x"}, b"{}", LIMIT) is None
    assert read("", {}, b"anything", LIMIT) is None


DATA: list[tuple[dict[str, Any], bytes]] = [
    ({}, b"null"),
    ({"data": {"a": [1]}}, b'{"a": [1]}'),
    ({"data": "text"}, b'"text"'),
    ({"data": None}, b"null"),
    ({"data_base64": base64.b64encode(b"\xff\x00").decode()}, b'"/wA="'),
    ({"data_base64": base64.b64encode(b'{"a":1}').decode(), "datacontenttype": "application/json"}, b'{"a":1}'),
    ({"data_base64": base64.b64encode(b"on").decode(), "datacontenttype": "text/plain"}, b'"on"'),
]


@pytest.mark.parametrize(("more", "payload"), DATA)
def test_the_data_is_the_payload(more: dict[str, Any], payload: bytes) -> None:
    assert one(EVENT | more).payload == payload


BODIES = [
    ("application/json", b'{"a":1}', b'{"a":1}'),
    ("application/vnd.shop+json; v=1", b'\xef\xbb\xbf{"a":1}', b'{"a":1}'),
    ("", b"7", b"7"),
    ("text/plain", "سلام".encode(), '"سلام"'.encode()),
    ("application/xml", b"<a/>", b'"<a/>"'),
    ("image/png", b"\xff", b'"/w=="'),
    ("application/json", b"", b"null"),
]


@pytest.mark.parametrize(("kind", "body", "payload"), BODIES)
def test_in_binary_mode_the_body_is_the_data(kind: str, body: bytes, payload: bytes) -> None:
    headers: dict[str, object] = {"ce-type": "t", "ce-id": "1", "CE-Subject": "about", "ce-traceparent": "00"}
    found = one(body, kind, headers)
    assert found == CloudEvent("t", "1", "", "about", "", "", payload)


def test_headers_may_be_of_any_type() -> None:
    time = datetime(2026, 1, 31, 12, tzinfo=UTC)
    found = one(b"1", "", {"cloudEvents:type": b"t", "cloudEvents_id": 7, "cloudEvents:time": time})
    assert (found.type, found.id, found.time) == ("t", "7", "2026-01-31T12:00:00Z")


WRONG: list[tuple[str, Any, dict[str, object], str]] = [
    (STRUCTURED, b"no", {}, "is a JSON object"),
    (STRUCTURED, [EVENT], {}, "is a JSON object"),
    (STRUCTURED, {"id": "1"}, {}, "has a type"),
    (STRUCTURED, EVENT | {"type": 7}, {}, "attributes are texts: Expected `str | null`, got `int` - at `$.type`"),
    (STRUCTURED, EVENT | {"subject": [0] * 9}, {}, "attributes are texts"),
    (BATCH, [EVENT, EVENT | {"channel": {}}], {}, "at `$[1].channel`"),
    (BATCH, [], {}, "a batch has 1 to 3 events; this one has none"),
    (BATCH, [EVENT] * 4, {}, "a batch has 1 to 3 events; this one has more"),
    (BATCH, b"[" + b"{}," * 4 + b"and what is no JSON", {}, "this one has more"),
    (STRUCTURED, EVENT | {"specversion": "2.0"}, {}, "CloudEvents 1.0, not 2.0"),
    (STRUCTURED, EVENT | {"data_base64": "?"}, {}, "base64"),
    (STRUCTURED, EVENT | {"data_base64": 7}, {}, "base64"),
    (BATCH, EVENT, {}, "a JSON array of objects"),
    ("application/cloudevents+avro", b"", {}, "not application/cloudevents+avro"),
    ("application/json", b"no", {"ce-type": "t"}, "data of a CloudEvent is not JSON"),
    ("application/json", b'1,"id":"2"', {"ce-type": "t"}, "data of a CloudEvent is not JSON"),
    ("text/plain", b"\xff", {"ce-type": "t"}, "not UTF-8"),
    ("application/json", b"1", {"ce-specversion": "1.0"}, "has a type"),
]


@pytest.mark.parametrize(("kind", "body", "headers", "why"), WRONG)
def test_what_is_damaged_says_why(kind: str, body: Any, headers: dict[str, object], why: str) -> None:
    with pytest.raises(BadRequest) as raised:
        one(body, kind, headers)
    assert why in str(raised.value)


@given(st.sampled_from([STRUCTURED, BATCH]), st.binary(max_size=80))
def test_any_bytes_are_events_or_a_reason(kind: str, body: bytes) -> None:
    try:
        assert read(kind, {}, body, LIMIT) is not None
    except BadRequest as error:
        assert str(error)


def test_of_many_attributes_those_that_count_are_read_and_the_others_made_nothing_of() -> None:
    """90,000 of them took 70 ms, and memory for as many objects."""
    many = b",".join(b'"x%d":%d' % (n, n) for n in range(50_000))
    tracemalloc.start()
    try:
        found = one(b'{"type":"t","subject":null,%b,"id":"1","data":[1]}' % many)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found == CloudEvent("t", "1", "", "", "", "", b"[1]")
    assert peak < 3 * len(many)  # the body itself, and little more


def test_a_body_that_is_json_is_taken_as_it_is_and_not_unfolded() -> None:
    body = b"[" + b",".join([b"{}"] * 100_000) + b"]"
    tracemalloc.start()
    try:
        found = one(body, "application/json", {"ce-type": "t"})
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found.payload == body and peak < 3 * len(body)
