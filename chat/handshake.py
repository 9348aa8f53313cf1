"""The WebSocket's handshake, by uvicorn. What it needs ends with it: chat/websocket.py takes the connection over."""

import asyncio
from http import HTTPStatus
from typing import Any, cast

from starlette.websockets import WebSocket
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets import http11

_EXTENSION = "peyk"  # where an application finds its handshake
_VERSION = "13"
# Names in the state that the application gives to its connections, and they to their requests:
NODE = "node"
COUNTED = "counted"  # the address that this connection counts for; where a proxy connects, each request counts instead


class Handshake(WebSocketsSansIOProtocol):
    """A WebSocket connection until the application has accepted it."""

    early = b""  # what the client sent in one piece with its handshake

    @staticmethod
    def of(websocket: WebSocket) -> "Handshake":
        """The handshake behind what the application sees."""
        handshake: Handshake = websocket.scope["extensions"][_EXTENSION]
        return handshake

    def data_received(self, data: bytes) -> None:
        """The handshake, whose head is whole: what websockets cannot read it neither answers nor ends."""
        super().data_received(data)
        if not self.handshake_initiated:
            lines, line = http11.MAX_NUM_HEADERS, http11.MAX_LINE_LENGTH
            text = f"a WebSocket's handshake has at most {lines} headers, each of at most {line} bytes\n"
            response = self.conn.reject(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, text)
            self.handshake_initiated = self.handshake_complete = self.close_sent = True
            self.transport.write(response.serialize())
            self.transport.close()

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
        uncount(self.app_state)

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
        if self.early:
            connection.data_received(self.early)
        self.transport = cast(asyncio.Transport, _TAKEN)
        # Without these circles all of it goes at once; the garbage collector would come later.
        del self.scope["extensions"][_EXTENSION], self.scope
        self.conn.parser.close()


def uncount(state: dict[str, Any]) -> None:
    """A connection ended that counted."""
    if COUNTED in state:
        state[NODE].limits.leave(state[COUNTED])


class _Taken:
    """The transport of a handshake that has handed it over."""

    def close(self) -> None:
        """uvicorn closes it when the application is done."""


_TAKEN = _Taken()
