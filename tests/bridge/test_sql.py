"""What only SQL has: where the database is, tables that come about by themselves, and what it can never take."""

import asyncio
import socket
import sqlite3
import threading
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import asyncpg
import pytest
from pydantic import ValidationError
from redis.asyncio import Redis
from sqlalchemy import inspect

from app import AppSettings
from bridge.archives import open_archives
from bridge.settings import BridgeSettings, database
from bridge.sql import SqlArchive
from bridge.tables import VERSION
from chat.settings import ServerSettings
from pipeline.consumer import Away
from pipeline.keys import Keys
from pipeline.resp import Link
from redis_config import Address, ConfigError
from tests.bridge.conftest import event, message
from tests.services import PostgresProcess, free_port, until


@pytest.fixture
async def threads_end() -> AsyncIterator[None]:
    """aiosqlite's thread of a connection that did not open tells the loop so a moment later: it must be there yet."""
    yield
    await until(lambda: not any("_connection_worker" in thread.name for thread in threading.enumerate()))


@pytest.mark.parametrize(
    ("url", "becomes"),
    [
        ("", "sqlite+aiosqlite:////data/peyk.sqlite"),
        ("sqlite:///x.db", "sqlite+aiosqlite:///x.db"),
        ("postgres://a:b@h/d", "postgresql+asyncpg://a:b@h/d"),
        *[
            (f"postgresql://h:1/d?sslmode={mode}", f"postgresql+asyncpg://h:1/d?ssl={mode}")
            for mode in ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
        ],
    ],
)
def test_where_the_database_is(url: str, becomes: str) -> None:
    assert database(url, Path("/data")).render_as_string(hide_password=False) == becomes


@pytest.mark.parametrize(
    "url", ["mysql://h/d", "postgres://h", "sqlite://", "sqlite:///:memory:", "peyk", "://", "postgres://h:x/d"]
)
def test_a_url_that_is_none_is_an_error_that_names_it(url: str) -> None:
    with pytest.raises(ValidationError, match=r"(?s)database_url.*must look like postgresql://"):
        BridgeSettings(database_url=url, _env_file=None)
    with pytest.raises(ValidationError, match=r"(?s)mongo_url.*must look like mongodb://"):
        BridgeSettings(mongo_url="http://h/d", _env_file=None)


@pytest.mark.parametrize(
    ("parameter", "remedy"),
    [
        ("connect_timeout=0", "connect_timeout is 1 to 9999 seconds, not '0'"),
        ("sslmode=on", "sslmode is disable, allow, .*, not 'on'"),
        (
            "application_name=a&options=-cx",
            "no parameter 'options'; there are sslmode, application_name, connect_timeo",
        ),
    ],
)
def test_a_parameter_that_is_none_is_an_error_that_names_it(parameter: str, remedy: str) -> None:
    with pytest.raises(ValidationError, match=f"(?s)database_url.*{remedy}"):
        BridgeSettings(database_url=f"postgresql://h/d?{parameter}", _env_file=None)


async def test_the_parameters_of_libpq(postgres_url: str) -> None:
    url = f"{postgres_url}?application_name=shop&sslmode=prefer"
    async with SqlArchive(database(url, Path())) as archive, archive._begin() as connection:
        assert (await connection.exec_driver_sql("SHOW application_name")).scalar() == "shop"
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql://app@127.0.0.1:{silent.getsockname()[1]}/d?sslmode=disable&connect_timeout="
        patient = asyncio.create_task(SqlArchive(database(url + "600", Path())).open())
        with pytest.raises(Away):
            await SqlArchive(database(url + "1", Path())).open()
        assert not patient.done()
        patient.cancel()
        await asyncio.gather(patient, return_exceptions=True)


def test_a_password_is_never_shown() -> None:
    assert "secret" not in SqlArchive(database("postgres://a:secret@h/d", Path())).where


async def test_an_archive_of_an_older_peyk_is_upgraded(tmp_path: Path, postgres_url: str) -> None:
    for url in (f"sqlite:///{tmp_path}/old.sqlite", postgres_url):
        async with SqlArchive(database(url, tmp_path)) as archive:
            await archive.store([event(1)])
            async with archive._begin() as connection:
                for statement in ("DROP INDEX events_event", "CREATE INDEX events_event ON events (event_id)"):
                    await connection.exec_driver_sql(statement)
                await connection.exec_driver_sql("UPDATE archive SET version = 2")
        for _ in range(2):
            async with SqlArchive(database(url, tmp_path)) as archive:
                await archive.store([event(2)])
                async with archive._begin() as connection:
                    indexes = await connection.run_sync(lambda sync: inspect(sync).get_indexes("events"))
                    assert (await connection.exec_driver_sql("SELECT version FROM archive")).scalar() == VERSION
                columns = {index["name"]: index["column_names"] for index in indexes}
                assert columns["events_event"] == ["event_id", "channel_id", "timestamp"]
                assert [m.offset for m in await archive.events("c", "", 9)] == [2, 1]


FOREIGN = {
    "one of our names": (["CREATE TABLE events (id INTEGER)"], "holds events, tables of another program"),
    "two": (["CREATE TABLE events (id INTEGER)", "CREATE TABLE stream (id INTEGER)"], "holds events and stream"),
    "a view": (["CREATE VIEW stream AS SELECT 1 AS one"], "holds stream"),
    "the table with our version": (["CREATE TABLE archive (name VARCHAR(9))"], "holds archive"),
    "one like ours, empty": (["CREATE TABLE archive (row INTEGER, id VARCHAR(9), version INTEGER)"], "holds archive"),
}


@pytest.mark.parametrize("others", FOREIGN)
@pytest.mark.usefixtures("threads_end")
async def test_tables_of_another_program_are_left_alone(others: str, tmp_path: Path, postgres_url: str) -> None:
    statements, why = FOREIGN[others]
    for url in (f"sqlite:///{tmp_path}/its.sqlite", postgres_url):
        async with aclosing(SqlArchive(database(url, tmp_path))) as archive:
            async with archive._begin() as connection:
                for statement in statements:
                    await connection.exec_driver_sql(statement.replace("(row", '("row"'))
            with pytest.raises(ConfigError, match=f"DATABASE_URL: .*{why}.*a database of its own"):
                await archive.open()
            async with archive._begin() as connection:
                tables = await connection.run_sync(lambda sync: inspect(sync).get_table_names())
            assert len(tables) == len([one for one in statements if "TABLE" in one])


@pytest.mark.usefixtures("threads_end")
async def test_a_table_that_somebody_changed_is_named(tmp_path: Path) -> None:
    async with SqlArchive(database("", tmp_path)) as archive, archive._begin() as connection:
        await connection.exec_driver_sql("ALTER TABLE stream DROP COLUMN client")
    async with aclosing(SqlArchive(database("", tmp_path))) as archive:
        with pytest.raises(ConfigError, match="its table stream lacks client"):
            await archive.open()


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
async def test_an_encoding_that_cannot_hold_every_text_is_refused(encoding: str, postgres: PostgresProcess) -> None:
    url = postgres.database(f"encoded_{encoding.lower()}", "-E", encoding, "-T", "template0", "--locale=C")
    async with aclosing(SqlArchive(database(url, Path()))) as archive:
        with pytest.raises(ConfigError, match=f"DATABASE_URL: .*server_encoding is {encoding}.*createdb -E UTF8"):
            await archive.open()


async def test_an_archive_with_short_ids_takes_longer_ones_after_an_upgrade(postgres_url: str) -> None:
    archive = SqlArchive(database(postgres_url, Path()))
    async with archive:
        pass
    connection = await asyncpg.connect(postgres_url)
    await connection.execute("ALTER TABLE events ALTER COLUMN event_id TYPE VARCHAR(128)")
    await connection.execute("UPDATE archive SET version = 3")
    await connection.close()
    async with SqlArchive(database(postgres_url, Path())) as archive:
        await archive.store([event(1, id="x" * 255)])
        assert await archive.event("c", "x" * 255)


@pytest.mark.usefixtures("threads_end")
async def test_an_archive_of_a_newer_peyk_is_refused(tmp_path: Path) -> None:
    async with SqlArchive(database("", tmp_path)):
        pass
    with sqlite3.connect(tmp_path / "peyk.sqlite") as connection:
        connection.execute("UPDATE archive SET version = ?", [VERSION + 1])
    connection.close()
    archive = SqlArchive(database("", tmp_path))
    with pytest.raises(ConfigError, match=r"DATABASE_URL: .*peyk\.sqlite.*use a newer Peyk"):
        await archive.open()
    with pytest.raises(Away, match="newer Peyk"):  # once messages wait: no fault of theirs
        await archive.store([message(1)])


@pytest.mark.usefixtures("threads_end")
async def test_a_file_that_is_moved_away_is_not_written_to(tmp_path: Path) -> None:
    async with SqlArchive(database("", tmp_path)) as archive:
        await archive.store([message(1)])
        (tmp_path / "peyk.sqlite").rename(tmp_path / "elsewhere")
        with pytest.raises(Away):
            await archive.store([message(2)])


@pytest.mark.usefixtures("threads_end")
async def test_a_directory_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(Away, match="no/such"):
        await SqlArchive(database(f"sqlite:///{tmp_path}/no/such/file", tmp_path)).open()


async def test_a_database_that_is_missing_is_named(postgres: PostgresProcess) -> None:
    with pytest.raises(ConfigError, match=r'DATABASE_URL: postgresql://app@127.*"nosuch" does not exist'):
        await SqlArchive(database(postgres.url.replace("/peyk", "/nosuch"), Path())).open()
    with pytest.raises(Away, match="does not answer"):
        await SqlArchive(database(f"postgres://app@127.0.0.1:{free_port()}/peyk", Path())).open()


POISON = {
    "U+0000": message(2, data='{"id":"x","type":"t","payload":"\\u0000"}'),
    "a number beyond numeric": message(2, data='{"id":"x","type":"t","payload":1e200000}'),
    "a raw zero byte": message(2, data='"\0"'),
    "bad UTF-8": message(2)._replace(data=b'"\xff"'),
    "an offset beyond 64 bits": message(2**63, ms=5),
    "a name too long": message(2)._replace(user="x" * 65),
    "a time beyond all": message(2, ms=2**62),
}


@pytest.mark.parametrize("poison", POISON)
async def test_what_postgresql_can_never_take_is_the_messages_fault(poison: str, postgres_url: str) -> None:
    async with SqlArchive(database(postgres_url, Path())) as archive:
        with pytest.raises((ValueError, OverflowError)):
            await archive.store([event(1), POISON[poison], event(3)])
        await archive.store([event(1), event(3)])
        assert [m.offset for m in await archive.after("c", "e", 0, 9)] == [1, 3]
        assert len(await archive.events("", "", 9)) == 2


async def test_a_table_that_is_gone_is_no_fault_of_a_message(postgres_url: str) -> None:
    async with SqlArchive(database(postgres_url, Path())) as archive:
        await archive.store([message(1)])
        async with archive._begin() as connection:
            await connection.exec_driver_sql("DROP TABLE stream")
        with pytest.raises(Away):
            await archive.store([message(2)])


async def test_the_directory_of_the_file_is_made(redis_client: Redis, settings: ServerSettings, tmp_path: Path) -> None:
    """It is there already only where the embedded Valkey is."""
    given = AppSettings(data_dir=tmp_path / "new" / "data", _env_file=None)
    link = Link(Address.parse(settings))
    async with open_archives(given, link, Keys.of(given), fills=True) as archives:
        assert [sink.group for sink in archives.sinks] == ["sql"]
    link.close()
    assert (tmp_path / "new" / "data" / "peyk.sqlite").exists()
