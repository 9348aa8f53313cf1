"""CloudEvents 1.0, as JSON ("structured", and batches of it) and as headers beside a body ("binary"). Pure.

    application/cloudevents+json           {"specversion", "id", "source", "type", "subject", "time", "data", …}
    application/cloudevents-batch+json     an array of those
    any other body                         whose headers are cloudEvents:type, cloudEvents_type or ce-type, and so on

One reader serves HTTP and AMQP, so that an event means the same whichever way it comes. The extension attribute
`channel` says where an event goes. https://github.com/cloudevents/spec
"""

import base64
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec

from chat.errors import BadRequest
from pipeline import batches
from pipeline.content import UNREADABLE

STRUCTURED, BATCH = "application/cloudevents+json", "application/cloudevents-batch+json"
_FAMILY = "application/cloudevents"
_HEADER = re.compile(r"(?:cloudevents[:_]|ce[-_])([a-z0-9]+)", re.IGNORECASE)
_JSON = re.compile(r"(application|text)/json|.*\+json")
_TEXT = re.compile(r"text/.*|.*[/+]xml")
_pass_over = msgspec.json.Decoder(msgspec.Raw).decode
_encode = msgspec.json.Encoder().encode


class _Structured(msgspec.Struct):
    """The attributes that count here, and the data; what else a CloudEvent has is passed over, however much it is."""

    specversion: str | None = None
    type: str | None = None
    id: str | None = None
    source: str | None = None
    subject: str | None = None
    time: str | None = None
    channel: str | None = None
    datacontenttype: str | None = None
    data: msgspec.Raw = msgspec.Raw(b"null")
    data_base64: bytes | None = None


_decode = msgspec.json.Decoder(_Structured).decode


class CloudEvent(NamedTuple):
    """What of a CloudEvent counts here; empty: it does not say. `payload` is its data, as JSON."""

    type: str
    id: str
    source: str
    subject: str
    time: str
    channel: str
    payload: bytes


def read(content_type: str, headers: Mapping[str, object], body: bytes, limit: int) -> list[CloudEvent] | None:
    """The CloudEvents of a message, of which a batch has 1 to `limit`; None: it is something else.

    Raises BadRequest for a damaged one, Unprocessable and TooLarge for another number.
    """
    kind = media_type(content_type)
    if kind == STRUCTURED:
        return [_one(body)]
    if kind == BATCH:
        return _batch(body, limit)
    if kind.startswith(_FAMILY):
        raise BadRequest(f"of the CloudEvents formats this takes {STRUCTURED} and {BATCH}, not {kind[:100]}")
    attributes = {found[1].lower(): _text(value) for name, value in headers.items() if (found := _match(name))}
    if "type" not in attributes and "specversion" not in attributes:
        return None
    return [_event(attributes, _payload(kind, body))]


def is_one(content_type: str, names: Iterable[str]) -> bool:
    """Whether a message with these headers says that it is a CloudEvent, or several."""
    if media_type(content_type).startswith(_FAMILY):
        return True
    return any(found[1].lower() in ("type", "specversion") for name in names if (found := _match(name)))


def media_type(content_type: str) -> str:
    """A content type without its parameters."""
    return content_type.partition(";")[0].strip().lower()


def _match(name: str) -> re.Match[str] | None:
    return _HEADER.fullmatch(name) if name[:2] in ("ce", "cl", "Ce", "CE", "Cl", "CL") else None


def _one(body: bytes) -> CloudEvent:
    try:
        return _structured(_decode(body))
    except UNREADABLE as error:
        raise BadRequest(f"a CloudEvent is a JSON object whose attributes are texts: {error}") from None


def _batch(body: bytes, limit: int) -> list[CloudEvent]:
    try:
        return list(map(_structured, batches.array(body, _Structured, limit)))
    except UNREADABLE as error:
        text = "a batch of CloudEvents is a JSON array of objects whose attributes are texts"
        raise BadRequest(f"{text}: {error}") from None


def _structured(one: _Structured) -> CloudEvent:
    payload = bytes(one.data)
    if one.data_base64 is not None:
        payload = _payload(media_type(one.datacontenttype or "") or "application/octet-stream", one.data_base64)
    return _event(msgspec.structs.asdict(one), payload)


def _payload(kind: str, body: bytes) -> bytes:
    """A body as JSON: itself if it is, else the text it is, else its bytes in base64."""
    body = body.removeprefix(b"\xef\xbb\xbf")
    if not body:
        return b"null"
    if not kind or _JSON.fullmatch(kind):
        try:
            _pass_over(body)
        except UNREADABLE as error:
            raise BadRequest(
                f"the data of a CloudEvent is not JSON: {error}; its content type says what it is"
            ) from None
        return body
    if _TEXT.fullmatch(kind):
        try:
            return _encode(body.decode())
        except UnicodeDecodeError:
            raise BadRequest(f"the data of a CloudEvent of {kind[:100]} is not UTF-8") from None
    return _encode(base64.b64encode(body).decode())


def _event(attributes: Mapping[str, Any], payload: bytes) -> CloudEvent:
    """Raises BadRequest for one of another version, or without a type."""
    names = ("specversion", "type", "id", "source", "subject", "time", "channel")
    texts = {name: attributes.get(name) or "" for name in names}
    version = texts.pop("specversion")
    if version and not version.startswith("1."):
        raise BadRequest(f"this takes CloudEvents 1.0, not {version[:20]}")
    if not texts["type"]:
        raise BadRequest("a CloudEvent has a type")
    return CloudEvent(**texts, payload=payload)


def _text(value: object) -> str:
    """A header's value as text: AMQP has times and numbers, too."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    return value.decode(errors="replace") if isinstance(value, bytes | bytearray) else str(value)
