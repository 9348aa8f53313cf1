"""CloudEvents 1.0, as JSON ("structured", and batches of it) and as headers beside a body ("binary"). Pure.

    application/cloudevents+json           {"specversion", "id", "source", "type", "subject", "time", "data", …}
    application/cloudevents-batch+json     an array of those
    any other body                         whose headers are cloudEvents:type, cloudEvents_type or ce-type, and so on

One reader serves HTTP and AMQP, so that an event means the same whichever way it comes. The extension attribute
`channel` says where an event goes. https://github.com/cloudevents/spec
"""

import base64
import binascii
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec

from chat.errors import BadRequest
from pipeline.content import UNREADABLE

STRUCTURED, BATCH = "application/cloudevents+json", "application/cloudevents-batch+json"
_FAMILY = "application/cloudevents"
_HEADER = re.compile(r"(?:cloudevents[:_]|ce[-_])([a-z0-9]+)", re.IGNORECASE)
_JSON = re.compile(r"(application|text)/json|.*\+json")
_TEXT = re.compile(r"text/.*|.*[/+]xml")
_decode = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_batch = msgspec.json.Decoder(list[dict[str, msgspec.Raw]]).decode
_any = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


class CloudEvent(NamedTuple):
    """What of a CloudEvent counts here; empty: it does not say. `payload` is its data, as JSON."""

    type: str
    id: str
    source: str
    subject: str
    time: str
    channel: str
    payload: bytes


def read(content_type: str, headers: Mapping[str, object], body: bytes) -> list[CloudEvent] | None:
    """The CloudEvents of a message; None: it is something else. Raises BadRequest for a damaged one."""
    kind = media_type(content_type)
    if kind == STRUCTURED:
        return [_structured(_object(body))]
    if kind == BATCH:
        return list(_batch(body))
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


def _object(body: bytes) -> dict[str, msgspec.Raw]:
    try:
        return _decode(body)
    except UNREADABLE as error:
        raise BadRequest(f"a CloudEvent is a JSON object: {error}") from None


def _batch(body: bytes) -> Iterator[CloudEvent]:
    try:
        objects = _decode_batch(body)
    except UNREADABLE as error:
        raise BadRequest(f"a batch of CloudEvents is a JSON array of objects: {error}") from None
    return map(_structured, objects)


def _structured(fields: Mapping[str, msgspec.Raw]) -> CloudEvent:
    data, encoded = fields.get("data"), fields.get("data_base64")
    attributes: dict[str, Any] = {
        name: _any(value) for name, value in fields.items() if name not in ("data", "data_base64")
    }
    if encoded is None:
        payload = b"null" if data is None else bytes(data)
    else:
        kind = media_type(str(attributes.get("datacontenttype") or ""))
        payload = _payload(kind or "application/octet-stream", _bytes_of(_any(encoded)))
    return _event(attributes, payload)


def _bytes_of(encoded: object) -> bytes:
    try:
        return base64.b64decode(encoded if isinstance(encoded, str) else b"?", validate=True)
    except (binascii.Error, ValueError):
        raise BadRequest("data_base64 of a CloudEvent is a text in base64") from None


def _payload(kind: str, body: bytes) -> bytes:
    """A body as JSON: itself if it is, else the text it is, else its bytes in base64."""
    body = body.removeprefix(b"\xef\xbb\xbf")
    if not body:
        return b"null"
    if not kind or _JSON.fullmatch(kind):
        try:
            _any(body)
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
    """Raises BadRequest if an attribute that counts here is no text, or of another version."""
    texts = {}
    for name in ("specversion", "type", "id", "source", "subject", "time", "channel"):
        value = attributes.get(name)
        if value is not None and not isinstance(value, str):
            raise BadRequest(f"{name} of a CloudEvent is a text")
        texts[name] = value or ""
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
