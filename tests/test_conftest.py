"""What the tests have in common, tried on a run of its own."""

import subprocess
import sys
from pathlib import Path

from tests.conftest import LONG
from tests.services import ROOT, clean_environment

_FAILS = """
import asyncio, gc

async def test_that_fails_and_leaves_sockets():
    server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    streams = await asyncio.open_connection(*server.sockets[0].getsockname())
    assert not streams

def test_that_has_nothing_to_do_with_it():
    gc.collect()
"""


def test_what_a_failed_test_leaves_is_not_the_next_ones_fault(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text("from tests.conftest import pytest_runtest_logfinish\n")
    (tmp_path / "test_it.py").write_text(_FAILS)
    settings = str(ROOT / "pyproject.toml")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-c", settings, str(tmp_path)]
    env = clean_environment({"PYTHONPATH": str(ROOT)})
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120)
    assert "1 failed, 1 passed in" in done.stdout, done.stdout


def test_the_files_that_begin_first_are_there() -> None:
    assert [name for name in LONG if not (ROOT / "tests" / name).is_file()] == []
