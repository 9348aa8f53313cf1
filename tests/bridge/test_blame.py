"""An error of a message is told apart from an error of its destination, in real databases: what follows from each."""

import contextlib
import sqlite3
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pymongo
import pytest

from bridge.blame import MONGO_CODES, SQLITE_CODES, SQLSTATES, Blame
from bridge.mongo import MongoArchive
from bridge.settings import database
from bridge.sql import SqlArchive
from pipeline.consumer import Away
from redis_config import ConfigError
from tests.bridge.conftest import event, message
from tests.services import ROOT, MongoProcess, PostgresProcess, until


async def execute(url: str, *statements: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


async def _stores(archive: SqlArchive | MongoArchive, offset: int) -> bool:
    with contextlib.suppress(Away):
        await archive.store([event(offset)])
        return True
    return False


async def test_while_postgresql_is_read_only_messages_wait_and_can_be_read(postgres_url: str) -> None:
    """Sessions that began meanwhile stay read-only for ever: the pool lets go of them by itself."""
    name = postgres_url.rpartition("/")[2]
    async with SqlArchive(database(postgres_url, Path())) as archive:
        await archive.store([event(1)])
        await execute(postgres_url, f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        await archive._engine.dispose()  # as after a failover: every connection is new, and to a standby
        for _ in range(2):
            with pytest.raises(Away, match="read-only"):
                await archive.store([event(2)])
            assert [m.offset for m in await archive.after("c", "e", 0, 9)] == [1]
        await execute(postgres_url, "SET default_transaction_read_only = off", f"ALTER DATABASE {name} RESET ALL")
        await until(lambda: _stores(archive, 2))
        assert [m.offset for m in await archive.events("c", "", 9)] == [2, 1]


async def test_a_connection_that_somebody_ended_is_made_anew(postgres_url: str) -> None:
    async with SqlArchive(database(postgres_url, Path())) as archive:
        for offset in range(1, 4):
            await archive.store([event(offset)])
            await execute(
                postgres_url,
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()",
            )
        await archive.store([event(4)])
        assert len(await archive.after("c", "e", 0, 9)) == 4


RAISED = {
    "25006": Away,
    "40P01": Away,
    "53100": Away,
    "53300": Away,
    "55P03": Away,
    "57P01": Away,
    "58030": Away,
    "42501": Away,
    "XX000": Away,
    "22021": ValueError,
    "22003": ValueError,
    "23514": ValueError,
    "54000": ValueError,
}


@pytest.fixture
async def raising(postgres_url: str) -> AsyncIterator[SqlArchive]:
    """An archive that fails with the SQLSTATE a message is the text of."""
    async with SqlArchive(database(postgres_url, Path())) as archive:
        await execute(
            postgres_url,
            """CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
               IF length(NEW.message) = 7 THEN RAISE EXCEPTION 'told to' USING ERRCODE = trim('"' FROM NEW.message);
               END IF; RETURN NEW; END $$""",
            "CREATE TRIGGER refuse BEFORE INSERT ON stream FOR EACH ROW EXECUTE FUNCTION refuse()",
        )
        yield archive


async def test_what_follows_from_postgresqls_errors(raising: SqlArchive) -> None:
    for number, (state, kind) in enumerate(RAISED.items(), 1):
        with pytest.raises(kind, match="told to"):
            await raising.store([message(1), message(number + 1, data=f'"{state}"')])
        assert await raising.after("c", "e", 0, 9) == []
    await raising.store([message(1)])
    assert len(await raising.after("c", "e", 0, 9)) == 1


async def test_what_waiting_does_not_mend_stops_a_start(postgres: PostgresProcess, postgres_url: str) -> None:
    await execute(postgres_url, "DROP ROLE IF EXISTS nothing", "CREATE ROLE nothing LOGIN")
    stranger = postgres_url.replace("app@", "nothing@")
    for url, why in (
        (stranger, "permission denied for schema public"),
        (postgres_url.replace("app@", "nobody@"), 'role "nobody" does not exist'),
        (f"{postgres_url}?sslmode=verify-full", "root certificate file"),
    ):
        archive = SqlArchive(database(url, Path()))
        with pytest.raises(ConfigError, match=f"DATABASE_URL: .*{why}"):
            await archive.open()
        with pytest.raises(Away, match=why):  # once messages wait, it is none of their fault
            await archive.store([event(1)])
        await archive.aclose()


async def test_what_follows_from_sqlites_errors(tmp_path: Path) -> None:
    path = tmp_path / "peyk.sqlite"
    async with SqlArchive(database("", tmp_path)) as archive:
        await archive.store([message(1)])
        async with archive._begin() as connection:
            await connection.exec_driver_sql(
                "CREATE TRIGGER refuse BEFORE INSERT ON stream WHEN NEW.message = '0' BEGIN "
                "SELECT RAISE(ABORT, 'told to'); END"
            )
        with pytest.raises(ValueError, match="told to"):
            await archive.store([message(2, data="0")])
        await _while_it_is_full(archive)
        with sqlite3.connect(path, isolation_level=None) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(Away, match="refuses: database is locked"):
                await archive.store([message(2)])
            assert len(await archive.after("c", "e", 0, 9)) == 1  # it can be read meanwhile
        other.close()
        await archive.store([message(2)])
    for damage in (b"This is no database, but some notes that somebody keeps under this name. " * 9, b""):
        path.write_bytes(damage or path.read_bytes()[:20] + bytes(5000))
        for name in ("peyk.sqlite-wal", "peyk.sqlite-shm"):
            (tmp_path / name).unlink(missing_ok=True)
        archive = SqlArchive(database("", tmp_path))
        with pytest.raises(ConfigError, match=r"DATABASE_URL: .*peyk\.sqlite.*not a database"):
            await archive.open()
        with pytest.raises(Away):
            await archive.store([message(3)])
        await archive.aclose()


async def _while_it_is_full(archive: SqlArchive) -> None:
    """Each connection is new: what one of them is told holds for that one alone, so all are told."""

    def limit(connection: sqlite3.Connection, _: object) -> None:
        connection.execute("PRAGMA max_page_count = 1")

    from sqlalchemy import event as events

    events.listen(archive._engine.sync_engine, "connect", limit)
    large = message(2, data=f'"{"x" * 100_000}"')
    with pytest.raises(Away, match="refuses: database or disk is full"):
        await archive.store([large])
    events.remove(archive._engine.sync_engine, "connect", limit)


@pytest.fixture
def failing(mongo: MongoProcess) -> Iterator[pymongo.MongoClient[dict[str, object]]]:
    """A client that tells MongoDB how to fail."""
    with pymongo.MongoClient[dict[str, object]](mongo.url) as client:
        yield client
        client.admin.command({"configureFailPoint": "failCommand", "mode": "off"})


@pytest.mark.parametrize("code", [6, 13, 50, 91, 189, 10107, 11600, 11602, 13435, 14031])
async def test_while_mongodb_takes_nothing_messages_wait(
    code: int, mongo_url: str, failing: pymongo.MongoClient[dict[str, object]]
) -> None:
    """Not the primary, shutting down, no room, no permission: a document has no part in these."""
    async with MongoArchive(mongo_url) as archive:
        await archive.store([event(1)])
        data = {"errorCode": code, "failCommands": ["insert"], "appName": "peyk"}
        failing.admin.command({"configureFailPoint": "failCommand", "mode": "alwaysOn", "data": data})
        with pytest.raises(Away):
            await archive.store([event(2)])
        failing.admin.command({"configureFailPoint": "failCommand", "mode": "off"})
        await until(lambda: _stores(archive, 2))
        assert [m.offset for m in await archive.events("c", "", 9)] == [2, 1]


async def test_collections_of_another_program_are_left_alone(
    mongo_url: str, failing: pymongo.MongoClient[dict[str, object]]
) -> None:
    other = failing[mongo_url.rpartition("/")[2].partition("?")[0]]
    other["events"].insert_one({"its": "own"})
    archive = MongoArchive(mongo_url)
    with pytest.raises(ConfigError, match=r"MONGO_URL: .*it holds events, collections of another program"):
        await archive.open()
    assert other.list_collection_names() == ["events"]
    other["archive"].insert_one({"_id": "archive", "its": "own"})
    with pytest.raises(ConfigError, match="archive is another program's"):
        await archive.open()
    await archive.aclose()


def test_the_table_for_people_has_every_code() -> None:
    text = (ROOT / "docs" / "operating.md").read_text()
    rows = [line.split("|")[1:4] for line in text.splitlines() if line.startswith("| ") and "`" in line]
    words = {"set aside": Blame.MESSAGE, "tried again": Blame.REFUSED, "stops a start": Blame.SETTING}
    for codes in (SQLSTATES, SQLITE_CODES, MONGO_CODES):
        for code, blame in codes.items():
            (said,) = {row[2].strip() for row in rows if f"`{_name(codes, code)}`" in row[0] + row[1]}
            assert words[said] is blame, code


def _name(codes: object, code: object) -> str:
    """A code as the table has it: SQLite's have names, MongoDB's bare numbers stand behind the word."""
    if codes is SQLITE_CODES:
        names = ("TOOBIG", "CONSTRAINT", "MISMATCH", "BUSY", "LOCKED", "READONLY", "FULL", "CORRUPT", "NOTADB")
        return next(f"SQLITE_{name}" for name in names if getattr(sqlite3, f"SQLITE_{name}") == code)
    return f"mongo {code}" if codes is MONGO_CODES else str(code)
