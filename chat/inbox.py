"""Lines of commands on their way to a session: taken in order, and held back while the client must wait."""

from collections import deque
from collections.abc import Callable
from typing import Protocol


class Source(Protocol):
    """Where lines come from."""

    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...


class Inbox:
    """Hands lines to `handle` while `busy()` is false; what came already waits here, and no more is read meanwhile."""

    __slots__ = ("_busy", "_handle", "_resuming", "_source", "_waiting", "closed")

    def __init__(self, source: Source, handle: Callable[[bytes], None], busy: Callable[[], bool]) -> None:
        self._source, self._handle, self._busy = source, handle, busy
        self._waiting: deque[bytes] | None = None  # an empty one is 760 bytes, and most clients never need it
        self.closed = self._resuming = False

    @property
    def waits(self) -> bool:
        """Whether lines are held back."""
        return bool(self._waiting)

    def receive(self, data: bytes) -> None:
        """A text frame: lines of commands."""
        if self._waiting:
            self._waiting.extend(data.split(b"\n"))
            self._source.pause_reading()
            return
        lines = data.split(b"\n") if b"\n" in data else [data]
        for i, line in enumerate(lines):
            if self.closed:
                return
            if self._busy():
                self._waiting = deque(lines[i:])
                self._source.pause_reading()
                return
            if line:
                self._handle(line)

    def resume(self) -> None:
        """Go on with lines that waited, and read again when there are none."""
        if not self._waiting or self._resuming:  # a line that is answered at once resumes as well
            return
        self._resuming = True
        try:
            while self._waiting and not self.closed and not self._busy():
                if line := self._waiting.popleft():
                    self._handle(line)
        finally:
            self._resuming = False
        if not self._waiting and not self.closed:
            self._waiting = None
            self._source.resume_reading()

    def close(self) -> None:
        self.closed = True
        self._waiting = None
