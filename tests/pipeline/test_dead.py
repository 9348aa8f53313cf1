"""Dead letters: what a group cannot handle is set aside; its neighbours flow, an outage is no poison."""

from collections.abc import AsyncIterator, Sequence

import pytest

from pipeline import dead
from pipeline.consumer import Away
from pipeline.dead import DeadLetters
from pipeline.encode import Message
from pipeline.keys import Keys
from pipeline.producer import Producer
from pipeline.resp import Command, Link
from redis_config import Address, Settings
from tests.pipeline.members import Member, Recorder, member, pending
from tests.services import RedisClient, RedisProcess, until


@pytest.fixture
def quick(redis_process: RedisProcess) -> Settings:
    return Settings(redis_url=redis_process.url, lease_ttl=0.8, poison_attempts=3, _env_file=None)


@pytest.fixture
async def producer(redis_client: RedisClient, quick: Settings) -> AsyncIterator[Producer]:
    async with Producer(Address.parse(quick), quick) as producer:
        yield producer


@pytest.fixture
async def letters(redis_client: RedisClient, quick: Settings) -> AsyncIterator[DeadLetters]:
    link = Link(Address.parse(quick))
    yield DeadLetters(link, Keys.of(quick), "fanout")
    link.close()


class Choosy(Recorder):
    """Cannot handle messages that say `poison`."""

    def __init__(self, poison: bytes, error: Exception) -> None:
        super().__init__()
        self.poison, self.error = poison, error
        self.alone = 0

    async def handle(self, messages: Sequence[Message]) -> Sequence[Command]:
        if any(m.data == self.poison for m in messages):
            self.failures += 1
            self.alone += len(messages) == 1
            raise self.error
        return await super().handle(messages)


def choosy(one: Member, error: Exception) -> Choosy:
    handler = one.handler = one.consumer._handler = Choosy(b'"poison"', error)
    return handler


async def publish(producer: Producer, *data: bytes) -> None:
    for text in data:
        await producer.publish("c", text, user="sara")


async def test_poison_is_set_aside_after_its_attempts_and_its_neighbours_flow(
    producer: Producer, redis_client: RedisClient, quick: Settings, letters: DeadLetters
) -> None:
    await publish(producer, b"1", b'"poison"', b"3")
    one = Member(quick, "a", "fanout")
    handler = choosy(one, ValueError("no such thing"))
    await one.start()
    await until(letters.list)
    await publish(producer, b"4")
    await until(lambda: handler.offsets("c") == [1, 3, 4])
    await until(lambda: _acked(redis_client))
    await one.leave()

    assert handler.alone == 3
    (letter,) = await letters.list()
    assert (letter.count, letter.channel) == (3, b"c")
    assert "no such thing" in letter.reason and letter.message.endswith(b' sara - "poison"')


@pytest.mark.parametrize("outage", [Away("no database"), ConnectionRefusedError("no database")])
async def test_an_outage_is_never_poison(
    outage: Exception, producer: Producer, redis_client: RedisClient, quick: Settings, letters: DeadLetters
) -> None:
    await publish(producer, b"1", b'"poison"', b"3")
    one = Member(quick, "a", "fanout")
    handler = choosy(one, outage)
    await one.start()
    await until(lambda: handler.failures > 4)
    assert await letters.list() == [] and await pending(redis_client) == 3
    handler.poison = b"none"
    await until(lambda: handler.offsets("c")[-3:] == [1, 2, 3])
    await until(lambda: _acked(redis_client))
    await one.leave()
    assert await letters.list() == []


async def test_a_damaged_entry_is_set_aside_at_once(
    producer: Producer, redis_client: RedisClient, quick: Settings, letters: DeadLetters
) -> None:
    await redis_client.xadd(f"log:{Keys.of(quick).partition('c')}", {"c": "what is this"})
    async with member(quick, "a") as one:
        await publish(producer, b"1")
        await until(lambda: one.handler.offsets("c") == [1])
        await until(lambda: _acked(redis_client))
    (letter,) = await letters.list()
    assert letter.message == b"what is this"


async def test_letters_are_given_back_or_forgotten(
    producer: Producer, redis_client: RedisClient, quick: Settings, letters: DeadLetters
) -> None:
    await publish(producer, b'"poison"', b'"poison"')
    one = Member(quick, "a", "fanout")
    handler = choosy(one, ValueError("not today"))
    await one.start()
    await until(lambda: _count(letters, 2))
    handler.poison = b"none"
    await letters.retry((await letters.list())[:1])
    await until(lambda: handler.offsets("c") == [1])
    await letters.drop(await letters.list())
    assert await letters.list() == []
    await one.leave()


async def test_a_letter_redis_refuses_keeps_its_message_pending(
    producer: Producer, redis_client: RedisClient, quick: Settings, letters: DeadLetters
) -> None:
    await publish(producer, b'"poison"')
    await redis_client.set("dead:fanout", "in the way")
    one = Member(quick, "a", "fanout")
    handler = choosy(one, ValueError("no"))
    await one.start()
    await until(lambda: handler.alone > 6)  # more than one round
    assert await pending(redis_client) == 1
    await redis_client.delete("dead:fanout")
    await until(lambda: _acked(redis_client))
    await one.leave()
    assert len(await letters.list()) == 1


async def _acked(redis: RedisClient) -> bool:
    return await pending(redis) == 0


async def _count(letters: DeadLetters, count: int) -> bool:
    return len(await letters.list()) == count


async def test_there_are_so_many_dead_letters_and_the_oldest_go(
    letters: DeadLetters, quick: Settings, redis_client: RedisClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead, "KEPT", 3)
    for number in range(5):
        pair = b"c", b"%d" % number
        await redis_client.execute_command(*dead.set_aside(Keys.of(quick), "fanout", "log:0", pair, "broken", 1))
    assert [letter.message for letter in await letters.list()] == [b"2", b"3", b"4"]
