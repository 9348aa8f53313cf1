"""What not every system has (Linux has it all): looked for where it is needed, and done without elsewhere."""

import asyncio
import contextlib
import importlib
import signal
import struct
from collections.abc import Callable, Coroutine
from types import ModuleType
from typing import Any


def optional(name: str) -> ModuleType | None:
    """A module, where there is one."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


_fcntl = optional("fcntl")
_termios = optional("termios")


def run(work: Coroutine[Any, Any, None]) -> None:
    """As asyncio.run, on the faster loop where it is installed."""
    uvloop = optional("uvloop")
    (asyncio if uvloop is None else uvloop).run(work)


def on_stop(tell: Callable[[], object]) -> None:
    """Call `tell` on SIGTERM and SIGINT; on Windows Ctrl-C raises KeyboardInterrupt instead."""
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        with contextlib.suppress(NotImplementedError):
            loop.add_signal_handler(name, tell)


def unsent(fileno: int) -> int:
    """Bytes of a socket that the kernel still holds for its reader; 0 where it does not say."""
    if _fcntl is None or _termios is None:
        return 0
    (queued,) = struct.unpack("i", _fcntl.ioctl(fileno, _termios.TIOCOUTQ, b"\0" * 4))
    return int(queued)


def raise_file_limit() -> None:
    """A connection is a file: use all that the system allows."""
    resource = optional("resource")
    if resource is None:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # macOS says "no limit" and allows less
        if soft != hard:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def lock(file: Any) -> None:
    """Lock a file for this process alone, where there are locks. Raises BlockingIOError if another has it."""
    if _fcntl is not None:
        _fcntl.flock(file, _fcntl.LOCK_EX | _fcntl.LOCK_NB)
