"""What every request is asked at the door, before anything else: whose page sent it, and how many its address has."""

import asyncio
import contextlib

from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

from chat.errors import BadRequest, PermissionDenied, PeykError
from chat.handshake import COUNTED, NODE
from chat.limits import Limits
from chat.origin import allows, answers_to, is_here, listed
from chat.requests import EVENTS, address_of, failure
from chat.settings import ServerSettings

_CHANGING = "POST", "PUT", "PATCH", "DELETE"


class Gate:
    """An ASGI layer. Who is not let in is told why: 403 for a foreign page, 429 beyond a limit."""

    def __init__(self, app: ASGIApp, settings: ServerSettings) -> None:
        self._app = app
        self._origins = listed(settings.allowed_origins)
        self._loopback = settings.on_loopback
        self._hosts = listed(settings.allowed_hosts)
        self._cookies = settings.cors_cookies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        limits: Limits = scope["state"][NODE].limits
        address, counted = address_of(HTTPConnection(scope)), COUNTED in scope["state"]
        try:
            limits.request(address)
            self._check_page(scope, Headers(scope=scope))
            if not counted:
                limits.enter(address)
        except PeykError as error:
            if error.limit == "rate":
                await _hold_back(limits.refuse(address), scope, receive)
            await _refuse(failure(error), scope, receive, send)
            return
        try:
            await self._app(scope, receive, send)
        finally:
            if not counted:
                limits.leave(address)

    def _check_host(self, scope: Scope, headers: Headers) -> str:
        """The one Host a request names, if this server answers to it.

        On loopback nothing is for who asks by another name: a page of that name reads all, and sends no Origin then.
        """
        named = headers.getlist("host")
        host = ", ".join(named)  # given twice, it is none
        if self._loopback or self._hosts:
            known = is_here(host, self._origins if self._loopback else ())
            if not known and not (self._hosts and answers_to(host, self._hosts, (scope["server"] or ("",))[0])):
                raise PermissionDenied.misnamed(host, self._loopback)
        elif len(named) > 1 or (not named and scope["http_version"] == "1.1"):
            raise BadRequest("a request has one Host header: the name of the server it asks")
        return host

    def _check_page(self, scope: Scope, headers: Headers) -> None:
        """A page may read and follow what it can by itself; sockets, streams and changes are for our own.

        An Origin given twice is joined, and so equal to nothing.
        """
        host = self._check_host(scope, headers)
        if "origin" not in headers:
            return
        origin = ", ".join(headers.getlist("origin"))
        if allows(origin, host, scope["scheme"], ()):  # our own, whether it is listed or not
            return
        if _is_guarded(scope, headers) and not allows(origin, host, scope["scheme"], self._origins):
            raise PermissionDenied.foreign(origin)
        if origin in self._origins and not self._cookies:
            scope["headers"] = [header for header in scope["headers"] if header[0] != b"cookie"]


def _is_guarded(scope: Scope, headers: Headers) -> bool:
    if scope["type"] == "websocket" or EVENTS in headers.get("accept", ""):
        return True
    return scope["method"] in _CHANGING


async def _hold_back(wait: float, scope: Scope, receive: Receive) -> None:
    """Wait before a refusal, or until who is refused has gone."""
    if scope["type"] == "websocket":
        await asyncio.sleep(wait)
        return
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(wait):
            while (await receive())["type"] != "http.disconnect":
                pass


async def _refuse(response: Response, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await WebSocket(scope, receive, send).send_denial_response(response)
    else:
        await response(scope, receive, send)
