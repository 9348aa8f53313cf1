"""Processes of app.py that are forked from one which has imported it: that takes a twentieth of the CPU of a start."""

import importlib
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["app", "chat.server"])


class Forked:
    """`python app.py WORDS…`, as far as subprocess.Popen would tell of it. Nothing is on its standard input."""

    def __init__(self, words: Sequence[str], root: Path, env: Mapping[str, str], log: Path) -> None:
        self.args = ["app.py", *words]
        self._process = _context.Process(target=_run, args=(self.args, str(root), dict(env), str(log)), name="app.py")
        self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if (code := self._process.exitcode) is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return code

    def send_signal(self, sig: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, sig)

    def kill(self) -> None:
        self._process.kill()


def _run(args: list[str], root: str, env: dict[str, str], log: str) -> None:
    """Become what a start would have made."""
    output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    for number in (1, 2):
        os.dup2(output, number)
    os.close(output)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(write_through=True)  # type: ignore[union-attr]  # they are what Python opened
    os.environ.clear()
    os.environ.update(env)
    time.tzset()
    os.chdir(root)
    sys.argv = args
    sys.exit(importlib.import_module("app").main())
