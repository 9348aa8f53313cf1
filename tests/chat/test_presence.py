"""Presence: who is here on every node, told to those who ask; a node that dies takes its clients with it, each once."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator

import pytest
from redis.asyncio import Redis
from websockets.asyncio.client import connect

from redis_config import Address, Settings, command_client
from tests.chat.conftest import Dial, Talk
from tests.services import PeykServer, RedisProcess, until

QUICK = {"LEASE_TTL": "0.8", "PRESENCE_TTL": "3", "JOIN_LEAVE_LIMIT": "3"}


@pytest.fixture(scope="module")
def nodes(redis_of_module: RedisProcess) -> Iterator[list[PeykServer]]:
    with contextlib.ExitStack() as stack:
        env = {"REDIS_URL": redis_of_module.url, **QUICK}
        yield [stack.enter_context(PeykServer(env)) for _ in range(2)]


@pytest.fixture
async def redis(redis_of_module: RedisProcess) -> AsyncIterator[Redis]:
    async with command_client(Address.parse(Settings(redis_url=redis_of_module.url, _env_file=None))) as client:
        yield client


async def join(talk: Talk, channel: str, *, join_leave: bool = True) -> None:
    assert "subscribe" in await talk.ask(subscribe={"channel": channel, "join_leave": join_leave})


async def users(talk: Talk, channel: str) -> list[str]:
    presence = (await talk.ask(presence={"channel": channel}))["presence"]["presence"]
    assert all(info["client"] == client for client, info in presence.items())
    return sorted(info["user"] for info in presence.values())


async def present(talk: Talk, channel: str, expected: list[str]) -> None:
    async def so() -> bool:
        return await users(talk, channel) == expected

    await until(so, what=f"{expected} are in {channel}")


def heard(talk: Talk, what: str) -> list[str]:
    """Who joined, or left, as this client was told."""
    return [push[what]["info"]["user"] for push in talk.pushes if what in push]


async def hears(talk: Talk, what: str, expected: list[str]) -> None:
    async with asyncio.timeout(180):
        while len(heard(talk, what)) < len(expected):
            await talk.read()
    assert sorted(heard(talk, what)) == expected


async def test_everybody_on_every_node_is_listed_and_told(dial: Dial, nodes: list[PeykServer]) -> None:
    async with dial("sara", nodes[0]) as sara, dial("deaf", nodes[0]) as deaf:
        await join(sara, "here")
        await join(deaf, "here", join_leave=False)
        async with dial("reza", nodes[1]) as reza:
            await join(reza, "here")
            await present(sara, "here", ["deaf", "reza", "sara"])
            await present(reza, "here", ["deaf", "reza", "sara"])
            stats = await reza.ask(presence_stats={"channel": "here"})
            assert stats["presence_stats"] == {"num_clients": 3, "num_users": 3}
            await hears(sara, "join", ["deaf", "reza", "sara"])
        await hears(sara, "leave", ["reza"])
        await deaf.ask(unsubscribe={"channel": "here"})
        await hears(sara, "leave", ["deaf", "reza"])
        await deaf.ask(ping={})
        assert heard(deaf, "join") == heard(deaf, "leave") == []
        assert await users(sara, "here") == ["sara"]


async def test_one_user_twice_is_two_clients(dial: Dial, nodes: list[PeykServer]) -> None:
    async with dial("sara", nodes[0]) as one, dial("sara", nodes[1]) as two:
        await join(one, "tabs")
        await join(two, "tabs")
        await present(one, "tabs", ["sara", "sara"])
        stats = await one.ask(presence_stats={"channel": "tabs"})
        assert stats["presence_stats"] == {"num_clients": 2, "num_users": 1}


async def test_asking_for_what_is_not_there(dial: Dial) -> None:
    async with dial("sara") as talk:
        assert await users(talk, "never") == []  # whoever comes makes it
        assert (await talk.fail(presence_stats={"channel": "a b"}))[0] == 107


async def test_a_full_channel_tells_nobody_and_still_lists(dial: Dial, nodes: list[PeykServer]) -> None:
    async with contextlib.AsyncExitStack() as stack:
        talks = [await stack.enter_async_context(dial(f"u{i}", nodes[0])) for i in range(5)]
        elsewhere = await stack.enter_async_context(dial("elsewhere", nodes[1]))
        for i, talk in enumerate(talks):
            await join(talk, "full")
            await present(elsewhere, "full", [f"u{k}" for k in range(i + 1)])
        await talks[0].ask(ping={})
        assert heard(talks[0], "join") == ["u0", "u1", "u2"]


async def test_a_killed_nodes_clients_leave_each_once(
    dial: Dial, nodes: list[PeykServer], redis_of_module: RedisProcess
) -> None:
    with PeykServer({"REDIS_URL": redis_of_module.url, **QUICK}) as doomed:
        async with dial("sara", nodes[0]) as sara, contextlib.AsyncExitStack() as stack:
            await join(sara, "crash")
            for name in ("reza", "mina"):
                talk = Talk(await stack.enter_async_context(connect(doomed.ws_url, proxy=None)))
                await talk.ask(connect={"data": {"user": name}})
                await join(talk, "crash")
            await present(sara, "crash", ["mina", "reza", "sara"])
            doomed.kill()
            await hears(sara, "leave", ["mina", "reza"])
            assert await users(sara, "crash") == ["sara"]


async def test_a_node_that_stops_takes_its_clients_out_at_once(
    dial: Dial, nodes: list[PeykServer], redis_of_module: RedisProcess
) -> None:
    with PeykServer({"REDIS_URL": redis_of_module.url, **QUICK, "PRESENCE_TTL": "3600"}) as other:
        async with dial("sara", nodes[0]) as sara, dial("reza", other) as reza:
            await join(sara, "drain")
            await join(reza, "drain")
            await present(sara, "drain", ["reza", "sara"])
            await asyncio.to_thread(other.stop)
            await hears(sara, "leave", ["reza"])


async def test_a_node_taken_for_dead_by_mistake_puts_it_right(
    dial: Dial, nodes: list[PeykServer], redis_of_module: RedisProcess
) -> None:
    with PeykServer({"REDIS_URL": redis_of_module.url, **QUICK}) as paused:
        async with dial("sara", nodes[0]) as sara, dial("reza", paused) as reza:
            await join(sara, "pause")
            await join(reza, "pause")
            await hears(sara, "join", ["reza", "sara"])
            paused.pause()
            try:
                await hears(sara, "leave", ["reza"])
            finally:
                paused.resume()
            await hears(sara, "join", ["reza", "reza", "sara"])
            await present(sara, "pause", ["reza", "sara"])


async def test_presence_lost_or_older_in_redis_is_put_right(dial: Dial, nodes: list[PeykServer], redis: Redis) -> None:
    async with dial("sara", nodes[0]) as sara, dial("reza", nodes[1]) as reza:
        await join(sara, "older")
        await join(reza, "older")
        await present(sara, "older", ["reza", "sara"])

        async def told() -> bool:
            return bool(await redis.hlen("presence:older") == 2)

        await until(told)
        value, *_ = (await redis.hgetall("presence:older")).values()
        node = str(value).split(" ")[0]
        await redis.hset("presence:older", "ghost", f'{node} {{"user":"ghost","client":"ghost"}}')
        for client, value in (await redis.hgetall("presence:older")).items():
            if "ghost" not in str(value):
                await redis.hdel("presence:older", client)
        await redis.delete("nodes")
        await present(sara, "older", ["reza", "sara"])
