"""Calls over a real Redis: answered once, in time, and by whoever knows the action."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
from redis.asyncio import Redis

from app import AppSettings, join
from bridge.lane import Lane
from bridge.rpc import Rpc
from chat.errors import BadRequest, CallFailed, TooLarge, TooManyRequests
from chat.node import Node
from pipeline.consumer import Away
from redis_config import Address, command_client
from tests.pipeline.proxy import Proxy
from tests.services import RedisProcess, until

CHANNEL = "laravel_database_general"
SENDER = CHANNEL + "_sender"


@pytest.fixture
async def client(bridge_settings: AppSettings) -> AsyncIterator[Redis]:
    async with command_client(Address.parse(bridge_settings)) as client:
        yield client


@asynccontextmanager
async def caller(settings: AppSettings, address: Address | None = None, **actions: Any) -> AsyncIterator[Rpc]:
    """A node whose actions are the functions named."""
    rpc = Rpc(address or Address.parse(settings), settings)
    for name, function in actions.items():
        rpc.action(name)(function)
    async with rpc:
        yield rpc


class Neighbour:
    """Another service, by hand: hears what is said on a channel, says what it likes."""

    def __init__(self, client: Redis, pubsub: Any) -> None:
        self._client, self._pubsub = client, pubsub

    async def next(self) -> dict[str, Any]:
        async with asyncio.timeout(180):
            while True:
                message = await self._pubsub.get_message(ignore_subscribe_messages=True, timeout=1)
                if message is not None:
                    body: dict[str, Any] = json.loads(message["data"])
                    return body

    async def say(self, channel: str = CHANNEL, **body: Any) -> None:
        await self._client.publish(channel, json.dumps(body))


@asynccontextmanager
async def neighbour(client: Redis, channel: str) -> AsyncIterator[Neighbour]:
    async with client.pubsub() as pubsub:
        await pubsub.subscribe(channel)
        assert await pubsub.get_message(timeout=180)
        yield Neighbour(client, pubsub)


async def add(data: Any) -> object:
    return {"total": sum(data)}


async def test_a_call_is_answered_by_another_service(bridge_settings: AppSettings, client: Redis) -> None:
    async with caller(bridge_settings) as rpc, neighbour(client, SENDER) as laravel:
        call = asyncio.create_task(rpc.call("configs", {"a": 1}))
        request = await laravel.next()
        assert {**request, "requestId": ""} == {
            "action": "configs",
            "data": {"a": 1},
            "requestId": "",
            "source": "python",
        }
        await laravel.say(source="laravel", action="configs", requestId=request["requestId"], theme="dark")
        assert await call == {"theme": "dark"}
        assert rpc.configuration == {"theme": "dark"}
        assert not rpc._pending and not any(rpc.counts.values())


async def test_a_request_is_answered_as_section_8_says(bridge_settings: AppSettings, client: Redis) -> None:
    async with caller(bridge_settings, sum=add), neighbour(client, CHANNEL) as node:
        await node.say(SENDER, action="sum", data=[1, 2], requestId="r1", source="nodejs")
        assert await node.next() == {"source": "python", "action": "sum", "requestId": "r1", "total": 3}


async def test_a_request_on_another_channel_is_answered_on_that_channel(
    bridge_settings: AppSettings, client: Redis
) -> None:
    async with caller(bridge_settings, sum=add), neighbour(client, "orders") as node:
        await node.say("orders_sender", action="sum", data=[4], requestId="r1", source="nodejs")
        assert (await node.next())["total"] == 4


async def test_chat_channels_and_control_are_never_taken_for_requests(
    bridge_settings: AppSettings, client: Redis
) -> None:
    async with caller(bridge_settings, sum=add) as rpc, neighbour(client, CHANNEL) as node:
        async with neighbour(client, "control") as control, neighbour(client, "channel:news") as news:
            for name in ("channel:news_sender", "control_sender"):
                await node.say(name, action="sum", data=[1], requestId=name, source="nodejs")
            await node.say(SENDER, action="sum", data=[1], requestId="r1", source="nodejs")
            await node.next()
            for other in (control, news):
                await client.publish("control", '"end"')
                await client.publish("channel:news", '"end"')
                assert await other.next() == "end"  # type: ignore[comparison-overlap]
        assert rpc.counts["malformed"] == 0


async def test_an_action_nobody_knows_is_left_to_others(bridge_settings: AppSettings, client: Redis) -> None:
    async with caller(bridge_settings, sum=add), neighbour(client, CHANNEL) as node:
        await node.say(SENDER, action="orders", data=None, requestId="r1", source="nodejs")
        await node.say(SENDER, action="sum", data=[1], requestId="r2", source="nodejs")
        assert (await node.next())["requestId"] == "r2"


async def test_of_two_nodes_one_acts(bridge_settings: AppSettings, client: Redis) -> None:
    acted: list[int] = []

    async def act(data: Any) -> object:
        acted.append(data)
        return data

    async with caller(bridge_settings, act=act) as one, caller(bridge_settings, act=act) as two:
        answers = await asyncio.gather(*[one.call("act", i) for i in range(200)], two.call("act", 200))
        assert [answer["result"] for answer in answers] == list(range(201))
        assert sorted(acted) == list(range(201))
        assert (
            one.counts["duplicate"] == 0 and 0 < await client.pttl("rpc:" + next(iter(one._pending._ended))) <= 60_000
        )


async def test_a_request_repeated_is_acted_on_once(bridge_settings: AppSettings, client: Redis) -> None:
    async with caller(bridge_settings, sum=add), neighbour(client, CHANNEL) as node:
        for _ in range(5):
            await node.say(SENDER, action="sum", data=[1], requestId="r1", source="nodejs")
        await node.say(SENDER, action="sum", data=[1], requestId="r2", source="nodejs")
        assert [(await node.next())["requestId"] for _ in range(2)] == ["r1", "r2"]


async def test_who_sends_waits_for_nothing_and_every_node_hears(bridge_settings: AppSettings, client: Redis) -> None:
    heard: list[Any] = []

    async def seen(data: Any) -> object:
        heard.append(data)
        return "nobody asked"

    both = caller(bridge_settings, seen=seen), caller(bridge_settings, seen=seen)
    async with both[0] as one, both[1], neighbour(client, CHANNEL) as node:
        await one.send("seen", {"user": "sara"})
        await until(lambda: heard == [{"user": "sara"}] * 2)
        await node.say(SENDER, action="seen", data=1, requestId="r1", source="nodejs")
        assert (await node.next())["requestId"] == "r1"


async def test_what_another_service_says_unasked_is_an_event(bridge_settings: AppSettings, client: Redis) -> None:
    heard: list[Any] = []
    rpc = Rpc(Address.parse(bridge_settings), bridge_settings)

    @rpc.on_event
    async def on_event(message: dict[str, Any]) -> None:
        heard.append(message)

    plain: list[Any] = []
    rpc.on_event(plain.append)
    async with rpc, neighbour(client, CHANNEL) as laravel:
        await laravel.say(source="python", action="own", n=1)
        await laravel.say(source="laravel", action="configs", requestId=None, theme="dark")
        await laravel.say(source="nodejs", action="moved", x=1)
        await until(lambda: len(heard) == len(plain) == 2)
        assert plain == heard
        assert [message["action"] for message in heard] == ["configs", "moved"] and heard[1]["x"] == 1
        assert rpc.configuration == {"theme": "dark"}


async def test_our_configs_are_answered_unless_they_are_left_to_others(
    bridge_settings: AppSettings, client: Redis
) -> None:
    address = Address.parse(bridge_settings)
    async with Rpc(address, bridge_settings, {"configs": {"version": "peyk"}}) as rpc:
        assert await rpc.call("configs") == {"version": "peyk"}
        assert rpc.configuration == {}  # our own
    silent = bridge_settings.model_copy(update={"rpc_answers": "orders.*, sum"})
    async with Rpc(address, silent, {"configs": {"version": "peyk"}}) as rpc:
        with pytest.raises(TimeoutError, match=r"nobody answered configs within 0\.2 s"):
            await rpc.call("configs", timeout=0.2)


async def test_configs_are_answered_only_where_nobody_else_does(bridge_settings: AppSettings, client: Redis) -> None:
    both = neighbour(client, CHANNEL), neighbour(client, "shop")
    async with (
        Rpc(Address.parse(bridge_settings), bridge_settings, {"configs": {"version": "peyk"}}),
        both[0] as node,
        both[1] as shop,
    ):
        await node.say(SENDER, action="configs", requestId="r1", source="nodejs")
        await node.say(source="laravel", action="configs", requestId="r1", theme="dark")
        await node.say(SENDER, action="configs", requestId="r2", source="nodejs")
        await node.say("shop_sender", action="configs", requestId="r3", source="nodejs")  # another application's
        assert await node.next() == {"source": "laravel", "action": "configs", "requestId": "r1", "theme": "dark"}
        assert await node.next() == {"source": "python", "action": "configs", "requestId": "r2", "version": "peyk"}
        await shop.say("shop", end=True)
        assert await shop.next() == {"end": True}


async def test_who_names_no_action_is_answered_by_us_where_nobody_else_does(
    bridge_settings: AppSettings, client: Redis
) -> None:
    async with Node(bridge_settings, "serve", join), neighbour(client, CHANNEL) as node:
        await node.say(SENDER, data=None, requestId="r1", source="nodejs")
        await node.say(source="laravel", action="subscribed", requestId="r1", here=True)
        await node.say(SENDER, action="subscribed", requestId="r2", source="nodejs")
        assert (await node.next())["source"] == "laravel"
        answer = await node.next()
        assert answer == {**answer, "source": "python", "action": "subscribed", "requestId": "r2", "subscribed": True}
        assert answer["version"]


async def test_an_action_of_ones_own_takes_the_place_of_a_fallback(bridge_settings: AppSettings) -> None:
    rpc = Rpc(Address.parse(bridge_settings), bridge_settings, {"configs": {"version": "peyk"}})

    @rpc.action("configs")
    def configs(data: Any) -> object:
        return {"mine": data}

    async with rpc:
        assert await rpc.call("configs", 1) == {"mine": 1}


async def test_what_is_late_forged_doubled_or_malformed_is_counted_and_changes_nothing(
    bridge_settings: AppSettings, client: Redis
) -> None:
    async with caller(bridge_settings) as rpc, neighbour(client, SENDER) as other:
        with pytest.raises(TimeoutError):
            await rpc.call("slow", timeout=0.5)
        late = (await other.next())["requestId"]
        call = asyncio.create_task(rpc.call("sum"))
        request = (await other.next())["requestId"]
        await other.say(source="laravel", action="slow", requestId=late, total=0)
        await other.say(source="laravel", action="sum", requestId="guess", total=1)
        await other.say(source="laravel", action="other", requestId=request, total=2)
        await client.publish(CHANNEL, "nonsense")
        await client.publish(CHANNEL, json.dumps({"requestId": [request], "action": "sum"}))
        await client.publish(CHANNEL, json.dumps({"requestId": request, "action": "sum", "x": "y" * 300_000}))
        await other.say(source="laravel", action="sum", requestId=request, total=3)
        await other.say(source="laravel", action="sum", requestId=request, total=4)
        assert await call == {"total": 3}
        await other.say(source="laravel", action="sum", requestId=request, total=5)
        await until(lambda: sum(rpc.counts.values()) == 8)
        assert rpc.counts == {"late": 1, "duplicate": 2, "stray": 1, "forged": 1, "malformed": 3, "busy": 0}
        assert {name: value for name, (_, value) in rpc.measures().items() if value} == {
            "rpc_late_total": 1,
            "rpc_duplicate_total": 2,
            "rpc_stray_total": 1,
            "rpc_forged_total": 1,
            "rpc_malformed_total": 3,
        }
        assert not rpc._pending


async def test_an_action_that_fails_says_so(bridge_settings: AppSettings, client: Redis, caplog: Any) -> None:
    async def refuse(data: Any) -> object:
        raise BadRequest("give a number")

    async def crash(data: Any) -> object:
        raise RuntimeError("secret")

    async def odd(data: Any) -> object:
        return object()

    async def large(data: Any) -> object:
        return "x" * 300_000

    async with caller(bridge_settings, refuse=refuse, crash=crash, odd=odd, large=large) as rpc:
        async with neighbour(client, CHANNEL) as node:
            await node.say(SENDER, action="refuse", requestId="r1", source="nodejs")
            assert (await node.next())["error"] == {"code": 107, "message": "give a number"}
        for name, text in (
            ("refuse", "refuse: give a number"),
            ("crash", "crash: crash failed; the log of its service says more"),
            ("odd", "odd: odd failed"),
            ("large", "large: a call or its answer has at most 262144 bytes"),
        ):
            with pytest.raises(CallFailed) as caught:
                await rpc.call(name)
            assert str(caught.value).startswith(text)
    assert "secret" in caplog.text


async def test_a_slow_action_holds_up_only_itself(bridge_settings: AppSettings, client: Redis) -> None:
    gate = asyncio.Event()

    async def slow(data: Any) -> object:
        await gate.wait()
        return data

    settings = bridge_settings.model_copy(update={"rpc_at_once": 3, "rpc_pending": 2})
    async with caller(settings, slow=slow, sum=add) as rpc, neighbour(client, CHANNEL) as node:
        for i in range(7):
            await node.say(SENDER, action="slow", data=i, requestId=f"r{i}", source="nodejs")
        await until(lambda: rpc.counts["busy"] == 2)
        await node.say(SENDER, action="sum", data=[1, 1], requestId="sum", source="nodejs")
        assert (await node.next())["total"] == 2
        gate.set()
        assert sorted([(await node.next())["result"] for _ in range(5)]) == [0, 1, 2, 3, 4]


async def test_who_waits_in_line_too_long_is_not_begun(bridge_settings: AppSettings) -> None:
    done: list[int] = []
    lane = Lane("a test", 1, 5, patience=0.05, limit=2)

    async def work(i: int) -> None:
        done.append(i)
        await asyncio.Event().wait()

    for i in range(3):
        lane.do(partial(work, i))
    await until(lambda: lane.left == 2)
    assert done == [0]
    lane.do(partial(work, 3))
    await until(lambda: lane.left == 3)
    await until(lambda: not lane._tasks, what="the work that hangs is given up")
    lane.do(partial(work, 4))
    await until(lambda: done == [0, 4])
    await lane.close()


async def test_the_calls_that_wait_are_bounded_and_always_end(bridge_settings: AppSettings, client: Redis) -> None:
    settings = bridge_settings.model_copy(update={"rpc_pending": 100})
    async with caller(settings) as rpc:
        calls = [asyncio.create_task(rpc.call("nothing", timeout=1)) for _ in range(100)]
        await until(lambda: len(rpc._pending) == 100)
        with pytest.raises(TooManyRequests):
            await rpc.call("nothing")
        calls[0].cancel()
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(result) for result in results} == {asyncio.CancelledError, TimeoutError}
        assert not rpc._pending and len(rpc._pending._ended) == 100
        with pytest.raises(TooLarge):
            await rpc.call("x", "y" * 300_000)
        for _ in range(20):
            await asyncio.gather(*[rpc.call("x", "y" * 300_000) for _ in range(100)], return_exceptions=True)
        assert len(rpc._pending._ended) == 1024 and not rpc._pending


async def test_a_lost_connection_is_heard_of_at_once_and_comes_back(
    bridge_settings: AppSettings, valkey_process: RedisProcess, client: Redis
) -> None:
    proxy = Proxy(Address("127.0.0.1", valkey_process.port))
    async with proxy, caller(bridge_settings, proxy.address) as rpc, neighbour(client, SENDER) as other:
        call = asyncio.create_task(rpc.call("sum", timeout=60))
        await other.next()
        proxy.cut(listeners_only=True)
        with pytest.raises(Away, match="Pub/Sub was lost"):
            await call
        call = asyncio.create_task(rpc.call("sum", timeout=60))  # waits for the connection
        request = (await other.next())["requestId"]
        await other.say(source="laravel", action="sum", requestId=request, total=1)
        assert await call == {"total": 1}


async def test_a_connection_that_fell_silent_is_replaced(
    bridge_settings: AppSettings, valkey_process: RedisProcess, client: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bridge.rpc._CHECK", 0.05)
    monkeypatch.setattr("pipeline.listener._PATIENCE", 1.0)
    proxy = Proxy(Address("127.0.0.1", valkey_process.port))
    async with proxy, caller(bridge_settings, proxy.address, sum=add) as rpc:
        proxy.deafen = True
        await until(lambda: not rpc._ready.is_set())
        proxy.deafen = False
        await until(rpc._ready.is_set)
        assert await rpc.call("sum", [1]) == {"total": 1}


async def test_while_redis_is_away_a_call_says_so_in_time(bridge_settings: AppSettings) -> None:
    with RedisProcess("valkey") as process:
        async with caller(bridge_settings, Address(port=process.port)) as rpc:
            process.kill()
            await until(lambda: not rpc._ready.is_set())
            with pytest.raises(Away, match="Redis is away; sum was not called"):
                await rpc.call("sum", timeout=0.3)
            with pytest.raises(Away):
                await rpc.send("sum")
            assert not rpc._pending
            process.start()
            await until(rpc._ready.is_set)
            with pytest.raises(TimeoutError, match="nobody answered"):
                await rpc.call("sum", timeout=0.1)


@pytest.mark.parametrize("notices", ["a request", "a message"])
async def test_a_primary_that_moved_without_a_word_is_followed(bridge_settings: AppSettings, notices: str) -> None:
    """The old one keeps its connections: only what it refuses to write tells."""
    with RedisProcess("valkey") as old, RedisProcess("valkey") as new:
        async with Proxy(Address("127.0.0.1", old.port)) as proxy:
            settings = bridge_settings.model_copy(update={"redis_url": f"redis://127.0.0.1:{proxy.address.port}"})
            async with Node(settings, "serve", join) as node, command_client(Address(port=old.port)) as before:
                async with neighbour(before, CHANNEL) as there:
                    await there.say(SENDER, action="configs", requestId="r", source="nodejs")
                    await there.next()
                await before.replicaof("127.0.0.1", 1)
                proxy.target = Address("127.0.0.1", new.port)
                if notices == "a message":
                    publishing = asyncio.create_task(node.producer.publish("c", b'{"text":"hi"}', user="sara"))
                    await asyncio.wait([publishing])
                else:
                    async with neighbour(before, CHANNEL) as there:
                        await there.say(SENDER, action="configs", requestId="r0", source="nodejs")
                async with command_client(Address(port=new.port)) as after, neighbour(after, CHANNEL) as here:
                    await until(lambda: _is_heard(after, CHANNEL, 2), what="it listens there")
                    await here.say(SENDER, action="configs", requestId="r1", source="nodejs")
                    assert (await here.next())["requestId"] == "r1"


async def _is_heard(client: Redis, channel: str, count: int) -> bool:
    return int((await client.pubsub_numsub(channel))[0][1]) == count


async def test_a_node_that_stops_ends_its_calls(bridge_settings: AppSettings) -> None:
    async with caller(bridge_settings) as rpc:
        call = asyncio.create_task(rpc.call("sum", timeout=60))
        await until(lambda: rpc._pending)
    with pytest.raises(Away, match="stopping"):
        await call


@pytest.mark.parametrize("name, value", [("rpc_channel", "general_sender"), ("rpc_listen", "*")])
def test_names_that_cannot_be(name: str, value: str) -> None:
    with pytest.raises(ValueError, match=r"name the channel of the replies: general|must end with _sender"):
        AppSettings(**{name: value})  # type: ignore[arg-type]


def test_the_channel_may_be_named_as_in_the_specification(monkeypatch: pytest.MonkeyPatch) -> None:
    assert AppSettings().rpc_channel == CHANNEL
    monkeypatch.setenv("LARAVEL_REDIS_CHANNEL", "shop")
    assert AppSettings().rpc_channel == "shop"
    monkeypatch.setenv("RPC_CHANNEL", "peyk")
    assert AppSettings().rpc_channel == "peyk"


async def test_only_servers_call_and_answer(bridge_settings: AppSettings) -> None:
    """`status` and the workers come and go, or have no door: a request they claimed might go unanswered."""
    for kind, joined in (("tool", False), ("pipeline", False), ("serve", True)):
        async with Node(bridge_settings, kind, join) as node:
            assert (node.parts.caller is not None) is joined, kind
