"""The append under every fault: acked means stored once, refused means not stored, and nothing fails half-way."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial

import pytest
import redis

from chat.errors import LimitExceeded, OutcomeUnknown, PeykError, StorageFull, Unavailable, UnknownChannel
from pipeline.keys import Keys
from pipeline.lease import RENEWALS
from pipeline.producer import BATCH_MESSAGES, TICK, Append, Batch, Lane, Position, Producer
from redis_config import Address, Settings
from tests.pipeline.proxy import Proxy
from tests.services import RedisClient, RedisProcess, free_port, until

DATA = b'{"text":"x"}'


@pytest.fixture
def quick(redis_process: RedisProcess) -> Settings:
    return Settings(redis_url=redis_process.url, publish_timeout=1.0, _env_file=None)


@pytest.fixture
async def producer(redis_client: RedisClient, quick: Settings) -> AsyncIterator[Producer]:
    async with Producer(Address.parse(quick), quick) as producer:
        yield producer


async def publish(producer: Producer, channel: str = "c", key: str = "", user: str = "sara") -> Position:
    return await producer.publish(channel, DATA, user=user, client="f00", key=key)


async def log_entries(redis: RedisClient) -> int:
    return sum([int(await redis.xlen(f"log:{p}")) for p in range(8)])


# -- the normal way


async def test_offsets_are_dense_and_are_the_entry_ids(producer: Producer, redis_client: RedisClient) -> None:
    positions = [await publish(producer) for _ in range(3)]
    assert [p.offset for p in positions] == [1, 2, 3]
    entries = await redis_client.xrange("message:c")
    assert [entry[0] for entry in entries] == [p.id for p in positions]
    assert entries[0][1] == {"user": "sara", "client": "f00", "data": DATA.decode()}
    channel = await redis_client.hgetall("channel:c")
    assert channel["offset"] == "3" and channel["epoch"] == positions[0].epoch


async def test_what_comes_in_one_turn_is_one_log_entry(producer: Producer, redis_client: RedisClient) -> None:
    await publish(producer)
    before = await log_entries(redis_client)
    positions = await asyncio.gather(*[publish(producer) for _ in range(100)])
    assert [p.offset for p in positions] == list(range(2, 102))
    assert await log_entries(redis_client) == before + 1


async def test_a_batch_has_a_size(redis_client: RedisClient, quick: Settings) -> None:
    calm = quick.model_copy(update={"publish_timeout": 30})
    async with Producer(Address.parse(calm), calm) as producer:
        await publish(producer)
        before = await log_entries(redis_client)
        positions = await asyncio.gather(*[publish(producer) for _ in range(2 * BATCH_MESSAGES + 1)])
    assert [p.offset for p in positions] == list(range(2, 2 * BATCH_MESSAGES + 3))
    assert await log_entries(redis_client) == before + 3


async def test_the_first_publish_makes_the_channel_and_keeps_order(
    producer: Producer, redis_client: RedisClient
) -> None:
    positions = await asyncio.gather(*[publish(producer, "new") for _ in range(5)])
    assert [p.offset for p in positions] == [1, 2, 3, 4, 5]
    assert await redis_client.zrange("channels", 0, -1) == ["new"]
    assert (await redis_client.hgetall("channel:new"))["name"] == "new"


async def test_a_message_that_is_only_shown_is_in_no_history(producer: Producer, redis_client: RedisClient) -> None:
    await publish(producer)
    await producer.publish("c", DATA, user="sara", store=False)
    assert await redis_client.xlen("message:c") == 1
    assert await log_entries(redis_client) == 2


async def test_the_history_is_trimmed_to_its_length(redis_client: RedisClient, quick: Settings) -> None:
    settings = quick.model_copy(update={"history_length": 100, "publish_timeout": 30})
    async with Producer(Address.parse(settings), settings) as producer:
        await asyncio.gather(*[publish(producer) for _ in range(1000)])
    assert 100 <= await redis_client.xlen("message:c") <= 300  # `~`: to the next whole node of the stream
    assert (await redis_client.xrevrange("message:c", count=1))[0][0].startswith("1000-")


# -- keys


async def test_a_key_gives_the_same_position_and_no_second_entry(producer: Producer, redis_client: RedisClient) -> None:
    first = await publish(producer, key="k")
    again = await publish(producer, key="k")
    assert not first.duplicate
    assert again == first._replace(duplicate=True)
    both = await asyncio.gather(publish(producer, key="m"), publish(producer, key="m"))
    assert [p.duplicate for p in both] == [False, True] and both[0].offset == both[1].offset
    assert await redis_client.xlen("message:c") == 2
    assert 0 < await redis_client.pttl("idem:c:sara:k") <= 300_000


async def test_a_key_belongs_to_its_user_and_channel(producer: Producer, redis_client: RedisClient) -> None:
    await publish(producer, key="k")
    assert not (await publish(producer, key="k", user="babak")).duplicate
    assert not (await publish(producer, "d", key="k")).duplicate


async def test_a_key_holds_in_the_very_batch_that_makes_its_channel(producer: Producer) -> None:
    both = await asyncio.gather(publish(producer, "new", key="k"), publish(producer, "new", key="k"))
    assert [(p.offset, p.duplicate) for p in both] == [(1, False), (1, True)]


async def test_a_key_does_not_outlive_its_channel(producer: Producer, redis_client: RedisClient) -> None:
    first = await publish(producer, key="k")
    await redis_client.delete("channel:c", "message:c")
    await redis_client.hset("channel:c", mapping={"epoch": "later", "offset": 0, "created_at": first.ms + 1})
    again = await publish(producer, key="k")
    assert (again.epoch, again.offset, again.duplicate) == ("later", 1, False)
    assert (await publish(producer, key="k")).duplicate
    assert await redis_client.xlen("message:c") == 1


async def test_a_key_outlives_an_epoch(producer: Producer, redis_client: RedisClient) -> None:
    """Redis came back older: the message is there still."""
    first = await publish(producer, key="k")
    await redis_client.hset("channel:c", "epoch", "later")
    assert await publish(producer, key="k") == first._replace(duplicate=True)


# -- refused: nothing is stored


async def test_an_unknown_channel_is_refused_where_nobody_makes_channels(
    redis_client: RedisClient, quick: Settings
) -> None:
    settings = quick.model_copy(update={"create_channels": False})
    async with Producer(Address.parse(settings), settings) as producer:
        with pytest.raises(UnknownChannel, match="no channel c; create it first"):
            await publish(producer)
    assert await redis_client.keys("*") == [] or await redis_client.exists("message:c", "channel:c", "channels") == 0


async def test_redis_full(producer: Producer, redis_client: RedisClient) -> None:
    await publish(producer)
    await redis_client.config_set("maxmemory", 1)
    for attempt in (publish(producer), publish(producer, "new"), producer.publish("c", DATA, user="s", store=False)):
        with pytest.raises(StorageFull, match="nothing was stored"):
            await attempt
    assert await redis_client.xlen("message:c") == 1
    assert await redis_client.exists("channel:new", "message:new") == 0
    assert await log_entries(redis_client) == 1
    await redis_client.config_set("maxmemory", 0)
    assert (await publish(producer)).offset == 2


async def test_the_log_full(redis_client: RedisClient, quick: Settings) -> None:
    settings = quick.model_copy(update={"log_length": 2})
    async with Producer(Address.parse(settings), settings) as producer:
        await publish(producer)
        await publish(producer)
        with pytest.raises(StorageFull, match="consumer group has not taken"):
            await publish(producer)
    assert await redis_client.xlen("message:c") == 2


async def test_one_broken_channel_does_not_harm_its_neighbours(producer: Producer, redis_client: RedisClient) -> None:
    """They are in one batch, of one partition: c and the channels of the wrong type."""
    partition = producer._keys.partition("c")
    same = [f"n{i}" for i in range(200) if producer._keys.partition(f"n{i}") == partition][:2]
    await redis_client.set(f"channel:{same[0]}", "no hash")
    await redis_client.hset(f"channel:{same[1]}", mapping={"epoch": "e", "offset": "0"})
    await redis_client.set(f"message:{same[1]}", "no stream")
    await publish(producer)
    outcomes = await asyncio.gather(
        publish(producer), *[publish(producer, name) for name in same], publish(producer), return_exceptions=True
    )
    assert [getattr(o, "offset", type(o)) for o in outcomes] == [2, Unavailable, Unavailable, 3]
    assert "WRONGTYPE" in str(outcomes[1])
    assert await redis_client.get(f"message:{same[1]}") == "no stream"


# -- faults


async def test_the_script_is_missing(producer: Producer, redis_client: RedisClient) -> None:
    await publish(producer)
    await redis_client.script_flush()
    assert (await publish(producer)).offset == 2


async def test_a_lost_reply_appends_nothing_twice(redis_client: RedisClient, quick: Settings) -> None:
    async with Proxy(Address.parse(quick)) as proxy, Producer(proxy.address, quick) as producer:
        assert (await publish(producer)).offset == 1
        proxy.cut_replies = 1
        positions = await asyncio.gather(*[publish(producer) for _ in range(10)])
        assert proxy.cuts == 1
        assert [p.offset for p in positions] == list(range(2, 12))
        assert not any(p.duplicate for p in positions)
    assert await redis_client.xlen("message:c") == 11


async def test_redis_refuses_connections_and_comes_back(redis_client: RedisClient, quick: Settings) -> None:
    async with Proxy(Address.parse(quick)) as proxy, Producer(proxy.address, quick) as producer:
        await publish(producer)
        proxy.refuse = True
        proxy.cut()
        with pytest.raises((Unavailable, OutcomeUnknown)):
            await publish(producer)
        with pytest.raises(Unavailable, match="nothing was stored"):
            await publish(producer)
        stored = await redis_client.xlen("message:c")
        proxy.refuse = False
        later = await _until_stored(producer)
        assert later.offset > stored
    assert await redis_client.xlen("message:c") == later.offset


async def _until_stored(producer: Producer) -> Position:
    async with asyncio.timeout(180):
        while True:
            try:
                return await publish(producer)
            except (Unavailable, OutcomeUnknown):
                continue


async def test_a_silent_redis_is_not_lied_about() -> None:
    """Paused, it has the batch in its socket: unknown, and with the same key the truth comes out."""
    with RedisProcess("valkey") as process:
        settings = Settings(redis_url=process.url, publish_timeout=0.5, _env_file=None)
        async with Producer(Address.parse(settings), settings) as producer:
            await publish(producer)
            process.pause()
            with pytest.raises(OutcomeUnknown, match="same idempotency key"):
                await publish(producer, key="k")
            process.resume()
            async with asyncio.timeout(180):
                while not isinstance(outcome := await _tried(producer, "k"), Position):
                    pass
            assert outcome.offset == 2
            assert (await publish(producer)).offset == 3


async def _tried(producer: Producer, key: str) -> Position | Exception:
    try:
        return await publish(producer, key=key)
    except (Unavailable, OutcomeUnknown) as error:
        return error


async def test_redis_killed_and_started_again() -> None:
    with RedisProcess("redis") as process:
        settings = Settings(redis_url=process.url, publish_timeout=0.5, _env_file=None)
        async with Producer(Address.parse(settings), settings) as producer:
            acked = [(await publish(producer)).offset for _ in range(5)]
            process.restart()
            acked.append((await _until_stored(producer)).offset)
            assert acked == sorted(set(acked))


async def test_the_hash_is_lost_while_the_stream_lives(producer: Producer, redis_client: RedisClient) -> None:
    before = [await publish(producer) for _ in range(3)][-1]
    await redis_client.delete("channel:c")
    after = await publish(producer)
    assert after.offset == 4 and after.epoch != before.epoch


async def test_there_are_not_more_channels_than_may_be(redis_client: RedisClient, quick: Settings) -> None:
    """However many ask at once, in whichever partition. One whose hash was lost is none more."""
    limited = quick.model_copy(update={"channel_limit": 3})
    async with Producer(Address.parse(limited), limited) as producer:
        names = [f"c{number}" for number in range(20)]
        outcomes = await asyncio.gather(*[publish(producer, name) for name in names * 2], return_exceptions=True)
        made = {name for name, outcome in zip(names * 2, outcomes, strict=True) if isinstance(outcome, Position)}
        refused = [str(outcome) for outcome in outcomes if isinstance(outcome, LimitExceeded)]
        assert len(made) == 3 and made == set(await redis_client.zrange("channels", 0, -1)) and len(refused) == 40 - 6
        assert refused[0] == "there are 3 channels, as many as may be; delete one, or raise CHANNEL_LIMIT"
        assert len(await redis_client.keys("message:*")) == 3
        one = made.pop()
        await redis_client.delete(f"channel:{one}")
        assert (await publish(producer, one)).offset == 3


async def test_redis_comes_back_older_than_what_was_shown(producer: Producer, redis_client: RedisClient) -> None:
    before = [await publish(producer) for _ in range(5)][-1]
    await redis_client.hset("channel:c", "offset", "2")
    await redis_client.xtrim("message:c", maxlen=0, approximate=False)
    after = await publish(producer)
    assert after.offset == 6 and after.epoch != before.epoch
    assert (await publish(producer)).epoch == after.epoch


async def test_what_waits_for_redis_has_a_limit(
    redis_client: RedisClient, quick: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.producer.QUEUE_BYTES", 3 * len(DATA))
    producer = Producer(Address("127.0.0.1", free_port()), quick)  # nobody there
    await producer.start()
    outcomes = await asyncio.gather(*[publish(producer) for _ in range(5)], return_exceptions=True)
    assert [isinstance(o, Unavailable) for o in outcomes] == [True] * 5
    assert ["wait for Redis already" in str(o) for o in outcomes] == [False] * 3 + [True] * 2
    outcomes = await asyncio.gather(*[publish(producer) for _ in range(3)], return_exceptions=True)
    assert all("does not answer" in str(o) for o in outcomes)  # there is room again
    await producer.close()
    assert await redis_client.exists("message:c") == 0


async def test_whoever_fails_to_listen_keeps_nobody_from_being_told(producer: Producer, quick: Settings) -> None:
    """Whether their messages are stored, or given up together."""

    def fail(outcome: Position | PeykError) -> None:
        failed.append(outcome)
        raise RecursionError

    failed, told = list[Position | PeykError](), list[Position | PeykError]()
    away = Producer(Address("127.0.0.1", free_port()), quick)  # nobody there
    await away.start()
    for to in (producer, away):
        failed.clear()
        told.clear()
        for done in (fail, told.append, fail, told.append):
            to.append("c", DATA, "sara", "f00", "", True, done)
        await until(lambda: len(told) == 2)
        assert [type(outcome) for outcome in failed] == [type(outcome) for outcome in told]
    await away.close()


async def test_a_batch_has_a_weight(producer: Producer, redis_client: RedisClient) -> None:
    large = b'"' + b"x" * (400 * 1024) + b'"'
    sent = [producer.publish("c", large, user="sara") for _ in range(6)]
    assert [p.offset for p in await asyncio.gather(*sent)] == [1, 2, 3, 4, 5, 6]
    assert await log_entries(redis_client) == 3  # two at a time: a batch has at most 1 MiB


async def test_closing_finishes_what_is_in_hand(redis_client: RedisClient, quick: Settings) -> None:
    producer = Producer(Address.parse(quick), quick)
    await producer.start()
    waiting = [asyncio.create_task(publish(producer)) for _ in range(100)]
    await asyncio.gather(waiting[0])
    await producer.close()
    assert len(await asyncio.gather(*waiting)) == 100


# -- the patient


async def test_the_patient_keep_their_place_while_redis_is_away(redis_process: RedisProcess, quick: Settings) -> None:
    quick = quick.model_copy(update={"retry_window": 1.0})
    async with Producer(Address.parse(quick), quick) as producer:
        await publish(producer)
        told: list[object] = []

        def send(numbers: range) -> None:
            for n in numbers:
                producer.append("c", b"%d" % n, "bridge", "-", f"k{n}", True, told.append, patient=True)

        redis_process.pause()
        try:
            send(range(0, 600))  # more than a batch
            with pytest.raises((Unavailable, OutcomeUnknown)):
                await publish(producer)
            send(range(600, 900))
            await asyncio.sleep(2)  # beyond the retry window: the batch is put together anew
            assert told == []
        finally:
            redis_process.resume()
        await until(lambda: len(told) == 900)
    assert all(isinstance(outcome, Position) for outcome in told), set(map(type, told))
    with redis.Redis(port=redis_process.port, decode_responses=True) as client:
        stored = [entry["data"] for _, entry in client.xrange("message:c") if entry["user"] == "bridge"]
    assert stored == [str(n) for n in range(900)]


async def test_the_patient_wait_until_the_log_has_room(redis_client: RedisClient, quick: Settings) -> None:
    quick = quick.model_copy(update={"log_length": 1})
    async with Producer(Address.parse(quick), quick) as producer:
        await publish(producer)
        told: list[object] = []
        producer.append("c", DATA, "bridge", "-", "", True, told.append, patient=True)
        with pytest.raises(StorageFull):
            await publish(producer)
        assert told == []
        await redis_client.delete(f"log:{Keys.of(quick).partition('c')}")
        await until(lambda: told)
        assert isinstance(told[0], Position) and told[0].offset == 2


async def test_the_patient_hear_of_the_end(redis_process: RedisProcess, quick: Settings) -> None:
    nowhere = quick.model_copy(update={"redis_url": f"redis://127.0.0.1:{free_port()}/0"})
    told: list[object] = []
    async with Producer(Address.parse(nowhere), nowhere) as producer:
        producer.append("c", DATA, "bridge", "-", "", True, told.append, patient=True)
    assert isinstance(told[0], Unavailable)


async def test_a_publisher_hears_within_its_own_time_however_long_it_stood_in_line(quick: Settings) -> None:
    """A batch is as old as its sending; who is in it may be older. One just sent may still be answered."""
    nowhere = quick.model_copy(update={"redis_url": f"redis://127.0.0.1:{free_port()}/0"})
    told: dict[str, object] = {}

    def waits(name: str, since: float) -> Append:
        return Append("c", DATA, "u", "-", "", True, since, partial(told.__setitem__, name))

    async with Producer(Address.parse(nowhere), nowhere) as producer:
        now = asyncio.get_running_loop().time()
        asked = now - quick.publish_timeout
        lane = Lane(0)
        lane.batch = Batch([waits("first", asked - 0.1), waits("last", asked + 0.1)], b"", now - 0.05)
        producer._give_up(lane, now)
        assert told == {}
        producer._give_up(lane, now + 0.06)
    assert list(told) == ["first"] and isinstance(told["first"], OutcomeUnknown)


def test_the_times_that_are_promised(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the README says of 2 s and of 5 s follows from these; a loaded machine only adds to them."""
    monkeypatch.delenv("PUBLISH_TIMEOUT")
    settings = Settings(_env_file=None)
    assert settings.publish_timeout + 2 * TICK < 2
    assert settings.lease_ttl * (1 + 1 / RENEWALS) <= 5
