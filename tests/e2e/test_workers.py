"""`serve --workers N`: several processes on one port are one server; one may die, and all end together."""

import contextlib
import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psutil
import pytest
from redis.asyncio import Redis
from websockets.asyncio.client import connect

from chat.websocket import DRAIN_RATE, drain_seconds
from redis_config import Address, Settings, command_client
from tests.chat.conftest import Talk
from tests.services import PeykServer, RedisProcess, until, wait_until

WORKERS = 3


@pytest.fixture
def server(valkey_process: RedisProcess) -> Iterator[PeykServer]:
    env = {"REDIS_URL": valkey_process.url, "HTTP_WORKERS": str(WORKERS), "LEASE_TTL": "1"}
    with PeykServer(env) as server:
        yield server


@pytest.fixture
async def redis(valkey_process: RedisProcess) -> AsyncIterator[Redis]:
    settings = Settings(redis_url=valkey_process.url, _env_file=None)
    async with command_client(Address.parse(settings)) as client:
        await client.flushall()
        yield client


def workers(server: PeykServer) -> list[psutil.Process]:
    """The processes that hold the clients, not their supervisor."""
    found = []
    for process in psutil.Process(server.pid).children():
        with contextlib.suppress(psutil.ZombieProcess, psutil.NoSuchProcess):
            if "spawn_main" in " ".join(process.cmdline()):
                found.append(process)
    return found


async def join(talk: Talk, user: str) -> None:
    await talk.ask(connect={"data": {"user": user}})
    assert "subscribe" in await talk.ask(subscribe={"channel": "c"})


async def test_several_processes_are_one_server(redis: Redis, server: PeykServer) -> None:
    await until(lambda: _nodes(redis, WORKERS))
    async with contextlib.AsyncExitStack() as stack:
        talks: list[Talk] = []
        while len({str(v).split(" ")[0] for v in await redis.hvals("presence:c")}) < 2:  # on two of them at least
            talks.append(Talk(await stack.enter_async_context(connect(server.ws_url, proxy=None))))
            await join(talks[-1], f"u{len(talks)}")
            await until(lambda: _present(redis, len(talks)))
        for i, talk in enumerate(talks):
            assert "publish" in await talk.ask(publish={"channel": "c", "data": i})
        expected = [(i + 1, i) for i in range(len(talks))]
        for talk in talks:
            assert await talk.texts(len(talks)) == expected


async def test_a_worker_that_dies_is_replaced_and_all_end_together(redis: Redis, server: PeykServer) -> None:
    await until(lambda: _nodes(redis, WORKERS))
    victim, *others = [p.pid for p in workers(server)]
    os.kill(victim, signal.SIGKILL)
    await until(lambda: len(workers(server)) == WORKERS and victim not in [p.pid for p in workers(server)])
    everybody = workers(server)
    assert set(others) <= {p.pid for p in everybody}
    server.stop()
    _, alive = psutil.wait_procs(everybody, timeout=180)
    assert not alive
    assert await redis.zcard("nodes") <= 1  # the killed one, whose lease is not over


BEGIN = """
import os, sys, time
begun = {begun!r}
if "spawn_main" in str(sys.orig_argv):
    print(file=open(begun, "a"))
    time.sleep({seconds})
"""


def beginning(directory: Path, seconds: str) -> tuple[dict[str, str], Path]:
    """What makes each worker wait before it begins, and the file `begun` in which each leaves a line first.

    `seconds` is an expression, which may look at `begun`.
    """
    begun = directory / "begun"
    (directory / "sitecustomize.py").write_text(BEGIN.format(begun=str(begun), seconds=seconds))
    return {"HTTP_WORKERS": "2", "PYTHONPATH": str(directory)}, begun


def test_workers_that_begin_slowly_are_awaited(valkey_process: RedisProcess, tmp_path: Path) -> None:
    slowly, begun = beginning(tmp_path, "6")  # more than uvicorn gives a worker unless told
    with PeykServer({"REDIS_URL": valkey_process.url, **slowly}) as server:
        assert len(workers(server)) == 2
        assert begun.read_text() == "\n\n"


def test_a_worker_that_does_not_begin_is_replaced(valkey_process: RedisProcess, tmp_path: Path) -> None:
    never, begun = beginning(tmp_path, "3600 if os.path.getsize(begun) == 1 else 0")
    with PeykServer({"REDIS_URL": valkey_process.url, **never, "WORKER_TIMEOUT": "20"}) as server:
        wait_until(lambda: len(workers(server)) == 2 and begun.stat().st_size > 2)


def test_a_stopping_node_sends_its_clients_away_one_after_another_but_not_for_ever() -> None:
    assert drain_seconds(0, 10) == 0
    assert drain_seconds(DRAIN_RATE * 2, 10) == 2
    assert drain_seconds(DRAIN_RATE * 1000, 10) == 5


async def _nodes(redis: Redis, count: int) -> bool:
    return len(await redis.zrange("nodes", 0, -1)) == count


async def _present(redis: Redis, count: int) -> bool:
    return bool(await redis.hlen("presence:c") == count)
