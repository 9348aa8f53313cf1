"""What a request says and who says it, and how it is answered: the ground the HTTP routes stand on."""

import logging
import math
import re
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.types import Scope

from chat.access import Access
from chat.auth import Identity, check
from chat.doors import ANONYMOUS, COOKIE, GUEST_PREFIX, Doors
from chat.errors import BadRequest, PermissionDenied, PeykError, Unauthorized
from chat.handshake import NODE
from chat.metrics import count
from chat.models import User, channel_id
from chat.protocol import OFFSET_LIMIT, encode
from pipeline.resp import FAILURES, unavailable

if TYPE_CHECKING:
    from chat.node import Node

logger = logging.getLogger(__name__)

JSON, NDJSON, EVENTS = "application/json", "application/x-ndjson", "text/event-stream"
_ACCESS = "access"  # in the state of a request: who asks, once that is known


class ErrorBody(msgspec.Struct):
    code: int
    message: str


class Failure(msgspec.Struct):
    error: ErrorBody


def answer(value: Any, status: int = 200) -> Response:
    return Response(encode(value), status, media_type=JSON)


def failure(error: PeykError) -> Response:
    if error.limit:
        count(error.limit)
    reply = answer(Failure(ErrorBody(error.code, str(error))), error.status)
    if error.retry_after:
        reply.headers["retry-after"] = str(math.ceil(error.retry_after))
    if error.status == 401:
        reply.headers["www-authenticate"] = "Bearer"
    return reply


async def on_error(request: Request, error: Exception) -> Response:
    """Any error as the one error body."""
    if isinstance(error, PeykError):
        return failure(error)
    if isinstance(error, HTTPException):
        allowed = _allowed(request, error)
        if allowed and request.method == "OPTIONS":
            return Response(status_code=204, headers=allowed)
        code = {404: 104, 405: 104}.get(error.status_code, 107)
        text = f"{request.method} {request.url.path}: {error.detail}; see /openapi.json for what there is"
        return Response(encode(Failure(ErrorBody(code, text))), error.status_code, allowed, JSON)
    if isinstance(error, FAILURES):
        logger.info("%s %s: Redis failed: %s", request.method, request.url.path, error)
        return failure(unavailable(error))
    logger.exception("%s %s failed", request.method, request.url.path, exc_info=error)
    return failure(PeykError("internal error; the server's log says more"))


def _allowed(request: Request, error: HTTPException) -> dict[str, str]:
    """The methods of what was asked for, if there is such a thing."""
    if error.status_code == 405:
        found = (error.headers or {}).get("Allow", "").split(", ")
    elif request.scope["path"] == "*":  # the server as a whole
        found = ["DELETE", "GET", "HEAD", "PATCH", "POST", "PUT"]
    else:
        return {}
    return {"allow": ", ".join(sorted({*found, "OPTIONS"}))}


def node_of(request: HTTPConnection) -> "Node":
    node: Node = request.scope["state"][NODE]
    return node


def address_of(request: HTTPConnection) -> str:
    """Where it comes from; behind one of TRUSTED_PROXIES, what that proxy says. Empty: a unix socket."""
    return request.client.host if request.client is not None else ""


def weigh(scope: Scope, size: int) -> None:
    """The body of a request, or its answer, has so many bytes: if it is large, it counts for the address that asks."""
    limits = scope["state"][NODE].limits
    if extra := limits.extra(size):
        limits.owe(address_of(HTTPConnection(scope)), extra)


def cookie_of(request: HTTPConnection, name: str) -> str:
    """The value of a cookie of ours, which needs no quotes. Others are passed over: a header may hold thousands."""
    cookies = request.headers.getlist("cookie")
    if not cookies:
        return ""
    at_start = "|".join(rf"(?<={before}{name}=)" for before in (r"\A", ";", "; "))
    found = re.findall(rf"{name}=(?:{at_start})([^;]*)", "; ".join(cookies))
    return str(found[-1]).strip() if found else ""


def access_of(request: Request) -> Access:
    """Who asks: by `Authorization: Bearer`, `X-API-Key`, the cookie, or as a guest. Raises Unauthorized."""
    access: Access | None = request.scope["state"].get(_ACCESS)
    if access is None:
        node = node_of(request)
        address = address_of(request)
        access = Access(node.doors, _identity(request, node.doors), address, partial(node.limits.owe, address))
        request.scope["state"][_ACCESS] = access
    return access


def _identity(request: Request, doors: Doors) -> Identity:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme and scheme.lower() != "bearer":
        raise Unauthorized("send Authorization: Bearer <token>, or X-API-Key: <key>")
    if key := request.headers.get("x-api-key"):
        return doors.by_key(key)
    if token := token.strip() or cookie_of(request, COOKIE):
        return doors.by_token(token)
    return doors.nameless(ANONYMOUS)


async def speaker_of(request: Request, name: str | msgspec.UnsetType, action: str, channel: str) -> User:
    """Who takes `action` in `channel` (an id): who asks, or whom they name. Both must be allowed to.

    Raises PermissionDenied, Unauthorized and BadRequest.
    """
    node, access = node_of(request), access_of(request)
    await node.allow(access, action, channel)
    if name is msgspec.UNSET:
        return access.identity.user
    speaker = await node.doors.speaker(access.identity, name)
    check(speaker, action, channel, await node.policies.get(channel))
    return speaker.user


async def asked_user(request: Request, action: str, channel: str) -> User:
    """The user in the path, by whose name `action` is taken. Raises PermissionDenied, Unauthorized and BadRequest."""
    asked = User.named(request.path_params["user"])
    user = await speaker_of(request, asked.username, action, channel)
    if user != asked:
        raise PermissionDenied(f"names come with tokens here; a guest's begins with {GUEST_PREFIX}")
    return user


async def asked_channel(request: Request, action: str) -> str:
    """The id of the channel in the path, if who asks may take `action` there. Raises Unauthorized, PermissionDenied."""
    access, channel = access_of(request), channel_id(request.path_params["id"])
    await node_of(request).allow(access, action, channel)
    return channel


def number(request: Request, name: str, low: int, high: int = OFFSET_LIMIT) -> int | None:
    text = request.query_params.get(name)
    if text is None:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 20 or not low <= int(text) <= high:
        message = f"{name} must be a whole number from {low} to {high}"
        raise BadRequest.beyond("page", message) if name == "limit" else BadRequest(message)
    return int(text)


def moment(text: str) -> int:
    """`since` as Unix milliseconds, 0 at least: a number of them, or an ISO 8601 time (without zone: UTC)."""
    if text.isascii() and text.isdigit() and len(text) < 16:
        return int(text)
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise BadRequest("since must be Unix milliseconds or an ISO time such as 2026-01-31T12:00:00Z") from None
    return max(0, int((time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp() * 1000))
