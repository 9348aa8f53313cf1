"""The way in: uvicorn's protocols for HTTP, which begins every WebSocket as well, and for the WebSocket's handshake.

Nobody may keep it waiting, or fill it. What it needs ends with it: chat/websocket.py takes the connection over.
"""

import asyncio
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, cast

from starlette.websockets import WebSocket
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from chat.errors import HeadersTooLarge, PeykError, TooManyRequests
from chat.metrics import count
from chat.requests import failure

if TYPE_CHECKING:
    from chat.node import Node

_EXTENSION = "peyk"  # where an application finds its handshake
_VERSION = "13"
# Names in the state that the application gives to its connections, and they to their requests:
NODE = "node"
COUNTED = "counted"  # the address that this connection counts for; where a proxy connects, each request counts instead
_HEARING = 1.0  # seconds in which who is beyond its address' limit must say something, to hear so


class RequestProtocol(HttpToolsProtocol):
    """A connection that does not send a whole request in time, the first or a later one, is closed.

    So is one that sends too much before anything of it is whole: the parser keeps headers, and trailers, until then.
    """

    _node: "Node"
    _deadline: asyncio.TimerHandle | None = None
    _beyond: TooManyRequests | None = None  # its address has too many connections
    _unread = 0  # bytes since something was whole

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._node = self.app_state[NODE]
        address = self.client[0] if self.client else ""
        try:
            if address not in cast(ProxyHeadersMiddleware, self.app).trusted_hosts:
                self._node.limits.enter(address)
                self.app_state = {**self.app_state, COUNTED: address}
        except TooManyRequests as error:
            self._beyond = error.with_traceback(None)  # which holds this, in a circle
        self._await_request()

    def data_received(self, data: bytes) -> None:
        """Hand the parser so much at a time that it never keeps more than header_limit."""
        if self._beyond is not None:
            self._refuse(self._beyond)
            return
        if self._deadline is None and (self.cycle is None or self.cycle.response_complete):
            self._await_request()
        limit = self._node.settings.header_limit
        while data and self.parser is not None and not self.transport.is_closing():
            if self._unread == limit:
                self._refuse(HeadersTooLarge(f"the first line and headers of a request have at most {limit} bytes"))
                return
            piece, data = data[: limit - self._unread], data[limit - self._unread :]
            self._unread += len(piece)
            super().data_received(piece)

    def on_headers_complete(self) -> None:
        self._unread = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._unread = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._unread = 0
        self._stop_waiting()
        super().on_message_complete()

    def handle_websocket_upgrade(self) -> None:
        self._stop_waiting()
        super().handle_websocket_upgrade()
        self.parser = None  # type: ignore[assignment]  # a circle, which would wait for the garbage collector

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)
        _uncount(self.app_state)

    def _refuse(self, error: PeykError) -> None:
        """Answer and close; within another answer, close."""
        reply = failure(error)
        if self.cycle is not None and not self.cycle.response_complete:
            self.transport.abort()
            return
        headers = (b"%b: %b\r\n" % header for header in (*reply.raw_headers, (b"connection", b"close")))
        self.transport.write(b"".join((STATUS_LINE[reply.status_code], *headers, b"\r\n", bytes(reply.body))))
        self.transport.close()

    def _await_request(self) -> None:
        wait = self._node.settings.handshake_timeout if self._beyond is None else _HEARING
        self._deadline = self.loop.call_later(wait, self._give_up)

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _give_up(self) -> None:
        count("handshake" if self._beyond is None else self._beyond.limit)
        self.transport.abort()


class Handshake(WebSocketsSansIOProtocol):
    """A WebSocket connection until the application has accepted it."""

    @staticmethod
    def of(websocket: WebSocket) -> "Handshake":
        """The handshake behind what the application sees."""
        handshake: Handshake = websocket.scope["extensions"][_EXTENSION]
        return handshake

    def handle_connect(self, event: Any) -> None:
        if event.headers.get_all("Sec-WebSocket-Version") not in ([], [_VERSION]):
            self._refuse_version()
            return
        protocols = event.headers.get_all("Sec-WebSocket-Protocol")
        if protocols and not any(map(str.strip, protocols)):
            del event.headers["Sec-WebSocket-Protocol"]  # older SDKs send it empty, and mean none
        super().handle_connect(event)
        if hasattr(self, "scope"):
            cast(dict[str, Any], self.scope["extensions"])[_EXTENSION] = self
            self.transport.pause_reading()  # frames that come too early wait for who takes them

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        _uncount(self.app_state)

    def _refuse_version(self) -> None:
        """A client of another protocol version must be told ours (RFC 6455, section 4.2.2); websockets does not."""
        response = self.conn.reject(HTTPStatus.UPGRADE_REQUIRED, f"WebSocket version {_VERSION} is spoken here\n")
        response.headers["Sec-WebSocket-Version"] = _VERSION
        self.conn.send_response(response)
        self.handshake_initiated = self.handshake_complete = self.close_sent = True
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.transport.close()

    def hand_over(self, connection: asyncio.Protocol) -> None:
        """The handshake is done: `connection` goes on, and nothing is left of this."""
        transport = self.transport
        self.connections.discard(self)
        cast(set[Any], self.connections).add(connection)
        transport.set_protocol(connection)
        transport.resume_reading()
        self.transport = cast(asyncio.Transport, _TAKEN)
        # Without these circles all of it goes at once; the garbage collector would come later.
        del self.scope["extensions"][_EXTENSION], self.scope
        self.conn.parser.close()


def _uncount(state: dict[str, Any]) -> None:
    """A connection ended that counted."""
    if COUNTED in state:
        state[NODE].limits.leave(state[COUNTED])


class _Taken:
    """The transport of a handshake that has handed it over."""

    def close(self) -> None:
        """uvicorn closes it when the application is done."""


_TAKEN = _Taken()
