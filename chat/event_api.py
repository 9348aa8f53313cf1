"""The HTTP routes of events, which programs say: into RabbitMQ where there is one, else straight to the streams."""

import secrets
from functools import partial
from typing import Annotated, Any
from urllib.parse import unquote

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from chat.api import DEFAULT_PAGE
from chat.bodies import media_type, raw_body
from chat.errors import BadRequest, NotAvailable, Unavailable, UnknownChannel, UnknownEvent
from chat.models import channel_id, is_line
from chat.node import Node
from chat.requests import JSON, NDJSON, access_of, address_of, answer, node_of, number, speaker_of
from pipeline import batches, cloudevents
from pipeline.consumer import Away
from pipeline.content import UNREADABLE
from pipeline.encode import Message
from pipeline.event import ID_LIMIT, TYPE_LIMIT, Event, cleaned, event_of
from pipeline.gateway import StreamGateway
from pipeline.ports import EventStore
from pipeline.replay import Replay


class NewEvent(msgspec.Struct, forbid_unknown_fields=True):
    """`payload` is any JSON value. The same `id` again within IDEMPOTENCY_TTL is the same event. `subject`, `time` (RFC
    3339) and `source` are a CloudEvent's: what it is about, when and where it happened.

    `user` is for guests and programs; others are who their token says.
    """

    type: Annotated[str, msgspec.Meta(min_length=1, max_length=TYPE_LIMIT)]
    channel: str
    payload: msgspec.Raw
    id: Annotated[str, msgspec.Meta(min_length=1, max_length=ID_LIMIT)] | msgspec.UnsetType = msgspec.UNSET
    user: str | msgspec.UnsetType = msgspec.UNSET
    subject: str = ""
    time: str = ""
    source: str = ""


class Queued(msgspec.Struct):
    """`status` is queued: it is safe, and comes into its channel."""

    id: str
    status: str


class StoredEvent(msgspec.Struct, omit_defaults=True):
    """An event and where it stands in its channel; `time` is in Unix milliseconds, when it was stored. `happened` is
    the time that the event itself says, as it says it.
    """

    id: str
    type: str
    channel: str
    payload: Any
    user: str
    offset: int
    epoch: str
    time: int
    subject: str = ""
    happened: str = ""
    source: str = ""


_decode = msgspec.json.Decoder(NewEvent).decode


async def post_events(request: Request) -> Response:
    """Publish one event, or a batch: a JSON array, or NDJSON. 202: they are safe, and come into their streams.

    CloudEvents as well, structured (application/cloudevents+json), in batches (application/cloudevents-batch+json) or
    binary (headers ce-type, ce-id, …); their extension `channel`, or `?channel=NAME`, says where they go.
    """
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
    """The events in the body, and whether they are a batch. Raises BadRequest, Unprocessable and TooLarge."""
    settings = node_of(request).settings
    is_cloud = cloudevents.is_one(request.headers.get("content-type", ""), request.headers)
    kind = cloudevents.media_type(request.headers.get("content-type", ""))
    if not is_cloud:
        kind = media_type(request, (JSON, NDJSON))
    body = await raw_body(request, settings.batch_bytes)
    if is_cloud:
        return _cloud_events(request, body), kind == cloudevents.BATCH
    try:
        if kind == NDJSON:
            return [_decode(line) for line in batches.lines(body, settings.event_batch)], True
        if body.lstrip()[:1] == b"[":
            return batches.array(body, NewEvent, settings.event_batch), True
        return [_decode(body)], False
    except UNREADABLE as error:
        text = f'an event is a JSON object {{"type","channel","payload"}} with an "id" if you like: {error}'
        raise BadRequest(text) from None


def _cloud_events(request: Request, body: bytes) -> list[NewEvent]:
    """The CloudEvents of a request. Raises BadRequest, Unprocessable and TooLarge."""
    limit = node_of(request).settings.event_batch
    headers = {name: unquote(value) for name, value in request.headers.items() if name.startswith("ce-")}
    channel = request.query_params.get("channel", "")
    events = []
    for one in cloudevents.read(request.headers.get("content-type", ""), headers, body, limit) or ():
        if not (one.channel or channel):
            raise BadRequest("no channel: say ?channel=NAME, or give the CloudEvent an attribute channel")
        id = one.id or msgspec.UNSET
        about = (one.subject, one.time, one.source)
        events.append(NewEvent(one.type, one.channel or channel, msgspec.Raw(one.payload), id, msgspec.UNSET, *about))
    return events


async def _checked(request: Request, new: NewEvent) -> Event:
    """The event as it is published, if who asks may. Raises BadRequest, PermissionDenied, UnknownChannel."""
    node, channel = node_of(request), channel_id(new.channel)
    user = await speaker_of(request, new.user, "publish", channel)
    if not node.settings.create_channels:
        await node.channels.get(channel)
    await node.ensure(access_of(request), channel)
    id = secrets.token_urlsafe(12) if new.id is msgspec.UNSET else new.id
    about = (new.subject, new.time, new.source)
    event = Event(id, new.type, channel, bytes(new.payload), user.username, *about)
    return cleaned(event, node.settings.message_limit, node.settings.json_depth)


async def get_event(request: Request) -> Response:
    """One event by its id, in ?channel=NAME or in the first channel that has it and that who asks may read.

    Nobody learns that there is another. The header X-Cache says whether the cache had it.
    """
    node, access, store = node_of(request), access_of(request), _store(request)
    id = request.path_params["event"]
    channel = channel_id(request.query_params["channel"]) if "channel" in request.query_params else ""
    if channel:
        await node.allow(access, "history", channel)
    try:
        message, hit = await store.event(id, partial(node.readable, access), channel)
        came_from = "hit" if hit else "miss"
    except Away as error:
        message = await _in_stream(node, channel, id) if channel else None
        if message is None:
            how = "" if channel else ", or say its ?channel=NAME: the stream may have it"
            raise Unavailable(f"the archive is away: {error}; try again{how}") from None
        came_from = "stream"
    event = _stored(message) if message is not None else None
    if event is None:
        raise UnknownEvent(f"there is no event {id[:ID_LIMIT]!r}; one just queued is stored in a moment")
    reply = answer(event)
    reply.headers["x-cache"] = came_from
    return reply


async def _in_stream(node: Node, channel: str, id: str) -> Message | None:
    """The event, if it is in the newest page of the channel's stream: what no database has stored yet."""
    try:
        settings = node.settings
        page = await Replay(node.link, node.keys).before(channel, None, settings.page_limit, settings.page_bytes)
    except UnknownChannel:
        return None
    found = [message for message in page.messages if (event := event_of(message)) is not None and event.id == id]
    return found[-1] if found else None  # the first that came


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
        event.id, event.type, event.channel, payload, event.user, message.offset, message.epoch, message.ms,
        event.subject, event.time, event.source,
    )  # fmt: skip
