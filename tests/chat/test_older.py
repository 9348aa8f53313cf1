"""Redis comes back older, or without a channel: a new epoch, and clients are told; never silently deaf."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from redis.asyncio import Redis

from redis_config import Address, Settings, command_client
from tests.chat.conftest import Dial, Talk
from tests.services import PeykServer, RedisProcess


@pytest.fixture
def redis_process() -> Iterator[RedisProcess]:
    with RedisProcess("valkey") as process:
        yield process


@pytest.fixture
def server(redis_process: RedisProcess) -> Iterator[PeykServer]:
    with PeykServer({"REDIS_URL": redis_process.url, "CHECK_INTERVAL": "0.3"}) as server:
        yield server


@pytest.fixture
async def redis(redis_process: RedisProcess) -> AsyncIterator[Redis]:
    async with command_client(Address.parse(Settings(redis_url=redis_process.url, _env_file=None))) as client:
        yield client


async def subscribe(talk: Talk, **position: object) -> dict[str, Any]:
    """Subscribe, and again after a temporary error, as every SDK does: Redis has only just come back."""
    async with asyncio.timeout(180):
        answer = await talk.ask(subscribe={"channel": "c", **position})
        while answer.get("error", {}).get("temporary"):
            answer = await talk.ask(subscribe={"channel": "c", **position})
    assert "subscribe" in answer, answer
    reply: dict[str, Any] = answer["subscribe"]
    return reply


async def say(talk: Talk, *texts: str) -> None:
    for text in texts:
        assert "publish" in await talk.ask(publish={"channel": "c", "data": text})


async def told(talk: Talk) -> int:
    """The code of the unsubscribe push."""
    code: int = (await talk.push("unsubscribe"))["unsubscribe"]["code"]
    return code


async def test_redis_restored_from_an_older_file(dial: Dial, redis_process: RedisProcess, redis: Redis) -> None:
    async with dial("sara") as sara:
        first = await subscribe(sara)
        await say(sara, "1", "2")
        await redis.config_set("appendfsync", "always")
        copy = redis_process.dir / "copy"
        shutil.copytree(redis_process.dir / "appendonlydir", copy)
        await say(sara, "3", "4")
        assert [offset for offset, _ in await sara.texts(4)] == [1, 2, 3, 4]

        redis_process.kill()
        shutil.rmtree(redis_process.dir / "appendonlydir")
        copy.rename(redis_process.dir / "appendonlydir")
        redis_process.start()

        assert await told(sara) == 2500
        sara.pushes.clear()
        again = await subscribe(sara, recover=True, epoch=first["epoch"], offset=4)
        assert again["recovered"] is False and again["epoch"] != first["epoch"]
        top = again["offset"]
        assert isinstance(top, int)
        await say(sara, "5")
        assert await sara.texts(1) == [(top + 1, "5")]
        history = (await sara.ask(history={"channel": "c", "limit": 10}))["history"]
        assert [p["data"] for p in history["publications"]] == ["1", "2", "5"]


async def test_a_publish_finds_it_even_on_a_node_that_only_listened(
    dial: Dial, server: PeykServer, redis_process: RedisProcess, redis: Redis
) -> None:
    with PeykServer({"REDIS_URL": redis_process.url, "CHECK_INTERVAL": "3600"}) as listener:
        async with dial("sara", listener) as sara, dial("reza", server) as reza:
            await subscribe(sara)
            await say(reza, "1", "2", "3")
            await sara.texts(3)
            epoch = await redis.hget("channel:c", "epoch")
            server.kill()  # only the listener knows of 2 and 3 now
            await redis.delete("message:c")
            await redis.xadd("message:c", {"user": "reza", "client": "-", "data": '"1"'}, id="1-1")
            await redis.hset("channel:c", "offset", "1")
            await say(sara, "4")
            assert await redis.hget("channel:c", "epoch") != epoch
            assert await told(sara) == 2500


async def test_another_history_at_the_same_offset(dial: Dial, redis: Redis) -> None:
    async with dial("sara") as sara:
        first = await subscribe(sara)
        await say(sara, "1", "2")
        await sara.texts(2)
        async with redis.pipeline(transaction=True) as pipe:
            pipe.delete("message:c")
            for offset in (1, 2):
                pipe.xadd("message:c", {"user": "x", "client": "-", "data": '"other"'}, id=f"{offset}-77")
            await pipe.execute()
        assert await told(sara) == 2500
        again = await subscribe(sara, recover=True, epoch=first["epoch"], offset=2)
        assert again["recovered"] is False and again["offset"] == 2


async def test_a_lost_channel_is_told_as_lost_and_made_anew(dial: Dial, redis: Redis) -> None:
    async with dial("sara") as sara:
        first = await subscribe(sara)
        await say(sara, "1")
        await redis.flushall()
        assert await told(sara) == 2500
        sara.pushes.clear()
        again = await subscribe(sara, recover=True, epoch=first["epoch"], offset=1)
        assert again["recovered"] is False and again["offset"] == 0
        await say(sara, "new")
        assert await sara.texts(1) == [(1, "new")]


async def test_a_deleted_channel_is_told_as_deleted_though_the_word_was_missed(dial: Dial, redis: Redis) -> None:
    async with dial("sara") as sara:
        await subscribe(sara)
        await say(sara, "1")
        await redis.set("channel:c:deleted", 1)
        await redis.delete("channel:c", "message:c")
        assert await told(sara) == 2000


async def test_only_the_stream_is_lost(dial: Dial, redis: Redis) -> None:
    """What is gone cannot be recovered; offsets go on, and who was up to date misses nothing."""
    async with dial("sara") as sara, dial("reza") as reza:
        first = await subscribe(sara)
        await say(sara, "1", "2")
        await sara.texts(2)
        await redis.delete("message:c")
        await say(sara, "3")
        assert await sara.texts(3) == [(1, "1"), (2, "2"), (3, "3")]
        late = await subscribe(reza, recover=True, epoch=first["epoch"], offset=1)
        offsets = [publication["offset"] for publication in late.get("publications", [])]
        assert late["offset"] == 3 and offsets == ([2, 3] if late["recovered"] else [])  # if it was read just now
        assert not [push for push in sara.pushes if "unsubscribe" in push]


async def test_the_tombstone_is_left_by_deleting(dial: Dial, redis: Redis) -> None:
    async with dial("sara") as sara:
        await subscribe(sara)
        assert "rpc" in await sara.ask(rpc={"method": "channels.delete", "data": {"id": "c"}})
        assert await told(sara) == 2000
        assert 0 < await redis.ttl("channel:c:deleted") <= 3600
