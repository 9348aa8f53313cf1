"""An event: what a program says. In a stream it is a message whose data is {"id", "type", "payload"}."""

import msgspec

from pipeline.encode import Message

ID_LIMIT = 128  # characters of an event's id: it is an idempotency key as well
TYPE_LIMIT = 128


class Event(msgspec.Struct, frozen=True):
    """`channel` is a channel id, `payload` one line of JSON."""

    id: str
    type: str
    channel: str
    payload: bytes

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
    return Event(data.id, data.type, message.channel, bytes(data.payload))
