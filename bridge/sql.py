"""The SQL archive: SQLite in DATA_DIR unless told otherwise. One row a message, whoever stores it how often."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import func
from sqlalchemy.dialects import sqlite
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlmodel import SQLModel, col, select

from chat.models import Stream
from pipeline.encode import Message

KEY = ("channel_id", "epoch", "offset")


def stored(message: Message) -> Stream:
    """A message as a row of the Stream model."""
    return Stream(
        channel_id=message.channel,
        epoch=message.epoch,
        offset=message.offset,
        id=message.id,
        message=message.data.decode(),
        timestamp=datetime.fromtimestamp(message.ms / 1000, UTC),
        user=message.user,
    )


class SqlArchive:
    """Stored messages. Use `async with`."""

    def __init__(self, data_dir: Path) -> None:
        self._engine: AsyncEngine = create_async_engine(f"sqlite+aiosqlite:///{data_dir / 'peyk.sqlite'}")

    async def __aenter__(self) -> "SqlArchive":
        async with self._engine.begin() as connection:
            await connection.exec_driver_sql("PRAGMA journal_mode=WAL")
            await connection.run_sync(SQLModel.metadata.create_all)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._engine.dispose()

    async def store(self, messages: Sequence[Message]) -> None:
        """Store messages; one that is stored already stays as it is (the key is channel, epoch, offset)."""
        rows = [stored(message).model_dump() for message in messages]
        if rows:
            async with self._engine.begin() as connection:
                await connection.execute(sqlite.insert(Stream).on_conflict_do_nothing(index_elements=KEY), rows)

    async def last_offset(self, channel: str, epoch: str) -> int:
        """The highest offset stored of one epoch of a channel; 0 if none."""
        query = select(func.max(Stream.offset)).where(Stream.channel_id == channel, Stream.epoch == epoch)
        async with self._engine.connect() as connection:
            return (await connection.execute(query)).scalar() or 0

    async def messages(self, channel: str) -> list[Stream]:
        """Every stored message of `channel`, in order of time and offset."""
        query = select(Stream).where(Stream.channel_id == channel).order_by(col(Stream.timestamp), col(Stream.offset))
        async with self._engine.connect() as connection:
            return [Stream(**row) for row in (await connection.execute(query)).mappings()]
