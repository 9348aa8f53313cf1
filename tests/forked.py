"""Processes of app.py that are forked from one which has imported it: that takes a twentieth of the CPU of a start."""

import importlib
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import Any

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["app", "chat.server"])
_STARTS = "MALLOC_", "PYTHON", "LC_", "HTTP_WORKERS"
"""How names in the environment begin that only a start looks at, or that make processes which are started."""


def may_be_forked(env: Mapping[str, str]) -> bool:
    """Whether a fork does what a start would with this environment."""
    return not any(name.startswith(_STARTS) for name in env)


class Forked:
    """`python app.py WORDS…`, as far as subprocess.Popen would tell of it. Files are given by their numbers."""

    def __init__(
        self, words: Sequence[str | bytes], root: Path, env: Mapping[str, str], stdin: int, stdout: int, stderr: int
    ) -> None:
        self.args = ["app.py", *map(os.fsdecode, words)]
        files = [_File(number) for number in (stdin, stdout, stderr)]
        self._process = _context.Process(target=_run, args=(self.args, str(root), dict(env), files), name="app.py")
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
        self.send_signal(signal.SIGKILL)


def run(
    words: Sequence[str | bytes], root: Path, env: Mapping[str, str], stdin: bytes = b"", timeout: float = 180
) -> "subprocess.CompletedProcess[bytes]":
    """As subprocess.run of app.py: what is typed comes through a pipe, what is written is captured."""
    reader, writer = os.pipe()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = Forked(words, root, env, reader, out.fileno(), err.fileno())
        os.close(reader)
        typing = threading.Thread(target=_type, args=(writer, stdin))
        typing.start()
        try:
            code = process.wait(timeout)
        finally:
            process.kill()
            typing.join()
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(process.args, code, out.read(), err.read())


def _type(writer: int, text: bytes) -> None:
    with open(writer, "wb") as pipe, suppress(BrokenPipeError):
        pipe.write(text)
        pipe.flush()


class _File:
    """An open file on its way into another process."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __getstate__(self) -> Any:
        return DupFd(self.number)

    def __setstate__(self, sent: Any) -> None:
        self.number = sent.detach()


def _run(args: list[str], root: str, env: dict[str, str], files: list[_File]) -> None:
    """Become what a start would have made."""
    for number, file in enumerate(files):
        os.dup2(file.number, number)
        os.close(file.number)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115  # as long as the process
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(encoding="utf-8", write_through=True)  # type: ignore[union-attr]  # they are what Python opened
    os.environ.clear()
    os.environ.update(env)
    time.tzset()
    os.chdir(root)
    sys.argv = args
    sys.exit(importlib.import_module("app").main())
