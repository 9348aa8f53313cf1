"""The archive's tables, and how they come about: created when missing, and a row that says their version.

No migration tool: the archive has three tables that only ever gain columns, so an upgrade is one statement in
UPGRADES, run under a lock by whichever node comes first. A tool (Alembic) would bring its own table, a directory of
scripts and a step that somebody must remember to run.
"""

import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, Column, Connection, DateTime, Index, Table, inspect, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import Field, SQLModel, col, insert, select, update

from chat.models import NAME_LIMIT
from pipeline.event import ID_LIMIT, TYPE_LIMIT
from redis_config import ConfigError

VERSION = 4
UPGRADES: Mapping[int, Sequence[str]] = {
    2: [  # found an event by its id alone, whichever channel it was in
        "DROP INDEX events_event",
        "CREATE INDEX events_event ON events (event_id, channel_id, timestamp)",
    ],
    3: [  # had ids and types of 128 characters
        f"ALTER TABLE events ALTER COLUMN event_id TYPE VARCHAR({ID_LIMIT})",
        f"ALTER TABLE events ALTER COLUMN type TYPE VARCHAR({TYPE_LIMIT})",
    ],
}
_LOCK = 0x5065796B  # of PostgreSQL's advisory locks: "Peyk"


class StoredEvent(SQLModel, table=True):
    """The event that a stored message carries; beside it, so that events are found by what they say."""

    __tablename__ = "events"
    __table_args__ = (
        Index("events_event", "event_id", "channel_id", "timestamp"),
        Index("events_channel_time", "channel_id", "timestamp", "offset"),
        Index("events_type_time", "type", "timestamp"),
    )

    channel_id: str = Field(primary_key=True, max_length=NAME_LIMIT)
    epoch: str = Field(primary_key=True, max_length=16)
    offset: int = Field(sa_column=Column(BigInteger, primary_key=True, autoincrement=False))
    event_id: str = Field(max_length=ID_LIMIT)
    type: str = Field(max_length=TYPE_LIMIT)
    payload: Any = Field(sa_column=Column(JSON().with_variant(JSONB(), "postgresql"), nullable=False))
    timestamp: datetime = Field(sa_column=Column(DateTime(timezone=True), nullable=False))


class ArchiveInfo(SQLModel, table=True):
    """One row: the database's own id, and the version of its tables."""

    __tablename__ = "archive"

    row: int = Field(default=1, primary_key=True)
    id: str = Field(max_length=32)
    version: int


_TABLES: Mapping[str, Table] = {name: SQLModel.metadata.tables[name] for name in ("stream", "events", "archive")}


async def prepare(connection: AsyncConnection) -> str:
    """Create or upgrade the tables in the running transaction; the database's id.

    Raises ConfigError for a database that cannot be ours: another encoding, another program's tables, a newer Peyk's.
    """
    if connection.dialect.name == "postgresql":
        await _check_encoding(connection)
        await connection.execute(text(f"SELECT pg_advisory_xact_lock({_LOCK})"))
    existing = await connection.run_sync(_columns)
    row = await _info(connection) if set(existing.get("archive", ())) >= _names("archive") else None
    if row is None:
        if existing:
            raise ConfigError(
                f"it holds {' and '.join(sorted(existing))}, tables of another program; give Peyk a database of its own"
            )
        await connection.run_sync(SQLModel.metadata.create_all)
        id = secrets.token_hex(8)
        await connection.execute(insert(ArchiveInfo).values(row=1, id=id, version=VERSION))
        return id
    id, version = row
    if version > VERSION:
        raise ConfigError(f"its tables are of version {version}, this Peyk knows {VERSION}: use a newer Peyk")
    await connection.run_sync(SQLModel.metadata.create_all)
    for old in range(version, VERSION):
        for statement in UPGRADES[old]:
            if " TYPE " not in statement or connection.dialect.name != "sqlite":  # there a length is only a comment
                await connection.execute(text(statement))
    if version < VERSION:
        await connection.execute(update(ArchiveInfo).values(version=VERSION))
    _check_columns(await connection.run_sync(_columns))
    return id


async def _check_encoding(connection: AsyncConnection) -> None:
    encoding = (await connection.execute(text("SHOW server_encoding"))).scalar()
    if encoding != "UTF8":
        raise ConfigError(
            f"its server_encoding is {encoding}, which cannot hold every text; make the database in UTF8: "
            "createdb -E UTF8 -T template0 NAME"
        )


async def _info(connection: AsyncConnection) -> tuple[str, int] | None:
    row = (await connection.execute(select(ArchiveInfo.id, ArchiveInfo.version))).one_or_none()
    return (row[0], row[1]) if row is not None else None


def _names(table: str) -> set[str]:
    return set(_TABLES[table].columns.keys())


def _columns(connection: Connection) -> dict[str, set[str]]:
    """The columns of those tables, or views, that bear our names."""
    inspector = inspect(connection)
    there = [name for name in _TABLES if inspector.has_table(name)]
    return {name: {column["name"] for column in inspector.get_columns(name)} for name in there}


def _check_columns(existing: Mapping[str, set[str]]) -> None:
    """Raises ConfigError: a table of ours that somebody changed fails every statement, whatever the message."""
    for name, columns in existing.items():
        if lacks := sorted(_names(name) - columns):
            raise ConfigError(f"its table {name} lacks {', '.join(lacks)}: another program's, or changed by hand")


async def id_of(connection: AsyncConnection) -> str:
    """The database's own id; "" if it holds no archive."""
    return str((await connection.execute(select(col(ArchiveInfo.id)))).scalar() or "")
