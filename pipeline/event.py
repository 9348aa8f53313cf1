"""An event: what a program says. In a stream it is a message whose data is {"id", "type", "payload"}.

One that came as a CloudEvent also has its "subject", "time" and "source".
"""

from datetime import datetime
from typing import Any

import msgspec

from chat.errors import BadRequest
from chat.models import is_line
from pipeline.content import json_line
from pipeline.encode import Message

ID_LIMIT = 255  # bytes of an event's id, as of AMQP's message_id: it is an idempotency key as well
TYPE_LIMIT = 255  # bytes, as of AMQP's type and of its routing keys
ABOUT_LIMIT = 1024  # bytes of a subject, a time, a source


class Event(msgspec.Struct, frozen=True):
    """`channel` is a channel id, `payload` one line of JSON, `user` the name it is published under.

    `subject` is what it is about, `time` when it happened (RFC 3339), `source` where; empty: nobody said.
    """

    id: str
    type: str
    channel: str
    payload: bytes
    user: str = ""
    subject: str = ""
    time: str = ""
    source: str = ""

    def data(self) -> bytes:
        """The message's data: one line of JSON."""
        payload = msgspec.Raw(self.payload)
        return msgspec.json.encode(_Data(self.id, self.type, payload, self.subject, self.time, self.source))


class _Data(msgspec.Struct, omit_defaults=True):
    id: str
    type: str
    payload: msgspec.Raw
    subject: Any = ""  # a text, where it is an event's; anybody's JSON may have such fields
    time: Any = ""
    source: Any = ""


_decode = msgspec.json.Decoder(_Data).decode


def event_of(message: Message) -> Event | None:
    """The event a message carries; None if it is something else, like a person's text."""
    try:
        data = _decode(message.data)
    except msgspec.DecodeError:
        return None
    if not 0 < len(data.id) <= ID_LIMIT or not 0 < len(data.type) <= TYPE_LIMIT:
        return None  # somebody's JSON that only looks like one; an index could not take it
    about = [text if isinstance(text, str) else "" for text in (data.subject, data.time, data.source)]
    return Event(data.id, data.type, message.channel, bytes(data.payload), message.user, *about)


def checked(event: Event, limit: int, depth: int) -> bytes:
    """The data of an event whose payload is any JSON, as strict and clean as every message's: one line.

    Raises BadRequest and TooLarge: over `limit` bytes, or deeper than `depth` with the payload in it.
    """
    for name, text, most in (("id", event.id, ID_LIMIT), ("type", event.type, TYPE_LIMIT)):
        if not text.strip() or len(text.encode()) > most or not is_line(text):
            raise BadRequest(f"an event's {name} has 1 to {most} bytes of visible text in one line")
    for name, text in (("subject", event.subject), ("source", event.source)):
        if text and (len(text.encode()) > ABOUT_LIMIT or not is_line(text)):
            raise BadRequest(f"an event's {name} has at most {ABOUT_LIMIT} bytes of visible text in one line")
    if event.time and not _is_time(event.time):
        raise BadRequest("an event's time is one as in RFC 3339, such as 2026-01-31T12:00:00Z")
    return json_line(event.data(), limit, depth)


def _is_time(text: str) -> bool:
    try:
        return "T" in text.upper() and len(text) <= 64 and datetime.fromisoformat(text.upper()).tzinfo is not None
    except ValueError:
        return False


def cleaned(event: Event, limit: int, depth: int) -> Event:
    """The event with the payload that is stored. Raises as checked."""
    payload = _decode(checked(event, limit, depth)).payload
    return msgspec.structs.replace(event, payload=bytes(payload))


def key_of(id: str) -> str:
    """The idempotency key of an event's or a queue's message id. No user has such a one: theirs are one line."""
    return f"event\n{id}"
