"""Consumer groups: nothing acked before it was handled, pending first, one owner at a time, trimmed to the slowest."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from pipeline.consumer import Consumer
from pipeline.keys import Keys
from pipeline.producer import Producer
from pipeline.resp import Link
from pipeline.status import group_states
from redis_config import Address, Settings
from tests.pipeline.members import Member, member, pending
from tests.services import RedisClient, RedisProcess, until

CHANNELS = [f"c{i}" for i in range(16)]


@pytest.fixture
def quick(redis_process: RedisProcess) -> Settings:
    return Settings(redis_url=redis_process.url, lease_ttl=0.8, _env_file=None)


@pytest.fixture
async def producer(redis_client: RedisClient, quick: Settings) -> AsyncIterator[Producer]:
    async with Producer(Address.parse(quick), quick) as producer:
        yield producer


async def publish(producer: Producer, count: int, channels: Sequence[str] = CHANNELS) -> None:
    await asyncio.gather(*[producer.publish(channel, b"1", user="u") for _ in range(count) for channel in channels])


async def test_every_message_is_handled_once_in_order_and_acked(
    producer: Producer, redis_client: RedisClient, quick: Settings
) -> None:
    await publish(producer, 20)  # before anybody listens
    async with member(quick, "a") as a:
        await publish(producer, 20)
        await until(lambda: len(a.handler.messages) == 40 * len(CHANNELS))
        for channel in CHANNELS:
            assert a.handler.offsets(channel) == list(range(1, 41))
        await until(lambda: _none_pending(redis_client))


async def _none_pending(redis: RedisClient, group: str = "fanout") -> bool:
    return await pending(redis, group) == 0


async def test_nothing_is_acked_that_was_not_handled(
    producer: Producer, redis_client: RedisClient, quick: Settings
) -> None:
    async with member(quick, "a") as a:
        a.handler.broken = True
        await publish(producer, 3)
        await until(lambda: a.handler.failures > 1, what="it tries again")
        assert await pending(redis_client) > 0
        a.handler.broken = False
        await until(lambda: len(a.handler.messages) == 3 * len(CHANNELS))
        assert a.handler.offsets("c0") == [1, 2, 3]


async def test_a_new_owner_takes_what_the_dead_one_had_first(
    producer: Producer, redis_client: RedisClient, quick: Settings
) -> None:
    dead = Member(quick, "dead", "fanout")
    dead.handler.broken = True
    await dead.start()
    await publish(producer, 3)
    await until(lambda: dead.handler.failures > 0)
    await dead.die()
    assert await pending(redis_client) > 0
    await publish(producer, 3)
    async with member(quick, "heir") as heir:
        await until(lambda: len(heir.handler.messages) == 6 * len(CHANNELS))
        for channel in CHANNELS:
            assert heir.handler.offsets(channel) == [1, 2, 3, 4, 5, 6]
        await until(lambda: _none_pending(redis_client))
    consumers = await redis_client.xinfo_consumers("log:0", "fanout")
    assert [c["name"] for c in consumers] == ["owner"]  # no names pile up


async def test_members_share_and_hand_over(producer: Producer, redis_client: RedisClient, quick: Settings) -> None:
    async with member(quick, "a") as a:
        await until(lambda: len(a.owned) == 8)
        async with member(quick, "b") as b, member(quick, "c") as c:
            members = [a, b, c]
            await until(lambda: sorted(len(m.owned) for m in members) == [2, 3, 3], what="even shares")
            assert a.owned | b.owned | c.owned == set(range(8))
            await publish(producer, 10)
            await until(lambda: sum(len(m.handler.messages) for m in members) >= 10 * len(CHANNELS))
        await until(lambda: len(a.owned) == 8, what="what the others had is handed over")
        await publish(producer, 10)
        await until(lambda: len(a.handler.messages) + len(b.handler.messages) + len(c.handler.messages) == 20 * 16)
    for channel in CHANNELS:
        seen = sorted(o for m in (a, b, c) for o in m.handler.offsets(channel))
        assert seen == list(range(1, 21)), channel


async def test_leaving_frees_the_leases_at_once(redis_client: RedisClient, quick: Settings) -> None:
    long = quick.model_copy(update={"lease_ttl": 60.0})
    async with member(long, "a") as a:
        await until(lambda: len(a.owned) == 8)
        assert await redis_client.zcard("nodes") == 1
        keys = Keys.of(long)
        assert await redis_client.get(keys.lease("fanout", 0)) == "serve:a:fanout"
    assert await redis_client.keys("lease:*") == []
    assert await redis_client.zcard("nodes") == 0


async def test_a_terminal_makes_way_for_a_server(producer: Producer, quick: Settings) -> None:
    async with member(quick, "t", kind="terminal") as terminal:
        await until(lambda: len(terminal.owned) == 8)
        async with member(quick, "s") as server:
            await until(lambda: len(server.owned) == 8 and not terminal.owned)
            await publish(producer, 1)
            await until(lambda: len(server.handler.messages) == len(CHANNELS))
            assert terminal.handler.messages == []
        await until(lambda: len(terminal.owned) == 8, what="it plays again")


async def test_the_log_keeps_what_any_group_still_needs(
    producer: Producer, redis_client: RedisClient, quick: Settings
) -> None:
    for p in range(8):
        await redis_client.xgroup_create(f"log:{p}", "slow", "0", mkstream=True)
    async with member(quick, "a") as a:
        for _ in range(5):
            await publish(producer, 1)
        await until(lambda: len(a.handler.messages) == 5 * len(CHANNELS))
        entries = await _log_entries(redis_client)
        await until(lambda: _checked(redis_client, a), what="the owner looked for what to trim")
        assert await _log_entries(redis_client) == entries
        async with member(quick, "s", "slow") as slow:
            await until(lambda: len(slow.handler.messages) == 5 * len(CHANNELS))
            await until(lambda: _trimmed(redis_client), what="what all acked is gone")


async def _log_entries(redis: RedisClient) -> int:
    return sum([int(await redis.xlen(f"log:{p}")) for p in range(8)])


async def _trimmed(redis: RedisClient) -> bool:
    return all([await redis.xlen(f"log:{p}") <= 1 for p in range(8)])  # the last delivered entry stays


async def _checked(redis: RedisClient, one: Member) -> bool:
    """Whether XTRIM ran since: each check runs XINFO GROUPS."""
    stats = await redis.info("commandstats")
    key = "cmdstat_xinfo|groups"
    before = getattr(one, "checks", None)
    one.checks = stats.get(key, {}).get("calls", 0)  # type: ignore[attr-defined]
    return before is not None and one.checks > before  # type: ignore[attr-defined]


async def test_what_a_zombie_read_under_the_shared_name_is_found(
    producer: Producer, redis_client: RedisClient, quick: Settings
) -> None:
    async with member(quick, "a") as a:
        await publish(producer, 1, ["c0"])
        await until(lambda: len(a.handler.messages) == 1)
        log = f"log:{Keys.of(quick).partition('c0')}"
        await a.consumer.close()  # while the owner is away, its former self reads on
        await publish(producer, 1, ["c0"])
        taken = await redis_client.xreadgroup("fanout", "owner", {log: ">"})
        assert taken
        again = Consumer("fanout", a.handler, Address.parse(quick), quick, a.leases)
        again.start()
        await until(lambda: a.handler.offsets("c0") == [1, 2])
        zombie = asyncio.create_task(redis_client.xreadgroup("fanout", "owner", {log: ">"}, block=5000))
        while not zombie.done():
            await publish(producer, 1, ["c0"])
        await until(lambda: set(a.handler.offsets("c0")) == set(range(1, a.handler.messages[-1].offset + 1)))
        await until(lambda: _none_pending(redis_client))
        await again.close()


async def test_everything_lost_in_redis_is_begun_anew(
    producer: Producer, redis_client: RedisClient, quick: Settings
) -> None:
    async with member(quick, "a") as a:
        await publish(producer, 1)
        await until(lambda: len(a.handler.messages) == len(CHANNELS))
        await redis_client.flushall()
        await publish(producer, 1)
        await until(lambda: len(a.handler.messages) == 2 * len(CHANNELS))


async def test_status_tells_lag_pending_and_owner(
    producer: Producer, redis_client: RedisClient, quick: Settings
) -> None:
    link = Link(Address.parse(quick))
    keys = Keys.of(quick)
    assert await group_states(link, keys) == []
    async with member(quick, "a") as a:
        a.handler.broken = True
        await publish(producer, 1, ["c0"])
        await until(lambda: a.handler.failures > 0)
        states = {s.partition: s for s in await group_states(link, keys)}
        assert len(states) == 8
        state = states[keys.partition("c0")]
        assert (state.group, state.pending, state.owner) == ("fanout", 1, "serve:a:fanout")
        assert state.oldest > 1_600_000_000_000
        a.handler.broken = False
        await until(lambda: _none_pending(redis_client))
        assert all(s.oldest == 0 and s.lag == 0 for s in await group_states(link, keys))
    link.close()
