"""The socket: uvicorn's WebSocket protocol, shortened. A text frame goes straight to the session.

uvicorn hands frames to the application through a queue and a task; here the protocol calls the session itself and
the session writes frames it made, which measured twice the throughput. The handshake stays uvicorn's and Starlette's.
"""

import asyncio
import fcntl
import logging
import random
import socket
import struct
import termios
import time
from collections.abc import Collection
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, cast

from starlette.websockets import WebSocket
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.exceptions import PayloadTooBig
from websockets.frames import Frame

from chat.doors import COOKIE
from chat.metrics import count
from chat.session import Session
from chat.settings import ServerSettings
from pipeline.lasting import lasting

if TYPE_CHECKING:
    from chat.node import Node

logger = logging.getLogger(__name__)

SHUTDOWN = 3001, "shutdown"
BINARY = 1003, "send text frames"
NOT_UTF8 = 1007, "text must be UTF-8"
NO_CONNECT = 3501, "connect first"
DRAIN_RATE = 1000  # clients a second that are sent away when the node stops
_EXTENSION = "peyk"
_VERSION = "13"
_LEAVING = 0.05  # seconds between looks whether a client that is sent away has its answers
_CLOSE_TIMEOUT = 3.0  # seconds a client has to answer a close
_PIECE = 4096  # bytes of a client with rates that are taken before others have their turn; a read brings up to 256 KiB


class SocketProtocol(WebSocketsSansIOProtocol):
    """One WebSocket connection. Before the handshake is done, and for closing, it is uvicorn's."""

    session: Session | None = None
    settings: ServerSettings
    _stuck: asyncio.TimerHandle | None = None
    _unread = 0
    _waiting: bytearray | None = None  # what was read and not looked at yet; None: there is no such thing here
    _next: asyncio.Handle | None = None  # the call that looks at it
    _paused = False  # by the session

    def data_received(self, data: bytes) -> None:
        """Where there are rates, a piece at a time: one read may bring thousands of commands; their sender waits."""
        if self._waiting is None or (not self._waiting and len(data) <= _PIECE):
            super().data_received(data)
            return
        if self.close_sent:
            return
        if not self._waiting:
            self.transport.pause_reading()
            self._next = self._next or self.loop.call_soon(self._go_on)
        self._waiting += data

    def _go_on(self) -> None:
        self._next = None
        if not self._waiting or self._paused:
            return
        if self.close_sent:
            self._waiting.clear()
        else:
            piece = bytes(self._waiting[:_PIECE])
            del self._waiting[:_PIECE]
            super().data_received(piece)
        if not self._paused:
            self.resume_reading()

    def handle_connect(self, event: Any) -> None:
        if event.headers.get_all("Sec-WebSocket-Version") not in ([], [_VERSION]):
            self._refuse_version()
            return
        super().handle_connect(event)
        if hasattr(self, "scope"):
            cast(dict[str, Any], self.scope["extensions"])[_EXTENSION] = self

    def _refuse_version(self) -> None:
        """A client of another protocol version must be told ours (RFC 6455, section 4.2.2); websockets does not."""
        response = self.conn.reject(HTTPStatus.UPGRADE_REQUIRED, f"WebSocket version {_VERSION} is spoken here\n")
        response.headers["Sec-WebSocket-Version"] = _VERSION
        self.conn.send_response(response)
        self.handshake_initiated = self.handshake_complete = self.close_sent = True
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.transport.close()

    def attach(self, session: Session, settings: ServerSettings) -> None:
        """From now on frames go to `session`."""
        self.session, self.settings = session, settings
        self._waiting = None if session.throttle is None else bytearray()
        high_water = settings.high_water
        self.transport.set_write_buffer_limits(high=high_water, low=high_water // 4)
        # The kernel's buffer would grow to several MiB for a client that does not read.
        self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, high_water)

    def handle_cont(self, event: Frame) -> None:
        """A fragment is joined to the others as it comes: a list of a million bytes would weigh forty times as much."""
        frames = cast(list[bytearray], self.frames)
        if not isinstance(frames[0], bytearray):
            frames[0] = bytearray(frames[0])
        frames[0] += event.data
        if self.session is not None:
            self.session.may_go_on()
        if event.fin:
            self.send_receive_event_to_app()

    def handle_ping(self) -> None:
        """Answered, unless the client does not read, or is beyond its rate."""
        if self.session is None or (not self.session.full and self.session.may_go_on()):
            super().handle_ping()
        else:
            self.conn.data_to_send()

    def handle_pong(self, event: Frame) -> None:
        if self.session is not None:
            self.session.may_go_on()

    def send_receive_event_to_app(self) -> None:
        """A whole message came in (uvicorn calls this)."""
        session, frames = self.session, self.frames
        if session is None:
            super().send_receive_event_to_app()
            return
        self.frames = []
        data = bytes(frames[0]) if len(frames) == 1 else b"".join(frames)
        if self.close_sent:
            return
        if self.curr_msg_data_type != "text":
            self.close(*BINARY)
            return
        try:
            data.decode()
        except UnicodeDecodeError:
            self.close(*NOT_UTF8)
            return
        session.receive(data)

    # -- what a session does with its connection

    def write(self, data: bytes) -> None:
        """Send a frame. A session that was closed writes no more."""
        self.transport.write(data)

    def close(self, code: int, reason: str) -> None:
        """Start the closing handshake; a client that does not answer it is dropped."""
        if self.close_sent or self.transport.is_closing():
            return
        self.conn.send_close(code, reason)
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        self.close_timer = self.loop.call_later(_CLOSE_TIMEOUT, self.transport.abort)
        self._end_session()

    def pause_reading(self) -> None:
        self._paused = True
        if not self.transport.is_closing():
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        """Go on: with what was read already, and then with what comes."""
        self._paused = False
        if self._waiting:
            self._next = self._next or self.loop.call_soon(self._go_on)
        elif not self.transport.is_closing():
            self.transport.resume_reading()

    # -- what the transport tells

    def pause_writing(self) -> None:
        super().pause_writing()
        if self.session is not None:
            self.session.filled()
            self._unread = self._unread_bytes()
            self._stuck = self.loop.call_later(self.settings.reader_timeout, self._check_progress)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stuck is not None:
            self._stuck.cancel()
            self._stuck = None
        if self.session is not None:
            self.session.drained()

    def _check_progress(self) -> None:
        """A client that read nothing for reader_timeout is dropped: close() would wait for its unread bytes."""
        unread = self._unread_bytes()
        if unread >= self._unread:
            count("unread_bytes")
            logger.info("client %s reads nothing; dropped", self.session.client if self.session else "")
            self.transport.abort()
        else:
            self._unread = unread
            self._stuck = self.loop.call_later(self.settings.reader_timeout, self._check_progress)

    def _unread_bytes(self) -> int:
        """What the client has not taken yet, ours and the kernel's."""
        fileno = self.transport.get_extra_info("socket").fileno()
        (queued,) = struct.unpack("i", fcntl.ioctl(fileno, termios.TIOCOUTQ, b"\0" * 4))
        return self.transport.get_write_buffer_size() + int(queued)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._stuck is not None:
            self._stuck.cancel()
        self._end_session()
        super().connection_lost(exc)

    def handle_close(self, event: Frame) -> None:
        self._end_session()
        super().handle_close(event)

    def handle_parser_exception(self) -> None:
        if isinstance(self.conn.parser_exc, PayloadTooBig):
            count("frame_bytes")
        self._end_session()  # first: it says nothing behind the close frame
        super().handle_parser_exception()

    def shutdown(self) -> None:
        """The server stops: clients are told to come back (3001), not all at once; until then they are served."""
        if self.session is not None:
            wait = drain_seconds(len(self.connections), self.settings.shutdown_timeout)
            self.loop.call_later(
                random.uniform(0, wait), self._leave, self.loop.time() + self.settings.shutdown_timeout
            )
        else:
            super().shutdown()

    def _leave(self, deadline: float) -> None:
        """Send the client away once it has its answers."""
        if self.session is not None and self.session.leave() and self.loop.time() < deadline:
            self.loop.call_later(_LEAVING, self._leave, deadline)
        else:
            self.close(*SHUTDOWN)

    def _end_session(self) -> None:
        if self.session is not None and not self.session.closed:
            self.session.close()


def drain_seconds(connections: int, shutdown_timeout: float) -> float:
    """Over how long a stopping node sends its clients away: the others take DRAIN_RATE a second, but not for ever."""
    return min(connections / DRAIN_RATE, shutdown_timeout / 2)


async def endpoint(websocket: WebSocket) -> None:
    """`/connection/websocket`: shake hands, give the connection a session, and wait until it ends."""
    node: Node = websocket.app.state.node
    connection: SocketProtocol = websocket.scope["extensions"][_EXTENSION]
    await websocket.accept()
    session = Session(node, connection, websocket.cookies.get(COOKIE, ""))
    connection.attach(session, node.settings)
    node.pinger.add(session)
    try:
        while (message := await websocket.receive())["type"] != "websocket.disconnect":
            if message.get("text") is not None:  # came in before the session was there
                session.receive(message["text"].encode())
            else:
                connection.close(*BINARY)
    finally:
        node.pinger.remove(session)


class Pinger:
    """One timer for all sockets: each is pinged every `interval` seconds, spread evenly over it."""

    def __init__(self, interval: int, connect_timeout: int) -> None:
        self._slots: list[set[Session]] = [set() for _ in range(max(1, interval))]
        self._places: dict[Session, int] = {}
        self._new: dict[Session, float] = {}
        self._timeout = connect_timeout
        self._now = 0
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = lasting(self._run)

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    @property
    def sessions(self) -> Collection[Session]:
        """Every client of this node."""
        return self._places.keys()

    def add(self, session: Session) -> None:
        place = self._places[session] = self._now % len(self._slots)
        self._slots[place].add(session)
        self._new[session] = asyncio.get_running_loop().time() + self._timeout

    def remove(self, session: Session) -> None:
        self._slots[self._places.pop(session)].discard(session)
        self._new.pop(session, None)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + 1
            await asyncio.sleep(1)
            if loop.time() > due + 1:
                continue  # it was us who stood still: the pongs are still to be read
            self._now += 1
            for session, deadline in list(self._new.items()):
                if session.user is not None:
                    del self._new[session]
                elif loop.time() > deadline:
                    count("connect")
                    session.drop(*NO_CONNECT)
            for session in list(self._slots[self._now % len(self._slots)]):
                if session.user is not None and not session.closed:
                    session.ping()
            now = time.time()
            for session in list(self._places):
                session.expire(now)

    def shut_out(self) -> None:
        """Somebody was revoked: whoever it is goes."""
        for session in list(self._places):
            session.check_revoked()
