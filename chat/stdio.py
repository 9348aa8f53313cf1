"""Standard input and output of a command: whatever bytes come in, and a reader who may leave."""

import asyncio
import errno
import io
import os
import select
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress

from chat.errors import BadRequest

_AHEAD = 1000  # lines read before they are asked for
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)  # why what is written to a file cannot be


def tolerate() -> None:
    """Take any bytes, and write what the terminal's encoding has: the rest is U+FFFD, or a question mark.

    What the process was started without is as /dev/null.
    """
    sys.stdin = sys.stdin or open(os.devnull)  # noqa: SIM115  # as long as the process
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115
    for stream in (sys.stdin, sys.stdout):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def forget_output() -> None:
    """Write what is still to be written, and all that follows, nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def write_utf8() -> None:
    """Write UTF-8 whatever the terminal's encoding is: what is written is JSON."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")


async def typed_lines() -> AsyncIterator[str]:
    """Lines of standard input as they are typed. Read in a thread that does not hold up the exit.

    Raises BadRequest where standard input cannot be read.
    """
    loop, lines = asyncio.get_running_loop(), asyncio.Queue[str | Exception | None]()
    room = threading.Semaphore(_AHEAD)

    def read() -> None:
        end: Exception | None = None
        with suppress(RuntimeError):  # the loop has ended before the input
            try:
                for line in sys.stdin:
                    room.acquire()
                    loop.call_soon_threadsafe(lines.put_nowait, line)
            except (OSError, ValueError) as error:
                end = error
            loop.call_soon_threadsafe(lines.put_nowait, end)

    threading.Thread(target=read, daemon=True).start()
    while isinstance(line := await lines.get(), str):
        yield line
        room.release()
    if line is not None:
        raise BadRequest(f"standard input cannot be read: {line}")


@contextmanager
def while_read() -> Iterator[None]:
    """Ends the task inside with BrokenPipeError as soon as nobody reads standard output any more.

    A write finds that out too, but who follows a quiet channel writes nothing for hours. `tail -f` watches its reader
    in the same way.
    """
    watched = _errors_of_output()
    if watched is None:
        yield
        return
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    left = False

    def leave() -> None:
        nonlocal left
        left = True
        loop.remove_reader(watched)  # the error stays: the loop would tell it without end
        task.cancel()

    loop.add_reader(watched, leave)
    try:
        yield
    except asyncio.CancelledError:
        if not left or task.uncancel() > 0:  # it was ended by somebody else, too
            raise
        raise BrokenPipeError("nobody reads standard output any more") from None
    finally:
        loop.remove_reader(watched)
        watched.close()


def _errors_of_output() -> "select.epoll | None":
    """What becomes readable when the reader of a pipe or socket leaves; None where that cannot be watched.

    Only errors are asked for, so a reader that writes to us (a socket goes both ways) wakes nobody.
    """
    if sys.platform != "linux":
        return None
    errors = select.epoll()
    with suppress(OSError, ValueError):  # a file has no reader; ValueError: standard output is not a descriptor
        errors.register(sys.stdout.fileno(), 0)
        return errors
    errors.close()
    return None
