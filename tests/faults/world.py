"""What all clients share: the lines of the protocol, how a node is dialled, and what is counted."""

import asyncio
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx2 as httpx
import msgspec
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from tests.faults.checker import Message, Received

OPEN_TIMEOUT = 5.0  # seconds for TCP and the handshake
ANSWER_TIMEOUT = 5.0  # seconds until a command without an answer is given up
BACKOFF = 0.05, 1.0  # seconds: first and longest wait before connecting again
LOST = (OSError, TimeoutError, WebSocketException, httpx.HTTPError)  # what a connection ends with


class Pub(msgspec.Struct):
    data: msgspec.Raw
    offset: int = 0


class Unsubscribe(msgspec.Struct):
    code: int


class Push(msgspec.Struct):
    channel: str
    pub: Pub | None = None
    unsubscribe: Unsubscribe | None = None


class Subscribed(msgspec.Struct):
    epoch: str
    offset: int
    recovered: bool = False
    publications: list[Pub] = []


class Connected(msgspec.Struct):
    ping: int = 25


class Error(msgspec.Struct):
    code: int
    message: str
    temporary: bool = False


class Stored(msgspec.Struct):
    """What a publisher hears, over either door."""

    offset: int
    epoch: str


class Called(msgspec.Struct):
    data: Stored


class Line(msgspec.Struct):
    """One line from the server; without anything in it, a ping."""

    id: int = 0
    push: Push | None = None
    connect: Connected | None = None
    subscribe: Subscribed | None = None
    rpc: Called | None = None
    error: Error | None = None


_decode = msgspec.json.Decoder(Line).decode


class Refused(OSError):
    """The server answered with an error; it may be tried again."""


@dataclass
class World:
    """What all clients share: where the nodes are, chance, and what is counted."""

    urls: Sequence[str]
    random: random.Random
    tally: Counter[str] = field(default_factory=Counter)
    received: list[Received] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)  # what no server should say; the first few
    ack_times: list[float] = field(default_factory=list)
    ack_latencies: list[float] = field(default_factory=list)
    known: dict[str, dict[Message, Message]] = field(default_factory=dict)  # a channel's messages, each kept once

    def another(self, url: str) -> str:
        """A node to try, not the one that failed if there is a choice."""
        return self.random.choice([u for u in self.urls if u != url] or list(self.urls))

    def refused(self, where: str, error: Error) -> Refused:
        self.tally["temporary errors" if error.temporary else "errors"] += 1
        if not error.temporary and len(self.errors) < 10:
            self.errors.append(f"{where}: {error.code} {error.message}")
        return Refused(error.message)

    async def back_off(self, tries: int) -> None:
        await asyncio.sleep(min(BACKOFF[0] * 2**tries, BACKOFF[1]) * self.random.uniform(0.5, 1.5))


def dial(url: str, **options: Any) -> connect:
    """A WebSocket to a node, without pings of its own, compression or proxy."""
    address = url.replace("http", "ws", 1) + "/connection/websocket"
    return connect(
        address,
        open_timeout=OPEN_TIMEOUT,
        close_timeout=1,
        ping_interval=None,
        max_size=None,
        compression=None,
        proxy=None,
        **options,
    )


def lines_of(frame: bytes | str) -> Iterator[Line]:
    return map(_decode, frame.split(b"\n" if isinstance(frame, bytes) else "\n"))  # type: ignore[arg-type]
