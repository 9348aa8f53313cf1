"""The JSON that services exchange over Redis Pub/Sub, as our Node and Laravel neighbours write it. Pure.

request   {"action", "data", "requestId", "source"}       without requestId: nobody answers
reply     {"source", "action", "requestId", …the result}  a result that is no object stands under "result"
failure   {"source", "action", "requestId", "error": {"code", "message"}}
event     {"source", "action", …}                         no requestId, or null
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from pipeline.content import UNREADABLE

SOURCE = "python"
DEFAULT_ACTION = "subscribed"
NAME_LIMIT = 128  # characters of an action, a requestId, a source
_HEAD = ("source", "action", "requestId")
_decode = msgspec.json.Decoder(dict[str, Any]).decode


class Malformed(ValueError):
    """This is no message of ours or our neighbours."""


class Envelope(msgspec.Struct, frozen=True):
    """What was received. `request` is the requestId, None without; `action` None: it said none."""

    source: str
    action: str | None
    request: str | None
    body: dict[str, Any]

    @property
    def result(self) -> dict[str, Any]:
        """What a reply or an event says beside its head."""
        return {name: value for name, value in self.body.items() if name not in _HEAD}


def read(payload: bytes, limit: int) -> Envelope:
    """A payload of at most `limit` bytes. Raises Malformed."""
    if len(payload) > limit:
        raise Malformed(f"{len(payload)} bytes; {limit} are allowed")
    try:
        body = _decode(payload)
    except UNREADABLE as error:
        raise Malformed(str(error)) from None
    source, action, request = [_name(body, name) for name in _HEAD]
    return Envelope(source or "", action, request, body)


def _name(body: Mapping[str, Any], name: str) -> str | None:
    value = body.get(name)
    if value is None:
        return None
    if not isinstance(value, str) or not 0 < len(value) <= NAME_LIMIT or not value.isprintable():
        raise Malformed(f"{name} must be a string of 1 to {NAME_LIMIT} printable characters")
    return value


def request(action: str, data: object, request_id: str | None = None) -> bytes:
    """What asks. Raises TypeError for data that JSON does not know."""
    body: dict[str, object] = {"action": action, "data": data}
    if request_id is not None:
        body["requestId"] = request_id
    return msgspec.json.encode(body | {"source": SOURCE})


def reply(action: str, request_id: str, result: object) -> bytes:
    """What answers. Raises TypeError for a result that JSON does not know."""
    value = msgspec.to_builtins(result)
    head = {"source": SOURCE, "action": action, "requestId": request_id}
    return msgspec.json.encode((value if isinstance(value, dict) else {"result": value}) | head)


def failure(action: str, request_id: str, code: int, message: str) -> bytes:
    """What answers when the action failed."""
    return reply(action, request_id, {"error": {"code": code, "message": message}})


def failed(result: Mapping[str, Any]) -> str | None:
    """The message of a reply that says the action failed; None: it did not."""
    error = result.get("error")
    message = error.get("message") if isinstance(error, dict) else None
    return message if isinstance(message, str) else None
