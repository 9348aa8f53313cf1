"""Cache-aside on a real Redis, with databases that count what they are asked."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

import httpx2 as httpx
import pytest
from redis.asyncio import Redis

from app import AppSettings
from bridge.archives import Archives, Store
from bridge.cache import EventCache, FillingSink, packed, unpacked
from pipeline.consumer import Away
from pipeline.encode import Message
from pipeline.event import Event, event_of
from pipeline.ports import Holder
from redis_config import Address, command_client
from tests.services import PeykServer, RedisProcess, until

Answer = TypeVar("Answer")
PATIENCE = 5.0  # seconds: a machine that is busy must not look like a cache that is away


def event(id: str, offset: int = 1, text: str = "سلام", channel: str = "news") -> Message:
    data = Event(id, "order.paid", channel, f'{{"text":"{text}"}}'.encode()).data()
    return Message(channel, offset, 1_795_000_000_000, "Ep0ch", "shop", "c1", data)


class Databases:
    """A sink and a store of events. `gate` holds up who asks; `away`: it raises; `made`: channels there are."""

    group = "sql"

    def __init__(self) -> None:
        self.rows: list[Message] = []
        self.made: dict[str, float] = dict.fromkeys(("news", "mine", "other"), 0.0)
        self.asked: list[str] = []
        self.away = False
        self.gate = asyncio.Event()
        self.gate.set()

    async def store(self, messages: Sequence[Message]) -> None:
        self.rows += messages

    async def readable(self, channels: Sequence[str]) -> dict[str, float]:
        return {channel: self.made[channel] for channel in channels if channel in self.made}

    def _with(self, id: str) -> list[Message]:
        return sorted([m for m in self.rows if (e := event_of(m)) and e.id == id], key=lambda m: (m.ms, m.offset))

    async def _answer(self, answer: Answer) -> Answer:
        await self.gate.wait()
        if self.away:
            raise Away("the databases are away")
        return answer

    async def event(self, channel: str, id: str, began: float) -> Message | None:
        self.asked.append(id)
        return await self._answer(next((m for m in self._with(id) if m.channel == channel and m.ms >= began), None))

    async def holders(self, id: str, skip: int, limit: int) -> tuple[list[Holder], Away | None]:
        self.asked.append(f"who has {id}")
        times: dict[str, list[int]] = {}
        for m in self._with(id):
            times.setdefault(m.channel, []).append(m.ms)
        holders = [Holder(channel, ms[0], ms[-1]) for channel, ms in times.items()]
        return await self._answer((holders[skip : skip + limit], None))

    async def events(self, channel: str, type: str, limit: int) -> list[Message]:
        return self.rows[:limit]


@pytest.fixture
async def client(bridge_settings: AppSettings) -> AsyncIterator[Redis]:
    async with command_client(Address.parse(bridge_settings)) as client:
        yield client


@asynccontextmanager
async def caching(settings: AppSettings, **changes: object) -> AsyncIterator[tuple[EventCache, Databases]]:
    databases, settings = Databases(), settings.model_copy(update={"cache_timeout": PATIENCE, **changes})
    async with EventCache(databases, Address.parse(settings), settings) as cache:
        yield cache, databases


async def ask(cache: EventCache, databases: Databases, id: str, channel: str = "") -> tuple[Message | None, bool]:
    """Somebody who may read every channel that there is asks."""
    return await cache.event(id, databases.readable, channel)


def test_an_entry_holds_the_whole_message() -> None:
    message = event("a b", 7)
    assert unpacked(packed(message)) == message
    for damaged in (b"", b"x", b"news 7-x e u c {}", b"\xff 1-1 e u c {}"):
        with pytest.raises(ValueError):
            unpacked(damaged)


async def test_a_miss_is_kept_and_the_next_is_a_hit(bridge_settings: AppSettings, client: Redis) -> None:
    async with caching(bridge_settings) as (cache, databases):
        await databases.store([event("e1")])
        assert await ask(cache, databases, "e1") == (event("e1"), False)
        assert await ask(cache, databases, "e1") == (event("e1"), True)
        assert databases.asked == ["who has e1", "e1"]
        for key in ("event:news e1", "event: e1"):
            assert 290 < await client.ttl(key) <= 300
        assert await cache.events("news", "", 10) == [event("e1")]
        assert {name: value for name, (_, value) in cache.measures().items()} == {
            "cache_hits_total": 1,
            "cache_misses_total": 1,
            "cache_failures_total": 0,
        }


async def test_a_stored_event_is_in_the_cache_at_once(bridge_settings: AppSettings, client: Redis) -> None:
    async with caching(bridge_settings) as (cache, databases):
        sink = FillingSink(databases, cache)
        person = Message("news", 2, 1, "Ep0ch", "sara", "c1", '{"text":"سلام"}'.encode())
        shown = event("shown", 0)
        await sink.store([event("e1"), person, shown])
        assert (await ask(cache, databases, "e1"), sink.group) == ((event("e1"), True), "sql")
        assert sorted(await client.keys("event:*")) == ["event: e1", "event:news e1"]
        assert await ask(cache, databases, "e1", "news") == (event("e1"), True)
        assert databases.asked == []


async def test_a_thousand_who_miss_at_once_ask_once(bridge_settings: AppSettings) -> None:
    async with caching(bridge_settings) as (cache, databases):
        await databases.store([event("e1")])
        databases.gate.clear()
        tasks = [asyncio.create_task(ask(cache, databases, "e1")) for _ in range(1000)]
        await until(lambda: databases.asked)
        for task in tasks[:10]:
            task.cancel()  # the others do not notice
        databases.gate.set()
        results = await asyncio.gather(*tasks[10:])
        assert databases.asked == ["who has e1", "e1"]
        assert set(results) == {(event("e1"), False)} and not cache._flights


async def test_that_there_is_no_event_is_remembered_briefly(bridge_settings: AppSettings, client: Redis) -> None:
    async with caching(bridge_settings, cache_absent_ttl=2) as (cache, databases):
        assert await ask(cache, databases, "e1") == (None, False)
        assert await ask(cache, databases, "e1") == (None, True)
        assert databases.asked == ["who has e1"] and 0 < await client.pttl("event: e1") <= 2000
        assert await ask(cache, databases, "e1", "news") == (None, False)
        assert await ask(cache, databases, "e1", "news") == (None, True)
        assert databases.asked == ["who has e1", "e1"] and 0 < await client.pttl("event:news e1") <= 2000
        await until(lambda: _gone(client, "event: e1"))
        await until(lambda: _gone(client, "event:news e1"))
        for channel in ("", "news"):
            assert await ask(cache, databases, "e1", channel) == (None, False)


async def _gone(client: Redis, key: str) -> bool:
    return not await client.exists(key)


@pytest.mark.parametrize("size", [16_384, 10])
async def test_an_event_that_arrives_shows_although_it_was_absent(bridge_settings: AppSettings, size: int) -> None:
    """Also one too large for the cache: then at least nothing hides it."""
    async with caching(bridge_settings, cache_absent_ttl=60, cache_bytes=size) as (cache, databases):
        for channel in ("", "news"):
            assert await ask(cache, databases, "e1", channel) == (None, False)
        await FillingSink(databases, cache).store([event("e1")])
        for channel in ("", "news"):
            assert await ask(cache, databases, "e1", channel) == (event("e1"), size > 10)


async def test_an_absence_read_before_the_event_came_does_not_hide_it(bridge_settings: AppSettings) -> None:
    async with caching(bridge_settings, cache_absent_ttl=60) as (cache, databases):
        databases.gate.clear()
        early = asyncio.create_task(ask(cache, databases, "e1"))
        await until(lambda: databases.asked)
        await FillingSink(databases, cache).store([event("e1")])
        databases.gate.set()
        assert (await early)[0] is None  # the database was asked before
        assert await ask(cache, databases, "e1") == (event("e1"), True)


async def test_of_events_with_one_id_the_first_counts(bridge_settings: AppSettings, client: Redis) -> None:
    """In a channel; of several channels, of those that may be read: from the cache as from the databases."""
    async with caching(bridge_settings) as (cache, databases):
        sink = FillingSink(databases, cache)
        other = event("e1", 1, "a third", channel="mine")._replace(ms=1_795_000_000_001)
        await sink.store([event("e1"), event("e1", 2, "another")])
        await sink.store([other])
        for hit in (True, False, True):
            if not hit:
                await client.flushall()
            databases.made = {"mine": 0, "news": 0}
            assert await ask(cache, databases, "e1") == (event("e1"), hit)
            assert await ask(cache, databases, "e1", "mine") == (other, hit)
            databases.made = {"mine": 0}
            assert await ask(cache, databases, "e1") == (other, True)
            assert (await ask(cache, databases, "e1", "news"))[0] is None
            databases.made = {}
            assert await ask(cache, databases, "e1") == (None, False)


async def test_an_id_that_was_used_in_many_channels_hides_nothing(bridge_settings: AppSettings) -> None:
    """Somebody said something under the id in 2,500 channels of their own before."""
    async with caching(bridge_settings) as (cache, databases):
        real = event("e1")
        await databases.store([event("e1", 1, "no", f"c{n}")._replace(ms=n) for n in range(2500)])
        await databases.store([real])
        assert await ask(cache, databases, "e1") == (real, False)
        assert databases.asked.count("who has e1") == 3 and databases.asked.count("e1") == 1
        assert await ask(cache, databases, "e1", "news") == (real, True)


async def test_an_event_of_a_channel_that_is_gone_does_not_stay(bridge_settings: AppSettings, client: Redis) -> None:
    async with caching(bridge_settings) as (cache, databases):
        sink = FillingSink(databases, cache)
        await sink.store([event("e1"), event("e2")])
        databases.made["news"] = event("e1").ms + 1  # deleted, and made again
        tasks = [asyncio.create_task(ask(cache, databases, "e1")) for _ in range(10)]
        assert set(await asyncio.gather(*tasks)) == {(None, False)}
        del databases.made["news"]  # deleted
        assert await ask(cache, databases, "e2") == (None, False)
        again = event("e2", 1, "another", channel="other")
        await sink.store([again])  # while the cache has the one that is gone
        for _ in range(2):
            assert await ask(cache, databases, "e2") == (again, True)


async def test_databases_that_are_away_are_never_taken_for_an_absence(
    bridge_settings: AppSettings, client: Redis
) -> None:
    async with caching(bridge_settings) as (cache, databases):
        databases.away = True
        for _ in range(2):
            with pytest.raises(Away):
                await ask(cache, databases, "e1")
        with pytest.raises(Away):
            await ask(cache, databases, "e1", "news")
        assert await client.keys("event:*") == [] and len(databases.asked) == 3
        databases.away = False
        await databases.store([event("e1")])
        assert await ask(cache, databases, "e1") == (event("e1"), False)


async def test_damaged_entries_are_misses(bridge_settings: AppSettings, client: Redis) -> None:
    async with caching(bridge_settings) as (cache, databases):
        await databases.store([event("e1"), event("e2")])
        await client.set("event:news e1", "garbage")
        await client.lpush("event: e2", "another type")
        assert await ask(cache, databases, "e1") == (event("e1"), False)
        assert await ask(cache, databases, "e1") == (event("e1"), True)
        assert await ask(cache, databases, "e2") == (event("e2"), False)
        assert await ask(cache, databases, "e2", "news") == (event("e2"), True)


@pytest.mark.parametrize("id", ["", "x" * 256, "a\0b", "\ud800"])
async def test_ids_that_no_event_has_ask_nobody(bridge_settings: AppSettings, id: str) -> None:
    async with caching(bridge_settings) as (cache, databases):
        assert await ask(cache, databases, id) == (None, False)
        assert databases.asked == []


async def test_without_a_ttl_there_is_no_cache(bridge_settings: AppSettings, client: Redis) -> None:
    async with caching(bridge_settings, cache_ttl=0) as (cache, databases):
        await FillingSink(databases, cache).store([event("e1")])
        for id in ("e1", "e2"):
            for _ in range(2):
                assert await ask(cache, databases, id) == (event("e1") if id == "e1" else None, False)
        assert await client.keys("event:*") == []


async def test_what_a_node_puts_into_the_cache_is_bounded(bridge_settings: AppSettings, client: Redis) -> None:
    async with caching(bridge_settings, cache_size=100_000) as (cache, databases):
        sink = FillingSink(databases, cache)
        for i in range(1000):
            await sink.store([event(f"e{i}", i + 1, "x" * 500)])
        keys = await client.keys("event:*")
        assert 80 < len(keys) < 200
        assert sum([await client.memory_usage(key) or 0 for key in keys]) < 50_000 * 1.5
        assert await ask(cache, databases, "e999") == (event("e999", 1000, "x" * 500), False)
        cache._window_ends = 0.0  # a CACHE_TTL later
        await ask(cache, databases, "e999")
        assert (await ask(cache, databases, "e999"))[1]


async def test_a_cache_that_dies_costs_no_answer(bridge_settings: AppSettings) -> None:
    with RedisProcess("valkey") as process:
        settings = bridge_settings.model_copy(update={"redis_url": process.url})
        async with caching(settings) as (cache, databases):
            sink = FillingSink(databases, cache)
            await sink.store([event("e1")])
            assert await ask(cache, databases, "e1") == (event("e1"), True)
            process.kill()
            for i in range(2, 5):
                await sink.store([event(f"e{i}")])
            for i in range(1, 5):
                assert await ask(cache, databases, f"e{i}") == (event(f"e{i}"), False)
            assert await ask(cache, databases, "none") == (None, False)
            process.start()

            async def is_back() -> bool:
                return (await ask(cache, databases, "e4"))[1]

            await until(is_back)
            assert cache.measures()["cache_failures_total"][1] >= 1


async def test_a_cache_that_hangs_holds_nobody_up_for_long(bridge_settings: AppSettings) -> None:
    with RedisProcess("valkey") as process:
        settings = bridge_settings.model_copy(update={"redis_url": process.url})
        async with caching(settings, cache_timeout=0.1) as (cache, databases):
            await databases.store([event("e1")])
            assert await ask(cache, databases, "e1") == (event("e1"), False)
            process.pause()
            try:
                results = await asyncio.gather(*[ask(cache, databases, f"e{i % 5}") for i in range(100)])
                for _ in range(100):
                    await FillingSink(databases, cache).store([event("e2")])
                assert results[1] == (event("e1"), False)
                assert 0 < cache.measures()["cache_failures_total"][1] < 50  # of 105 times: after one, a pause
            finally:
                process.resume()


async def test_before_real_databases(bridge_settings: AppSettings, archive: Store, client: Redis) -> None:
    """SQLite, PostgreSQL and MongoDB each: filled when stored, read on a miss, the first of one id."""
    settings = bridge_settings.model_copy(update={"cache_timeout": PATIENCE})
    databases = Databases()
    async with EventCache(Archives([archive]), Address.parse(settings), settings) as cache:
        assert await ask(cache, databases, "e1") == (None, False)
        await FillingSink(archive, cache).store([event("e1"), event("e2", 2), event("e1", 3, "again")])
        await archive.store([event("e1", 1, "elsewhere", channel="private")._replace(ms=1)])
        assert await ask(cache, databases, "e1") == (event("e1"), True)
        await client.flushall()
        results = await asyncio.gather(*[ask(cache, databases, "e1") for _ in range(1000)])
        assert set(results) == {(event("e1"), False)}
        assert cache.measures()["cache_misses_total"][1] == 1001
        assert [message.offset for message in await cache.events("news", "order.paid", 2)] == [3, 2]
        # The channel is deleted, made again, and somebody says another event of that id there.
        del databases.made["news"]
        assert await ask(cache, databases, "e1") == (None, False)
        databases.made["news"] = 1_795_000_000_001
        assert await ask(cache, databases, "e1") == (None, False)
        again = event("e1", 1, "the second life")._replace(ms=1_795_000_000_001, epoch="later")
        await FillingSink(archive, cache).store([again])
        assert (await ask(cache, databases, "e1"))[0] == again
        await client.flushall()
        assert await ask(cache, databases, "e1") == (again, False)
        assert await ask(cache, databases, "e1") == (again, True)


async def test_a_server_fills_the_cache(client: Redis, bridge_settings: AppSettings) -> None:
    with PeykServer({"REDIS_URL": bridge_settings.redis_url, "CACHE_TIMEOUT": str(PATIENCE)}) as server:
        async with httpx.AsyncClient(base_url=server.url, trust_env=False) as http:
            said = {"id": "e1", "type": "order.paid", "payload": {"n": 1}}
            answer = await http.post("/api/channels/news/messages", json={"data": said, "user": "shop"})
            assert answer.status_code == 201
            await until(lambda: client.exists("event:news e1"))
            stored = unpacked(str(await client.get("event:news e1")).encode())
            assert (stored.id, stored.user, event_of(stored)) == (
                answer.json()["id"],
                "shop",
                Event("e1", "order.paid", "news", b'{"n":1}', "shop"),
            )
            assert "peyk_cache_hits_total 0\n" in (await http.get("/metrics")).text
