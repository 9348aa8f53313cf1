"""The check: what clients received against the one truth, the final history; and the history against what was acked.

Pure: no sockets, no clock. Producers number their messages from 1, one in flight at a time, and put name and number
into the data, so a message is known wherever it turns up.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import msgspec

LOST, DUPLICATED, REORDERED, PHANTOM, ACKED_MISSING = KINDS = (
    "lost",
    "duplicated",
    "reordered",
    "phantom",
    "acked missing",
)
HISTORY = "history"  # who saw it, where that is no client
NOTHING = "nothing"


class Message(NamedTuple):
    """One message as somebody saw it: its offset, and its data to the byte."""

    offset: int
    data: bytes


class Position(NamedTuple):
    epoch: str
    offset: int


@dataclass
class Received:
    """What one client saw of one channel, in the order it came, from the position it began at."""

    client: str
    channel: str
    start: Position
    messages: list[Message] = field(default_factory=list)
    told: bool = False  # it was told (recovered: false) that what follows is not to be had

    @property
    def offset(self) -> int:
        """The offset it recovers from."""
        return self.messages[-1].offset if self.messages else self.start.offset


@dataclass
class History:
    """All of a channel, as it stands in the end; `top` is the offset the server says is the highest."""

    channel: str
    epoch: str
    top: int
    messages: Sequence[Message]

    @cached_property
    def by_offset(self) -> dict[int, bytes]:
        return {message.offset: message.data for message in self.messages}


@dataclass
class Published:
    """What one producer said in one channel: the numbers 1 … `sent`, and where those that were acked stand."""

    producer: str
    channel: str
    sent: int = 0
    acked: dict[int, Position] = field(default_factory=dict)


class Bad(NamedTuple):
    """One broken promise. `who` is a client, a producer, or the history itself."""

    kind: str
    who: str
    channel: str
    offset: int
    expected: str
    came: str

    def __str__(self) -> str:
        where = f"{self.who} in {self.channel} at offset {self.offset}"
        return f"{self.kind}: {where}: expected {self.expected}, came {self.came}"


class Verdict(NamedTuple):
    """How many of each kind, the first of all by offset, and how many deliveries were looked at."""

    counts: dict[str, int]
    first: Bad | None
    deliveries: int


def data_of(producer: str, number: int, padding: int = 0) -> list[str | int]:
    """The data of a message: who says it, which of theirs it is, and some weight."""
    return [producer, number, "x" * padding]


def said_by(data: bytes) -> tuple[str, int] | None:
    """The producer and number in a message's data; None if no producer of ours wrote it."""
    try:
        producer, number, _ = msgspec.json.decode(data, type=tuple[str, int, str])
    except msgspec.DecodeError:
        return None
    return producer, number


def check(received: Iterable[Received], histories: Sequence[History], published: Sequence[Published]) -> Verdict:
    """Everything against everything."""
    truths = {history.channel: history for history in histories}
    counts, deliveries = Counter(dict.fromkeys(KINDS, 0)), 0
    first: Bad | None = None

    def note(found: Iterator[Bad]) -> None:
        nonlocal first
        for bad in found:
            counts[bad.kind] += 1
            if first is None or bad.offset < first.offset:
                first = bad

    for history in histories:
        note(check_history(history, [p for p in published if p.channel == history.channel]))
    for one in received:
        deliveries += len(one.messages)
        note(check_received(one, truths[one.channel]))
    return Verdict(dict(counts), first, deliveries)


def check_received(received: Received, history: History) -> Iterator[Bad]:
    """A client's sequence must be the history from its first position on: no hole, no doubling, in order, same data."""
    who, channel = received.client, history.channel
    if received.start.epoch != history.epoch:
        yield Bad(PHANTOM, who, channel, received.start.offset, f"epoch {history.epoch}", received.start.epoch)
    due, missing = received.start.offset + 1, set[int]()
    for offset, data in received.messages:
        truth = history.by_offset.get(offset)
        if truth != data:
            yield Bad(PHANTOM, who, channel, offset, _shown(truth), _shown(data))
            if not 1 <= offset <= history.top:
                continue  # no place in the channel at all
        if offset >= due:
            missing.update(range(due, offset))
            due = offset + 1
        elif offset in missing:
            missing.discard(offset)
            yield Bad(REORDERED, who, channel, offset, f"offset {due}", f"{_shown(data)} late")
        else:
            yield Bad(DUPLICATED, who, channel, offset, f"offset {due}", f"{_shown(data)} again")
    if not received.told:
        missing.update(range(due, history.top + 1))
    for offset in sorted(missing):
        yield Bad(LOST, who, channel, offset, _shown(history.by_offset.get(offset)), NOTHING)


def check_history(history: History, published: Iterable[Published]) -> Iterator[Bad]:
    """The history must be dense, hold each acked message once and where its producer was told, and keep their order."""
    producers = {p.producer: p for p in published}
    places: dict[tuple[str, int], int] = {}
    last: dict[str, int] = {}
    due = 1
    for offset, data in history.messages:
        yield from (Bad(LOST, HISTORY, history.channel, o, "a message", NOTHING) for o in range(due, offset))
        due = offset + 1
        said = said_by(data)
        if said is None or said[0] not in producers or not 1 <= said[1] <= producers[said[0]].sent:
            yield Bad(PHANTOM, HISTORY, history.channel, offset, "what a producer said", _shown(data))
            continue
        producer, number = said
        if said in places:
            yield Bad(DUPLICATED, producer, history.channel, offset, f"only offset {places[said]}", _shown(data))
            continue
        places[said] = offset
        if number < last.get(producer, 0):
            expected = f"after number {last[producer]} a higher one"
            yield Bad(REORDERED, producer, history.channel, offset, expected, _shown(data))
        last[producer] = max(number, last.get(producer, 0))
    yield from (Bad(LOST, HISTORY, history.channel, o, "a message", NOTHING) for o in range(due, history.top + 1))
    for one in producers.values():
        for number, position in one.acked.items():
            place = places.get((one.producer, number))
            if place is None or position != (history.epoch, place):
                came = NOTHING if place is None else f"offset {place} in epoch {history.epoch}"
                expected = f"number {number} in epoch {position.epoch}"
                yield Bad(ACKED_MISSING, one.producer, history.channel, position.offset, expected, came)


def _shown(data: bytes | None) -> str:
    said = None if data is None else said_by(data)
    if said is not None:
        return f"{said[0]} number {said[1]}"
    return NOTHING if data is None else repr(data[:80])
