"""What a message from a queue means: the event it is, or the reason why it can never be one. Pure.

    {"type", "channel", "payload"} and perhaps "id"    an event as POST /api/events takes it
    any other JSON                                     an event whose payload is the whole body

bridge.toml says what channel and type the others have; for our own events the body does, unless bridge.toml does.
"""

import re
import secrets
from collections.abc import Callable, Mapping
from typing import NamedTuple

import msgspec

from bridge.topology import Queue
from chat.errors import BadRequest
from chat.models import NAME_LIMIT, channel_id, user_name
from pipeline.content import DEPTH, UNREADABLE
from pipeline.event import Event, checked, key_of

USER_HEADER = "peyk-user"  # who an event is from
NOBODY = "rabbitmq"  # who it is from if nothing says so
UNREADABLE_HEADERS = ""  # the one header of a message whose headers cannot be read (bridge.broker)
_PLACE = re.compile(r"\{([^{}]*)\}")


class Delivery(NamedTuple):
    """What of a message from RabbitMQ counts here."""

    body: bytes
    queue: str = ""
    exchange: str = ""
    routing_key: str = ""
    message_id: str = ""
    app_id: str = ""
    headers: Mapping[str, object] = {}


class Incoming(NamedTuple):
    """An event on its way into a stream: its message's data, and its idempotency key, empty if it has none."""

    event: Event
    data: bytes
    key: str


class Limits(NamedTuple):
    """Bytes of a message's data, levels of its JSON, characters of a channel's name."""

    data: int = 64 * 1024
    depth: int = DEPTH
    name: int = NAME_LIMIT


class _Ours(msgspec.Struct, forbid_unknown_fields=True):
    type: str
    channel: str
    payload: msgspec.Raw
    id: str | int = ""


_ours = msgspec.json.Decoder(_Ours).decode
_any = msgspec.json.Decoder().decode


class Reader:
    """Reads the messages of one queue."""

    def __init__(self, queue: Queue, limits: Limits = Limits()) -> None:  # noqa: B008  # immutable
        self._limits = limits
        self._channel = Template(queue.channel) if queue.channel else None
        self._type = Template(queue.event_type) if queue.event_type else None

    def process_message(self, delivery: Delivery) -> Incoming:
        """The event in `delivery`. Raises BadRequest with the reason if there can never be one."""
        if UNREADABLE_HEADERS in delivery.headers:
            raise BadRequest("the headers cannot be read: not UTF-8, or no table of AMQP's")
        try:
            body = _ours(delivery.body)
        except UNREADABLE:
            event = self._foreign(delivery)
        else:
            channel = self._channel.fill(delivery) if self._channel else body.channel
            event = Event(str(body.id), body.type, self._id_of(channel), bytes(body.payload))
        id = event.id or delivery.message_id
        event = msgspec.structs.replace(event, id=id or secrets.token_urlsafe(12), user=_author(delivery))
        key = delivery.message_id or id
        return Incoming(event, checked(event, self._limits.data, self._limits.depth), key and key_of(key))

    def _foreign(self, delivery: Delivery) -> Event:
        try:
            _any(delivery.body)
        except UNREADABLE as error:
            raise BadRequest(f"not JSON: {error}") from None
        channel = (self._channel or _BODY_CHANNEL).fill(delivery)
        kind = (self._type or _ROUTING_KEY).fill(delivery) or delivery.queue
        return Event("", kind, self._id_of(channel), delivery.body)

    def _id_of(self, channel: str) -> str:
        if not channel:
            raise BadRequest('no channel: put "channel" into the body, or set channel for the queue in bridge.toml')
        if len(channel) > self._limits.name:
            raise BadRequest(f"a channel name has at most {self._limits.name} characters here")
        return channel_id(channel)


def _author(delivery: Delivery) -> str:
    """Who the event is from: whoever may publish to the broker may speak for anybody, as a program with a key may."""
    if user := delivery.headers.get(USER_HEADER):
        return user_name(str(user))
    try:
        return user_name(delivery.app_id)
    except BadRequest:
        return NOBODY


class Template:
    """A text with places in braces, such as `orders-{body.region}` (bridge.topology lists them)."""

    def __init__(self, text: str) -> None:
        parts = _PLACE.split(text)
        self._parts = [_place(part) if i % 2 else _word(part) for i, part in enumerate(parts)]

    def fill(self, delivery: Delivery) -> str:
        """The text for one delivery; empty if it has nothing for one of the places."""
        values = [part(delivery) for part in self._parts]
        return "" if None in values else "".join(filter(None, values))


Part = Callable[[Delivery], str | None]


def _word(text: str) -> Part:
    return lambda delivery: text


def _place(name: str) -> Part:
    kind, _, rest = name.partition(".")
    if kind == "body":
        return lambda delivery: _field(delivery.body, rest.split("."))
    if kind == "header":
        return lambda delivery: _text(delivery.headers.get(rest))
    if kind == "word":
        return lambda delivery: _nth(delivery.routing_key.split("."), int(rest))
    return lambda delivery: str(getattr(delivery, kind))


def _field(body: bytes, path: list[str]) -> str | None:
    value = _any(body)
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return _text(value)


def _nth(words: list[str], number: int) -> str | None:
    return words[number - 1] if number <= len(words) else None


def _text(value: object) -> str | None:
    """A text or a whole number as text; nothing else names a channel or a type."""
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else None


_BODY_CHANNEL, _ROUTING_KEY = Template("{body.channel}"), Template("{routing_key}")
