"""Lines of commands on their way to a session: taken in order, some a turn, held back while the client must wait."""

import re
from collections.abc import Callable
from typing import Protocol

TURN = 100  # lines of one client that are taken before others have their turn: a frame may hold a million


class Source(Protocol):
    """Where lines come from."""

    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...


class Inbox:
    """Hands lines to `handle` while `busy()` is false; what came already waits here, and no more is read meanwhile.

    An empty line is one as well, since it takes time as well. `soon(call)` calls something in the loop's next turn.
    """

    __slots__ = ("_busy", "_handle", "_resuming", "_soon", "_source", "_waiting", "closed")

    def __init__(
        self,
        source: Source,
        handle: Callable[[bytes], None],
        busy: Callable[[], bool],
        soon: Callable[[Callable[[], None]], object],
    ) -> None:
        self._source = source
        self._handle = handle
        self._busy = busy
        self._soon = soon
        self._waiting: bytearray | None = None  # lines as they came: each by itself is 35 bytes more
        self._resuming = False  # or it will in the next turn
        self.closed = False

    @property
    def waits(self) -> bool:
        """Whether lines are held back."""
        return bool(self._waiting)

    def receive(self, data: bytes) -> None:
        """A text frame: lines of commands."""
        if self._waiting:
            self._waiting += b"\n"
            self._waiting += data
            self._source.pause_reading()
            return
        if b"\n" not in data and not self.closed and not self._busy():  # a line alone, as most are
            self._handle(data)
            return
        start = 0
        for _ in range(TURN):
            if self.closed:
                return
            if self._busy():
                self._keep(data[start:])
                return
            end = data.find(b"\n", start)
            if end < 0:
                self._handle(data[start:])
                return
            self._handle(data[start:end])
            start = end + 1
            if start == len(data):  # the last line ended with a newline
                return
        self._keep(data[start:])
        self._rest()

    def _keep(self, rest: bytes) -> None:
        """Hold these lines back."""
        self._waiting = bytearray(rest or b"\n")
        self._source.pause_reading()

    def _rest(self) -> None:
        """Go on in the next turn, and not before."""
        self._resuming = True
        self._soon(self._go_on)

    def _go_on(self) -> None:
        self._resuming = False
        self.resume()

    def resume(self) -> None:
        """Go on with lines that waited, and read again when there are none."""
        if not self._waiting or self._resuming:  # a line that is answered at once resumes as well
            return
        self._resuming = True
        try:
            rests = self._take_some(self._waiting)
        finally:
            self._resuming = False
        if self.closed:
            return
        if not self._waiting:
            self._waiting = None
            self._source.resume_reading()
        elif rests:
            self._rest()

    def _take_some(self, waiting: bytearray) -> bool:
        """Take a turn's lines; whether it ended because they were so many."""
        for _ in range(TURN):
            if not waiting or self.closed or self._busy():
                return False
            end = waiting.find(b"\n")
            line = bytes(waiting if end < 0 else waiting[:end])
            del waiting[: len(line) + 1]  # which moves nothing: the front of a bytearray is an offset
            self._handle(line)
        return True

    def close(self) -> bytes:
        """Take no more; the lines that waited."""
        self.closed = True
        waiting, self._waiting = self._waiting, None
        return bytes(waiting or b"")


def lines_with(mark: re.Pattern[bytes], data: bytes, most: int) -> list[bytes]:
    """The first `most` lines that hold `mark`. Those that do not are passed over together, be they a million."""
    lines: list[bytes] = []
    at = 0
    while len(lines) < most and (found := mark.search(data, at)) is not None:
        start = data.rfind(b"\n", at, found.start()) + 1
        end = data.find(b"\n", found.end())
        at = len(data) if end < 0 else end
        lines.append(data[start:at])
    return lines
