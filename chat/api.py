"""The HTTP routes: channels, subscribers, messages, health. /openapi.json is made from the types used here."""

import contextlib
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from chat import directory, moderation, protocol
from chat.accounts import KNOWN_SECONDS, Place
from chat.bodies import TEXT, body_of, decode, media_type, raw_body
from chat.doors import COOKIE, KNOWN
from chat.errors import BadRequest, PermissionDenied, Unauthorized, UnknownChannel
from chat.events import event_stream
from chat.metrics import exposition
from chat.models import User, channel_id
from chat.protocol import encode, page_body
from chat.requests import (
    EVENTS,
    JSON,
    NDJSON,
    access_of,
    address_of,
    answer,
    asked_channel,
    asked_user,
    cookie_of,
    moment,
    node_of,
    number,
    speaker_of,
)
from chat.rpc import NewChannel
from pipeline.content import json_line
from pipeline.encode import publication
from pipeline.replay import Page

if TYPE_CHECKING:
    from chat.node import Node

DEFAULT_PAGE = 100  # messages


class ChangedChannel(msgspec.Struct, forbid_unknown_fields=True):
    description: str | None = None
    kind: str | None = None


class GivenRole(msgspec.Struct, forbid_unknown_fields=True):
    """member, moderator, muted or banned."""

    role: str


class NewMessage(msgspec.Struct, forbid_unknown_fields=True):
    """Either `text`, or `data`: any JSON value. `user` is for guests and programs; others are who their token says."""

    text: str | msgspec.UnsetType = msgspec.UNSET
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    user: str | msgspec.UnsetType = msgspec.UNSET


class NewSession(msgspec.Struct, forbid_unknown_fields=True):
    """Either `token`, or `username` and `password`."""

    token: str | msgspec.UnsetType = msgspec.UNSET
    username: str | msgspec.UnsetType = msgspec.UNSET
    password: str | msgspec.UnsetType = msgspec.UNSET


class NewAccount(msgspec.Struct, forbid_unknown_fields=True):
    username: str
    password: str


class NewPassword(msgspec.Struct, forbid_unknown_fields=True):
    old: str
    new: str


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


# -- who asks


async def get_session(request: Request) -> Response:
    identity = access_of(request).identity
    return answer(Who(identity.user.username, identity.guest, identity.expires))


async def open_session(request: Request) -> Response:
    """Sign in with name and password, or with a token."""
    body, node = await body_of(request, NewSession), node_of(request)
    if (body.token is msgspec.UNSET) == (body.username is msgspec.UNSET or body.password is msgspec.UNSET):
        raise BadRequest('sign in with "username" and "password", or with a "token"')
    if body.token:
        return _signed_in(request, body.token)
    token = await node.accounts.sign_in(body.username or "", body.password or "", _place(request))
    return _marked(request, _signed_in(request, token), User.named(body.username or ""))


async def register(request: Request) -> Response:
    body = await body_of(request, NewAccount)
    token = await node_of(request).accounts.register(body.username, body.password, _place(request))
    return _marked(request, _signed_in(request, token), User.named(body.username))


async def change_password(request: Request) -> Response:
    user, body = access_of(request).identity.user, await body_of(request, NewPassword)
    return _signed_in(request, await node_of(request).accounts.change_password(user, body.old, body.new))


async def close_session(request: Request) -> Response:
    """Sign out: the token is shut out, not only forgotten."""
    with contextlib.suppress(Unauthorized):  # over already
        await node_of(request).doors.sign_out(access_of(request).identity)
    reply = Response(status_code=204)
    reply.delete_cookie(COOKIE, httponly=True, samesite="lax")
    return reply


def _signed_in(request: Request, token: str) -> Response:
    """Keep the token in a cookie that scripts cannot read, so that the page and its WebSocket come with it."""
    identity = node_of(request).doors.by_token(token)
    reply = answer(Who(identity.user.username, False, identity.expires), 201)
    secure, age = request.url.scheme == "https", identity.ttl or None
    reply.set_cookie(COOKIE, token, max_age=age, httponly=True, samesite="lax", secure=secure)
    return reply


def _place(request: Request) -> Place:
    return Place(address_of(request), cookie_of(request, KNOWN))


def _marked(request: Request, reply: Response, user: User) -> Response:
    """Let the browser be known again: whoever guesses elsewhere does not lock its person out."""
    mark = node_of(request).accounts.mark(user, cookie_of(request, KNOWN))
    secure = request.url.scheme == "https"
    reply.set_cookie(KNOWN, mark, max_age=KNOWN_SECONDS, path="/api", httponly=True, samesite="strict", secure=secure)
    return reply


# -- channels


async def list_channels(request: Request) -> Response:
    """A page of channels; where there are more, the header Link says where."""
    asked, most = request.query_params, node_of(request).settings.page_limit
    limit = number(request, "limit", 0, most)
    limit = min(directory.DEFAULT_PAGE, most) if limit is None else limit
    prefix = asked.get("prefix", "")
    page = await node_of(request).directory.page(access_of(request), asked.get("after", ""), limit, prefix)
    reply = answer(page.channels)
    if page.next:
        query = {"after": page.next, "limit": limit} | ({"prefix": prefix} if prefix else {})
        reply.headers["link"] = f'</api/channels?{urlencode(query)}>; rel="next"'
    return reply


async def create_channel(request: Request) -> Response:
    access, node, body = access_of(request), node_of(request), await body_of(request, NewChannel)
    await node.allow(access, "create", channel_id(body.name))
    owner, makers = access.identity.owns_as, node.makers(access)
    channel = await node.channels.create(body.name, body.description, owner, body.kind, makers)
    return answer(channel, 201)


async def get_channel(request: Request) -> Response:
    return answer(await node_of(request).channels.get(await asked_channel(request, "subscribe")))


async def update_channel(request: Request) -> Response:
    channel, body = await asked_channel(request, "manage"), await body_of(request, ChangedChannel)
    return answer(await node_of(request).channels.update(channel, body.description, body.kind))


async def delete_channel(request: Request) -> Response:
    await node_of(request).channels.delete(await asked_channel(request, "manage"))
    return Response(status_code=204)


# -- subscribers


async def list_subscribers(request: Request) -> Response:
    node = node_of(request)
    channel = await node.channels.get(await asked_channel(request, "presence"))
    return answer(await node.subscriptions.subscribers(channel.id))


async def get_subscriber(request: Request) -> Response:
    node = node_of(request)
    channel, user = (
        await node.channels.get(await asked_channel(request, "presence")),
        User.named(request.path_params["user"]),
    )
    return answer(Subscriber(channel.id, user.id, await node.subscriptions.has(user.id, channel.id)))


async def put_subscriber(request: Request) -> Response:
    node = node_of(request)
    channel = await node.channels.get(await asked_channel(request, "subscribe"))
    user = await asked_user(request, "subscribe", channel.id)
    if not access_of(request).identity.stays:
        raise PermissionDenied("guests belong to no channel here, and leave nothing behind; sign in, or subscribe")
    new = await node.subscriptions.add(user, channel.id)
    return answer(Subscriber(channel.id, user.id, True), 201 if new else 200)


async def delete_subscriber(request: Request) -> Response:
    """Leave; or, for moderators, send somebody away."""
    node, access = node_of(request), access_of(request)
    channel = await node.channels.get(request.path_params["id"])
    if access.identity.guest or access.identity.program:
        user = await asked_user(request, "subscribe", channel.id)
        await node.subscriptions.remove(user.id, channel.id)
    else:
        await moderation.kick(node, access, channel.id, request.path_params["user"])
    return Response(status_code=204)


async def list_roles(request: Request) -> Response:
    return answer(await moderation.roles(node_of(request), access_of(request), request.path_params["id"]))


async def put_role(request: Request) -> Response:
    access, body, path = access_of(request), await body_of(request, GivenRole), request.path_params
    return answer(await moderation.give_role(node_of(request), access, path["id"], path["user"], body.role))


async def delete_role(request: Request) -> Response:
    path = request.path_params
    await moderation.give_role(node_of(request), access_of(request), path["id"], path["user"], "")
    return Response(status_code=204)


# -- messages


async def post_message(request: Request) -> Response:
    """Publish: 201 once the message is in the stream; 200 if the idempotency key was known."""
    node, channel = node_of(request), await asked_channel(request, "publish")
    access = access_of(request)
    identity = access.identity
    node.limits.message(access.address, "" if identity.guest or identity.program else identity.user.id)
    body = await _message_of(request)
    if (body.text is msgspec.UNSET) == (body.data is msgspec.UNSET):
        raise BadRequest('a message has either "text" (a string) or "data" (any JSON value)')
    data = encode({"text": body.text}) if body.data is msgspec.UNSET else bytes(body.data)
    key = request.headers.get("idempotency-key", "")
    protocol.check_key(key)
    line = json_line(data, node.settings.message_limit, node.settings.json_depth)
    user = await speaker_of(request, body.user, "publish", channel)
    await node.ensure(access, channel)
    position = await node.producer.publish(channel, line, user=user.username, key=key)
    return answer(protocol.position_body(position), 200 if position.duplicate else 201)


async def _message_of(request: Request) -> NewMessage:
    """The message in the body: JSON, or its text alone."""
    kind = media_type(request, (JSON, TEXT))
    data = await raw_body(request, 2 * node_of(request).settings.message_limit)
    if kind == JSON:
        return decode(data, NewMessage)
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise BadRequest("the text must be UTF-8") from None
    return NewMessage(text=text.replace("\r\n", "\n").removesuffix("\n"))


async def get_messages(request: Request) -> Response:
    """A page as JSON or NDJSON, or a replay that stays live, as the Accept header asks."""
    node, channel = node_of(request), await asked_channel(request, "history")
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
        if not epoch or not offset.isascii() or not offset.isdigit() or len(offset) > 16:
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
    if request.method == "HEAD":
        return StreamingResponse(iter(()), media_type=EVENTS)
    stream = await event_stream(node, channel, since, access_of(request))
    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
    return StreamingResponse(stream, media_type=EVENTS, headers=headers)


# -- health


async def get_health(request: Request) -> Response:
    return answer(Health("ok", {}))


async def get_metrics(request: Request) -> Response:
    """What this process counted, for Prometheus."""
    access_of(request)
    node = node_of(request)
    sessions = node.pinger.sessions
    measures = {
        "connections": ("WebSocket clients.", len(sessions)),
        "subscriptions": ("Subscriptions of WebSocket clients.", sum(len(s.subscriber) for s in sessions)),
    }
    for measure in node.parts.measures:
        measures |= measure()
    return Response(exposition(measures), media_type="text/plain; version=0.0.4")


async def get_ready(request: Request) -> Response:
    readiness = await node_of(request).health.ready()
    body = Health(readiness.status, readiness.parts | readiness.degraded)
    return answer(body, 503 if readiness.status == "unavailable" else 200)
