"""What every archive does, whichever database it is: each message once, read back in order, events found."""

import asyncio
from pathlib import Path

import msgspec
import pytest

from app import AppSettings
from bridge.archives import Archives, Store
from bridge.sql import SqlArchive
from chat.models import Stream
from pipeline.consumer import Away
from pipeline.encode import Message
from pipeline.keys import Keys
from pipeline.reconcile import Reconciler
from pipeline.resp import Link
from redis_config import Address
from tests.bridge.conftest import event, message


def offsets(messages: list[Message]) -> list[int]:
    return [m.offset for m in messages]


async def test_a_message_is_stored_once_with_all_it_has(archive: Store) -> None:
    await archive.store([message(1), message(2)])
    await archive.store([message(2), message(3), message(3)])
    await archive.store([])
    assert await archive.after("c", "e", 0, 100) == [message(1), message(2), message(3)]
    (extent,) = await archive.extents()
    assert extent == ("c", "e", 3, 1, 3)


async def test_what_was_stored_first_stays(archive: Store) -> None:
    await archive.store([message(1)])
    await archive.store([message(1, data='"another"'), message(2)])
    assert await archive.before("c", "e", 9, 100) == [message(2), message(1)]


async def test_epochs_and_channels_are_kept_apart(archive: Store) -> None:
    await archive.store([message(1), message(1, "f"), message(7, channel="d"), message(8, channel="ف")])
    assert await archive.after("c", "e", 0, 9) == [message(1)]
    assert await archive.after("ف", "e", 0, 9) == [message(8, channel="ف")]
    assert [await archive.first(*of) for of in (("c", "e"), ("d", "e"), ("d", "f"))] == [1, 7, None]
    assert sorted(await archive.extents()) == [
        ("c", "e", 1, 1, 1),
        ("c", "f", 1, 1, 1),
        ("d", "e", 1, 7, 7),
        ("ف", "e", 1, 8, 8),
    ]


async def test_pages_forward_and_backward_and_since_a_time(archive: Store) -> None:
    await archive.store([message(i) for i in range(3000, 0, -1)])
    assert offsets(await archive.after("c", "e", 10, 3)) == [11, 12, 13]
    assert offsets(await archive.before("c", "e", 10, 3)) == [9, 8, 7]
    assert offsets(await archive.after("c", "e", 2999, 100)) == [3000]
    assert offsets(await archive.before("c", "e", 1, 100)) == []
    assert await archive.first("c", "e") == 1
    assert await archive.since("c", "e", 1_795_000_000_500) == 499
    assert await archive.since("c", "e", 0) == 0
    assert await archive.since("c", "e", 2**60) is None and await archive.since("d", "e", 0) is None
    assert await archive.ids("c", 5, 6) == {"5-1795000000005", "6-1795000000006"}


async def test_events_are_found_by_id_channel_and_type(archive: Store) -> None:
    await archive.store([event(i, type=f"t{i % 2}") for i in range(1, 7)])
    await archive.store([message(7), event(8, channel="d"), event(9, id="2")])
    await archive.store([event(8, id="8", channel="d")])  # is there
    assert await archive.event("c", "2") == event(2, type="t0")  # the first that came by that id
    assert await archive.event("c", "2", 1_795_000_000_009) == event(9, id="2")  # c was made again
    assert await archive.event("c", "2", 1_795_000_000_010) is await archive.event("c", "8") is None
    assert await archive.event("c", "7") is None and await archive.event("c", "") is None
    assert offsets(await archive.events("c", "", 3)) == [9, 6, 5]
    assert offsets(await archive.events("c", "t1", 9)) == [5, 3, 1]
    assert offsets(await archive.events("", "t", 9)) == [9, 8]
    assert offsets(await archive.events("", "", 2)) == [9, 8]
    assert await archive.events("x", "", 9) == []


async def test_the_channels_that_hold_an_id(archive: Store) -> None:
    ids = [(5, "c"), (1, "f"), (2, "d"), (1, "e"), (9, "c")]
    await archive.store([event(offset, id="x", channel=channel) for offset, channel in ids])
    whole = [(channel, 1_795_000_000_000 + first, 1_795_000_000_000 + last) for channel, first, last in HOLDERS]
    assert await archive.holders("x", 0, 9) == whole
    assert await archive.holders("x", 0, 2) + await archive.holders("x", 2, 2) == whole
    assert await archive.holders("x", 4, 9) == await archive.holders("y", 0, 9) == []


HOLDERS = [("e", 1, 1), ("f", 1, 1), ("d", 2, 2), ("c", 5, 9)]


async def test_whatever_a_store_says_can_be_said_as_json(archive: Store) -> None:
    """And is of plain types: BSON has integers of its own, which are none to who looks closely."""
    await archive.store([message(1), event(2), event(3, id="2", channel="d")])
    answers: list[object] = [
        *[await archive.first("c", "e"), await archive.since("c", "e", 0), await archive.ids("c", 0, 9)],
        *[await archive.after("c", "e", 0, 9), await archive.before("c", "e", 9, 9), await archive.events("", "", 9)],
        *[await archive.event("c", "2"), await archive.holders("2", 0, 9), await archive.extents()],
    ]
    for answer in answers:
        assert answer is not None and not odd(answer) and msgspec.json.encode(answer)


def odd(value: object) -> list[type]:
    """The types in an answer that JSON does not know."""
    if isinstance(value, tuple | list | set):
        return [kind for one in value for kind in odd(one)]
    return [] if type(value) in (int, str, bytes, type(None)) else [type(value)]


async def test_json_that_only_looks_like_an_event_is_a_message(archive: Store) -> None:
    long = "x" * 5000
    await archive.store([event(1, id=long), event(2, type=long), message(3, data='{"id":"3","type":"t"}')])
    assert offsets(await archive.after("c", "e", 0, 9)) == [1, 2, 3]
    assert await archive.events("", "", 9) == []


async def test_several_at_once_store_the_same_once(store: Store) -> None:
    """Two nodes that start together, on a database that holds nothing; and owners that overlap."""
    async with store:
        others = [SqlArchive(store.url) if isinstance(store, SqlArchive) else store for _ in range(3)]
        await asyncio.gather(*[other.open() for other in others])
        await asyncio.gather(*[other.store([event(i) for i in range(1, 401)]) for other in (*others, store)])
        assert await store.extents() == [("c", "e", 400, 1, 400)]
        assert len(await store.events("", "", 1000)) == 400
        for other in others:
            await other.aclose()


async def test_what_is_stored_is_there_next_time(tmp_path: Path, postgres_url: str) -> None:
    for url in (f"sqlite+aiosqlite:///{tmp_path}/a.sqlite", postgres_url.replace("postgresql", "postgresql+asyncpg")):
        async with SqlArchive(url) as archive:
            await archive.store([message(i) for i in range(1, 2001)])
        async with SqlArchive(url) as archive:
            assert await archive.last_offset("c", "e") == 2000 and await archive.last_offset("c", "f") == 0
            rows = await archive.messages("c")
        assert [row.offset for row in rows] == list(range(1, 2001)) and isinstance(rows[0], Stream)
        assert (rows[0].id, rows[0].message, rows[0].user) == ("1-1795000000001", '{"text":"سلام"}', "سارا")


async def test_the_second_database_answers_where_the_first_does_not(tmp_path: Path) -> None:
    async with SqlArchive(f"sqlite+aiosqlite:///{tmp_path}/a.sqlite") as there:
        await there.store([event(1)])
        gone = SqlArchive(f"sqlite+aiosqlite:///{tmp_path}/no/such/directory.sqlite")
        both = Archives([gone, there])
        assert offsets(await both.after("c", "e", 0, 9)) == [1] == offsets(await both.before("c", "e", 9, 9))
        assert await both.first("c", "e") == 1 and await both.since("c", "e", 0) == 0
        assert await both.event("c", "1") == event(1) and offsets(await both.events("c", "", 9)) == [1]
        holders, away = await both.holders("1", 0, 9)
        assert [holder.channel for holder in holders] == ["c"] and away is not None
        with pytest.raises(Away):
            await both.event("c", "2")  # perhaps the first has it
        assert await Archives([there]).event("c", "2") is None
        assert await Archives([there]).holders("2", 0, 9) == ([], None)
    with pytest.raises(Away, match="ARCHIVE=1"):
        await Archives([]).first("c", "e")


async def test_reconcile_sees_gaps_that_look_alike(
    bridge_settings: AppSettings, archive: Store, tmp_path: Path
) -> None:
    """Each lacks another message, so both have as many, the same first and the same last."""
    link = Link(Address.parse(bridge_settings))
    async with SqlArchive(f"sqlite+aiosqlite:///{tmp_path}/other.sqlite") as other:
        other.group = "other"
        await archive.store([message(n) for n in range(1, 11) if n != 4])
        await other.store([message(n) for n in range(1, 11) if n != 7])
        rows = await Reconciler(link, Keys.of(bridge_settings), [archive, other]).run([])
        assert [row[3:] for row in rows] == [("10", "1", "10", "1", "0")] * 2
        for store in (archive, other):
            assert offsets(await store.after("c", "e", 0, 99)) == list(range(1, 11))
    link.close()
