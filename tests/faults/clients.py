"""Subscribers: clients of the public protocol that come back, to any node, from the position they reached."""

import asyncio
import json
import socket
from collections.abc import Mapping, Sequence
from typing import Any

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from tests.faults.checker import Message, Position, Received
from tests.faults.world import ANSWER_TIMEOUT, LOST, Error, Line, Pub, Push, Subscribed, World, dial, lines_of

PING_DELAY = 3.0  # seconds a server's ping may be late
SLOW = 4.0  # seconds a slow client reads nothing
SMALL_BUFFER = 16384  # bytes the kernel keeps for a slow client; with much less, TCP itself crawls


class Subscriber:
    """One client in its channels, for as long as `run` runs. It knows only what the protocol told it."""

    def __init__(self, name: str, channels: Sequence[str], world: World, slow: bool) -> None:
        self.name, self.channels, self.slow = name, channels, slow
        self.received: dict[str, Received] = {}
        self._world, self._url = world, ""
        self._socket: ClientConnection | None = None
        self._asked: dict[int, str] = {}  # subscribes without an answer: command id to channel
        self._id = self._tries = 0
        self._heard = self._sleeps_until = 0.0
        self._patience = ANSWER_TIMEOUT

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
        """A server that pings late is left, as the SDKs do. One that pings and leaves a subscribe without an answer is
        not: to go elsewhere would hide it, and who waits in the end is stuck."""
        if now > self._sleeps_until and now - self._heard > self._patience:
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
            self._heard = loop.time()
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
