"""The HTTP routes: channels, subscribers, messages, health. /openapi.json is made from the types used here."""

import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from chat import protocol
from chat.errors import BadRequest, PeykError, TooLarge, Unavailable, UnknownChannel
from chat.events import event_stream
from chat.health import ready
from chat.models import User, channel_id, user_name
from chat.protocol import encode, page_body
from chat.rpc import NewChannel
from pipeline.encode import publication
from pipeline.replay import Page
from pipeline.resp import FAILURES

if TYPE_CHECKING:
    from chat.node import Node

logger = logging.getLogger(__name__)

JSON, NDJSON, EVENTS = "application/json", "application/x-ndjson", "text/event-stream"
DEFAULT_PAGE = 100  # messages
Body = TypeVar("Body")


class ChangedChannel(msgspec.Struct, forbid_unknown_fields=True):
    description: str


class NewMessage(msgspec.Struct, forbid_unknown_fields=True):
    """Either `text`, or `data`: any JSON value."""

    text: str | msgspec.UnsetType = msgspec.UNSET
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    user: str = "anonymous"


class Published(msgspec.Struct):
    """Where the message stands. `id` is its entry id `<offset>-<time>`, `time` Unix milliseconds."""

    id: str
    offset: int
    epoch: str
    time: int
    duplicate: bool


class Publication(msgspec.Struct):
    offset: int
    time: int
    data: Any
    info: dict[str, str]


class History(msgspec.Struct):
    """A page of messages; `offset` is the channel's highest."""

    publications: list[Publication]
    epoch: str
    offset: int


class Subscriber(msgspec.Struct):
    channel: str
    user: str
    subscribed: bool


class Health(msgspec.Struct):
    status: str
    parts: dict[str, str]


class ErrorBody(msgspec.Struct):
    code: int
    message: str


class Failure(msgspec.Struct):
    error: ErrorBody


def answer(value: Any, status: int = 200) -> Response:
    return Response(encode(value), status, media_type=JSON)


def failure(error: PeykError) -> Response:
    return answer(Failure(ErrorBody(error.code, str(error))), error.status)


async def on_error(request: Request, error: Exception) -> Response:
    """Any error as the one error body."""
    if isinstance(error, PeykError):
        return failure(error)
    if isinstance(error, HTTPException):
        code = {404: 104, 405: 104}.get(error.status_code, 107)
        text = f"{request.method} {request.url.path}: {error.detail}; see /openapi.json for what there is"
        return Response(encode(Failure(ErrorBody(code, text))), error.status_code, error.headers, JSON)
    if isinstance(error, FAILURES):
        logger.info("%s %s: Redis failed: %s", request.method, request.url.path, error)
        return failure(Unavailable("Redis does not answer; try again"))
    logger.exception("%s %s failed", request.method, request.url.path, exc_info=error)
    return failure(PeykError("internal error; the server's log says more"))


def node_of(request: Request) -> "Node":
    node: Node = request.app.state.node
    return node


async def body_of(request: Request, kind: type[Body]) -> Body:
    """The request's JSON body as `kind`. Raises BadRequest and TooLarge."""
    if request.headers.get("content-type", JSON).partition(";")[0].strip().lower() != JSON:
        raise BadRequest(f"send content-type: {JSON}")
    limit = 2 * node_of(request).settings.message_limit
    data = bytearray()
    async for part in request.stream():
        data += part
        if len(data) > limit:
            raise TooLarge(f"a request body has at most {limit} bytes")
    try:
        return msgspec.json.decode(bytes(data), type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"the body must be a JSON {kind.__name__} (see /openapi.json): {error}") from None


def number(request: Request, name: str, low: int, high: int = 2**53) -> int | None:
    text = request.query_params.get(name)
    if text is None:
        return None
    if not text.isascii() or not text.isdigit() or not low <= int(text[:20]) <= high:
        raise BadRequest(f"{name} must be a whole number from {low} to {high}")
    return int(text)


def moment(text: str) -> int:
    """`since` as Unix milliseconds: a number of them, or an ISO 8601 time (without zone: UTC)."""
    if text.isascii() and text.isdigit() and len(text) < 16:
        return int(text)
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise BadRequest("since must be Unix milliseconds or an ISO time such as 2026-01-31T12:00:00Z") from None
    return int((time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp() * 1000)


# -- channels


async def list_channels(request: Request) -> Response:
    return answer(await node_of(request).channels.list())


async def create_channel(request: Request) -> Response:
    body = await body_of(request, NewChannel)
    return answer(await node_of(request).channels.create(body.name, body.description), 201)


async def get_channel(request: Request) -> Response:
    return answer(await node_of(request).channels.get(request.path_params["id"]))


async def update_channel(request: Request) -> Response:
    body = await body_of(request, ChangedChannel)
    return answer(await node_of(request).channels.update(request.path_params["id"], body.description))


async def delete_channel(request: Request) -> Response:
    await node_of(request).channels.delete(request.path_params["id"])
    return Response(status_code=204)


# -- subscribers


async def list_subscribers(request: Request) -> Response:
    node = node_of(request)
    channel = await node.channels.get(request.path_params["id"])
    return answer(await node.subscriptions.subscribers(channel.id))


async def get_subscriber(request: Request) -> Response:
    node = node_of(request)
    channel, user = await node.channels.get(request.path_params["id"]), User.named(request.path_params["user"])
    return answer(Subscriber(channel.id, user.id, await node.subscriptions.has(user.id, channel.id)))


async def put_subscriber(request: Request) -> Response:
    node = node_of(request)
    channel, user = await node.channels.get(request.path_params["id"]), User.named(request.path_params["user"])
    new = await node.subscriptions.add(user, channel.id)
    return answer(Subscriber(channel.id, user.id, True), 201 if new else 200)


async def delete_subscriber(request: Request) -> Response:
    node = node_of(request)
    channel, user = await node.channels.get(request.path_params["id"]), User.named(request.path_params["user"])
    await node.subscriptions.remove(user.id, channel.id)
    return Response(status_code=204)


# -- messages


async def post_message(request: Request) -> Response:
    """Publish: 201 once the message is in the stream; 200 if the idempotency key was known."""
    node = node_of(request)
    body = await body_of(request, NewMessage)
    if (body.text is msgspec.UNSET) == (body.data is msgspec.UNSET):
        raise BadRequest('a message has either "text" (a string) or "data" (any JSON value)')
    data = encode({"text": body.text}) if body.data is msgspec.UNSET else bytes(body.data)
    key = request.headers.get("idempotency-key", "")
    protocol.check_key(key)
    line = protocol.json_line(data, node.settings.message_limit)
    channel = channel_id(request.path_params["id"])
    position = await node.producer.publish(channel, line, user=user_name(body.user), key=key)
    return answer(protocol.position_body(position), 200 if position.duplicate else 201)


async def get_messages(request: Request) -> Response:
    """A page as JSON or NDJSON, or a replay that stays live, as the Accept header asks."""
    node, channel = node_of(request), channel_id(request.path_params["id"])
    if EVENTS in request.headers.get("accept", ""):
        return await _follow(request, node, channel)
    page = await _page(request, node, channel)
    if NDJSON in request.headers.get("accept", ""):
        lines = b"".join(publication(message) + b"\n" for message in page.messages)
        headers = {"x-epoch": page.epoch, "x-offset": str(page.top)}
        return Response(lines, media_type=NDJSON, headers=headers)
    return Response(page_body(page), media_type=JSON)


async def _page(request: Request, node: "Node", channel: str) -> Page:
    given = [name for name in ("after", "before", "since") if name in request.query_params]
    if len(given) > 1:
        raise BadRequest(f"give one of after, before, since; not {' and '.join(given)}")
    limit = number(request, "limit", 0, node.settings.page_limit)
    limit = DEFAULT_PAGE if limit is None else limit
    size = node.settings.page_bytes
    if "since" in given:
        start = await node.replay.since(channel, moment(request.query_params["since"]))
        return await node.replay.after(channel, start, limit, size)
    if "after" in given:
        return await node.replay.after(channel, number(request, "after", 0) or 0, limit, size)
    page = await node.replay.before(channel, number(request, "before", 1), limit, size)
    return page._replace(messages=page.messages[::-1])


async def _follow(request: Request, node: "Node", channel: str) -> Response:
    since = None
    last = request.headers.get("last-event-id")
    if last:
        epoch, _, offset = last.rpartition(":")
        if not epoch or not offset.isdigit() or len(offset) > 16:
            raise BadRequest("Last-Event-ID must be an id this stream sent: <epoch>:<offset>")
        since = epoch, int(offset)
    else:
        position = await node.replay.position(channel)
        if position is None:
            raise UnknownChannel.named(channel)
        after = number(request, "after", 0)
        if "since" in request.query_params:
            after = await node.replay.since(channel, moment(request.query_params["since"]))
        since = (position[0], position[1] if after is None else after)
    stream = await event_stream(node, channel, since)
    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
    return StreamingResponse(stream, media_type=EVENTS, headers=headers)


# -- health


async def get_health(request: Request) -> Response:
    return answer(Health("ok", {}))


async def get_ready(request: Request) -> Response:
    readiness = await ready(node_of(request))
    body = Health(readiness.status, readiness.parts | readiness.degraded)
    return answer(body, 503 if readiness.status == "unavailable" else 200)
