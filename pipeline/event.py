"""An event: what a program says. In a stream it is a message whose data is {"id", "type", "payload"}."""

import msgspec

from chat.errors import BadRequest
from chat.models import is_line
from pipeline.content import json_line
from pipeline.encode import Message

ID_LIMIT = 128  # bytes of an event's id: it is an idempotency key as well
TYPE_LIMIT = 128  # bytes


class Event(msgspec.Struct, frozen=True):
    """`channel` is a channel id, `payload` one line of JSON, `user` the name it is published under."""

    id: str
    type: str
    channel: str
    payload: bytes
    user: str = ""

    def data(self) -> bytes:
        """The message's data: one line of JSON."""
        return msgspec.json.encode(_Data(self.id, self.type, msgspec.Raw(self.payload)))


class _Data(msgspec.Struct):
    id: str
    type: str
    payload: msgspec.Raw


_decode = msgspec.json.Decoder(_Data).decode


def event_of(message: Message) -> Event | None:
    """The event a message carries; None if it is something else, like a person's text."""
    try:
        data = _decode(message.data)
    except msgspec.DecodeError:
        return None
    if not 0 < len(data.id) <= ID_LIMIT or not 0 < len(data.type) <= TYPE_LIMIT:
        return None  # somebody's JSON that only looks like one; an index could not take it
    return Event(data.id, data.type, message.channel, bytes(data.payload), message.user)


def checked(event: Event, limit: int, depth: int) -> bytes:
    """The data of an event whose payload is any JSON, as strict and clean as every message's: one line.

    Raises BadRequest and TooLarge: over `limit` bytes, or deeper than `depth` with the payload in it.
    """
    for name, text, most in (("id", event.id, ID_LIMIT), ("type", event.type, TYPE_LIMIT)):
        if not text or len(text.encode()) > most or not is_line(text):
            raise BadRequest(f"an event's {name} has 1 to {most} bytes of visible text in one line")
    return json_line(event.data(), limit, depth)


def cleaned(event: Event, limit: int, depth: int) -> Event:
    """The event with the payload that is stored. Raises as checked."""
    payload = _decode(checked(event, limit, depth)).payload
    return Event(event.id, event.type, event.channel, bytes(payload), event.user)


def key_of(id: str) -> str:
    """The idempotency key of an event's or a queue's message id. No user has such a one: theirs are one line."""
    return f"event\n{id}"
