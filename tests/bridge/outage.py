"""A database killed while events flow, and what must hold meanwhile and afterwards: a short run in the tests, long ones
with `python -m tests.faults --sinks`.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx2 as httpx

from tests.bridge.stage import RETURN, SINKS, Stage, event, pending
from tests.clients import Client
from tests.services import RedisClient, until

RATE = 200  # events a second
CHANNELS = [f"ch{i}" for i in range(4)]
KILLED = {"postgresql": ("sql",), "mongodb": ("mongo",), "both": SINKS}


class Flow:
    """Publishes events at RATE to all channels, and has a reader in each; remembers what was answered ok."""

    def __init__(self, stage: Stage) -> None:
        self._stage, self.taken = stage, dict.fromkeys(CHANNELS, 0)
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
        reply = await http.post(f"/api/channels/{channel}/messages", json=event(number))
        assert reply.status_code == 201, reply.text  # so within PUBLISH_TIMEOUT
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
        (ended,) = await asyncio.gather(task, return_exceptions=True)
    assert isinstance(ended, asyncio.CancelledError), ended  # else a publish was refused
    for channel in CHANNELS:
        top = len(await stage.in_stream(channel))
        await one.reader.reach(channel, top, RETURN)
        seen = one.reader.offsets(channel)  # perhaps one more than `top`: a publish that was cut off
        assert seen == list(range(before[channel] + 1, before[channel] + 1 + len(seen))) and seen[-1] >= top
    assert not one.reader.unsubscribed
    one.reader.abort()


async def outage(stage: Stage, who: str, seconds: float) -> int:
    """Kill a database, or both, for some time; how many events all hold afterwards, each once.

    Raises AssertionError if one is lost, doubled, or acked while its database is away, or if the other sink or the
    chat notice.
    """
    processes = {"sql": stage.postgres, "mongo": stage.mongo}
    async with flow(stage) as one, stage.direct as redis:
        await until(lambda: len(one.reader.offsets(CHANNELS[0])) > 20, RETURN)
        await asyncio.gather(*[asyncio.to_thread(processes[sink].kill) for sink in KILLED[who]])
        stored = {sink: await _stored(redis, sink) for sink in SINKS}
        seen = {channel: len(one.reader.offsets(channel)) for channel in CHANNELS}
        enough = int(seconds * RATE) // len(CHANNELS)
        await until(
            lambda: all(len(one.reader.offsets(c)) > seen[c] + enough for c in CHANNELS),
            seconds + RETURN,
            "events flow",
        )
        for sink in SINKS:
            if sink in KILLED[who]:
                assert await _stored(redis, sink) <= stored[sink] + 1000 and await pending(redis, sink) > RATE
            else:
                await until(lambda s=sink: _few(redis, s), RETURN, f"{sink} goes on")  # type: ignore[misc]
                assert await _stored(redis, sink) > stored[sink] + 1000
        await asyncio.gather(*[asyncio.to_thread(processes[sink].start) for sink in KILLED[who]])
    count = 0
    for channel in CHANNELS:
        offsets = await stage.level(channel)
        assert offsets == list(range(1, len(offsets) + 1)) and len(offsets) >= one.taken[channel]
        assert await stage.in_sql(channel, "events") == offsets == await stage.in_mongo(channel, "events")
        count += len(offsets)
    assert await stage.letters("sql") == [] == await stage.letters("mongo")
    return count


async def _stored(redis: RedisClient, sink: str) -> int:
    """The time (Unix ms) of the last message that a sink says it stored."""
    return int(await redis.hget(f"archive:{sink}", "ms") or 0)


async def _few(redis: RedisClient, sink: str) -> bool:
    return await pending(redis, sink) < RATE
