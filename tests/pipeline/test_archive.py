"""The handler of a sink's group on a fake sink, and Redis' memory of which database a sink fills."""

from collections.abc import AsyncIterator, Sequence

import pytest

from pipeline.archive import BATCH, Archiver, KnownDatabase, WrongDatabase
from pipeline.consumer import Away
from pipeline.encode import Message
from pipeline.event import ID_LIMIT, TYPE_LIMIT, event_of
from pipeline.keys import Keys
from pipeline.resp import Link
from pipeline.status import GroupState, Stored, delay, drop_group, stored_last
from redis_config import Address, Settings
from tests.pipeline.members import member, pending
from tests.services import RedisClient, until

KEYS = Keys("channel:", "message:", 8)


def message(offset: int, data: bytes = b"1") -> Message:
    return Message("c", offset, 1000 + offset, "e", "u", "-", data)


class Shelf:
    """A sink in memory, keyed as sinks are. While `away` it can store nothing; `poison` it never can."""

    group = "shelf"

    def __init__(self) -> None:
        self.held: dict[tuple[str, str, int], Message] = {}
        self.batches: list[int] = []
        self.away, self.poison = False, b""
        self.tries = 0

    async def store(self, messages: Sequence[Message]) -> None:
        self.tries += 1
        if self.away:
            raise Away("unplugged")
        if self.poison and any(m.data == self.poison for m in messages):
            raise ValueError("never")
        self.batches.append(len(messages))
        for one in messages:
            self.held.setdefault((one.channel, one.epoch, one.offset), one)


async def test_what_is_only_shown_is_not_stored_and_the_last_position_is_told() -> None:
    shelf = Shelf()
    archiver = Archiver(shelf, KEYS)
    (command,) = await archiver.handle([message(1), message(0), message(2), message(0)])
    assert [m.offset for m in shelf.held.values()] == [1, 2]
    assert list(command) == ["HSET", "archive:shelf", "channel", "c", "epoch", "e", "offset", 2, "ms", 1002]
    assert await archiver.handle([message(0)]) == [] == await archiver.handle([])


async def test_large_batches_are_stored_in_transactions_of_bounded_size() -> None:
    shelf = Shelf()
    await Archiver(shelf, KEYS).handle([message(i) for i in range(1, 2 * BATCH + 2)])
    assert shelf.batches == [BATCH, BATCH, 1]


async def test_what_the_sink_says_is_passed_on() -> None:
    shelf = Shelf()
    shelf.away = True
    with pytest.raises(Away):
        await Archiver(shelf, KEYS).handle([message(1)])
    shelf.away, shelf.poison = False, b"1"
    with pytest.raises(ValueError):
        await Archiver(shelf, KEYS).handle([message(1)])


@pytest.fixture
async def link(settings: Settings, redis_client: RedisClient) -> AsyncIterator[Link]:
    link = Link(Address.parse(settings))
    yield link
    link.close()


async def fill(redis: RedisClient, *data: bytes) -> None:
    for offset, text in enumerate(data, 1):
        await redis.xadd(f"log:{KEYS.partition('c')}", {"c": f"{offset}-{1000 + offset} e u - ".encode() + text})


async def test_nothing_is_acked_while_the_sink_is_away(
    settings: Settings, redis_client: RedisClient, link: Link
) -> None:
    shelf = Shelf()
    shelf.away = True
    await fill(redis_client, b"1", b"2")
    async with member(settings, "a", "shelf", work=Archiver(shelf, KEYS)):
        await until(lambda: shelf.tries > 3)
        assert await pending(redis_client, "shelf") == 2 and not shelf.held
        assert await stored_last(link, KEYS, "shelf") == Stored("", "", 0, 0)
        shelf.away = False
        await until(lambda: _level(redis_client))
    assert sorted(offset for _, _, offset in shelf.held) == [1, 2]
    assert await stored_last(link, KEYS, "shelf") == Stored("c", "e", 2, 1002)
    assert not await redis_client.exists("dead:shelf")


async def test_one_poison_among_many_costs_few_transactions(settings: Settings, redis_client: RedisClient) -> None:
    shelf = Shelf()
    shelf.poison = b"poison"
    fields: list[bytes] = []
    for offset in range(1, 1001):
        fields += [b"c", f"{offset}-7 e u - ".encode() + (b"poison" if offset == 700 else b"1")]
    await redis_client.execute_command("XADD", f"log:{KEYS.partition('c')}", "*", *fields)
    async with member(settings, "a", "shelf", work=Archiver(shelf, KEYS)):
        await until(lambda: redis_client.exists("dead:shelf"))
    assert len(shelf.held) == 999 and ("c", "e", 700) not in shelf.held
    assert shelf.tries < 60  # one by one it would be 1,000


async def _level(redis: RedisClient) -> bool:
    return await pending(redis, "shelf") == 0


async def test_the_first_database_is_remembered_and_no_other_taken(redis_client: RedisClient, link: Link) -> None:
    known = KnownDatabase(link, KEYS, "sql")
    reads = KnownDatabase(link, KEYS, "sql", adopts=False)
    with pytest.raises(WrongDatabase, match="nothing was archived"):
        await reads.check("one", "here")
    assert await known.check("one", "here") is True
    assert await known.check("one", "here") is False and await reads.check("one", "here") is False
    with pytest.raises(WrongDatabase, match=r"there is not the database .*two, not one.*groups drop sql.*reconcile"):
        await known.check("two", "there")
    assert await KnownDatabase(link, KEYS, "mongo").check("two", "there") is True
    await drop_group(link, KEYS, "sql")  # on purpose
    assert await known.check("two", "there") is True


async def test_a_redis_that_refuses_to_tell_is_no_fault_of_a_message(redis_client: RedisClient, link: Link) -> None:
    await redis_client.set("archive:sql", "in the way")
    with pytest.raises(Away, match="WRONGTYPE"):
        await KnownDatabase(link, KEYS, "sql").check("one", "here")


def test_the_delay_is_that_of_the_oldest() -> None:
    def state(oldest: int) -> GroupState:
        return GroupState(0, "sql", "-", 0, 0, "0-0", oldest)

    assert delay([], 5000) == 0 == delay([state(0)], 5000)
    assert delay([state(0), state(4000), state(3500)], 5000) == 1.5


def test_an_event_has_an_id_and_a_type_of_bounded_length() -> None:
    def read(id: str, type: str = "t") -> object:
        return event_of(message(1, f'{{"id":"{id}","type":"{type}","payload":{{"a":1}}}}'.encode()))

    assert read("i") and read("i" * ID_LIMIT)
    assert not any([read(""), read("i", ""), read("i" * (ID_LIMIT + 1)), read("i", "t" * (TYPE_LIMIT + 1))])
    assert event_of(message(1, b'{"text":"hi"}')) is None is event_of(message(1, b"not json"))
