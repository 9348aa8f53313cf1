"""What the other end of a connection has not taken yet, and when it is given up: one rule for HTTP and WebSocket.

Whoever stands still is reset. With a FIN behind bytes that nobody reads the kernel would keep the socket and its buffer
for minutes. Whoever ends in good order still gets everything.
"""

import asyncio
import logging
import socket
import struct
from typing import Any

from chat.metrics import count
from pipeline.system import unsent

logger = logging.getLogger(__name__)

_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: on, for no second
_DROPPED = 8 * 1024 * 1024  # bytes that are read of a client that goes on sending although it was answered


def bound_send_buffer(transport: asyncio.Transport, size: int) -> None:
    """The kernel's buffer would grow to several MiB for a client that does not read."""
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)


def unread_bytes(transport: asyncio.Transport) -> int:
    """What the other end has not taken yet: our buffer and the kernel's."""
    fileno = transport.get_extra_info("socket").fileno()
    return transport.get_write_buffer_size() + unsent(fileno)


def reset(transport: asyncio.Transport) -> None:
    """Drop a connection with all that is unread."""
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    transport.abort()


class StandstillTimer:
    """Resets a connection whose other end takes nothing for `patience` seconds, although something waits for it."""

    __slots__ = ("_patience", "_timer", "_transport", "_unread", "_who")

    def __init__(self, transport: asyncio.Transport, patience: float, who: object) -> None:
        self._transport = transport
        self._patience = patience
        self._who = who
        self._unread = unread_bytes(transport)
        self._timer = asyncio.get_running_loop().call_later(patience, self._look)

    def stop(self) -> None:
        self._timer.cancel()

    def _look(self) -> None:
        unread = unread_bytes(self._transport)
        if not unread:  # it has all, and yet does not go
            self._transport.abort()
        elif unread >= self._unread:
            count("unread_bytes")
            logger.info("client %s reads nothing; dropped", self._who)
            reset(self._transport)
        else:
            self._unread = unread
            self._timer = asyncio.get_running_loop().call_later(self._patience, self._look)


class Leaving(asyncio.Protocol):
    """A connection that we end in good order: its other end takes what is left, and what it still sends is dropped.

    To close a socket while bytes come in would reset it, and the other end might lose our last words.
    """

    def __init__(
        self, before: asyncio.BaseProtocol, transport: asyncio.Transport, connections: set[Any], timer: StandstillTimer
    ) -> None:
        self._before = before
        self._transport = transport
        self._connections = connections
        self._timer = timer
        self._dropped = 0

    def data_received(self, data: bytes) -> None:
        self._dropped += len(data)
        if self._dropped > _DROPPED:
            reset(self._transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.stop()
        self._connections.discard(self)
        self._before.connection_lost(exc)

    def shutdown(self) -> None:
        """The server stops (uvicorn calls this): it is leaving already."""


def leave(
    before: asyncio.BaseProtocol,
    transport: asyncio.Transport,
    connections: set[Any],
    patience: float,
    who: object,
    more_comes: bool = False,
) -> None:
    """End a connection: at once if its other end has everything and sends no more, else when it has.

    `before` is its protocol, which hears of the end; `connections` are those that uvicorn waits for when it stops.
    """
    if not more_comes and not unread_bytes(transport):
        transport.close()
        return
    leaving = Leaving(before, transport, connections, StandstillTimer(transport, patience, who))
    connections.discard(before)
    connections.add(leaving)
    transport.set_protocol(leaving)
    transport.write_eof()
    transport.resume_reading()
