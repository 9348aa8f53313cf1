"""The HTTP routes: channels, subscribers, messages, health. /openapi.json is made from the types used here."""

import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from chat import protocol
from chat.access import Access
from chat.auth import Identity
from chat.doors import COOKIE, Doors
from chat.errors import BadRequest, PermissionDenied, PeykError, TooLarge, Unauthorized, Unavailable, UnknownChannel
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
ANONYMOUS = "anonymous"  # who a guest is that gives no name
Body = TypeVar("Body")


class ChangedChannel(msgspec.Struct, forbid_unknown_fields=True):
    description: str


class NewMessage(msgspec.Struct, forbid_unknown_fields=True):
    """Either `text`, or `data`: any JSON value. `user` is for guests and programs; others are who their token says."""

    text: str | msgspec.UnsetType = msgspec.UNSET
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    user: str | msgspec.UnsetType = msgspec.UNSET


class NewSession(msgspec.Struct, forbid_unknown_fields=True):
    token: str


class Who(msgspec.Struct):
    """Who asks. `expires` is in Unix seconds, 0: never."""

    user: str
    guest: bool
    expires: int


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
    reply = answer(Failure(ErrorBody(error.code, str(error))), error.status)
    if error.status == 401:
        reply.headers["www-authenticate"] = "Bearer"
    return reply


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


def access_of(request: Request) -> Access:
    """Who asks: by `Authorization: Bearer`, `X-API-Key`, the cookie, or as a guest. Raises Unauthorized."""
    if not hasattr(request.state, "access"):
        doors = node_of(request).doors
        request.state.access = Access(doors, _identity(request, doors))
    access: Access = request.state.access
    return access


def _identity(request: Request, doors: Doors) -> Identity:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme and scheme.lower() != "bearer":
        raise Unauthorized("send Authorization: Bearer <token>, or X-API-Key: <key>")
    if key := request.headers.get("x-api-key"):
        return doors.by_key(key)
    if token := token.strip() or request.cookies.get(COOKIE, ""):
        return doors.by_token(token)
    return doors.guest(ANONYMOUS)


def asked_user(request: Request) -> User:
    """The user in the path, if who asks may act for it: programs and guests for anybody, others for themselves."""
    user, identity = User.named(request.path_params["user"]), access_of(request).identity
    if not (identity.guest or identity.program or identity.user.id == user.id):
        raise PermissionDenied(f"you are {identity.user.username}, and act for yourself only")
    return user


def asked_channel(request: Request, action: str) -> str:
    """The id of the channel in the path, if who asks may take `action` there. Raises Unauthorized, PermissionDenied."""
    channel = channel_id(request.path_params["id"])
    access_of(request).check(action, channel)
    return channel


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


# -- who asks


async def get_session(request: Request) -> Response:
    identity = access_of(request).identity
    return answer(Who(identity.user.username, identity.guest, identity.expires))


async def open_session(request: Request) -> Response:
    """Keep a token in a cookie that scripts cannot read, so that the page and its WebSocket come with it."""
    body = await body_of(request, NewSession)
    identity = node_of(request).doors.by_token(body.token)
    reply = answer(Who(identity.user.username, False, identity.expires), 201)
    secure = request.url.scheme == "https"
    age = identity.ttl or None
    reply.set_cookie(COOKIE, body.token, max_age=age, httponly=True, samesite="lax", secure=secure)
    return reply


async def close_session(request: Request) -> Response:
    reply = Response(status_code=204)
    reply.delete_cookie(COOKIE, httponly=True, samesite="lax")
    return reply


# -- channels


async def list_channels(request: Request) -> Response:
    access = access_of(request)
    return answer([c for c in await node_of(request).channels.list() if access.may("subscribe", c.id)])


async def create_channel(request: Request) -> Response:
    access, body = access_of(request), await body_of(request, NewChannel)
    access.check("manage", channel_id(body.name))
    owner = "" if access.identity.guest else access.identity.user.id
    return answer(await node_of(request).channels.create(body.name, body.description, owner), 201)


async def get_channel(request: Request) -> Response:
    return answer(await node_of(request).channels.get(asked_channel(request, "subscribe")))


async def update_channel(request: Request) -> Response:
    channel, body = asked_channel(request, "manage"), await body_of(request, ChangedChannel)
    return answer(await node_of(request).channels.update(channel, body.description))


async def delete_channel(request: Request) -> Response:
    await node_of(request).channels.delete(asked_channel(request, "manage"))
    return Response(status_code=204)


# -- subscribers


async def list_subscribers(request: Request) -> Response:
    node = node_of(request)
    channel = await node.channels.get(asked_channel(request, "presence"))
    return answer(await node.subscriptions.subscribers(channel.id))


async def get_subscriber(request: Request) -> Response:
    node = node_of(request)
    channel, user = await node.channels.get(asked_channel(request, "presence")), User.named(request.path_params["user"])
    return answer(Subscriber(channel.id, user.id, await node.subscriptions.has(user.id, channel.id)))


async def put_subscriber(request: Request) -> Response:
    node = node_of(request)
    channel, user = await node.channels.get(asked_channel(request, "subscribe")), asked_user(request)
    new = await node.subscriptions.add(user, channel.id)
    return answer(Subscriber(channel.id, user.id, True), 201 if new else 200)


async def delete_subscriber(request: Request) -> Response:
    node = node_of(request)
    channel, user = await node.channels.get(asked_channel(request, "subscribe")), asked_user(request)
    await node.subscriptions.remove(user.id, channel.id)
    return Response(status_code=204)


# -- messages


async def post_message(request: Request) -> Response:
    """Publish: 201 once the message is in the stream; 200 if the idempotency key was known."""
    node, channel = node_of(request), asked_channel(request, "publish")
    body = await body_of(request, NewMessage)
    if (body.text is msgspec.UNSET) == (body.data is msgspec.UNSET):
        raise BadRequest('a message has either "text" (a string) or "data" (any JSON value)')
    data = encode({"text": body.text}) if body.data is msgspec.UNSET else bytes(body.data)
    key = request.headers.get("idempotency-key", "")
    protocol.check_key(key)
    line = protocol.json_line(data, node.settings.message_limit)
    position = await node.producer.publish(channel, line, user=author(request, body), key=key)
    return answer(protocol.position_body(position), 200 if position.duplicate else 201)


def author(request: Request, body: NewMessage) -> str:
    """The name a message is published under. Raises PermissionDenied for another's."""
    identity = access_of(request).identity
    if body.user is msgspec.UNSET:
        return identity.user.username
    name = user_name(body.user)
    if not (identity.guest or identity.program or User.named(name).id == identity.user.id):
        raise PermissionDenied(f'you are {identity.user.username}; leave out "user", or say that')
    return name


async def get_messages(request: Request) -> Response:
    """A page as JSON or NDJSON, or a replay that stays live, as the Accept header asks."""
    node, channel = node_of(request), asked_channel(request, "history")
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
