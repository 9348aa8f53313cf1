"""The log into PostgreSQL and MongoDB, as a server does it: each message once, whatever is unplugged meanwhile."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import httpx2 as httpx
import pytest
from redis.asyncio import Redis

from pipeline.keys import Keys
from redis_config import Settings
from tests.bridge.stage import RETURN, SINKS, Stage, event, pending
from tests.clients import Client
from tests.services import MongoProcess, PostgresProcess, RedisClient, until

RATE = 200  # events a second
CHANNELS = [f"ch{i}" for i in range(4)]


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with Stage() as stage:
        yield stage


class Flow:
    """Publishes events at RATE to all channels, and has a reader in each; remembers what was answered ok."""

    def __init__(self, stage: Stage) -> None:
        self._stage, self.taken, self.slowest = stage, dict.fromkeys(CHANNELS, 0), 0.0
        self.reader: Client

    async def run(self) -> None:
        async with self._stage.http() as http, asyncio.TaskGroup() as group:
            number, loop = 0, asyncio.get_running_loop()
            begin = loop.time()
            while True:
                number += 1
                group.create_task(self._publish(http, CHANNELS[number % len(CHANNELS)], number))
                await asyncio.sleep(begin + number / RATE - loop.time())

    async def _publish(self, http: httpx.AsyncClient, channel: str, number: int) -> None:
        begin = asyncio.get_running_loop().time()
        reply = await http.post(f"/api/channels/{channel}/messages", json=event(number))
        assert reply.status_code == 201, reply.text
        self.slowest = max(self.slowest, asyncio.get_running_loop().time() - begin)
        self.taken[channel] += 1


@asynccontextmanager
async def flow(stage: Stage) -> AsyncIterator[Flow]:
    """Publish meanwhile. At the end every reader has seen everything, live."""
    one = Flow(stage)
    async with stage.http() as http:
        for channel in CHANNELS:
            await http.post("/api/channels", json={"name": channel})
    one.reader = await Client.open(stage.server.port, "reader")
    await one.reader.subscribe(*CHANNELS)
    before = {channel: one.reader.positions[channel][1] for channel in CHANNELS}
    task = asyncio.create_task(one.run())
    try:
        yield one
        for channel in CHANNELS:
            await until(lambda c=channel: len(one.reader.offsets(c)) > 50, RETURN)  # type: ignore[misc]
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    for channel in CHANNELS:
        top = len(await stage.in_stream(channel))
        await one.reader.reach(channel, top, RETURN)
        assert one.reader.offsets(channel) == list(range(before[channel] + 1, top + 1))
    assert not one.reader.unsubscribed
    one.reader.abort()


@pytest.mark.parametrize("who", ["postgresql", "mongodb", "both"])
async def test_a_database_killed_under_load_has_everything_once_afterwards(stage: Stage, who: str) -> None:
    """Away for 3 s: nothing is acked for it meanwhile, the other sink and the chat do not notice."""
    down: list[PostgresProcess | MongoProcess] = {
        "postgresql": [stage.postgres],
        "mongodb": [stage.mongo],
        "both": [stage.postgres, stage.mongo],
    }[who]  # type: ignore[assignment]
    up = {"postgresql": ["mongo"], "mongodb": ["sql"], "both": []}[who]
    async with flow(stage) as one, stage.direct as redis:
        await until(lambda: len(one.reader.offsets(CHANNELS[0])) > 20, RETURN)
        await asyncio.gather(*[asyncio.to_thread(process.kill) for process in down])
        one.slowest = 0.0
        stored = {sink: int(await redis.hget(f"archive:{sink}", "ms") or 0) for sink in SINKS}
        seen = {channel: len(one.reader.offsets(channel)) for channel in CHANNELS}
        await until(
            lambda: all(len(one.reader.offsets(c)) > seen[c] + 3 * RATE // len(CHANNELS) for c in CHANNELS), RETURN
        )
        for sink in SINKS:
            now = int(await redis.hget(f"archive:{sink}", "ms") or 0)
            if sink in up:
                assert now > stored[sink] + 1000
                await until(lambda s=sink: _few(redis, s), RETURN)  # type: ignore[misc]
            else:
                assert now <= stored[sink] + 1000 and await pending(redis, sink) > RATE
        assert one.slowest < 2
        await asyncio.gather(*[asyncio.to_thread(process.start) for process in down])
    for channel in CHANNELS:
        offsets = await stage.level(channel)
        assert offsets == list(range(1, len(offsets) + 1)) and len(offsets) >= one.taken[channel]
        assert await stage.in_sql(channel, "events") == offsets == await stage.in_mongo(channel, "events")
    assert await stage.letters("sql") == [] == await stage.letters("mongo")


async def _few(redis: RedisClient, sink: str) -> bool:
    return await pending(redis, sink) < RATE


# What stands in the log, and who can never take it. Our own doors let none of this in; other programs may write there.
POISON = {
    b'{"id":"p","type":"t","payload":"\\u0000"}': ("sql",),
    b'{"id":"p","type":"t","payload":1e200000}': SINKS,
    b'{"id":"p","type":"t","payload":18446744073709551616}': ("mongo",),
    b'"' + b"x" * 17_000_000 + b'"': ("mongo",),
    b'"\xff"': SINKS,
    b'"\0"': ("sql",),
}


async def test_what_a_database_can_never_take_is_set_aside_there_and_its_neighbours_flow(stage: Stage) -> None:
    channel, settings = "poison", Settings(_env_file=None)
    log = f"log:{Keys.of(settings).partition(channel)}"
    async with stage.direct as redis:
        entries = [b"1", *[data for poison in POISON for data in (poison, b'{"id":"ok","type":"t","payload":1}')]]
        for offset, data in enumerate(entries, 1):
            head = f"{offset}-1795000000000 e u - ".encode()
            await redis.xadd(log, {channel: head + data})
    await until(stage.acked, RETURN, "everything is stored or set aside")
    for sink, stored in (("sql", await stage.in_sql(channel)), ("mongo", await stage.in_mongo(channel))):
        poison = [2 * i for i, who in enumerate(POISON.values(), 1) if sink in who]
        assert stored == [o for o in range(1, len(entries) + 1) if o not in poison]
        letters = await _letters(stage, sink)
        assert [int(letter[b"message"].partition(b"-")[0]) for letter in letters] == poison
        assert all(letter[b"reason"] and letter[b"count"] == b"5" for letter in letters)
    async with stage.direct as redis:
        await redis.delete("dead:sql", "dead:mongo")


async def _letters(stage: Stage, sink: str) -> list[dict[bytes, bytes]]:
    raw: RedisClient
    async with Redis(port=stage.redis.port) as raw:
        return [fields for _, fields in await raw.xrange(f"dead:{sink}")]


async def test_what_is_only_shown_is_not_archived(stage: Stage) -> None:
    channel = "shown"
    async with stage.http() as http:
        assert (await http.post(f"/api/channels/{channel}/messages", json={"text": "kept"})).status_code == 201
    async with stage.direct as redis:
        log = f"log:{Keys.of(Settings(_env_file=None)).partition(channel)}"
        await redis.xadd(log, {channel: b'- - u - {"text":"shown"}'})
    assert await stage.level(channel) == [1]
