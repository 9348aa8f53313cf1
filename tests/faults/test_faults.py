"""The whole of it, small enough for every run of the tests; `make faults` is the long one."""

import json
import subprocess
import sys

import pytest

from tests.faults.injector import Installation
from tests.faults.run import BROKEN, Size, run
from tests.services import ROOT, PeykServer, clean_environment

SECONDS = 40.0


@pytest.mark.parametrize("kind", ["valkey"])
async def test_no_promise_is_broken_under_mixed_faults(kind: str) -> None:
    size = Size(clients=100, channels=10, rate=250)
    with Installation(kind, 4) as installation:
        report = await run(installation.urls, SECONDS, 1, size, installation)
    assert report.broken == dict.fromkeys(BROKEN, 0), report.text()
    assert report.acked == report.published > SECONDS * size.rate / 2
    assert report.counts["recovered"] > 100
    assert len(report.faults) == 9, f"each kind of fault was done: {report.text()}"


def test_a_live_server_is_checked_from_outside() -> None:
    with PeykServer() as server:
        command = [sys.executable, "-m", "tests.faults", "--url", server.url, "--seconds", "3", "--seed", "1"]
        file = server.dir / "report.json"
        command += ["--clients", "20", "--rate", "100", "--json", str(file)]
        done = subprocess.run(command, cwd=ROOT, env=clean_environment(), capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
        report = json.loads(file.read_text())
    assert report["clean"] and report["seed"] == 1 and report["published"] == report["acked"] > 100
    assert set(report["faults"]) <= {"clients dropped", "clients slowed"}
