"""What a message from a queue means: the event or the chat message it is, or the reason why it can never be one. Pure.

    {"type", "channel", "payload"} and perhaps "id"    an event as POST /api/events takes it
    a CloudEvent, or a batch of them                   the events they are (pipeline.cloudevents)
    {"text"} and perhaps "channel"                     a chat message
    plain text                                         a chat message, or an event where bridge.toml names a type
    any other JSON                                     an event whose payload is the whole body

bridge.toml says what channel and type the others have; for our own events the body does, unless bridge.toml does.
Plain text is what content-type text/plain says is, or what bridge.toml says (`body = "text"`).
"""

import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from bridge.topology import Queue
from bridge.wire import UNREADABLE_HEADERS
from chat.errors import BadRequest, TooLarge
from chat.models import NAME_LIMIT, channel_id, user_name
from pipeline import cloudevents
from pipeline.cloudevents import CloudEvent, media_type
from pipeline.content import DEPTH, UNREADABLE, json_line
from pipeline.event import ID_LIMIT, Event, checked, key_of
from pipeline.unpack import unpacked

USER_HEADER = "peyk-user"  # who an event is from
NOBODY = "rabbitmq"  # who it is from if nothing says so
TEXT = "text/plain"
_MARK = b"\xef\xbb\xbf"  # of UTF-8: some platforms put it before their JSON
_CHARSET = re.compile(r"""charset\s*=\s*["']?([\w.:-]+)""", re.IGNORECASE)
_CHARSETS = re.compile(r"utf-?8|us-ascii|ascii|utf-?16(-?[lb]e)?|iso-8859-\d{1,2}|latin-?1|windows-125\d|cp125\d")
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
    type: str = ""
    content_type: str = ""
    encoding: str = ""


class Incoming(NamedTuple):
    """A message on its way into a stream: its data, and its idempotency key, empty if it has none.

    `event` is the event it carries; None: somebody's text.
    """

    channel: str
    user: str
    data: bytes
    key: str
    event: Event | None


class Limits(NamedTuple):
    """Bytes of a message's data, levels of its JSON, characters of a channel's name; of one message from RabbitMQ,
    bytes of its body once it is unpacked, and events in it."""

    data: int = 64 * 1024
    depth: int = DEPTH
    name: int = NAME_LIMIT
    body: int = 1024 * 1024
    events: int = 1000


class _Ours(msgspec.Struct, forbid_unknown_fields=True):
    type: str
    channel: str
    payload: msgspec.Raw
    id: str | int = ""
    subject: str = ""
    time: str = ""
    source: str = ""


class _Chat(msgspec.Struct, forbid_unknown_fields=True):
    text: str
    channel: str = ""


_ours = msgspec.json.Decoder(_Ours).decode
_chat = msgspec.json.Decoder(_Chat).decode
_any = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


class Reader:
    """Reads the messages of one queue."""

    def __init__(self, queue: Queue, limits: Limits = Limits()) -> None:  # noqa: B008  # immutable
        self._limits = limits
        self._body = queue.body
        self._channel = Template(queue.channel) if queue.channel else None
        self._type = Template(queue.event_type) if queue.event_type else None

    def process_message(self, delivery: Delivery) -> Sequence[Incoming]:
        """What is in `delivery`: one message, or those of a batch. Raises BadRequest with the reason if there can never
        be one."""
        if UNREADABLE_HEADERS in delivery.headers:
            raise BadRequest("the headers cannot be read: not UTF-8, or no table of AMQP's")
        delivery = self._plain(delivery)
        if self._body != "text":
            found = cloudevents.read(delivery.content_type, delivery.headers, delivery.body, self._limits.events)
            if found is not None:
                return [self._foreign_event(delivery, one, len(found) == 1) for one in found]
        return [self._read(delivery)]

    def _plain(self, delivery: Delivery) -> Delivery:
        """The delivery with its body unpacked, without a byte order mark; and without an id that nobody can see."""
        limit = max(self._limits.body, self._limits.data)
        body = unpacked(delivery.body, delivery.encoding, limit)
        if len(body) > limit:
            raise TooLarge(f"a message from RabbitMQ has at most {limit} bytes; this one has {len(body)}")
        message_id = delivery.message_id if delivery.message_id.strip() else ""
        return delivery._replace(body=body.removeprefix(_MARK), message_id=message_id)

    def _read(self, delivery: Delivery) -> Incoming:
        is_text = self._body == "text" or (self._body == "auto" and media_type(delivery.content_type) == TEXT)
        if self._body != "text":
            try:
                ours = _ours(delivery.body)
            except UNREADABLE:
                pass
            else:
                return self._event(delivery, _of_ours(ours), self._where(delivery, ours.channel))
            if not (self._type or delivery.type):
                try:
                    chat = _chat(delivery.body)
                except UNREADABLE:
                    pass
                else:
                    return self._text(delivery, chat.text, self._where(delivery, chat.channel))
        if is_text:
            return self._plain_text(delivery)
        return self._foreign(delivery)

    def _plain_text(self, delivery: Delivery) -> Incoming:
        text = text_of(delivery.body, delivery.content_type)
        channel = self._where(delivery, "")
        if self._type or delivery.type:
            return self._event(delivery, Event("", self._kind(delivery), "", _encode(text)), channel)
        return self._text(delivery, text, channel)

    def _foreign(self, delivery: Delivery) -> Incoming:
        try:
            _any(delivery.body)
        except UNREADABLE as error:
            raise BadRequest(
                f'not JSON: {error}; where a queue carries plain text, bridge.toml says body = "text"'
            ) from None
        channel = self._where(delivery, _BODY_CHANNEL.fill(delivery))
        return self._event(delivery, Event("", self._kind(delivery), "", delivery.body), channel)

    def _foreign_event(self, delivery: Delivery, one: CloudEvent, alone: bool) -> Incoming:
        """A CloudEvent. Templates look at its data, however it came."""
        delivery = delivery._replace(body=one.payload, message_id=delivery.message_id if alone else "")
        channel = self._where(delivery, one.channel or _BODY_CHANNEL.fill(delivery))
        event = Event(one.id, one.type, "", one.payload, "", one.subject, one.time, one.source)
        return self._event(delivery, event, channel)

    def _event(self, delivery: Delivery, event: Event, channel: str) -> Incoming:
        name, user = self._id_of(channel), _author(delivery)
        id = event.id if event.id.strip() else delivery.message_id
        event = msgspec.structs.replace(event, id=id or secrets.token_urlsafe(12), channel=name, user=user)
        key = delivery.message_id or id
        data = checked(event, self._limits.data, self._limits.depth)
        return Incoming(name, user, data, key and key_of(key), event)

    def _text(self, delivery: Delivery, text: str, channel: str) -> Incoming:
        name, user = self._id_of(channel), _author(delivery)
        data = json_line(_encode({"text": text}), self._limits.data, self._limits.depth)
        id = delivery.message_id
        if len(id.encode()) > ID_LIMIT:
            raise BadRequest(f"a message id has at most {ID_LIMIT} bytes")
        return Incoming(name, user, data, id and key_of(id), None)

    def _where(self, delivery: Delivery, own: str) -> str:
        """The channel: bridge.toml's, else the message's own; empty: none."""
        return self._channel.fill(delivery) if self._channel else own

    def _kind(self, delivery: Delivery) -> str:
        """The type of an event that does not say its own."""
        named = self._type.fill(delivery) if self._type else ""
        return named or delivery.type or delivery.routing_key or delivery.queue

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


def _of_ours(ours: _Ours) -> Event:
    return Event(str(ours.id), ours.type, "", bytes(ours.payload), "", ours.subject, ours.time, ours.source)


def text_of(body: bytes, content_type: str = "") -> str:
    """A plain text, its lines ended with \\n. Raises BadRequest if it is not in the charset it names (UTF-8: none)."""
    said = _CHARSET.search(content_type)
    charset = said[1].lower() if said else "utf-8"
    if not _CHARSETS.fullmatch(charset):
        raise BadRequest(f"text in {charset[:50]!r} is not read here; send UTF-8")
    try:
        text = body.decode(charset)
    except (UnicodeDecodeError, LookupError):
        raise BadRequest(
            f"the text is not {charset.upper()}; name its charset in the content type, or send UTF-8"
        ) from None
    return text.replace("\r\n", "\n").replace("\r", "\n").removeprefix("\ufeff").removesuffix("\n")


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
    try:
        value = _any(body)
    except UNREADABLE:  # plain text, or the data of a CloudEvent that is none
        return None
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return _text(value)


def _nth(words: list[str], number: int) -> str | None:
    return words[number - 1] if number <= len(words) else None


def _text(value: object) -> str | None:
    """A text or a whole number as text; nothing else names a channel or a type."""
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else None


_BODY_CHANNEL = Template("{body.channel}")
