"""What /ready says: it tries what a publish needs, and asks Redis once however many ask."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from chat.health import Health
from chat.node import Node
from chat.settings import ServerSettings
from pipeline.keys import READY
from tests.services import RedisClient, until

RETURN = 30.0


@pytest.fixture
async def node(settings: ServerSettings, redis_client: RedisClient) -> AsyncIterator[Node]:
    async with Node(settings, "serve") as node:
        yield node


async def state(node: Node, part: str) -> str:
    """A part as it is now, not as it was seen a moment ago."""
    return (await Health(node).ready()).parts.get(part, "ok")


async def test_many_who_ask_are_one_question(node: Node, redis_client: RedisClient) -> None:
    await redis_client.delete(READY)
    health = Health(node)
    answers = await asyncio.gather(*[health.ready() for _ in range(500)])
    assert all(answer is answers[0] for answer in answers) and answers[0].status == "ok"
    assert int(await redis_client.exists(READY)) == 1
    statistics = (await redis_client.info("commandstats"))["cmdstat_set"]
    assert statistics["calls"] < 500


async def test_who_asks_and_goes_does_not_end_the_question_of_the_others(node: Node) -> None:
    health = Health(node)
    first = asyncio.create_task(health.ready())
    second = asyncio.create_task(health.ready())
    await asyncio.sleep(0)
    first.cancel()
    assert (await second).status == "ok"


async def test_a_demoted_primary_is_not_ready(node: Node, redis_client: RedisClient) -> None:
    assert await state(node, "redis") == "ok"
    await redis_client.replicaof("127.0.0.1", "1")
    try:
        assert "read-only replica" in await state(node, "redis")
    finally:
        await redis_client.replicaof("NO", "ONE")
    await until(lambda: _is_ok(node), RETURN, "it is ready again, without a restart")


async def _is_ok(node: Node) -> bool:
    return (await Health(node).ready()).status == "ok"


async def test_a_redis_that_is_full_says_what_to_do(node: Node, redis_client: RedisClient) -> None:
    await redis_client.config_set("maxmemory", 1)
    try:
        assert "raise its maxmemory" in await state(node, "redis")
    finally:
        await redis_client.config_set("maxmemory", 0)
    assert await state(node, "redis") == "ok"


async def test_a_log_that_is_full_names_the_group_it_waits_for(node: Node, redis_client: RedisClient) -> None:
    node.settings.log_length = 3
    log = node.keys.log(0)
    await redis_client.xgroup_create(log, "sql", "0", mkstream=True)
    for _ in range(3):
        await redis_client.xadd(log, {"c": "- - u - 1"})
    said = await state(node, "log")
    assert "partitions [0] hold 3 batches that" in said and "sql has not taken" in said and "LOG_LENGTH" in said
    assert (await Health(node).ready()).status == "unavailable"


async def test_entries_are_as_old_as_redis_says(
    node: Node, redis_client: RedisClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Redis whose clock is an hour behind ours makes entries that look an hour old here."""
    await redis_client.xgroup_create(node.keys.log(0), "sql", "0", mkstream=True)
    await redis_client.xadd(node.keys.log(0), {"c": "- - u - 1"})
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 3600)
    assert (await Health(node).ready()).degraded["sql"] == "ok"
