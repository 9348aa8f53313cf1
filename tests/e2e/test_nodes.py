"""Several nodes on one Redis: clients spread over them see the same, whichever node dies, sleeps or leaves."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import httpx2 as httpx
from redis.asyncio import Redis

from pipeline.keys import Keys
from pipeline.lease import NODES_CHANGED
from redis_config import Settings
from tests.clients import ABNORMAL, Client
from tests.e2e.ledger import Ledger, history
from tests.services import PeykServer, RedisClient, RedisProcess, until

KEYS = Keys.of(Settings(_env_file=None))
CHANNELS = [next(f"c{i}" for i in range(1000) if KEYS.partition(f"c{i}") == p) for p in range(KEYS.partitions)]
"""One channel in each partition."""
RETURN = 30.0  # seconds everything has to come back
DEAF = {"CHECK_INTERVAL": "600", "PING_INTERVAL": "600"}  # only the fan-out can show a message


class Cluster:
    """Servers on one Redis, and what was published through them."""

    def __init__(self, redis: RedisProcess, servers: Sequence[PeykServer]) -> None:
        self.servers = servers
        self.direct: RedisClient = Redis(port=redis.port, decode_responses=True)
        self.https = [httpx.AsyncClient(base_url=s.url, timeout=180, trust_env=False) for s in servers]
        self.ledgers = [Ledger(channel) for channel in CHANNELS]
        self.names: list[str] = []

    async def start(self) -> None:
        """One after the other, so that we know each by its name; then they share the partitions."""
        for server in self.servers:
            await asyncio.to_thread(server.start)
            names: list[str] = await self.direct.zrange("nodes", 0, -1)
            self.names += [name for name in names if name not in self.names]
            await self.direct.publish(
                Keys.of(Settings(_env_file=None)).control, NODES_CHANGED
            )  # share now, not at the next renewal
        assert len(self.names) == len(self.servers)
        await until(lambda: self.shared_by(*self.names), RETURN, "an even share for everybody")

    async def owners(self) -> list[str | None]:
        """Who plays each partition of the fan-out."""
        return list(await self.direct.mget([KEYS.lease("fanout", p) for p in range(KEYS.partitions)]))

    async def shared_by(self, *names: str) -> bool:
        return set(await self.owners()) == set(names)

    async def reader(self, server: PeykServer, before: Client | None = None) -> Client:
        """A client that follows every channel, perhaps from where an earlier one stopped."""
        client = await Client.open(server.port, "reader", before)
        await client.subscribe(*CHANNELS)
        return client

    async def publish(self, node: int) -> None:
        """One message to every channel."""
        assert all(await asyncio.gather(*[ledger.publish(self.https[node]) for ledger in self.ledgers]))

    @asynccontextmanager
    async def flow(self, *nodes: int) -> AsyncIterator[None]:
        """Meanwhile publish to every channel without a pause, through nodes in turn; one that is gone is left out."""
        flowing, gone = True, set[int]()

        async def publish(ledger: Ledger, node: int) -> None:
            while flowing:
                http = self.https[nodes[-1] if node in gone else node]
                if not await ledger.publish(http):
                    gone.add(node)

        tasks = [asyncio.create_task(publish(each, nodes[i % len(nodes)])) for i, each in enumerate(self.ledgers)]
        try:
            yield
        finally:
            flowing = False
            await asyncio.gather(*tasks)

    async def more(self, count: int) -> None:
        """Every channel's publishers heard `count` more times that their message is in the stream."""
        marks = [len(ledger.taken) + count for ledger in self.ledgers]
        await until(lambda: all(len(x.taken) >= n for x, n in zip(self.ledgers, marks, strict=True)), RETURN)

    async def settle(self, node: int, *readers: Client) -> None:
        """Nobody was lied to, nothing unknown remains, and each reader saw each channel whole, in order, once."""
        for ledger in self.ledgers:
            ledger.check(await history(self.direct, ledger.channel))
            await ledger.retry(self.https[node])
            stored = await history(self.direct, ledger.channel)
            ledger.check(stored)
            for reader in readers:
                await reader.reach(ledger.channel, len(stored), RETURN)
                assert reader.seen[ledger.channel] == stored, ledger.channel
        assert not any(reader.ended.done() or reader.unsubscribed for reader in readers)


@asynccontextmanager
async def cluster(count: int, **env: str) -> AsyncIterator[Cluster]:
    with RedisProcess("redis") as redis:
        async with AsyncExitStack() as stack:
            servers = [PeykServer({"REDIS_URL": redis.url, **DEAF, **env}) for _ in range(count)]
            for server in servers:
                stack.push_async_callback(asyncio.to_thread, server.close)
            one = Cluster(redis, servers)
            for http in one.https:
                stack.push_async_callback(http.aclose)
            stack.push_async_callback(one.direct.aclose)
            await one.start()
            yield one


async def test_clients_of_three_nodes_see_the_same() -> None:
    async with cluster(3) as nodes:
        readers = [await nodes.reader(server) for server in nodes.servers for _ in range(3)]
        async with nodes.flow(0, 1, 2):
            await nodes.more(30)
        await nodes.settle(0, *readers)


async def test_a_killed_node_is_replaced_and_its_clients_lose_nothing() -> None:
    """With the lease of every day. Clients of the dead one go to another; those of the other notice nothing."""
    async with cluster(2) as nodes:
        dead, alive = [await nodes.reader(server) for server in nodes.servers]
        async with nodes.flow(0, 1):
            await nodes.more(20)
            nodes.servers[0].kill()
            start = time.monotonic()
            assert await asyncio.wait_for(dead.ended, RETURN) == ABNORMAL
            heir = await nodes.reader(nodes.servers[1], before=dead)
            await until(lambda: nodes.shared_by(nodes.names[1]), RETURN, "the other takes over")
            print(f"taken over after {time.monotonic() - start:.1f} s")
            await nodes.more(20)
        await nodes.settle(1, heir, alive)


async def test_a_zombie_changes_nothing_that_clients_see() -> None:
    """It sleeps past its lease with an entry in its hands, wakes up, and works on as if it still were the owner."""
    async with cluster(2, LEASE_TTL="2") as nodes:
        asleep, awake = [await nodes.reader(server) for server in nodes.servers]
        await nodes.publish(1)
        await nodes.settle(1, asleep, awake)
        mine = [i for i, owner in enumerate(await nodes.owners()) if owner == nodes.names[0]]
        ledger, log = nodes.ledgers[mine[0]], KEYS.log(mine[0])

        async def in_hand() -> int:
            return int((await nodes.direct.xpending(log, "fanout"))["pending"])

        zombie = nodes.servers[0]
        while True:
            zombie.pause()
            assert await ledger.publish(nodes.https[1])
            if await in_hand():
                break
            zombie.resume()  # it was between two reads
            await until(lambda: awake.positions[ledger.channel][1] == len(ledger.taken), RETURN)
        await until(lambda: awake.positions[ledger.channel][1] == len(ledger.taken), RETURN, "the other takes it over")
        await nodes.publish(1)
        await nodes.settle(1, awake)
        assert await nodes.shared_by(nodes.names[1])
        zombie.resume()
        await nodes.publish(0)
        await nodes.settle(0, asleep, awake)
        await until(lambda: nodes.shared_by(*nodes.names), RETURN, "it has a share again")
        await nodes.publish(0)
        await nodes.settle(0, asleep, awake)


async def test_a_node_that_is_drained_loses_nothing() -> None:
    """SIGTERM while messages flow through it and another: its clients hear 3001; its partitions are handed over."""
    async with cluster(2, LEASE_TTL="120") as nodes:
        leaving, staying = [await nodes.reader(server) for server in nodes.servers]
        speaker = await Client.open(nodes.servers[0].port, "ledger")
        async with nodes.flow(0, 1):
            await nodes.more(10)
            stopping = asyncio.create_task(asyncio.to_thread(nodes.servers[0].stop))
            while not speaker.ended.done():
                await asyncio.gather(*[nodes.ledgers[0].tell(speaker) for _ in range(20)])
            assert await asyncio.wait_for(leaving.ended, RETURN) == 3001
            assert speaker.ended.result() == 3001
            moved = await nodes.reader(nodes.servers[1], before=leaving)
            assert await stopping == -signal.SIGTERM
            await until(lambda: nodes.shared_by(nodes.names[1]), RETURN, "handed over, long before the lease ends")
            await nodes.more(10)
        await nodes.settle(1, moved, staying)
