"""Thousands of clients dropped at once: all of them get what they missed, for a handful of reads."""

import asyncio
import resource
from collections.abc import AsyncIterator, Iterator

import pytest
import redis

from tests.clients import Client
from tests.services import PeykServer, RedisProcess, until

CLIENTS = 5000
AT_ONCE = 100  # connections being opened at a time
READS = "xrange", "xrevrange", "hmget", "hget", "hgetall", "eval_ro"


@pytest.fixture
def many_files() -> Iterator[None]:
    """A connection is a file, here as in the server."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.fixture
def quiet_server(redis_of_module: RedisProcess) -> Iterator[PeykServer]:
    """A server that does nothing by the clock meanwhile: what is counted is recovery, however long it takes."""
    with PeykServer({"REDIS_URL": redis_of_module.url, "LEASE_TTL": "600", "CHECK_INTERVAL": "600"}) as server:
        yield server


@pytest.fixture
async def speaker(quiet_server: PeykServer) -> AsyncIterator[Client]:
    client = await Client.open(quiet_server.port, "speaker")
    yield client
    client.abort()


async def open_all(port: int, before: list[Client] | None = None) -> list[Client]:
    """CLIENTS clients in one channel; those of `before` come back, each to its own position."""
    turns = asyncio.Semaphore(AT_ONCE)

    async def open_one(number: int) -> Client:
        async with turns:
            client = await Client.open(port, f"u{number}", before[number] if before else None)
            await client.subscribe("herd")
            return client

    return await asyncio.gather(*[open_one(number) for number in range(CLIENTS)])


def reads(process: RedisProcess) -> dict[str, int]:
    """How often each reading command ran."""
    with redis.Redis(port=process.port, decode_responses=True) as client:
        stats = client.info("commandstats")
    return {name: stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in READS}


@pytest.mark.usefixtures("many_files")
async def test_a_dropped_herd_recovers_whole_for_a_handful_of_reads(
    quiet_server: PeykServer, speaker: Client, redis_of_module: RedisProcess
) -> None:
    """Dropped while messages flow, they stand at different positions; and messages flow on as they return."""

    async def publish(start: int, stop: int) -> None:
        for number in range(start, stop, 10):
            replies = [speaker.send(publish={"channel": "herd", "data": n}) for n in range(number, number + 10)]
            assert all("publish" in reply for reply in await asyncio.gather(*replies))

    async with asyncio.timeout(120):
        clients = await open_all(quiet_server.port)
        await publish(0, 20)
        await until(lambda: all(len(client.offsets("herd")) == 20 for client in clients))
        flow = asyncio.create_task(publish(20, 320))
        for client in clients:
            client.abort()
        await flow
        assert any(len(client.offsets("herd")) < 320 for client in clients)
        before = reads(redis_of_module)
        returning = asyncio.create_task(open_all(quiet_server.port, clients))
        await publish(320, 340)
        clients = await returning  # each has asserted recovered: true
        await until(lambda: all(len(client.offsets("herd")) >= 340 for client in clients))
        spent = {name: count - before[name] for name, count in reads(redis_of_module).items()}
    expected = [(number + 1, number) for number in range(340)]
    assert all(client.seen["herd"] == expected for client in clients)
    assert not any(client.unsubscribed or client.ended.done() for client in clients)
    for client in clients:
        client.abort()
    print(f"{CLIENTS} clients recovered for {sum(spent.values())} reads of Redis: {spent}")
    assert sum(spent.values()) < 100
