"""Redis away and back, or half away: sockets stay open, publishers hear the truth, and what was missed arrives."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx2 as httpx
import pytest
from redis.asyncio import Redis

from pipeline.keys import Keys
from redis_config import Address, Settings
from tests.clients import Client
from tests.e2e.ledger import ANSWER, Ledger, history
from tests.pipeline.proxy import Proxy
from tests.services import PeykServer, RedisProcess, until

CHANNEL = "faults"
PUBLISHERS = 4  # publish at the same time
RETURN = 30.0  # seconds everything has to come back
QUICK = {"PUBLISH_TIMEOUT": "0.5", "RETRY_WINDOW": "1", "LEASE_TTL": "2"}


class Stage:
    """A Redis, a proxy before it, a server behind the proxy, and one who reads the channel."""

    def __init__(self, redis: RedisProcess, proxy: Proxy, server: PeykServer) -> None:
        self.redis, self.proxy, self.server = redis, proxy, server
        self.direct = Redis(port=redis.port, decode_responses=True)  # past the proxy
        self.http = httpx.AsyncClient(base_url=server.url, timeout=180, trust_env=False)
        self.ledger = Ledger(CHANNEL)
        self.reader: Client

    async def publish(self) -> None:
        """One message, and again until it is taken."""
        while not await self.ledger.publish(self.http):
            pass

    @asynccontextmanager
    async def flow(self) -> AsyncIterator[None]:
        """Publish without a pause meanwhile; what is under way at the end is answered."""
        flowing = True

        async def publish() -> None:
            while flowing:
                await self.ledger.publish(self.http)

        tasks = [asyncio.create_task(publish()) for _ in range(PUBLISHERS)]
        try:
            yield
        finally:
            flowing = False
            await asyncio.gather(*tasks)

    async def settle(self) -> None:
        """Nobody was lied to; what was unknown is published again with its key, and then everything is there once."""
        self.ledger.check(await history(self.direct, CHANNEL))
        await self.ledger.retry(self.http)
        self.ledger.check(await history(self.direct, CHANNEL))
        await self.level()

    async def ready(self) -> tuple[int, dict[str, str]]:
        reply = await self.http.get("/ready")
        return reply.status_code, reply.json()["parts"]

    async def green(self) -> bool:
        return (await self.ready())[0] == 200

    async def fanned_out(self) -> bool:
        """Whether the fan-out has acked everything."""
        log = Keys.log(Keys.of(Settings(_env_file=None)).partition(CHANNEL))
        (group,) = [group for group in await self.direct.xinfo_groups(log) if group["name"] == "fanout"]
        return bool(group["pending"] == 0 and group["lag"] == 0)

    async def level(self) -> None:
        """The reader has everything, in order, once, on its one connection."""
        stored = await history(self.direct, CHANNEL)
        await self.reader.reach(CHANNEL, len(stored), RETURN)
        assert self.reader.seen[CHANNEL] == stored
        assert not self.reader.ended.done() and not self.reader.unsubscribed


@asynccontextmanager
async def stage(**env: str) -> AsyncIterator[Stage]:
    with RedisProcess("redis") as redis:
        async with Proxy(Address("127.0.0.1", redis.port)) as proxy:
            url = f"redis://127.0.0.1:{proxy.address.port}/0"
            server = PeykServer({"REDIS_URL": url, "PING_INTERVAL": "600", **QUICK, **env})
            await asyncio.to_thread(server.start)
            one = Stage(redis, proxy, server)
            try:
                one.reader = await Client.open(server.port, "reader")
                await one.reader.subscribe(CHANNEL)
                yield one
            finally:
                await one.http.aclose()
                await one.direct.aclose()
                await asyncio.to_thread(server.close)


# -- Redis is away


async def _refuse(one: Stage) -> None:
    one.proxy.refuse = True
    one.proxy.cut()


async def _allow(one: Stage) -> None:
    one.proxy.refuse = False


FAULTS: dict[str, tuple[Callable[[Stage], Awaitable[Any]], Callable[[Stage], Awaitable[Any]]]] = {
    "restarted": (lambda one: asyncio.to_thread(one.redis.stop), lambda one: asyncio.to_thread(one.redis.start)),
    "killed": (lambda one: asyncio.to_thread(one.redis.kill), lambda one: asyncio.to_thread(one.redis.start)),
    "paused": (lambda one: asyncio.to_thread(one.redis.pause), lambda one: asyncio.to_thread(one.redis.resume)),
    "refused": (_refuse, _allow),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_redis_away_and_back(fault: str) -> None:
    """Away for longer than RETRY_WINDOW while messages flow: nobody is lied to, and the rest is repaired."""
    begin, end = FAULTS[fault]
    async with stage() as one:
        ledger = one.ledger
        async with one.flow():
            await until(lambda: len(ledger.taken) > 20)
            await begin(one)
            before = len(ledger.refused)
            # Unknown first, then refused twice, each after PUBLISH_TIMEOUT: together more than RETRY_WINDOW.
            await until(lambda: len(ledger.refused) >= before + 2 * PUBLISHERS, RETURN, "publishers are told")
            reply = await asyncio.wait_for(one.reader.publish("other", "by socket"), ANSWER)
            assert reply["error"]["temporary"] is True
            status, parts = await one.ready()
            assert status == 503 and parts["redis"] != "ok"
            taken = len(ledger.taken)
            await end(one)
            await until(lambda: len(ledger.taken) > taken + PUBLISHERS, RETURN, "messages flow again")
        await one.settle()
        await until(one.fanned_out, RETURN, "the fan-out goes on")
        await until(one.green, RETURN, "/ready is green again")


async def test_connections_are_cut_while_messages_flow() -> None:
    async with stage() as one:
        async with one.flow():
            for turn in range(5):
                await until(lambda more=20 * (turn + 1): len(one.ledger.taken) > more, RETURN)  # type: ignore[misc]
                for kind in ("normal", "pubsub"):
                    await one.direct.client_kill_filter(_type=kind, skipme=True)
            await until(lambda: len(one.ledger.taken) > 120, RETURN)
        await one.settle()
        await until(one.fanned_out, RETURN, "the fan-out goes on")


# -- Pub/Sub is away


async def test_the_last_message_arrives_though_pubsub_was_lost_with_it() -> None:
    """Published and fanned out while the node listens to nobody, and nothing after it; only the return repairs."""
    async with stage(CHECK_INTERVAL="600") as one:
        await one.publish()
        await one.level()
        one.proxy.refuse = True
        one.proxy.cut(listeners_only=True)
        await one.publish()
        await until(one.fanned_out)
        assert one.reader.offsets(CHANNEL) == [1]
        one.proxy.refuse = False
        await one.level()


async def test_a_deaf_node_finds_the_last_message_by_itself_and_says_it_is_deaf() -> None:
    """Its Pub/Sub connection stands and gives nothing: the comparison of positions finds what it did not hear."""
    async with stage(CHECK_INTERVAL="0.5") as one:
        await one.publish()
        await one.level()
        one.proxy.deafen = True
        await one.publish()
        await one.level()
        assert one.proxy.deafened > 0
        status, parts = await one.ready()
        assert status == 503
        assert (parts["redis"], parts["fanout"]) == ("ok", "ok") and "did not come back" in parts["pubsub"]
        reply = await asyncio.wait_for(one.reader.ask(subscribe={"channel": "new"}), RETURN)
        assert reply["error"]["temporary"] is True
        one.proxy.deafen = False
        await until(one.green, RETURN)
        assert "subscribe" in await one.reader.ask(subscribe={"channel": "new"})


# -- the fan-out stands still


async def test_a_fanout_that_stands_still_is_seen_and_its_messages_arrive_all_the_same() -> None:
    """A stranger holds the lease: nobody publishes what is in the log. The comparison of positions shows it."""
    async with stage(CHECK_INTERVAL="0.5") as one:
        await one.publish()
        await one.level()
        await until(one.fanned_out)
        lease = Keys.lease("fanout", Keys.of(Settings(_env_file=None)).partition(CHANNEL))
        await one.direct.set(lease, "stranger")

        async def red() -> bool:
            if await one.fanned_out():  # by the node, until it notices that the lease is lost
                await one.publish()
            status, parts = await one.ready()
            return status == 503 and "messages wait" in parts["fanout"]

        await until(red, RETURN, "/ready names the fan-out")
        assert not await one.fanned_out()
        await one.level()
        await one.direct.delete(lease)
        await until(one.green, RETURN)
        await until(one.fanned_out)
        await one.publish()
        await one.level()
