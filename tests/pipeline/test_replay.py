"""Reading a history: from an offset, before one, since a time, within limits."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from itertools import groupby
from typing import Any

import pytest

from chat.commands import replay as replay_command
from chat.errors import UnknownChannel, Unrecoverable
from chat.node import alone
from chat.settings import ServerSettings
from pipeline.keys import Keys
from pipeline.producer import Producer
from pipeline.replay import CHUNK, Page, Replay
from pipeline.resp import Command, Link
from pipeline.turns import AT_ONCE
from redis_config import Address
from tests.services import RedisClient

SIZE = 1 << 20


@pytest.fixture
async def replay(settings: ServerSettings, redis_client: RedisClient) -> AsyncIterator[Replay]:
    link = Link(Address.parse(settings))
    yield Replay(link, Keys.of(settings))
    link.close()


async def fill(settings: ServerSettings, count: int, data: bytes = b"1") -> None:
    async with Producer(Address.parse(settings), settings) as producer:
        await asyncio.gather(*[producer.publish("c", data, user="u") for _ in range(count)])


async def test_after_before_and_limits(replay: Replay, settings: ServerSettings) -> None:
    await fill(settings, 300)

    async def after(offset: int, limit: int) -> list[int]:
        return [m.offset for m in (await replay.after("c", offset, limit, SIZE)).messages]

    async def before(offset: int | None, limit: int) -> list[int]:
        return [m.offset for m in (await replay.before("c", offset, limit, SIZE)).messages]

    assert await after(0, 1000) == list(range(1, 301))
    assert await after(290, 3) == [291, 292, 293]
    assert await after(300, 10) == [] == await after(10**6, 10)
    assert await before(None, 2) == [300, 299]
    assert await before(3, 10) == [2, 1]
    assert await before(1, 10) == []
    assert await before(None, 1000) == list(range(300, 0, -1))
    page = await replay.after("c", 0, 0, SIZE)
    assert page.messages == [] and page.top == 300 and page.epoch


class Between(Link):
    """A connection on which something happens before its second question."""

    def __init__(self, address: Address, happens: Callable[[], Awaitable[None]]) -> None:
        super().__init__(address)
        self._happens, self._asked = happens, 0

    async def pipeline(self, commands: Sequence[Command]) -> list[Any]:
        self._asked += 1
        if self._asked == 2:
            await self._happens()
        return await super().pipeline(commands)


class AtOnce(Link):
    """A connection whose answers, a chunk each, all come in one turn of the loop."""

    def __init__(self, address: Address) -> None:
        super().__init__(address)
        self.come = asyncio.Event()

    async def pipeline(self, commands: Sequence[Command]) -> list[Any]:
        await self.come.wait()
        fields = [b"user", b"u", b"client", b"", b"data", b"1"]
        entries = [[b"%d-1" % offset, fields] for offset in range(1, CHUNK + 1)]
        return [[b"epoch", b"%d" % CHUNK], entries, entries[:1]]


async def test_many_pages_at_once_are_read_few_a_turn(settings: ServerSettings) -> None:
    link = AtOnce(Address.parse(settings))
    replay = Replay(link, Keys.of(settings))
    seen: list[str] = []

    async def page() -> None:
        await replay.after("c", 0, CHUNK, SIZE)
        seen.append("page")

    async def neighbour() -> None:
        while True:
            seen.append("neighbour")
            await asyncio.sleep(0)

    pages = [asyncio.create_task(page()) for _ in range(20)]
    beside = asyncio.create_task(neighbour())
    await asyncio.sleep(0)
    link.come.set()
    await asyncio.gather(*pages)
    beside.cancel()
    assert seen.count("page") == len(pages)
    assert max(len(list(run)) for said, run in groupby(seen) if said == "page") <= AT_ONCE


@pytest.mark.parametrize("forward", [True, False])
async def test_a_page_is_of_one_life_of_its_channel(
    forward: bool, settings: ServerSettings, redis_client: RedisClient
) -> None:
    """Deleted and made again between two chunks of a page, it has other messages at the same offsets."""

    async def begin_anew() -> None:
        await redis_client.delete("channel:c", "message:c")
        await fill(settings, 310, b'"new"')

    await fill(settings, 300, b'"old"')
    epoch = await redis_client.hget("channel:c", "epoch")
    link = Between(Address.parse(settings), begin_anew)
    read = Replay(link, Keys.of(settings))
    page = await (read.after("c", 0, 300, SIZE) if forward else read.before("c", None, 300, SIZE))
    link.close()
    assert (page.epoch, page.top, {m.data for m in page.messages}) == (epoch, 300, {b'"old"'})
    offsets = range(1, CHUNK + 1) if forward else range(300, 300 - CHUNK, -1)
    assert [m.offset for m in page.messages] == list(offsets)


async def test_replay_of_a_channel_that_begins_anew_says_so(
    settings: ServerSettings, redis_client: RedisClient, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    after = Replay.after

    async def once(self: Replay, *where: Any) -> Page:
        page = await after(self, *where)
        await redis_client.delete("channel:c", "message:c")
        await fill(settings, 310, b'"new"')
        return page

    await fill(settings, 300, b'"old"')
    monkeypatch.setattr(Replay, "after", once)
    with pytest.raises(Unrecoverable, match="began anew"):
        await replay_command(settings, alone, "c", 0, None, follow=False)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == CHUNK and all('"old"' in line for line in lines)


async def test_a_page_has_a_size_and_at_least_one_message(replay: Replay, settings: ServerSettings) -> None:
    await fill(settings, 50, b'"%b"' % (b"x" * 10_000))
    assert len((await replay.after("c", 0, 1000, 100_000)).messages) == 9
    assert len((await replay.after("c", 0, 1000, 10)).messages) == 1


async def test_since_finds_the_first_message_of_a_time(
    replay: Replay, settings: ServerSettings, redis_client: RedisClient
) -> None:
    times = [1000, 1000, 1005, 1010, 1010, 1010, 1020]
    for i, ms in enumerate(times, 1):
        await redis_client.xadd("message:c", {"user": "u", "client": "-", "data": "1"}, id=f"{i}-{ms}")
    await redis_client.hset("channel:c", mapping={"epoch": "e", "offset": len(times)})
    for ms in range(995, 1025):
        naive = next((i for i, at in enumerate(times) if at >= ms), len(times))
        assert await replay.since("c", ms) == naive, ms
    await redis_client.xtrim("message:c", maxlen=3, approximate=False)
    assert await replay.since("c", 0) == 4  # what is left begins behind offset 4


async def test_since_where_nothing_is_left(replay: Replay, redis_client: RedisClient) -> None:
    await redis_client.hset("channel:c", mapping={"epoch": "e", "offset": 7})
    assert await replay.since("c", 0) == 7


async def test_an_unknown_channel(replay: Replay) -> None:
    for read in (replay.after("c", 0, 10, SIZE), replay.before("c", None, 10, SIZE), replay.after("c", 0, 0, SIZE)):
        with pytest.raises(UnknownChannel):
            await read
    assert await replay.position("c") is None
    assert await replay.chunk("c", 0) is None
