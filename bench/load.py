"""load.c from Python: compile it once, run it, and read its report."""

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SOURCES = [HERE / name for name in ("load.c", "websocket.h", "dialect.h", "measure.h")]
PROGRAM = HERE / ".build" / "load"

Report = dict[str, Any]


class LoadError(Exception):
    """The load generator could not be built, or could not run."""


def compiled(program: Path, sources: Sequence[Path]) -> Path:
    """A C program; compiled again when a source is newer. The first source holds its main. Raises LoadError."""
    if program.exists() and program.stat().st_mtime > max(source.stat().st_mtime for source in sources):
        return program
    program.parent.mkdir(exist_ok=True)
    fresh = program.with_suffix(f".{os.getpid()}")  # another process may be compiling it, too
    try:
        subprocess.run(["cc", "-O2", "-Wall", "-Wextra", "-o", fresh, sources[0]], check=True)
    except FileNotFoundError:
        raise LoadError("a C compiler is missing (on Debian: apt-get install gcc libc6-dev)") from None
    except subprocess.CalledProcessError:
        raise LoadError(f"{sources[0].name} does not compile; the compiler said why") from None
    return fresh.replace(program)


def build() -> Path:
    """The load generator. Raises LoadError."""
    return compiled(PROGRAM, SOURCES)


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
