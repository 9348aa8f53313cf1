"""The way in: uvicorn's protocols for HTTP, which begins every WebSocket as well, and for the WebSocket's handshake.

Nobody may keep it waiting. What it needs ends with it: chat/websocket.py takes the connection over.
"""

import asyncio
from http import HTTPStatus
from typing import Any, cast

from starlette.websockets import WebSocket
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from chat.metrics import count

_EXTENSION = "peyk"  # where an application finds its handshake
_VERSION = "13"
TIMEOUT = "handshake_timeout"  # its name in the state that the application gives to its connections


class RequestProtocol(HttpToolsProtocol):
    """A connection that does not send a whole request in time, the first or a later one, is closed."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._await_request()

    def data_received(self, data: bytes) -> None:
        if self._deadline is None and (self.cycle is None or self.cycle.response_complete):
            self._await_request()
        super().data_received(data)

    def on_message_complete(self) -> None:
        self._stop_waiting()
        super().on_message_complete()

    def handle_websocket_upgrade(self) -> None:
        self._stop_waiting()
        super().handle_websocket_upgrade()
        self.parser = None  # type: ignore[assignment]  # a circle, which would wait for the garbage collector

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def _await_request(self) -> None:
        self._deadline = self.loop.call_later(self.app_state[TIMEOUT], self._give_up)

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _give_up(self) -> None:
        count("handshake")
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
        super().handle_connect(event)
        if hasattr(self, "scope"):
            cast(dict[str, Any], self.scope["extensions"])[_EXTENSION] = self
            self.transport.pause_reading()  # frames that come too early wait for who takes them

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


class _Taken:
    """The transport of a handshake that has handed it over."""

    def close(self) -> None:
        """uvicorn closes it when the application is done."""


_TAKEN = _Taken()
