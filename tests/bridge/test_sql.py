"""The SQL archive: each message once, however often it is stored."""

from pathlib import Path

from bridge.sql import SqlArchive
from pipeline.encode import Message


def message(offset: int, epoch: str = "e", channel: str = "c") -> Message:
    return Message(channel, offset, 1_795_000_000_000 + offset, epoch, "سارا", "f00", '{"text":"سلام"}'.encode())


async def test_a_message_is_stored_once_with_all_it_has(tmp_path: Path) -> None:
    async with SqlArchive(tmp_path) as archive:
        await archive.store([message(1), message(2)])
        await archive.store([message(2), message(3)])
        rows = await archive.messages("c")
    assert [row.offset for row in rows] == [1, 2, 3]
    assert (rows[0].id, rows[0].message, rows[0].user) == ("1-1795000000001", '{"text":"سلام"}', "سارا")
    assert rows[0].timestamp.timestamp() != rows[1].timestamp.timestamp()


async def test_epochs_and_channels_are_kept_apart(tmp_path: Path) -> None:
    async with SqlArchive(tmp_path) as archive:
        await archive.store([message(1), message(1, "f"), message(7, channel="d")])
        assert len(await archive.messages("c")) == 2
        assert [await archive.last_offset(*of) for of in (("c", "e"), ("d", "e"), ("d", "f"), ("x", "e"))] == [
            1,
            7,
            0,
            0,
        ]


async def test_what_is_stored_is_there_next_time(tmp_path: Path) -> None:
    async with SqlArchive(tmp_path) as archive:
        await archive.store([])
        await archive.store([message(i) for i in range(1, 2001)])
    async with SqlArchive(tmp_path) as archive:
        assert await archive.last_offset("c", "e") == 2000
