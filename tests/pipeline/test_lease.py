"""Leases when Redis' clock goes back: what a dead node held ends all the same.

A clock that went back an hour leaves every time to live an hour longer; so the tests leave them, on a real Redis.
"""

from collections.abc import AsyncIterator

import pytest

from pipeline.keys import NODES, Keys
from pipeline.lease import Leases, Node
from pipeline.producer import Producer
from pipeline.resp import Link
from redis_config import Address, Settings
from tests.services import RedisClient, RedisProcess, until

HOUR = 3_600_000
DEAD = "serve:dead:fanout"
RETURN = 30.0


@pytest.fixture
def quick(redis_process: RedisProcess) -> Settings:
    return Settings(redis_url=redis_process.url, lease_ttl=0.8, presence_ttl=2, _env_file=None)


@pytest.fixture
async def leases(quick: Settings, redis_client: RedisClient) -> AsyncIterator[Leases]:
    link = Link(Address.parse(quick))
    leases = Leases(link, quick, Node("serve", "me", ("fanout",)))
    yield leases
    await leases.close()
    link.close()


async def _now(client: RedisClient) -> int:
    seconds, micros = await client.time()
    return int(seconds) * 1000 + int(micros) // 1000


async def test_what_a_dead_node_held_is_taken_over(leases: Leases, redis_client: RedisClient, quick: Settings) -> None:
    keys = Keys.of(quick)
    await redis_client.zadd(NODES, {DEAD: await _now(redis_client) + HOUR})
    for partition in range(4):
        await redis_client.set(keys.lease("fanout", partition), DEAD, px=HOUR)
    dead: list[str] = []
    leases.on_dead = dead.extend
    await leases.start()
    await until(lambda: leases.owned["fanout"] == set(range(8)), RETURN, "all partitions are played")
    await until(lambda: DEAD in dead, RETURN, "its clients are taken out")


async def test_what_a_living_node_holds_it_keeps(redis_client: RedisClient, quick: Settings, leases: Leases) -> None:
    """It renews within its life, so that cutting the lease costs it nothing."""
    keys = Keys.of(quick)
    link = Link(Address.parse(quick))
    other = Leases(link, quick, Node("serve", "other", ("fanout",)))
    await other.start()
    await until(lambda: len(other.owned["fanout"]) == 8, RETURN)
    for member, score in await redis_client.zrange(NODES, 0, -1, withscores=True):
        await redis_client.zadd(NODES, {member: score + HOUR})
    for partition in range(8):
        await redis_client.pexpire(keys.lease("fanout", partition), HOUR)
    await leases.start()

    async def shortened() -> bool:
        scores: list[float] = [score for _, score in await redis_client.zrange(NODES, 0, -1, withscores=True)]
        return max(scores) < await _now(redis_client) + HOUR / 2

    await until(shortened, RETURN, "no node lives an hour")
    await until(lambda: len(other.unwanted["fanout"]) == 4, RETURN, "they share, and it is asked to let go")
    assert len(other.owned["fanout"]) == 8
    assert {await redis_client.get(keys.lease("fanout", p)) for p in range(8)} == {"serve:other:fanout"}
    await other.close()
    link.close()


async def test_a_lease_for_ever_is_left_alone(leases: Leases, redis_client: RedisClient, quick: Settings) -> None:
    """A stranger's, set by hand: it has no end to be cut."""
    key = Keys.of(quick).lease("fanout", 0)
    await redis_client.set(key, "stranger")
    await leases.start()
    await until(lambda: len(leases.owned["fanout"]) == 7, RETURN)
    assert int(await redis_client.pttl(key)) == -1


async def test_no_message_is_older_than_its_channel(redis_client: RedisClient, quick: Settings) -> None:
    """Else an event of a channel made before the clock went back would look like one of an earlier channel."""
    async with Producer(Address.parse(quick), quick) as producer:
        first = await producer.publish("c", b"1", user="u")
        ahead = first.ms + HOUR
        await redis_client.hset("channel:c", "created_at", ahead)
        second = await producer.publish("c", b"1", user="u")
    assert (second.offset, second.ms) == (2, ahead)
    assert await redis_client.xrange("message:c", second.id, second.id)
