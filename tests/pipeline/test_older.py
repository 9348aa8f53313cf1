"""History beyond the stream: pages go on in the archive, in order and without a hole, or there is no page."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chat.errors import Unavailable
from pipeline.consumer import Away
from pipeline.encode import Message
from pipeline.keys import Keys
from pipeline.replay import CHUNK, Page, Replay, dense

SIZE = 1 << 20
EPOCH = "now"


def message(offset: int, epoch: str = EPOCH) -> Message:
    return Message("c", offset, 1000 + offset, epoch, "u", "-", b"1")


class Stream:
    """Redis as Replay asks it: one channel, whose stream holds `offsets`."""

    def __init__(self, offsets: Sequence[int], top: int) -> None:
        self.offsets, self.top = sorted(offsets), top

    async def pipeline(self, commands: Sequence[Sequence[str | int]]) -> list[Any]:
        return [self._reply(*command) for command in commands]

    async def call(self, *command: Any) -> Any:
        if command[0] == "EVAL":  # since: the offset before the first message of that time
            later = [o for o in self.offsets if 1000 + o >= command[-1]]
            return (later or [*self.offsets[-1:], 0])[0] - bool(later) if self.offsets else -1
        return self._reply(*command)

    def _reply(self, *command: Any) -> Any:
        name, _, *rest = command
        if name == "HMGET":
            return [EPOCH.encode(), str(self.top).encode()]
        low, high = rest[:2] if name == "XRANGE" else (rest[1], rest[0])
        found = [o for o in self.offsets if (low == "-" or o >= low) and (high == "+" or o <= high)]
        found = (found if name == "XRANGE" else found[::-1])[: rest[3]]
        return [[f"{o}-{1000 + o}".encode(), [b"user", b"u", b"client", b"-", b"data", b"1"]] for o in found]


class Shelf:
    """An archive in memory, of the channel's epoch."""

    def __init__(self, offsets: Sequence[int], away: bool = False) -> None:
        self.offsets, self.away = sorted(offsets), away
        self.asked = 0

    def _of(self, epoch: str) -> list[int]:
        self.asked += 1
        if self.away:
            raise Away("unplugged")
        return self.offsets if epoch == EPOCH else []

    async def first(self, channel: str, epoch: str) -> int | None:
        return min(self._of(epoch), default=None)

    async def after(self, channel: str, epoch: str, offset: int, limit: int) -> list[Message]:
        return [message(o) for o in self._of(epoch) if o > offset][:limit]

    async def before(self, channel: str, epoch: str, offset: int, limit: int) -> list[Message]:
        return [message(o) for o in reversed(self._of(epoch)) if o < offset][:limit]

    async def since(self, channel: str, epoch: str, ms: int) -> int | None:
        return min((o for o in self._of(epoch) if 1000 + o >= ms), default=0) - 1 if self._of(epoch) else None


def replay(stream: Stream, shelf: Shelf | None) -> Replay:
    return Replay(stream, Keys("channel:", "message:", 8), shelf)  # type: ignore[arg-type]


async def walk(one: Replay, at: int | None, limit: int, forward: bool) -> list[int]:
    """All offsets behind `at`, page by page. Raises Unavailable."""
    seen: list[int] = []
    while True:
        page: Page = await (one.after("c", at or 0, limit, SIZE) if forward else one.before("c", at, limit, SIZE))
        if not page.messages:
            return seen
        seen += [m.offset for m in page.messages]
        at = seen[-1]


@st.composite
def histories(draw: st.DrawFn) -> tuple[int, int, set[int]]:
    """Where a stream begins and ends, and what the archive holds: often all, sometimes with holes, sometimes late."""
    top = draw(st.integers(1, 40))
    first = draw(st.integers(1, top + 1))
    held = set(range(draw(st.integers(1, top + 1)), draw(st.integers(0, top)) + 1))
    return first, top, held - draw(st.sets(st.integers(1, top), max_size=2))


def expected(first: int, top: int, held: set[int], at: int | None, forward: bool) -> list[int] | None:
    """The offsets behind `at`; None: the archive is not there yet, or has a hole.

    History begins with the lowest that is archived, or with the stream where nothing older is.
    """
    begin = min([*held, first])
    wanted = range(max(begin, (at or 0) + 1), top + 1) if forward else range(begin, min(at or top + 1, top + 1))
    if not held and first > 1 and ((at or 0) + 1 < first if forward else at is None or at > 1):
        return None
    if any(o < first and o not in held for o in wanted):
        return None
    return list(wanted) if forward else list(wanted)[::-1]


@settings(deadline=None)
@given(histories(), st.none() | st.integers(1, 45), st.integers(1, 7), st.booleans())
def test_there_is_everything_or_an_error(
    history: tuple[int, int, set[int]], at: int | None, limit: int, forward: bool
) -> None:
    first, top, held = history
    one = replay(Stream(range(first, top + 1), top), Shelf(sorted(held)))
    wanted = expected(first, top, held, at, forward)
    if wanted is None:
        with pytest.raises(Unavailable, match="reconcile"):
            asyncio.run(walk(one, at, limit, forward))
    else:
        assert asyncio.run(walk(one, at, limit, forward)) == wanted


@settings(deadline=None)
@given(histories(), st.integers(0, 1050))
def test_since_leads_to_the_first_message_of_that_time(history: tuple[int, int, set[int]], ms: int) -> None:
    first, top, held = history
    one = replay(Stream(range(first, top + 1), top), Shelf(sorted(held)))

    async def from_then() -> list[int]:
        return await walk(one, await one.since("c", ms), 7, forward=True)

    wanted = expected(first, top, held, max(0, ms - 1001), forward=True)
    try:
        assert asyncio.run(from_then()) == (wanted if wanted is not None else "an error")
    except Unavailable:
        # Whatever is older than the stream has a hole somewhere: since cannot tell on which side of the time.
        assert wanted is None or set(range(min([*held, first]), first)) - held or not held


@settings(deadline=None)
@given(st.lists(st.integers(1, 20), unique=True), st.integers(0, 20))
def test_dense_ends_before_the_first_hole(offsets: list[int], at: int) -> None:
    up = [m.offset for m in dense([message(o) for o in sorted(offsets) if o > at], at, 1)]
    assert up == list(range(at + 1, at + 1 + len(up))) and at + len(up) + 1 not in offsets
    down = [m.offset for m in dense([message(o) for o in sorted(offsets, reverse=True) if o < at], at, -1)]
    assert down == list(range(at - 1, at - 1 - len(down), -1)) and at - len(down) - 1 not in offsets


async def test_an_archive_that_is_away_is_an_error_only_where_it_is_needed() -> None:
    one = replay(Stream(range(50, 61), 60), Shelf([], away=True))
    assert [m.offset for m in (await one.after("c", 49, 5, SIZE)).messages] == [50, 51, 52, 53, 54]
    assert [m.offset for m in (await one.before("c", None, 11, SIZE)).messages] == list(range(60, 49, -1))
    for read in (one.after("c", 48, 5, SIZE), one.before("c", 50, 5, SIZE), one.before("c", None, 12, SIZE)):
        with pytest.raises(Unavailable, match="unplugged"):
            await read
    with pytest.raises(Unavailable, match="unplugged"):
        await one.since("c", 0)


async def test_a_whole_stream_asks_nothing_of_the_archive() -> None:
    shelf = Shelf([], away=True)
    one = replay(Stream(range(1, 300), 299), shelf)
    assert len(await walk(one, 0, 100, forward=True)) == 299 == len(await walk(one, None, 100, forward=False))
    assert await one.since("c", 0) == 0 and await one.older("c", EPOCH, 0) == []
    assert shelf.asked == 0


async def test_without_an_archive_history_begins_with_the_stream() -> None:
    one = replay(Stream(range(50, 61), 60), None)
    assert await walk(one, 0, 5, forward=True) == list(range(50, 61))
    assert await walk(one, None, 5, forward=False) == list(range(60, 49, -1))


async def test_an_older_epoch_is_not_asked_for() -> None:
    one = replay(Stream(range(50, 61), 60), Shelf(range(1, 50)))
    assert await one.older("c", "before", 3) == []
    assert [m.offset for m in await one.older("c", EPOCH, 3)] == list(range(4, 50))
    assert await one.older("c", EPOCH, 49) == []


async def test_what_is_lost_in_the_archive_for_good_is_skipped_once_it_begins_later() -> None:
    """An archive that was turned on late: what is in neither is no hole but the begin of history."""
    one = replay(Stream(range(50, 61), 60), Shelf(range(20, 61)))
    assert await walk(one, 0, 100, forward=True) == list(range(20, 61))
    late = replay(Stream(range(50, 61), 60), Shelf(range(55, 61)))
    assert await walk(late, 0, 100, forward=True) == list(range(50, 61))
    assert await walk(late, None, 100, forward=False) == list(range(60, 49, -1))


def test_a_page_is_larger_than_a_chunk_of_either() -> None:
    one = replay(Stream(range(500, 701), 700), Shelf(range(1, 600)))
    page = asyncio.run(one.after("c", 0, 650, SIZE))
    assert [m.offset for m in page.messages] == list(range(1, 651)) and 4 * CHUNK < 650
