"""Server-sent events: a replay that stays live. A subscriber of the hub like any other, who writes text."""

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import msgspec

from chat.access import Access
from chat.errors import PeykError
from chat.local import Joined, Subscription
from pipeline.encode import Message, publication, publication_of
from pipeline.resp import FAILURES

if TYPE_CHECKING:
    from chat.node import Node

logger = logging.getLogger(__name__)

HIGH_WATER = 256 * 1024  # bytes waiting for the client
KEEP_ALIVE = 15  # seconds between comments on a quiet stream


class _Offset(msgspec.Struct):
    offset: int = 0


_decode_offset = msgspec.json.Decoder(_Offset).decode


class EventStream:
    """One client that follows a channel: what the hub writes waits here until the response takes it."""

    framed = False

    def __init__(self, node: "Node", channel: str, access: Access | None = None) -> None:
        self.node, self.channel, self.access = node, channel, access
        self._waiting: list[bytes] = []
        self._size = 0
        self._wake = asyncio.Event()
        self._begun = asyncio.Event()
        self.epoch = ""
        self.full = self.ended = False
        self.recovered = True
        self.subscription: Subscription | None = None

    def write(self, data: bytes) -> None:
        self._waiting.append(data)
        self._size += len(data)
        self._wake.set()
        if self._size > HIGH_WATER and not self.full:
            self.full = True
            if self.subscription is not None:
                self.node.hub.filled([self.subscription])

    def unsubscribed(self, channel: str, code: int, reason: str) -> None:
        """The stream ends; the client reconnects with Last-Event-ID, or learns that the channel is gone."""
        self.subscription = None
        self.close()

    def expire(self, now: float) -> None:
        """Look whether what let the client in is over; then the stream ends, and what waits is not for it."""
        if self.access is not None and self.access.over(now):
            self._waiting.clear()
            self.close()

    def joined(self, joined: Joined) -> None:
        self.subscription, self.epoch, self.recovered = joined.subscription, joined.epoch, joined.recovered
        self._begun.set()
        if self.ended:  # meanwhile
            self.close()
        elif joined.lines:
            self.write(b"\n".join(joined.lines))

    async def follow(self, since: tuple[str, int]) -> None:
        """Subscribe from a position, however far back. Raises UnknownChannel and ConnectionLost."""
        try:
            await self.node.hub.subscribe(self, self.channel, self.joined, since, limited=False)
            await self._begun.wait()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self.ended = True
        self._begun.set()
        self._wake.set()
        if self.subscription is not None:
            self.node.hub.unsubscribe(self.subscription)
            self.subscription = None

    async def take(self, patience: float | None = None) -> list[bytes] | None:
        """The publications that came; [] if none did for `patience` seconds, None at the end."""
        while not self._waiting:
            if self.ended:
                return None
            self._wake.clear()
            try:
                async with asyncio.timeout(patience):
                    await self._wake.wait()
            except TimeoutError:
                return []
        waiting, self._waiting, self._size = self._waiting, [], 0
        lines = [publication_of(self.channel, line) for body in waiting for line in body.split(b"\n")]
        if self.full:
            self.full = False
            if self.subscription is not None:
                self.node.hub.drained([self.channel])
        return lines


async def event_stream(node: "Node", channel: str, since: tuple[str, int], access: Access) -> AsyncIterator[bytes]:
    """Follow `channel` from a position. What cannot be replayed in whole begins with an event `reset`.

    Raises UnknownChannel and ConnectionLost before the first byte.
    """
    stream = EventStream(node, channel, access)
    older = await node.replay.older(channel, *since)
    if not older:
        await stream.follow(since)
    return _texts(stream, access, older)


async def _texts(stream: EventStream, access: Access, older: list[Message]) -> AsyncIterator[bytes]:
    """First what only the archive has, from `older` on, then the stream, while who follows it may."""
    node, channel = stream.node, stream.channel
    node.pinger.streams.add(stream)
    try:
        while older and not stream.ended:
            last = older[-1]
            yield b"".join(_event(last.epoch, publication(message)) for message in older)
            await node.allow(access, "history", channel)
            older = await node.replay.older(channel, last.epoch, last.offset)
            if not older:
                await stream.follow((last.epoch, last.offset))
        yield b": peyk\n\n" if stream.recovered else b'event: reset\ndata: {"recovered":false}\n\n'
        while (publications := await stream.take(KEEP_ALIVE)) is not None:
            yield b"".join(_event(stream.epoch, pub) for pub in publications) or b": keep-alive\n\n"
    except (PeykError, *FAILURES) as error:  # the client comes back with its Last-Event-ID, and is told
        logger.info("channel %s: an event stream ends: %s", channel, error)
    finally:
        node.pinger.streams.discard(stream)
        stream.close()


def _event(epoch: str, pub: bytes) -> bytes:
    offset = _decode_offset(pub).offset
    place = f"id: {epoch}:{offset}\n".encode() if offset else b""
    return place + b"data: " + pub + b"\n\n"
