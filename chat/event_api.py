"""The HTTP routes of events, which programs say: into RabbitMQ where there is one, else straight to the streams."""

import secrets
from typing import Annotated, Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from chat.api import DEFAULT_PAGE, author
from chat.bodies import media_type, raw_body
from chat.errors import BadRequest, NotAvailable, PermissionDenied, TooLarge, Unavailable, UnknownEvent, Unprocessable
from chat.models import channel_id, is_line
from chat.requests import JSON, NDJSON, access_of, address_of, answer, node_of, number
from pipeline.consumer import Away
from pipeline.content import UNREADABLE
from pipeline.encode import Message
from pipeline.event import ID_LIMIT, TYPE_LIMIT, Event, cleaned, event_of
from pipeline.gateway import StreamGateway
from pipeline.ports import EventStore


class NewEvent(msgspec.Struct, forbid_unknown_fields=True):
    """`payload` is any JSON value. The same `id` again within IDEMPOTENCY_TTL is the same event.

    `user` is for guests and programs; others are who their token says.
    """

    type: Annotated[str, msgspec.Meta(min_length=1, max_length=TYPE_LIMIT)]
    channel: str
    payload: msgspec.Raw
    id: Annotated[str, msgspec.Meta(min_length=1, max_length=ID_LIMIT)] | msgspec.UnsetType = msgspec.UNSET
    user: str | msgspec.UnsetType = msgspec.UNSET


class Queued(msgspec.Struct):
    """`status` is queued: it is safe, and comes into its channel."""

    id: str
    status: str


class StoredEvent(msgspec.Struct):
    """An event and where it stands in its channel; `time` is in Unix milliseconds."""

    id: str
    type: str
    channel: str
    payload: Any
    user: str
    offset: int
    epoch: str
    time: int


async def post_events(request: Request) -> Response:
    """Publish one event, or a batch: a JSON array, or NDJSON. 202: they are safe, and come into their streams."""
    node = node_of(request)
    identity = access_of(request).identity
    new, batch = await _events_of(request)
    user = "" if identity.guest or identity.program else identity.user.id
    node.limits.message(address_of(request), user, len(new))
    events = [await _checked(request, event) for event in new]
    await (node.parts.gateway or StreamGateway(node.producer)).publish(events)
    queued = [Queued(event.id, "queued") for event in events]
    return answer(queued if batch else queued[0], 202)


async def _events_of(request: Request) -> tuple[list[NewEvent], bool]:
    """The events in the body, and whether they are a batch. Raises BadRequest and TooLarge."""
    settings = node_of(request).settings
    kind = media_type(request, (JSON, NDJSON))
    body = await raw_body(request, settings.batch_bytes)
    try:
        if kind == NDJSON:
            events = [msgspec.json.decode(line, type=NewEvent) for line in body.split(b"\n") if line.strip()]
        elif body.lstrip()[:1] == b"[":
            events = msgspec.json.decode(body, type=list[NewEvent])
        else:
            return [msgspec.json.decode(body, type=NewEvent)], False
    except UNREADABLE as error:
        text = f'an event is a JSON object {{"type","channel","payload"}} with an "id" if you like: {error}'
        raise BadRequest(text) from None
    if not events:
        raise Unprocessable(f"a batch has 1 to {settings.event_batch} events; this one has none")
    if len(events) > settings.event_batch:
        raise TooLarge(f"a batch has 1 to {settings.event_batch} events; this one has {len(events)}")
    return events, True


async def _checked(request: Request, new: NewEvent) -> Event:
    """The event as it is published, if who asks may. Raises BadRequest, PermissionDenied, UnknownChannel."""
    node, channel = node_of(request), channel_id(new.channel)
    await node.allow(access_of(request), "publish", channel)
    if not node.settings.create_channels:
        await node.channels.get(channel)
    id = secrets.token_urlsafe(12) if new.id is msgspec.UNSET else new.id
    event = Event(id, new.type, channel, bytes(new.payload), await author(request, new.user))
    return cleaned(event, node.settings.message_limit, node.settings.json_depth)


async def get_event(request: Request) -> Response:
    """One event by its id. The header X-Cache says whether the cache had it."""
    store, id = _store(request), request.path_params["event"]
    try:
        message, hit = await store.event(id)
    except Away as error:
        raise Unavailable(f"the archive is away: {error}; try again") from None
    event = _stored(message) if message is not None else None
    if event is not None:
        try:
            await node_of(request).allow(access_of(request), "history", event.channel)
        except PermissionDenied:
            event = None  # nor may they learn that it is there
    if event is None or event.time < await node_of(request).channels.began(event.channel):  # meanwhile
        raise UnknownEvent(f"there is no event {id[:ID_LIMIT]!r}; one just queued is stored in a moment")
    reply = answer(event)
    reply.headers["x-cache"] = "hit" if hit else "miss"
    return reply


async def list_events(request: Request) -> Response:
    """The newest events of a channel, newest first."""
    access, asked = access_of(request), request.query_params
    if "channel" not in asked:
        raise BadRequest("whose events? say ?channel=NAME")
    node, channel = node_of(request), channel_id(asked["channel"])
    await node.allow(access, "history", channel)
    began = (await node.channels.get(channel)).created_at
    type = asked.get("type", "")
    if not is_line(type):
        raise BadRequest("an event's type is visible text in one line")
    limit = number(request, "limit", 0, node.settings.page_limit)
    limit = DEFAULT_PAGE if limit is None else limit
    try:
        messages = await _store(request).events(channel, type, limit)
    except Away as error:
        raise Unavailable(f"the archive is away: {error}; try again") from None
    return answer([event for event in map(_stored, messages) if event is not None and event.time >= began])


def _store(request: Request) -> EventStore:
    store = node_of(request).parts.events
    if store is None:
        raise NotAvailable("no archive keeps events here; turn one on (ARCHIVE), or read the channel's messages")
    return store


def _stored(message: Message) -> StoredEvent | None:
    event = event_of(message)
    if event is None:
        return None
    payload = msgspec.Raw(event.payload)
    return StoredEvent(
        event.id, event.type, event.channel, payload, event.user, message.offset, message.epoch, message.ms
    )
