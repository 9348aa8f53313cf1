"""load.c from Python: compile it once, run it, and read its report."""

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SOURCES = HERE / "load.c", HERE / "websocket.h"
PROGRAM = HERE / ".build" / "load"

Report = dict[str, Any]


class LoadError(Exception):
    """The load generator could not be built, or could not run."""


def build() -> Path:
    """The compiled program; compiled again when a source is newer. Raises LoadError."""
    if PROGRAM.exists() and PROGRAM.stat().st_mtime > max(source.stat().st_mtime for source in SOURCES):
        return PROGRAM
    PROGRAM.parent.mkdir(exist_ok=True)
    fresh = PROGRAM.with_suffix(".new")
    try:
        subprocess.run(["cc", "-O2", "-Wall", "-Wextra", "-o", fresh, SOURCES[0]], check=True)
    except FileNotFoundError:
        raise LoadError("a C compiler is missing (on Debian: apt-get install gcc libc6-dev)") from None
    except subprocess.CalledProcessError:
        raise LoadError("load.c does not compile; the compiler said why") from None
    return fresh.replace(PROGRAM)


def run(port: int, options: Sequence[str], pids: Sequence[int], timeout: float) -> Report:
    """One run against a server, `timeout` seconds at most. Raises LoadError; losses are reported."""
    command = [str(build()), "-p", str(port), *options, *map(str, pids)]
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, timeout=timeout)
    except subprocess.TimeoutExpired:
        raise LoadError(f"no end after {timeout:.0f} s: {' '.join(command)}") from None
    if done.returncode not in (0, 1):
        raise LoadError(f"exit code {done.returncode}: {' '.join(command)}")
    report: Report = json.loads(done.stdout)
    return report | {"good": done.returncode == 0}
