"""The SQL archive, PostgreSQL or SQLite: one row a message, however often it is given, and one for its event."""

import logging
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
from sqlalchemy import URL, Connection, ExceptionContext, Select, event, func, make_url
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool
from sqlmodel import col, select

from bridge.blame import STALE, Blame, is_answer, of_connecting, of_sql, state_of
from bridge.database import LONG, PATIENCE, Database
from bridge.settings import SQL
from bridge.tables import StoredEvent, id_of, prepare
from chat.models import Stream
from pipeline.archive import KnownDatabase
from pipeline.consumer import Away
from pipeline.encode import Message
from pipeline.event import event_of
from pipeline.ports import Extent, Holder
from redis_config import ConfigError

logger = logging.getLogger(__name__)

KEY = ("channel_id", "epoch", "offset")
TIMEOUT = 10.0  # seconds a statement may take
_CONNECT = 5.0  # seconds
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# A statement with a name is there in one session; behind pgbouncer each transaction may have another.
_NAMELESS: Mapping[str, Any] = {
    "statement_cache_size": 0,
    "prepared_statement_cache_size": 0,
    "prepared_statement_name_func": str,
}
_IMMEDIATE = "immediate"  # an option of ours: the transaction will write

_COLUMNS = (
    *(col(Stream.channel_id), col(Stream.offset), col(Stream.id), col(Stream.epoch)),
    *(col(Stream.user), col(Stream.client), col(Stream.message)),
)


class _Misset(Away):
    """There is no connection, and waiting brings none: a wrong password, a certificate that is not there."""


class SqlArchive(Database):
    """Stored messages, as sink and for reading."""

    group = SQL

    def __init__(self, url: str | URL, known: KnownDatabase | None = None, *, creates: bool = True) -> None:
        super().__init__(known, creates)
        self.url = make_url(url)
        self._engine = _engine(self.url)
        dialect: Any = postgresql if self._engine.dialect.name == "postgresql" else sqlite
        self._insert_messages = dialect.insert(Stream).on_conflict_do_nothing(index_elements=KEY)
        self._insert_events = dialect.insert(StoredEvent).on_conflict_do_nothing(index_elements=KEY)

    @property
    def where(self) -> str:
        """The database for people, without its password."""
        scheme = self.url.drivername.partition("+")[0]
        return str(self.url.database) if scheme == "sqlite" else self.url.set(drivername=scheme).render_as_string()

    async def _disconnect(self) -> None:
        await self._engine.dispose()

    async def _look(self) -> str:
        try:
            async with self._begin() as connection:
                return await (prepare(connection) if self._creates else id_of(connection))
        except SQLAlchemyError as error:
            if of_sql(error) is Blame.SETTING:
                raise ConfigError(f"DATABASE_URL: {self.where}: {_line(error)}") from None
            raise self._unable(error) from error
        except (_Misset, ConfigError) as error:
            raise ConfigError(f"DATABASE_URL: {self.where}: {error}") from None

    async def store(self, messages: Sequence[Message]) -> None:
        """Store messages; one that is stored already stays as it is (the key is channel, epoch, offset).

        Raises Away; and what else it raises is the messages' own fault.
        """
        rows, events = [], []
        for message in messages:
            time = _EPOCH + timedelta(milliseconds=message.ms)
            key = {"channel_id": message.channel, "epoch": message.epoch, "offset": message.offset, "timestamp": time}
            text = {"message": message.data.decode(), "user": message.user, "client": message.client}
            rows.append({**key, "id": message.id, **text})
            if found := event_of(message):
                events.append({**key, "event_id": found.id, "type": found.type, "payload": found.payload})
        if not rows:
            return
        await self._opened()
        try:
            async with self._begin() as connection:
                self._check_same(await id_of(connection))
                await connection.execute(self._insert_messages, rows)
                if events:
                    await connection.execute(self._insert_events, events)
        except SQLAlchemyError as error:
            raise self._failure(error) from error

    # -- reading

    async def first(self, channel: str, epoch: str) -> int | None:
        """The lowest offset stored of one epoch of a channel."""
        return await self._scalar(_of(channel, epoch, func.min(Stream.offset)))

    async def last_offset(self, channel: str, epoch: str) -> int:
        """The highest offset stored of one epoch of a channel; 0 if none."""
        return await self._scalar(_of(channel, epoch, func.max(Stream.offset))) or 0

    async def after(self, channel: str, epoch: str, offset: int, limit: int) -> list[Message]:
        """Up to `limit` messages with offsets above `offset`, oldest first."""
        query = _of(channel, epoch, *_COLUMNS).where(col(Stream.offset) > offset).order_by(col(Stream.offset))
        return await self._messages(query.limit(limit))

    async def before(self, channel: str, epoch: str, offset: int, limit: int) -> list[Message]:
        """Up to `limit` messages with offsets below `offset`, newest first."""
        query = _of(channel, epoch, *_COLUMNS).where(col(Stream.offset) < offset).order_by(col(Stream.offset).desc())
        return await self._messages(query.limit(limit))

    async def since(self, channel: str, epoch: str, ms: int) -> int | None:
        """The offset just before the first message at or after `ms` (Unix ms); None: there is none."""
        query = _of(channel, epoch, col(Stream.offset)).where(col(Stream.timestamp) >= _time(ms))
        found = await self._scalar(query.order_by(col(Stream.timestamp), col(Stream.offset)).limit(1))
        return None if found is None else found - 1

    async def event(self, channel: str, id: str, began: float = 0) -> Message | None:
        """The message of a channel that carries the event; of several since `began` (Unix ms), the first."""
        query = _with_events().where(col(StoredEvent.event_id) == id, col(StoredEvent.channel_id) == channel)
        query = query.where(col(StoredEvent.timestamp) >= _time(began))
        found = await self._messages(query.order_by(col(StoredEvent.timestamp), col(StoredEvent.offset)).limit(1))
        return found[0] if found else None

    async def holders(self, id: str, skip: int, limit: int) -> list[Holder]:
        """The channels in which there is an event with the id, the one that had it first before the others."""
        channel, time = col(StoredEvent.channel_id), col(StoredEvent.timestamp)
        query: Any = select(channel, func.min(time), func.max(time)).where(col(StoredEvent.event_id) == id)
        query = query.group_by(channel).order_by(func.min(time), channel).offset(skip).limit(limit)
        return [Holder(row[0], _ms(row[1]), _ms(row[2])) for row in await self._rows(query)]

    async def events(self, channel: str, type: str, limit: int) -> list[Message]:
        """The newest events, newest first; of one channel and one type, unless these are empty."""
        query = _with_events()
        if channel:
            query = query.where(col(StoredEvent.channel_id) == channel)
        if type:
            query = query.where(col(StoredEvent.type) == type)
        newest = col(StoredEvent.timestamp).desc(), col(StoredEvent.offset).desc()
        return await self._messages(query.order_by(*newest).limit(limit))

    async def extents(self) -> list[Extent]:
        """How much there is of each epoch of each channel."""
        key = col(Stream.channel_id), col(Stream.epoch)
        count = func.count(), func.min(Stream.offset), func.max(Stream.offset)
        query: Select[Any] = select(*key, *count).group_by(*key).order_by(*key)  # type: ignore[call-overload]
        return [Extent._make(row) for row in await self._rows(query, LONG)]

    async def ids(self, channel: str, first: int, last: int) -> set[str]:
        """The entry ids of a channel's messages from one offset to another, of every epoch."""
        between = col(Stream.offset).between(first, last)
        query = select(col(Stream.id)).where(col(Stream.channel_id) == channel, between)
        return {row[0] for row in await self._rows(query)}

    async def messages(self, channel: str) -> list[Stream]:
        """Every stored message of `channel` as the model has it, in order of time and offset."""
        query = select(Stream.__table__).where(col(Stream.channel_id) == channel)  # type: ignore[attr-defined]
        rows = await self._rows(query.order_by(col(Stream.timestamp), col(Stream.offset)))
        return [Stream(**row._mapping) for row in rows]

    async def _messages(self, query: Select[Any]) -> list[Message]:
        found = []
        for row in await self._rows(query):
            ms = int(row.id.partition("-")[2])
            found.append(Message(row.channel_id, row.offset, ms, row.epoch, row.user, row.client, row.message.encode()))
        return found

    async def _scalar(self, query: Select[Any]) -> int | None:
        rows = await self._rows(query)
        return rows[0][0] if rows else None

    async def _rows(self, query: Select[Any], patience: float = PATIENCE) -> Sequence[Any]:
        return await self._answer(lambda: self._select(query), patience)

    async def _select(self, query: Select[Any]) -> Sequence[Any]:
        try:
            async with self._begin(writes=False) as connection:
                rows: Sequence[Any] = (await connection.execute(query)).all()
                return rows
        except SQLAlchemyError as error:
            raise self._unable(error) from error

    def _failure(self, error: SQLAlchemyError) -> Exception:
        """What a sink says of an error: the message has it, or the database, which may be read nevertheless."""
        return ValueError(_line(error)) if of_sql(error) is Blame.MESSAGE else self._unable(error)

    def _unable(self, error: SQLAlchemyError) -> Away:
        """Only what did not answer is away for all who ask; a database that says what it lacks is looked at anew."""
        if not is_answer(error):
            return self._away(_line(error))
        if of_sql(error) in (Blame.AWAY, Blame.SETTING):
            self._id = ""
        return Away(f"{self.where} refuses: {_line(error)}")

    @asynccontextmanager
    async def _begin(self, writes: bool = True) -> AsyncIterator[AsyncConnection]:
        """A transaction. Raises Away while there is no connection, and _Misset where there can be none."""
        try:
            connection = await self._engine.connect()
        except (SQLAlchemyError, OSError, TimeoutError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError) as e:
            raise (_Misset(_line(e)) if of_connecting(e) is Blame.SETTING else self._away(_line(e))) from e
        try:
            await connection.execution_options(**{_IMMEDIATE: writes})
            async with connection.begin():
                yield connection
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise self._away(_line(error)) from error
        finally:
            await connection.close()


def _time(ms: float) -> datetime:
    """Unix milliseconds, until the year 9999 ends."""
    return _EPOCH + timedelta(milliseconds=min(ms, 253_402_300_799_000))


def _ms(time: datetime) -> int:
    """Unix milliseconds. SQLite forgets that times are in UTC."""
    return (time.replace(tzinfo=UTC) - _EPOCH) // timedelta(milliseconds=1)


def _of(channel: str, epoch: str, *columns: Any) -> Select[Any]:
    return select(*columns).where(col(Stream.channel_id) == channel, col(Stream.epoch) == epoch)  # type: ignore[no-any-return]


def _with_events() -> Select[Any]:
    same = [getattr(StoredEvent, name) == getattr(Stream, name) for name in KEY]
    return select(*_COLUMNS).where(*same)  # type: ignore[no-any-return, call-overload]


def _engine(url: URL) -> AsyncEngine:
    """The payload of an event is kept as the line of JSON it came as: no value is decoded to be encoded again."""
    line: Any = {"json_serializer": bytes.decode, "json_deserializer": str.encode}
    if url.drivername.startswith("postgresql"):
        name, timeout = url.query.get("application_name", "peyk"), url.query.get("connect_timeout", _CONNECT)
        url = url.difference_update_query(["application_name", "connect_timeout"])
        connect = {
            "timeout": float(str(timeout)),
            "command_timeout": TIMEOUT,
            "server_settings": {"application_name": name},
            **_NAMELESS,
        }
        _forget_home_that_is_shut()
        engine = create_async_engine(url, pool_size=2, max_overflow=8, pool_pre_ping=True, connect_args=connect, **line)
        event.listen(engine.sync_engine, "handle_error", _drop_stale)
        return engine
    # A connection for each transaction: one that is kept goes on writing into a file that somebody moved away.
    engine = create_async_engine(url, poolclass=NullPool, **line)
    event.listen(engine.sync_engine, "connect", _set_up_sqlite)
    event.listen(engine.sync_engine, "begin", _begin_sqlite)
    return engine


def _drop_stale(context: ExceptionContext) -> None:
    """After a change of roles or a restart the pooled connections are of no use, open as they may be: they go."""
    error = context.sqlalchemy_exception
    if isinstance(error, DBAPIError) and state_of(error).startswith(STALE):
        context.is_disconnect = True


def _forget_home_that_is_shut() -> None:
    """asyncpg looks for certificates and passwords in HOME, and fails where it may not look: then there are none."""
    try:
        folder = Path.home() / ".postgresql"
    except RuntimeError:  # no HOME, no such user
        return
    for name in ("root.crt", "root.crl", "postgresql.crt", "postgresql.key"):
        try:
            (folder / name).open("rb").close()
        except (FileNotFoundError, NotADirectoryError):
            pass
        except OSError as error:
            logger.warning("%s: no certificate and no password file of HOME is used", error)
            os.environ["HOME"] = os.devnull
            return


def _set_up_sqlite(connection: Any, _: object) -> None:
    connection.isolation_level = None  # else Python's module begins transactions when it likes, and never for DDL
    cursor = connection.cursor()
    for pragma in ("busy_timeout=5000", "journal_mode=WAL", "synchronous=FULL"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    """Who will write says so at once: a reader that begins to write when another has written is refused."""
    immediate = connection.get_execution_options().get(_IMMEDIATE)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")


def _line(error: BaseException) -> str:
    """An error in one line, without the statement."""
    text = str(error.orig) if isinstance(error, DBAPIError) else str(error)
    return " ".join(text.split())[:300] or type(error).__name__
