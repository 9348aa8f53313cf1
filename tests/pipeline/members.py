"""One node's part in a consumer group, without the rest of the node; it can die as by kill -9."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from pipeline.consumer import Consumer, Handler
from pipeline.encode import Message
from pipeline.lease import Leases, Node
from pipeline.resp import Command, Link
from redis_config import Address, Settings
from tests.services import RedisClient


class Recorder:
    """A handler that remembers, then has the work done; while `broken` it fails."""

    def __init__(self, work: Handler | None = None) -> None:
        self.work = work
        self.messages: list[Message] = []
        self.broken = False
        self.failures = 0

    async def handle(self, messages: Sequence[Message]) -> Sequence[Command]:
        if self.broken:
            self.failures += 1
            raise RuntimeError("not today")
        self.messages += messages
        return await self.work.handle(messages) if self.work else ()

    def offsets(self, channel: str) -> list[int]:
        return [m.offset for m in self.messages if m.channel == channel]


class Member:
    """One node's part in a group."""

    def __init__(
        self, settings: Settings, name: str, group: str = "fanout", kind: str = "serve", work: Handler | None = None
    ) -> None:
        address = Address.parse(settings)
        self.handler = Recorder(work)
        self.link = Link(address)
        self.leases = Leases(self.link, settings, Node(kind, name, (group,)))
        self.consumer = Consumer(group, self.handler, address, settings, self.leases)
        self.group = group

    @property
    def owned(self) -> set[int]:
        return self.leases.owned[self.group] - self.leases.unwanted[self.group]

    async def start(self) -> None:
        self.consumer.start()
        await self.leases.start()

    async def leave(self) -> None:
        await self.consumer.close()
        await self.leases.close()
        self.link.close()

    async def die(self) -> None:
        """As kill -9 would leave things: no ack, no release, only silence."""
        for task in (self.consumer._task, self.leases._task):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        self.consumer._link.close()
        self.link.close()
        await asyncio.gather(*self.consumer._unblocks)


@asynccontextmanager
async def member(
    settings: Settings, name: str, group: str = "fanout", kind: str = "serve", work: Handler | None = None
) -> AsyncIterator[Member]:
    one = Member(settings, name, group, kind, work)
    await one.start()
    try:
        yield one
    finally:
        await one.leave()


async def pending(redis: RedisClient, group: str = "fanout") -> int:
    counts = [(await redis.xpending(f"log:{p}", group))["pending"] for p in range(8) if await redis.exists(f"log:{p}")]
    return sum(counts)
