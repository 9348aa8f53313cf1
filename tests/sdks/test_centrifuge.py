"""centrifuge-js and centrifuge-python, unmodified, in the versions that applications have."""

import asyncio
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.services import ROOT, PeykServer, RedisProcess, clean_environment

HERE = Path(__file__).parent
PACKAGES = ROOT / ".venv" / "sdks"  # old ones, each in a directory of its own: they need an older websockets
EMPTY = {"offset": 0, "epoch": "", "publications": []}
ROUNDS = 20


@pytest.fixture(scope="module")
def server() -> Iterator[PeykServer]:
    with RedisProcess("valkey") as redis, PeykServer({"REDIS_URL": redis.url, "ARCHIVE": "0"}) as server:
        yield server


async def steps(*command: str, **environment: str) -> dict[str, Any]:
    """What a client found."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *command, cwd=HERE, env=clean_environment(environment), stdout=pipe, stderr=pipe
    )
    try:
        async with asyncio.timeout(300):
            out, error = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, error.decode()
    found: dict[str, Any] = json.loads(out)
    return found


@pytest.mark.parametrize("version", ["5.2.2", "5.5.3", "5.7.4", "5.8.0"])
async def test_centrifuge_js(server: PeykServer, version: str) -> None:
    node = shutil.which("node")
    assert node is not None and (HERE / "node_modules").is_dir(), "make test installs both"
    found = await steps(node, "steps.mjs", version, server.ws_url)
    assert {name: found["early"][name] for name in EMPTY} == EMPTY and found["earlyPresence"] == 0
    assert found["comesAndGoesAndComes"] == found["presentAtOnce"] == found["left"] == ROUNDS
    assert (found["recovered"], found["fromZero"]) == (True, ["one", "دو", "three"])


@pytest.mark.parametrize("version", ["0.4.3", "0.6.0", ""], ids=["0.4.3", "0.6.0", "of requirements-dev.txt"])
async def test_centrifuge_python(server: PeykServer, version: str) -> None:
    path = {"PYTHONPATH": str(PACKAGES / version)} if version else {}
    assert not version or (PACKAGES / version).is_dir(), "make test installs it"
    found = await steps(sys.executable, "steps.py", server.ws_url, f"py-{version or 'new'}", **path)
    assert found["early"] == EMPTY and found["earlyPresence"] == 0
    assert found["comesAndGoesAndComes"] == found["presentAtOnce"] == found["left"] == ROUNDS
