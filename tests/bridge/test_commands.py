"""The archive from the command line: which database, what is off, what a command repairs; and workers alone."""

import asyncio
import contextlib
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import httpx2 as httpx
import pymongo
import pytest
import redis

from tests.bridge.stage import RETURN, Stage, event, pending
from tests.services import ROOT, PeykServer, RedisProcess, clean_environment, run_app, until, wait_until

CHANNEL = "general"


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with Stage({"HISTORY_LENGTH": "100"}) as stage:
        yield stage


def run(env: dict[str, str], *words: str) -> "subprocess.CompletedProcess[str]":
    return run_app(*words, **env)


def post(server: PeykServer, count: int, channel: str = CHANNEL) -> None:
    with httpx.Client(base_url=server.url, trust_env=False) as http:
        for i in range(count):
            assert http.post(f"/api/channels/{channel}/messages", json=event(i)).status_code == 201


async def test_reconcile_refills_what_one_has_and_another_lacks(stage: Stage) -> None:
    """Gaps in both, below and within what the stream still has; and a message nobody has any more stays away."""
    await asyncio.to_thread(post, stage.server, 450)
    await until(stage.acked, RETURN)
    first = (await stage.in_stream(CHANNEL))[0]
    assert 100 < first < 450
    connection = await asyncpg.connect(stage.postgres.url)
    for table in ("stream", "events"):
        await connection.execute(f'DELETE FROM {table} WHERE "offset" BETWEEN 3 AND 60 OR "offset" IN (7, 440)')
    await connection.close()
    with pymongo.MongoClient[dict[str, object]](stage.mongo.url) as client:
        for collection in ("messages", "events"):
            client["event-db"][collection].delete_many({"offset": {"$in": [7, 70, 441, 450]}})

    done = await asyncio.to_thread(run, stage.environment, "reconcile")
    assert done.returncode == 0, done.stderr
    wanted = [o for o in range(1, 451) if o != 7]
    for table, collection in (("stream", "messages"), ("events", "events")):
        assert await stage.in_sql(CHANNEL, table) == wanted == await stage.in_mongo(CHANNEL, collection)
    rows = {line.split()[2]: line.split()[3:] for line in done.stdout.splitlines() if line.startswith(CHANNEL)}
    assert rows["stream"][1:3] == [str(first), "450"]
    assert rows["sql"] == ["449", "1", "450", "58", "0"]
    assert rows["mongo"] == ["449", "1", "450", "3", "0"]
    again = await asyncio.to_thread(run, stage.environment, "reconcile")
    assert [line.split()[-2] for line in again.stdout.splitlines() if " sql " in line or " mongo " in line] == [
        "0",
        "0",
    ]


async def test_status_shows_the_sinks_and_what_is_off(stage: Stage) -> None:
    await asyncio.to_thread(post, stage.server, 1, "another")
    await until(stage.acked, RETURN)
    shown = (await asyncio.to_thread(run, stage.environment, "status")).stdout
    for sink in ("sql", "mongo"):
        assert re.search(rf"^{sink} +another \S+ 1 +20\d\d-\S+ +0\.0$", shown, re.MULTILINE), shown
    off = (await asyncio.to_thread(run, {**stage.environment, "ARCHIVE": "0", "MONGO_URL": ""}, "status")).stdout
    assert "off; ARCHIVE=1 turns it on" in off and "off; MONGO_URL turns it on" in off


async def test_a_sink_that_stands_still_is_named_and_harms_no_reader(stage: Stage) -> None:
    stage.mongo.pause()
    try:
        await asyncio.to_thread(post, stage.server, 3)
        async with stage.http() as http:

            async def degraded() -> bool:
                body = (await http.get("/ready")).json()
                return body["status"] == "degraded" and "messages wait" in body["parts"]["mongo"]

            await until(degraded, RETURN)
            reply = await http.get("/ready")
            assert reply.status_code == 200 and reply.json()["parts"]["sql"] == "ok"
    finally:
        stage.mongo.resume()
    await until(stage.acked, RETURN)


def test_another_database_is_refused_until_it_is_accepted_on_purpose(stage: Stage) -> None:
    stage.server.stop()
    other = {**stage.environment, "DATABASE_URL": stage.postgres.database("other")}
    server = PeykServer(other)
    try:
        with pytest.raises(RuntimeError) as refused:
            server.start()
        text = str(refused.value)
        assert "peyk: DATABASE_URL: postgresql://app@127" in text and "Traceback" not in text
        assert "groups drop sql" in text and "reconcile" in text
        assert run(stage.environment, "groups", "drop", "sql").returncode == 0
        server.start()
        post(server, 1)
        wait_until(lambda: asyncio.run(stage.acked()), RETURN)
        assert run(other, "reconcile").returncode == 0
    finally:
        server.close()
    assert run(stage.environment, "reconcile").returncode == 1  # now the former is the other one
    assert run(stage.environment, "groups", "drop", "sql").returncode == 0
    stage.server.start()


def test_a_file_that_nobody_named_is_left_alone(tmp_path: Path) -> None:
    """Two servers, one Redis, no DATABASE_URL: the second has a file of its own, and does not archive into it."""
    with RedisProcess() as process, PeykServer({"REDIS_URL": process.url}) as first:
        post(first, 5)
        with PeykServer({"REDIS_URL": process.url}) as second:
            assert "this node does not archive" in second.log.read_text()
            owners = set(re.findall(r"sql .*(serve:\S+)", run(first.env, "status").stdout))
            assert len(owners) == 1
            post(second, 5)
            wait_until(lambda: _rows(first.dir / "peyk.sqlite") == 10)
            assert _rows(second.dir / "peyk.sqlite") == 0


def _rows(path: Path) -> int:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return int(connection.execute("SELECT count(*) FROM stream").fetchone()[0])


def test_an_archive_that_is_turned_on_later_begins_with_what_the_streams_hold() -> None:
    """The log was trimmed long ago, the stream was not."""
    env = {"HISTORY_LENGTH": "100", "LEASE_TTL": "1"}
    with RedisProcess() as process:
        with PeykServer({"REDIS_URL": process.url, "ARCHIVE": "0", **env}) as server:
            post(server, 300)
            wait_until(lambda: _entries(process) < 2, what="the log is trimmed")
        with PeykServer({"REDIS_URL": process.url, **env}) as server:
            first = _first(process)
            held = 300 - first + 1
            assert first > 1
            wait_until(lambda: _rows(server.dir / "peyk.sqlite") == held)
            post(server, 200)
            wait_until(lambda: _rows(server.dir / "peyk.sqlite") == held + 200)
            with httpx.Client(base_url=server.url, trust_env=False) as http:
                reply = http.get(f"/api/channels/{CHANNEL}/messages?after=0&limit=1000").json()
            assert _first(process) > first  # what the stream began with, only the archive has
            assert [pub["offset"] for pub in reply["publications"]] == list(range(301 - held, 501))


def _entries(process: RedisProcess) -> int:
    with contextlib.closing(redis.Redis(port=process.port)) as client:
        return sum([int(client.xlen(f"log:{p}")) for p in range(8)])


def _first(process: RedisProcess) -> int:
    """The stream's first offset."""
    with contextlib.closing(redis.Redis(port=process.port, decode_responses=True)) as client:
        entries: Any = client.xrange(f"message:{CHANNEL}", count=1)
        return int(entries[0][0].split("-")[0])


def test_a_group_that_is_left_behind_is_told_of_with_the_remedy() -> None:
    with RedisProcess() as process:
        with PeykServer({"REDIS_URL": process.url}) as server:
            post(server, 1)
            wait_until(lambda: _rows(server.dir / "peyk.sqlite") == 1)
        with PeykServer({"REDIS_URL": process.url, "ARCHIVE": "0"}) as server:
            wait_until(lambda: "groups drop sql" in server.log.read_text())
            post(server, 2)
            assert run(server.env, "groups", "drop", "sql").returncode == 0
            server.stop()
            server.start()
            assert server.log.read_text().count("groups drop sql") == 1


async def test_workers_alone_take_over_from_servers_and_end_in_order(stage: Stage) -> None:
    """`pipeline` plays fan-out and sinks before any server does, without HTTP; when it ends, servers play again."""
    log = stage.redis.dir / "workers.log"
    with log.open("w") as out:
        workers = await asyncio.create_subprocess_exec(
            *(sys.executable, "app.py", "pipeline"),
            cwd=ROOT,
            env=clean_environment({**stage.environment, "DATA_DIR": str(stage.redis.dir)}),
            stdout=out,
            stderr=out,
        )
    try:
        async with stage.direct as redis:
            leases = [f"lease:{group}:{p}" for group in ("fanout", "sql", "mongo") for p in range(8)]

            async def played_by(kind: str) -> bool:
                return all(str(owner).startswith(kind) for owner in await redis.mget(leases))

            await until(lambda: played_by("pipeline:"), RETURN)
            await asyncio.to_thread(post, stage.server, 3, "workers")
            assert await stage.level("workers") == [1, 2, 3]
            workers.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(workers.wait(), 180) == 0
            await until(lambda: played_by("serve:"), RETURN)
            assert await pending(redis, "sql") == 0
        assert "workers of Peyk: fanout, sql, mongo" in log.read_text()
    finally:
        with contextlib.suppress(ProcessLookupError):
            workers.kill()
        await workers.wait()


def test_reconcile_needs_an_archive(tmp_path: Path) -> None:
    env = {"ARCHIVE": "0", "DATA_DIR": str(tmp_path)}
    done = run(env, "reconcile")
    assert done.returncode == 1 and "ARCHIVE=1 or MONGO_URL" in done.stderr
    wrong = run({"DATABASE_URL": "mysql://h/d", "DATA_DIR": str(tmp_path)}, "status")
    assert (
        wrong.returncode == 1
        and wrong.stderr.startswith("peyk: setting DATABASE_URL: ")
        and "postgresql://" in wrong.stderr
    )
