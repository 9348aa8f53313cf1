"""What other services say unasked, shown in a chat channel: each once and in order, on any number of nodes."""

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from redis.asyncio import Redis

from app import AppSettings, join
from chat.node import Node
from pipeline.event import Event, event_of
from redis_config import Address, command_client
from tests.bridge.test_rpc import CHANNEL
from tests.pipeline.proxy import Proxy
from tests.services import RedisProcess, until


@pytest.fixture
async def client(bridge_settings: AppSettings) -> AsyncIterator[Redis]:
    async with command_client(Address.parse(bridge_settings)) as client:
        yield client


@asynccontextmanager
async def nodes(settings: AppSettings, count: int) -> AsyncIterator[list[Node]]:
    shown = settings.model_copy(update={"rpc_events": "services", "archive": False})
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(Node(shown, "serve", join)) for _ in range(count)]


async def say(client: Redis, action: str | None = "x", source: str = "laravel", **more: Any) -> None:
    await client.publish(CHANNEL, json.dumps({"source": source, "action": action, "requestId": None, **more}))


async def shown(node: Node) -> list[Event]:
    messages = (await node.replay.after("services", 0, 10_000, 1_000_000)).messages
    events = [event_of(message) for message in messages]
    assert all(event is not None for event in events)
    return [event for event in events if event is not None]


async def numbers(node: Node) -> list[Any]:
    return [json.loads(event.payload).get("n") for event in await shown(node)]


async def test_equal_events_are_several_and_nodes_that_hear_them_show_each_once(
    bridge_settings: AppSettings, client: Redis
) -> None:
    async with nodes(bridge_settings, 3) as (one, *_):
        for _ in range(20):
            await say(client, n=1)
        for n in range(2, 100):
            await say(client, n=n)
        expected = [1] * 20 + list(range(2, 100))
        await until(lambda: _last_is(one, 99))
        assert await numbers(one) == expected
        first = (await shown(one))[0]
        assert (first.type, first.user, first.payload) == ("x", "laravel", b'{"n":1}')


async def _last_is(node: Node, n: int) -> bool:
    return bool(await client_has(node)) and (await numbers(node))[-1:] == [n]


async def client_has(node: Node) -> bool:
    return bool(await node.redis.exists(node.keys.channel("services")))


async def test_a_node_that_comes_or_goes_takes_no_event_with_it(bridge_settings: AppSettings, client: Redis) -> None:
    async with nodes(bridge_settings, 1) as (one,):
        await say(client, n=1)
        async with nodes(bridge_settings, 1):
            await say(client, n=1)
            await say(client, n=2)
            await until(lambda: _last_is(one, 2))
        await say(client, n=2)
        await say(client, n=3)
        await until(lambda: _last_is(one, 3))
        assert await numbers(one) == [1, 1, 2, 2, 3]


async def test_a_node_that_missed_something_shows_nothing_twice(
    bridge_settings: AppSettings, valkey_process: RedisProcess, client: Redis
) -> None:
    async with Proxy(Address("127.0.0.1", valkey_process.port)) as proxy:
        through = bridge_settings.model_copy(update={"redis_url": f"redis://127.0.0.1:{proxy.address.port}"})
        async with nodes(bridge_settings, 1) as (one,), nodes(through, 1) as (two,):
            listens = _listening(client)
            count = await listens
            await say(client, n=1)
            proxy.cut(listeners_only=True)
            await say(client, n=1)  # heard by one of them
            await until(lambda: _is(client, count))
            for n in (1, 2):
                await say(client, n=n)
            await until(lambda: _last_is(two, 2))
            await until(lambda: _last_is(one, 2))
            assert await numbers(one) == [1, 1, 1, 2]


async def _listening(client: Redis) -> int:
    return int((await client.pubsub_numsub(CHANNEL))[0][1])


async def _is(client: Redis, count: int) -> bool:
    return await _listening(client) == count


async def test_what_is_shown_and_what_is_not(bridge_settings: AppSettings, client: Redis, caplog: Any) -> None:
    async with nodes(bridge_settings, 1) as (node,):
        await say(client, source="python", n=0)  # our own
        await client.publish(CHANNEL, json.dumps({"source": "laravel", "action": "sum", "requestId": "r", "n": 0}))
        await client.publish(CHANNEL, "nonsense")
        await say(client, action="ی" * 128, n=0)  # longer than an event's type
        await say(client, n="x" * (node.settings.message_limit + 1))
        await say(client, action=None, source="x" * 128, n=1)
        await say(client, action="خبر", source="سارا", n=2)
        await until(lambda: _last_is(node, 2))
        events = await shown(node)
        assert [(event.type, event.user) for event in events] == [("event", "service"), ("خبر", "سارا")]
        assert caplog.text.count("is not shown") == 2


async def test_without_the_setting_nothing_is_shown(bridge_settings: AppSettings, client: Redis) -> None:
    async with Node(bridge_settings, "serve", join) as node:
        await say(client, action="configs", theme="dark")
        caller: Any = node.parts.caller
        await until(lambda: caller.configuration == {"theme": "dark"})
        assert await node.channels.all() == []


def test_the_setting_names_a_channel() -> None:
    assert AppSettings(rpc_events="General").rpc_events == "general"
    with pytest.raises(ValueError, match="names a chat channel: a channel name has"):
        AppSettings(rpc_events="x" * 1000)
