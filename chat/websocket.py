"""The socket. uvicorn and Starlette shake hands; then a small protocol of our own takes the connection over.

What only the handshake needed ends with it: the request, uvicorn's protocol and queue, and the application's task,
which would wait for the end of the connection. An idle connection with all of them takes 27 KiB, without them 4. And
a text frame goes straight to the session, which writes frames it made: twice the throughput of uvicorn's queue.
"""

import asyncio
import logging
import random
from typing import TYPE_CHECKING, Any, cast

from starlette.websockets import WebSocket
from websockets.exceptions import PayloadTooBig
from websockets.frames import Opcode

from chat.doors import COOKIE
from chat.errors import UnknownMethod
from chat.frames import FrameReader
from chat.handshake import COUNTED, Handshake
from chat.metrics import count
from chat.requests import address_of, cookie_of, failure, node_of
from chat.session import Session
from chat.unread import StandstillTimer, leave

if TYPE_CHECKING:
    from chat.node import Node

logger = logging.getLogger(__name__)

PATH = "/connection/websocket"
_SHOWN = 100  # characters of a path that is none
SHUTDOWN = 3001, "shutdown"
BINARY = 1003, "send text frames"
NOT_UTF8 = 1007, "text must be UTF-8"
DRAIN_RATE = 1000  # clients a second that are sent away when the node stops
_LEAVING = 0.05  # seconds between looks whether a client that is sent away has its answers
_CLOSE_TIMEOUT = 3.0  # seconds a client has to answer a close


class Connection(FrameReader, asyncio.Protocol):
    """One WebSocket connection and its session: frames come in here; the session writes to the transport."""

    __slots__ = (
        "_address", "_closing", "_connections", "_left", "_next", "_node", "_paused", "_session", "_standstill",
        "_timer", "_transport", "_waiting", "write",
    )  # fmt: skip

    def __init__(self, node: "Node", handshake: Handshake, address: str, cookie: str) -> None:
        super().__init__(node.settings.frame_limit)
        self._node, self._address = node, address
        self._transport = transport = handshake.transport
        self._connections = cast(set[Any], handshake.connections)  # those uvicorn shuts down
        self.write = transport.write
        self._closing = False  # a close frame was sent
        self._left = False
        self._timer: asyncio.TimerHandle | None = None  # until a client that was sent one is dropped
        self._standstill: StandstillTimer | None = None
        self._next: asyncio.Handle | None = None  # the call that looks at what waits
        self._paused = False  # by the session
        self._session = session = Session(node, self, cookie, address)
        self._waiting = b""  # what was read and not looked at yet
        high_water = node.settings.high_water
        transport.set_write_buffer_limits(high=high_water, low=high_water // 4)
        if COUNTED not in handshake.app_state:
            node.limits.stay(address)
        node.pinger.add(session)

    # -- frames come in

    def data_received(self, data: bytes) -> None:
        """One read may bring thousands of commands, or of frames that are none: their sender waits, not the others."""
        if self._waiting:
            self._waiting += data
        else:
            self._take_turn(data)

    def _take_turn(self, data: bytes) -> None:
        """Take what the client may have in this turn; the rest waits for the next, and nothing more is read."""
        rest = self.take(data)
        if rest and not self._closing and not self.ended:
            self._waiting = rest
            self._transport.pause_reading()
            if not self._paused:
                self._next = self._next or asyncio.get_running_loop().call_soon(self._go_on)

    def _go_on(self) -> None:
        self._next = None
        if self._paused:
            return
        waiting, self._waiting = self._waiting, b""
        if not self._closing:
            self._take_turn(waiting)
        if not self._waiting and not self._paused:
            self.resume_reading()

    @property
    def ended(self) -> bool:
        return self._left or bool(self._transport.is_closing())

    def on_other(self, opcode: Opcode) -> None:
        if opcode is Opcode.CLOSE:
            self._on_close()
        elif opcode is Opcode.PING:
            pong = b"".join(self.parser.data_to_send())
            if not self._session.full and self._session.may_go_on():  # it reads, and is within its rate
                self.write(pong)
        else:
            self._session.may_go_on()

    def on_message(self, data: bytes, text: bool) -> None:
        if self._closing:
            return
        if not text:
            self.close(*BINARY)
            return
        try:
            data.decode()
        except UnicodeDecodeError:
            self.close(*NOT_UTF8)
            return
        self._session.receive(data)

    def _on_close(self) -> None:
        """The client ends it, or answers our close frame."""
        self._end_session()
        if self._timer is not None:
            self._timer.cancel()
        if not self._closing and not self._transport.is_closing():
            self.write(b"".join(self.parser.data_to_send()))
        self._leave_client()

    def on_error(self, error: Exception) -> None:
        if isinstance(error, PayloadTooBig):
            count("frame_bytes")
        self._end_session()  # first: it says nothing behind the close frame
        self.write(b"".join(self.parser.data_to_send()))
        self._leave_client(more_comes=True)

    def _leave_client(self, more_comes: bool = False) -> None:
        """End the TCP connection; the client still gets what was written, if it reads."""
        if self.ended:
            return
        self._closing = self._left = True
        self._stop_watching()
        patience = self._node.settings.reader_timeout
        leave(self, self._transport, self._connections, patience, self._session.client, more_comes)

    # -- what a session does with its connection

    def close(self, code: int, reason: str) -> None:
        """Start the closing handshake; a client that does not answer it is dropped."""
        if self._closing or self._transport.is_closing():
            return
        self.parser.send_close(code, reason)
        self.write(b"".join(self.parser.data_to_send()))
        self._closing = True
        self._timer = asyncio.get_running_loop().call_later(_CLOSE_TIMEOUT, self._leave_client)
        self._end_session()

    def pause_reading(self) -> None:
        self._paused = True
        if not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Go on: with what was read already, and then with what comes."""
        self._paused = False
        if self._waiting:
            self._next = self._next or asyncio.get_running_loop().call_soon(self._go_on)
        elif not self._transport.is_closing():
            self._transport.resume_reading()

    # -- what the transport tells

    def pause_writing(self) -> None:
        self._session.filled()
        self._standstill = StandstillTimer(self._transport, self._node.settings.reader_timeout, self._session.client)

    def resume_writing(self) -> None:
        self._stop_watching()
        self._session.drained()

    def _stop_watching(self) -> None:
        if self._standstill is not None:
            self._standstill.stop()
            self._standstill = None

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_watching()
        if self._timer is not None:
            self._timer.cancel()
        self._end_session()
        self._node.pinger.remove(self._session)
        self._node.limits.leave(self._address)
        self._connections.discard(self)
        self.forget()

    def _end_session(self) -> None:
        if not self._session.closed:
            self._session.close()

    # -- the server stops (uvicorn calls this)

    def shutdown(self) -> None:
        """Clients are told to come back (3001), not all at once; until then they are served."""
        loop, patience = asyncio.get_running_loop(), self._node.settings.shutdown_timeout
        wait = drain_seconds(len(self._connections), patience)
        loop.call_later(random.uniform(0, wait), self._leave, loop.time() + patience)

    def _leave(self, deadline: float) -> None:
        """Send the client away once it has its answers."""
        loop = asyncio.get_running_loop()
        if self._session.leave() and loop.time() < deadline:
            loop.call_later(_LEAVING, self._leave, deadline)
        else:
            self.close(*SHUTDOWN)


def drain_seconds(connections: int, shutdown_timeout: float) -> float:
    """Over how long a stopping node sends its clients away: the others take DRAIN_RATE a second, but not for ever."""
    return min(connections / DRAIN_RATE, shutdown_timeout / 2)


async def endpoint(websocket: WebSocket) -> None:
    """PATH: shake hands, and give the connection to a session."""
    handshake = Handshake.of(websocket)
    await websocket.accept()
    if handshake.handshake_complete and not handshake.disconnected:
        address, cookie = address_of(websocket), cookie_of(websocket, COOKIE)
        handshake.hand_over(Connection(node_of(websocket), handshake, address, cookie))


async def elsewhere(websocket: WebSocket) -> None:
    """Any other path: a WebSocket is refused as a request would be."""
    path = websocket.url.path[:_SHOWN]
    await websocket.send_denial_response(failure(UnknownMethod(f"no WebSocket at {path}; there is one at {PATH}")))
