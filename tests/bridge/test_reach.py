"""How a PostgreSQL is reached: behind pgbouncer, without a HOME, and when it is away, which who reads hears at once."""

import asyncio
import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from bridge.settings import database
from bridge.sql import SqlArchive
from pipeline.consumer import Away
from tests.bridge.conftest import event
from tests.services import PgBouncerProcess, PostgresProcess, until


@pytest.fixture(scope="module")
def bouncer(postgres: PostgresProcess) -> Iterator[PgBouncerProcess]:
    with PgBouncerProcess(postgres) as process:
        assert isinstance(process, PgBouncerProcess)
        yield process


async def test_behind_pgbouncer_in_transaction_mode(bouncer: PgBouncerProcess, postgres_url: str) -> None:
    """Two connections to the server for all: each transaction may be in another session, and finds no name there."""
    url = bouncer.url(postgres_url.rpartition("/")[2])
    one = SqlArchive(database(url, Path()))
    two = SqlArchive(database(url, Path()))
    await asyncio.gather(one.open(), two.open())
    for n in range(10):
        new = [event(n * 20 + i) for i in range(1, 21)]
        answers = await asyncio.gather(
            one.store(new), two.store(new), *[archive.events("c", "t", 9) for archive in (one, two) for _ in range(8)]
        )
        assert len(answers) == 18
    assert len(await one.after("c", "e", 0, 999)) == len(await two.events("c", "", 999)) == 200
    assert (await two.holders("7", 0, 9))[0].channel == "c" and await one.event("c", "7") == event(7)
    bouncer.kill()
    with pytest.raises(Away):
        await one.store([event(201)])
    bouncer.start()
    await until(lambda: _stores(one))
    assert len(await two.after("c", "e", 0, 999)) in (200, 201)
    await one.aclose()
    await two.aclose()


async def _stores(archive: SqlArchive) -> bool:
    with contextlib.suppress(Away):
        await archive.store([event(201)])
        return True
    return False


async def _has(archive: SqlArchive, id: str) -> bool:
    with contextlib.suppress(Away):
        return await archive.event("c", id) is not None
    return False


async def test_who_reads_hears_at_once_that_it_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of those who ask looks whether it is back, and it is used again as soon as it is."""
    with PostgresProcess() as postgres:
        async with SqlArchive(database(postgres.url, Path())) as archive:
            await archive.store([event(1)])
            os.kill(postgres.pid, 19)  # it takes connections, and says nothing
            for child in _children(postgres.pid):
                os.kill(child, 19)
            with pytest.raises(Away, match="no answer within"):
                await archive.event("c", "1")
            connects = 0

            async def connect(*args: object, **options: object) -> asyncpg.Connection:
                nonlocal connects
                connects += 1
                return await _connect(*args, **options)

            _connect = asyncpg.connect
            monkeypatch.setattr(asyncpg, "connect", connect)
            for _ in range(200):  # who waits for each of these waits for ever
                with pytest.raises(Away):
                    await archive.event("c", "1")
            assert connects < 50
            for child in (*_children(postgres.pid), postgres.pid):
                os.kill(child, 18)
            await until(lambda: _has(archive, "1"))


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@contextlib.contextmanager
def as_nobody() -> Iterator[None]:
    """Root may look everywhere; nobody may not."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def open_the_way(path: Path) -> None:
    """pytest's directories are their owner's alone."""
    for folder in (path, path.parent, path.parent.parent):
        folder.chmod(0o755)


@pytest.mark.parametrize("home", ["shut", "file", "loop", "none", "folder"])
async def test_a_home_that_is_shut_stops_nobody(
    home: str, tmp_path: Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "home"
    if home == "file":
        place.write_text("not a directory")
    elif home == "loop":
        place.symlink_to(place)
    elif home == "folder":
        place.mkdir()
        (place / ".postgresql").mkdir(mode=0)
    else:
        place.mkdir(mode=0)
    monkeypatch.setenv("HOME", str(place))
    if home == "none":
        monkeypatch.delenv("HOME")
    open_the_way(tmp_path)
    with as_nobody():
        async with SqlArchive(database(postgres_url, Path())) as archive:
            await archive.store([event(1)])
            assert await archive.event("c", "1") == event(1)
