"""What was just read from the streams: a herd of clients comes back over many turns, and all want the same lines.

Each channel's lines are dense and of one epoch, so they do not change; they are forgotten at every check of positions.
"""

LIMIT = 8 * 1024 * 1024  # bytes, of all channels together


class Stretch:
    """Dense push lines of one channel and epoch; the first has the offset `first`."""

    __slots__ = ("epoch", "first", "lines", "size")

    def __init__(self, epoch: str, first: int, lines: list[bytes]) -> None:
        self.epoch, self.first, self.lines = epoch, first, [*lines]  # ours alone: they are cut
        self.size = sum(map(len, lines))

    @property
    def end(self) -> int:
        """The offset that comes next."""
        return self.first + len(self.lines)

    def takes(self, epoch: str, first: int, lines: list[bytes]) -> bool:
        """Join lines that touch these, before or behind; False if they do not touch."""
        if epoch != self.epoch or first > self.end or first + len(lines) < self.first:
            return False
        before, behind = lines[: max(0, self.first - first)], lines[max(0, self.end - first) :]
        if before:
            self.lines[:0] = before
            self.first = first
        self.lines += behind
        self.size += sum(map(len, before)) + sum(map(len, behind))
        return True

    def shorten(self, size: int) -> None:
        """Forget the oldest lines beyond `size` bytes."""
        count = 0
        while self.size > size:
            self.size -= len(self.lines[count])
            count += 1
        del self.lines[:count]
        self.first += count


class Recent:
    """The stretches of all channels, `limit` bytes at most."""

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit, self._size = limit, 0
        self._stretches: dict[str, Stretch] = {}  # the one added to longest ago comes first

    def __contains__(self, channel: str) -> bool:
        return channel in self._stretches

    def between(self, channel: str, epoch: str, offset: int, top: int) -> list[bytes]:
        """The lines above `offset` up to `top`, dense, as far as they are here; none: read the stream."""
        stretch = self._stretches.get(channel)
        if stretch is None or stretch.epoch != epoch or not stretch.first <= offset + 1 < stretch.end:
            return []
        return stretch.lines[offset + 1 - stretch.first : max(0, top + 1 - stretch.first)]

    def add(self, channel: str, epoch: str, first: int, lines: list[bytes]) -> None:
        """Remember lines that were read, or came live."""
        stretch = self._stretches.pop(channel, None)
        if stretch is not None:
            self._size -= stretch.size
        if stretch is None or not stretch.takes(epoch, first, lines):
            stretch = Stretch(epoch, first, lines)
        stretch.shorten(self._limit)
        self._stretches[channel] = stretch
        self._size += stretch.size
        while self._size > self._limit:
            self._size -= self._stretches.pop(next(iter(self._stretches))).size

    def forget(self, channel: str) -> None:
        """The channel began anew."""
        if (stretch := self._stretches.pop(channel, None)) is not None:
            self._size -= stretch.size

    def clear(self) -> None:
        self._stretches.clear()
        self._size = 0
