"""What a person sees of one channel: messages in order, and between them days, holes and what is still on its way.

No I/O. Messages may be added in any order and more than once; holes are found by subtracting offsets.
"""

from bisect import bisect_left, insort
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import NamedTuple

from chat.models import Channel
from chat.source import Said

KEPT = 2000  # entries of the channel that is shown; older ones are read again when they are scrolled to
KEPT_HIDDEN = 200  # and of one that is not


class Day(NamedTuple):
    """Between the messages of two days."""

    day: date


class Gap(NamedTuple):
    """Messages that are in no history any more."""

    missing: int


class New(NamedTuple):
    """Above the first message that was not read when the channel was opened."""


@dataclass(eq=False, slots=True)
class Entry:
    """One message, or a line of the terminal's own (`kind` notice or error) at its place between them."""

    kind: str
    text: str
    offset: int
    order: int = 0  # among the entries of one offset; 0: the message itself
    said: Said | None = None
    day: date | None = None
    mentions: bool = False

    @property
    def place(self) -> tuple[int, int]:
        return self.offset, self.order


@dataclass(eq=False, slots=True)
class Outgoing:
    """A message of one's own that is not known to be stored: sending, waiting for the connection, or failed."""

    text: str
    data: bytes
    said: Said
    key: str
    at: float  # seconds, by the loop's clock
    state: str = "sending"
    reason: str = ""
    blames: int = 0  # connections that were ended for it


Item = Entry | Outgoing | Day | Gap | New


@dataclass(eq=False, slots=True)
class Transcript:
    """`top` is the channel's highest offset as far as it is known; `whole` whether nothing is older."""

    entries: list[Entry] = field(default_factory=list)
    outgoing: list[Outgoing] = field(default_factory=list)
    top: int = 0
    whole: bool = False
    marker: int | None = None  # the offset last read when the channel was opened
    loading: bool = False
    _order: int = 0

    @property
    def first(self) -> int:
        """The lowest offset shown; 0: none."""
        return next((entry.offset for entry in self.entries if entry.order == 0), 0)

    @property
    def last(self) -> int:
        """The highest offset shown; 0: none."""
        return next((entry.offset for entry in reversed(self.entries) if entry.order == 0), 0)

    def add(self, message: Said, mentions: bool = False) -> bool:
        """Put a message where it belongs; whether it is new here."""
        entry = Entry("message", message.text, message.offset, 0, message, day_of(message.time), mentions)
        if not message.offset:
            entry.offset, entry.order = self.top, self._next()
            self.entries.append(entry)
            return True
        self.top = max(self.top, message.offset)
        if not self.entries or self.entries[-1].place < entry.place:
            self.entries.append(entry)
            return True
        at = bisect_left(self.entries, entry.place, key=_place)
        if at < len(self.entries) and self.entries[at].place == entry.place:
            return False
        insort(self.entries, entry, key=_place)
        return True

    def note(self, text: str, kind: str = "notice") -> Entry:
        """A line of the terminal's own, behind what is there."""
        entry = Entry(kind, text, self.top, self._next())
        self.entries.append(entry)
        return entry

    def clear(self) -> None:
        """Forget what is shown; what is still to be sent stays."""
        self.entries.clear()
        self.top, self.whole, self.marker = 0, False, None

    def trim(self, kept: int) -> bool:
        """Let go of the oldest entries; whether there were more than `kept`."""
        if len(self.entries) <= kept:
            return False
        del self.entries[: len(self.entries) - kept]
        self.whole = False
        return True

    def items(self) -> Iterator[Item]:
        """Everything to be shown, in order. A hole at the end shows once nothing is loading."""
        day, at, new = None, 0, self.marker is None
        for entry in self.entries:
            if entry.order == 0:
                if at and entry.offset > at + 1:
                    yield Gap(entry.offset - at - 1)
                at = entry.offset
            if entry.day is not None and entry.day != day:
                day = entry.day
                yield Day(day)
            if not new and self.marker is not None and entry.order == 0 and entry.offset > self.marker:
                new = True
                yield New()
            yield entry
        if at and self.top > at and not self.loading:
            yield Gap(self.top - at)
        yield from self.outgoing

    def take_own(self, message: Said) -> None:
        """One's own message came back: it is no longer on its way."""
        for outgoing in self.outgoing:
            if outgoing.said.data == message.data:
                self.outgoing.remove(outgoing)
                return

    def _next(self) -> int:
        self._order += 1
        return self._order


@dataclass(eq=False, slots=True)
class View:
    """One channel as this terminal has it."""

    channel: Channel
    transcript: Transcript = field(default_factory=Transcript)
    epoch: str = ""
    read: int = 0
    subscribed: bool = False
    mentioned: bool = False  # in what is unread
    people: dict[str, str] = field(default_factory=dict)  # who was seen here: user id → name
    draft: str = ""

    @property
    def unread(self) -> int:
        return max(0, self.transcript.top - self.read)


def _place(entry: Entry) -> tuple[int, int]:
    return entry.place


def day_of(ms: int) -> date | None:
    """The local day of a time in Unix ms; None where that is none."""
    try:
        return datetime.fromtimestamp(ms / 1000).date() if ms else None
    except (ValueError, OverflowError, OSError):
        return None
