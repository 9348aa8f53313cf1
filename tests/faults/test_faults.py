"""The whole of it, small enough for every run of the tests; `make faults` is the long one."""

import asyncio
import json
import subprocess
import sys

import redis.asyncio as redis

from tests.faults.injector import FAULTS, Installation
from tests.faults.run import BROKEN, CLIENT_FAULTS, Size, run
from tests.services import ROOT, PeykServer, RedisProcess, clean_environment, until

SECONDS = 40.0


async def test_a_message_taken_out_of_the_stream_is_found() -> None:
    """The whole chain can fail: what everybody saw live is gone from the history in the end."""
    size = Size(clients=10, channels=2, rate=50)
    with RedisProcess() as process, PeykServer({"REDIS_URL": process.url}) as server:
        running = asyncio.create_task(run([server.url], 5, 1, size))
        async with redis.Redis(port=process.port, decode_responses=True) as client:

            async def taken() -> object:
                keys = [key async for key in client.scan_iter("message:faults-*-00")]
                entries = await client.xrange(keys[0], "10", "20") if keys else None
                return entries and len(entries) > 10 and await client.xdel(keys[0], str(entries[0][0]))

            await until(taken, 20, "a message is there to be taken")
            report = await running
    assert not report.clean and report.first_bad is not None and report.first_bad.offset == 10
    found = {kind: count for kind, count in report.broken.items() if count}
    assert found == {"lost": 1, "phantom": 10, "acked missing": 1}, report.text()


async def test_no_promise_is_broken_under_mixed_faults() -> None:
    size = Size(clients=100, channels=10, rate=250)
    with Installation("valkey", 4) as installation:
        report = await run(installation.urls, SECONDS, 1, size, installation)
    assert report.broken == dict.fromkeys(BROKEN, 0), report.text()
    assert report.acked == report.published > SECONDS * size.rate / 10
    assert report.counts["recovered"] > 100
    assert set(report.faults) >= {*FAULTS, *CLIENT_FAULTS}, report.text()


def test_a_live_server_is_checked_from_outside() -> None:
    with PeykServer() as server:
        command = [sys.executable, "-m", "tests.faults", "--url", server.url, "--seconds", "3", "--seed", "1"]
        file = server.dir / "report.json"
        command += ["--clients", "20", "--rate", "100", "--json", str(file)]
        done = subprocess.run(command, cwd=ROOT, env=clean_environment(), capture_output=True, text=True, timeout=400)
        assert done.returncode == 0, done.stdout + done.stderr
        report = json.loads(file.read_text())
    assert report["clean"] and report["seed"] == 1 and report["published"] == report["acked"] > 20
    assert set(report["faults"]) <= {"clients dropped", "clients slowed"}
