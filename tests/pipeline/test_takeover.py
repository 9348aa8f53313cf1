"""A fan-out killed in the middle of its work: the next one repeats it, in order, and no subscriber sees it twice."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from chat.hub import Hub
from chat.settings import ServerSettings
from pipeline.encode import Message
from pipeline.fanout import FanOut
from pipeline.keys import Keys
from pipeline.producer import Producer
from pipeline.replay import Replay
from pipeline.resp import Command, Link
from redis_config import Address
from tests.pipeline.members import Member, member, pending
from tests.pipeline.proxy import Proxy
from tests.services import RedisClient, RedisProcess, until

KEYS = Keys("channel:", "message:", 8)


@pytest.fixture
def quick(redis_process: RedisProcess) -> ServerSettings:
    """The hub compares no positions: what it shows came through Pub/Sub, or filled a hole there."""
    return ServerSettings(redis_url=redis_process.url, lease_ttl=0.8, check_interval=600, _env_file=None)


class Reader:
    """A subscriber in this process."""

    framed = full = False
    access = None

    def __init__(self) -> None:
        self.offsets: list[int] = []

    def write(self, data: bytes) -> None:
        self.offsets += [json.loads(line)["push"]["pub"]["offset"] for line in data.split(b"\n")]

    def unsubscribed(self, channel: str, code: int, reason: str) -> None:
        raise AssertionError(f"{channel}: {code} {reason}")


class Stuck:
    """A handler that never comes to an end."""

    async def handle(self, messages: Sequence[Message]) -> Sequence[Command]:
        await asyncio.Event().wait()
        return ()


class Scene:
    """A channel with a message, a hub with a reader, and an ear that hears what the fan-out publishes."""

    def __init__(self, producer: Producer, reader: Reader, heard: list[tuple[int, int]]) -> None:
        self.producer, self.reader, self.heard = producer, reader, heard

    async def publish(self, count: int) -> None:
        """Messages in one log entry each."""
        for _ in range(count):
            await self.producer.publish("c", b"1", user="u")

    def repeated(self) -> list[int]:
        """The offsets heard, one by one."""
        return [offset for first, last in self.heard for offset in range(first, last + 1)]


@asynccontextmanager
async def scene(quick: ServerSettings, redis: RedisClient) -> AsyncIterator[Scene]:
    address, link, reader = Address.parse(quick), Link(Address.parse(quick)), Reader()
    heard: list[tuple[int, int]] = []
    hub = Hub(address, quick, Replay(link, KEYS), link)
    async with Producer(address, quick) as producer, redis.pubsub() as ear:
        await producer.publish("c", b"1", user="u")
        await ear.subscribe(KEYS.channel("c"))

        async def listen() -> None:
            async for message in ear.listen():
                if message["type"] == "message":
                    _, first, last, _ = message["data"].partition("\n")[0].split(" ")
                    heard.append((int(first), int(last)))

        listening = asyncio.create_task(listen())
        await hub.start()
        await hub.subscribe(reader, "c", lambda joined: None)
        async with member(quick, "first", work=FanOut(KEYS)):
            await until(lambda: heard == [(1, 1)])
        heard.clear()
        try:
            yield Scene(producer, reader, heard)
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
            await hub.close()
            link.close()


async def test_killed_before_it_published(quick: ServerSettings, redis_client: RedisClient) -> None:
    async with scene(quick, redis_client) as one:
        await one.publish(3)
        dead = Member(quick, "dead", work=Stuck())
        await dead.start()
        await until(lambda: dead.handler.offsets("c") == [2, 3, 4])
        await dead.die()
        assert await pending(redis_client) == 3 and one.heard == []
        await one.publish(3)
        async with member(quick, "heir", work=FanOut(KEYS)):
            await until(lambda: one.reader.offsets and one.reader.offsets[-1] == 7)
            await until(lambda: _acked(redis_client))
        assert one.reader.offsets == one.repeated() == [2, 3, 4, 5, 6, 7]


async def test_killed_between_publishing_and_acking(quick: ServerSettings, redis_client: RedisClient) -> None:
    async with scene(quick, redis_client) as one, Proxy(Address.parse(quick)) as proxy:
        await one.publish(3)
        through = f"redis://127.0.0.1:{proxy.address.port}/0"
        dead = Member(quick.model_copy(update={"redis_url": through}), "dead", work=FanOut(KEYS))
        proxy.stop_before = b"XACK"
        await dead.start()
        await until(lambda: proxy.cuts == 1)
        proxy.refuse = True
        await until(lambda: one.repeated() == [2, 3, 4], what="it published")
        await dead.die()
        assert await pending(redis_client) == 3
        await one.publish(3)
        async with member(quick, "heir", work=FanOut(KEYS)):
            await until(lambda: one.reader.offsets and one.reader.offsets[-1] == 7)
            await until(lambda: _acked(redis_client))
        assert one.repeated() == [2, 3, 4, 2, 3, 4, 5, 6, 7], "what it had not acked is published again, first"
        assert one.reader.offsets == [2, 3, 4, 5, 6, 7]


async def _acked(redis: RedisClient) -> bool:
    return await pending(redis) == 0
