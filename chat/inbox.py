"""Lines of commands on their way to a session: taken in order, and held back while the client must wait."""

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
        self._waiting: bytearray | None = None  # lines as they came: each by itself is 35 bytes more
        self.closed = self._resuming = False

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
        start = 0
        while not self.closed:
            end = data.find(b"\n", start)
            if line := data[start:] if end < 0 else data[start:end]:
                if self._busy():
                    self._waiting = bytearray(data[start:])
                    self._source.pause_reading()
                    return
                self._handle(line)
            if end < 0:
                return
            start = end + 1

    def resume(self) -> None:
        """Go on with lines that waited, and read again when there are none."""
        if not self._waiting or self._resuming:  # a line that is answered at once resumes as well
            return
        self._resuming = True
        try:
            while self._waiting and not self.closed and not self._busy():
                end = self._waiting.find(b"\n")
                line = bytes(self._waiting if end < 0 else self._waiting[:end])
                del self._waiting[: len(line) + 1]  # which moves nothing: the front of a bytearray is an offset
                if line:
                    self._handle(line)
        finally:
            self._resuming = False
        if not self._waiting and not self.closed:
            self._waiting = None
            self._source.resume_reading()

    def close(self) -> None:
        self.closed = True
        self._waiting = None
