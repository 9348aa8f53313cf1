"""Clients of the public protocol: subscribers that come back from their position, publishers that retry by key."""

import asyncio
import json
import random
import socket
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx2 as httpx
import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, WebSocketException

from tests.faults.checker import Message, Position, Published, Received, data_of

OPEN_TIMEOUT = 5.0  # seconds for TCP and the handshake
ANSWER_TIMEOUT = 5.0  # seconds until a command without an answer is given up
PING_DELAY = 3.0  # seconds a server's ping may be late
SLOW = 4.0  # seconds a slow client reads nothing
SMALL_BUFFER = 4096  # bytes the kernel keeps for a slow client
PADDING = 200  # bytes of weight in a message
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


class Subscriber:
    """One client in its channels, for as long as `run` runs. It knows only what the protocol told it."""

    def __init__(self, name: str, channels: Sequence[str], world: World, slow: bool) -> None:
        self.name, self.channels, self.slow = name, channels, slow
        self.received: dict[str, Received] = {}
        self._world, self._url = world, ""
        self._socket: ClientConnection | None = None
        self._asked: dict[int, str] = {}  # subscribes without an answer: command id to channel
        self._id = self._tries = 0
        self._heard = self._opened = self._sleeps_until = 0.0
        self._patience = OPEN_TIMEOUT

    async def run(self) -> None:
        """Connect, again and again, until cancelled."""
        while True:
            try:
                await self._connection()
            except ConnectionClosed as closed:
                code = closed.rcvd.code if closed.rcvd else "without a word"
                self._world.tally[f"closed {code}"] += 1
            except LOST:
                self._world.tally["could not connect"] += 1
            self._socket = None
            self._world.tally["reconnects"] += 1
            self._tries += 1
            await self._world.back_off(self._tries)

    def stands_at_least(self, tops: Mapping[str, int]) -> bool:
        """Whether it has a position in each of its channels, not below the one in `tops`."""
        return all(c in self.received and self.received[c].offset >= tops.get(c, 0) for c in self.channels)

    def drop(self) -> None:
        """End the TCP connection without a word."""
        if self._socket is not None:
            self._socket.transport.abort()

    def sleep(self) -> None:
        """Read nothing for a while."""
        self._sleeps_until = asyncio.get_running_loop().time() + SLOW

    def drop_if_silent(self, now: float) -> None:
        """A server that pings late or does not answer is left, as the SDKs do."""
        unanswered = self._asked and now - self._opened > ANSWER_TIMEOUT
        if now > self._sleeps_until and (unanswered or now - self._heard > self._patience):
            self._world.tally["left silent server"] += 1
            self.drop()

    async def _connection(self) -> None:
        loop = asyncio.get_running_loop()
        self._url = self._world.another(self._url)
        async with dial(self._url, max_queue=1 if self.slow else 64) as connection:
            if self.slow:
                connection.transport.get_extra_info("socket").setsockopt(
                    socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER
                )
            self._heard = self._opened = loop.time()
            self._patience, self._socket = ANSWER_TIMEOUT, connection
            self._asked.clear()
            commands = [self._command(connect={"data": {"user": self.name}})]
            commands += [self._subscribe(channel) for channel in self.channels]
            await connection.send("\n".join(commands))
            while True:
                frame = await connection.recv(decode=False)
                self._heard = loop.time()
                for line in lines_of(frame):
                    if answer := self._hear(line):
                        await connection.send(answer)
                if self._sleeps_until > self._heard:
                    await asyncio.sleep(self._sleeps_until - self._heard)
                    self._heard = loop.time()

    def _command(self, **command: Any) -> str:
        self._id += 1
        return json.dumps({"id": self._id, **command})

    def _subscribe(self, channel: str) -> str:
        """Subscribe; from where it stands, if it was there before."""
        since = {}
        if received := self.received.get(channel):
            since = {"recover": True, "epoch": received.start.epoch, "offset": received.offset}
        self._asked[self._id + 1] = channel
        return self._command(subscribe={"channel": channel, **since})

    def _hear(self, line: Line) -> str:
        """Take a line; the answer it wants, if any."""
        if line.push is not None:
            return self._on_push(line.push)
        if line.subscribe is not None:
            self._on_subscribed(self._asked.pop(line.id), line.subscribe)
        elif line.error is not None:
            raise self._world.refused(f"{self.name}, command {line.id}", line.error)
        elif line.connect is not None:
            self._patience = line.connect.ping + PING_DELAY
        elif not line.id:
            return "{}"
        return ""

    def _on_push(self, push: Push) -> str:
        if push.pub is not None:
            self._take(push.channel, push.pub)
        elif push.unsubscribe is not None:
            self._world.tally[f"unsubscribed {push.unsubscribe.code}"] += 1
            self._opened = self._heard
            return self._subscribe(push.channel)
        return ""

    def _on_subscribed(self, channel: str, reply: Subscribed) -> None:
        before = self.received.get(channel)
        if before is not None and reply.recovered:
            self._world.tally["recovered"] += 1
        else:
            if before is not None:
                before.told = True
                self._world.tally["recovered false"] += 1
            self.received[channel] = Received(self.name, channel, Position(reply.epoch, reply.offset))
            self._world.received.append(self.received[channel])
        for pub in reply.publications:
            self._take(channel, pub)
        if not self._asked:
            self._tries = 0

    def _take(self, channel: str, pub: Pub) -> None:
        if channel not in self.received:
            raise self._world.refused(self.name, Error(0, f"a push in {channel} before it was subscribed to"))
        message = Message(pub.offset, bytes(pub.data))
        self.received[channel].messages.append(self._world.known[channel].setdefault(message, message))


class Publisher:
    """One producer in one channel, over the socket: the next number when the last is acked."""

    def __init__(self, name: str, channel: str, world: World) -> None:
        self.published = Published(name, channel)
        self._world, self._url = world, ""
        self._socket: ClientConnection | None = None

    async def run(self, interval: float, until: float) -> None:
        """A number every `interval` seconds until the clock of the loop says `until`; the last one is acked as well."""
        loop, published = asyncio.get_running_loop(), self.published
        due = loop.time() + self._world.random.random() * interval
        while due < until:
            await asyncio.sleep(due - loop.time())
            began = loop.time()
            published.sent += 1
            stored = await self._until_acked(published.sent)
            published.acked[published.sent] = Position(stored.epoch, stored.offset)
            self._world.ack_times.append(loop.time())
            self._world.ack_latencies.append(loop.time() - began)
            due += interval
        await self._let_go()

    async def _until_acked(self, number: int) -> Stored:
        """The same number with the same key, at any node, until one says where it stands."""
        tries = 0
        while True:
            self._url = self._url or self._world.another("")
            try:
                async with asyncio.timeout(ANSWER_TIMEOUT):
                    return await self._publish(number)
            except LOST:
                self._world.tally["publishes retried"] += 1
                await self._let_go()
                self._url = self._world.another(self._url)
                await self._world.back_off(tries)
                tries += 1

    async def _publish(self, number: int) -> Stored:
        if self._socket is None:
            self._socket = await dial(self._url)
            await self._ask(0, connect={"data": {"user": self.published.producer}})
        who = self.published
        params = {"channel": who.channel, "data": data_of(who.producer, number, PADDING), "key": str(number)}
        line = await self._ask(number, rpc={"method": "publish", "data": params})
        assert line.rpc is not None
        return line.rpc.data

    async def _ask(self, number: int, **command: Any) -> Line:
        assert self._socket is not None
        await self._socket.send(json.dumps({"id": number + 1, **command}))
        while True:
            for line in lines_of(await self._socket.recv(decode=False)):
                if line.error is not None:
                    raise self._world.refused(self.published.producer, line.error)
                if line.id == number + 1:
                    return line
                await self._socket.send("{}")

    async def _let_go(self) -> None:
        if self._socket is not None:
            self._socket.transport.abort()
            self._socket = None


class HttpPublisher(Publisher):
    """The same over HTTP, with an Idempotency-Key."""

    _client: httpx.AsyncClient | None = None

    async def _publish(self, number: int) -> Stored:
        if self._client is None:
            self._client = httpx.AsyncClient(timeout=ANSWER_TIMEOUT, trust_env=False)
        who = self.published
        body = {"data": data_of(who.producer, number, PADDING), "user": who.producer}
        url = f"{self._url}/api/channels/{who.channel}/messages"
        reply = await self._client.post(url, json=body, headers={"Idempotency-Key": str(number)})
        if reply.status_code not in (200, 201):
            text = reply.text[:200]
            raise self._world.refused(who.producer, Error(reply.status_code, text, reply.status_code in (503, 504)))
        return msgspec.json.decode(reply.content, type=Stored)

    async def _let_go(self) -> None:
        if self._client is not None:
            await self._client.aclose()
            self._client = None
