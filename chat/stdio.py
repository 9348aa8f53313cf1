"""Standard input and output of a command: whatever bytes come in, and a reader who may leave."""

import asyncio
import select
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


def typed_lines() -> "asyncio.Queue[str | None]":
    """Lines of standard input as they are typed; None at its end. Read in a thread that does not hold up the exit."""
    loop, lines = asyncio.get_running_loop(), asyncio.Queue[str | None]()

    def read() -> None:
        for line in sys.stdin:
            loop.call_soon_threadsafe(lines.put_nowait, line)
        loop.call_soon_threadsafe(lines.put_nowait, None)

    threading.Thread(target=read, daemon=True).start()
    return lines


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
    if sys.platform != "linux" or sys.stdout is None:
        return None
    errors = select.epoll()
    with suppress(OSError, ValueError):  # a file has no reader; ValueError: standard output is not a descriptor
        errors.register(sys.stdout.fileno(), 0)
        return errors
    errors.close()
    return None
