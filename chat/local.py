"""One channel as this node shows it: how far, and to whom. No Redis here, and nothing that waits."""

import asyncio
from collections.abc import Callable
from typing import NamedTuple, Protocol

from chat.access import Access
from pipeline.replay import unseen


class Receiver(Protocol):
    """Whoever subscribes: a WebSocket session, an event stream, a terminal."""

    framed: bool  # wants WebSocket frames; else newline-joined lines
    full: bool  # has too much unread: is pushed nothing until Hub.drained

    @property
    def access(self) -> Access | None:
        """What it may do; None: everything."""

    def write(self, data: bytes) -> None:
        """Take bytes at once; too many make it full."""

    def unsubscribed(self, channel: str, code: int, reason: str) -> None:
        """The hub ended the subscription."""


class Joined(NamedTuple):
    """Where a subscription begins: `lines` are the pushes missed, from the position the client asked from."""

    subscription: "Subscription"
    epoch: str
    offset: int
    recovered: bool
    lines: list[bytes]


Answer = Callable[[Joined], None]


class Subscription:
    """One receiver in one channel: live, or reading from `offset`."""

    __slots__ = ("answer", "channel", "joins", "offset", "receiver")

    def __init__(self, receiver: Receiver, channel: "LocalChannel", offset: int, answer: Answer | None = None) -> None:
        self.receiver, self.channel, self.offset = receiver, channel, offset
        self.answer = answer  # waits to hear that it recovered
        self.joins = False  # wants to hear who joins and leaves


class LocalChannel:
    """A channel as this node shows it: how far (epoch, offset, ms), how far it must go (target), and to whom."""

    __slots__ = (
        "early", "epoch", "framed", "heard", "id", "live", "ms", "offset", "opened", "plain", "readers", "rests_until",
        "target", "task",
    )  # fmt: skip

    def __init__(self, channel: str, opened: asyncio.Future[None]) -> None:
        self.id, self.opened = channel, opened
        opened.add_done_callback(_retrieve)
        self.epoch, self.offset, self.ms, self.target = "", 0, 0, 0
        self.early = "", 0  # the last run heard before the position was known
        self.live: set[Subscription] = set()
        self.readers: set[Subscription] = set()
        self.framed: tuple[Callable[[bytes], None], ...] | None = ()  # writers of the live; None: to be rebuilt
        self.plain: tuple[Callable[[bytes], None], ...] = ()
        self.task: asyncio.Task[None] | None = None
        self.heard: list[bytes] = []  # runs of the fan-out that wait to be shown
        self.rests_until = 0.0

    def add_live(self, subscription: Subscription) -> None:
        self.readers.discard(subscription)
        self.live.add(subscription)
        self.framed = None

    def add_reader(self, subscription: Subscription, offset: int) -> None:
        subscription.offset = offset
        self.live.discard(subscription)
        self.readers.add(subscription)
        self.framed = None

    def broadcast(self, body: bytes) -> None:
        """Write newline-joined push lines to every live subscription: one frame, encoded once, one write each."""
        if self.framed is None:
            self.framed = tuple(s.receiver.write for s in self.live if s.receiver.framed)
            self.plain = tuple(s.receiver.write for s in self.live if not s.receiver.framed)
        if self.framed:
            data = frame(body)
            for write in self.framed:
                write(data)
        for write in self.plain:
            write(body)

    def announce(self, body: bytes) -> None:
        """Write joins and leaves to the live subscriptions that want them."""
        for subscription in [*self.live]:  # a write may fill its receiver, which then reads
            if subscription.joins:
                subscription.receiver.write(frame(body) if subscription.receiver.framed else body)

    def begin(self, subscription: Subscription, recovered: bool) -> None:
        """Answer and go live in one breath: nothing can be broadcast between the two. Who is full reads on."""
        offset = subscription.offset if recovered else self.offset
        answer, subscription.answer = subscription.answer, None
        if subscription.receiver.full:
            self.add_reader(subscription, self.offset)
        else:
            self.add_live(subscription)
        if answer is not None:
            answer(Joined(subscription, self.epoch, offset, recovered, []))

    def serve(self, first: int, lines: list[bytes], ms: int, size: int) -> None:
        """Give lines, dense, to the live subscriptions and, `size` bytes at most, to every reader they reach.

        `first` is the offset of the first line, `ms` the time of the last.
        """
        last = first + len(lines) - 1
        if last > self.offset and (known := unseen(self.offset, first, last)) is not None:
            self.offset, self.ms = last, ms
            self.target = max(self.target, last)
            self.broadcast(b"\n".join(lines[known:]))
        frames: dict[int, bytes] = {}
        for reader in list(self.readers):
            known = unseen(reader.offset, first, last)
            if reader.receiver.full or known is None or known >= len(lines):
                continue
            start = reader.offset
            taken = _within(lines, known, size)
            reader.offset = first + taken - 1
            if reader.answer is not None:
                answer, reader.answer = reader.answer, None
                answer(Joined(reader, self.epoch, start, True, lines[known:taken]))
            elif reader.receiver.framed:
                if known not in frames:
                    frames[known] = frame(b"\n".join(lines[known:taken]))
                reader.receiver.write(frames[known])
            else:
                reader.receiver.write(b"\n".join(lines[known:taken]))
        self.level()

    def level(self) -> None:
        """Readers that stand where the channel stands are live."""
        for reader in list(self.readers):
            if reader.offset == self.offset and not reader.receiver.full:
                if reader.answer is not None:
                    self.begin(reader, recovered=True)
                else:
                    self.add_live(reader)

    def lowest(self) -> int | None:
        """The offset to catch up from: of the reader furthest behind, or the hub's own before a hole; None: level."""
        behind = [s.offset for s in self.readers if not s.receiver.full]
        if self.target > self.offset:
            behind.append(self.offset)
        return min(behind, default=None)


def _retrieve(future: asyncio.Future[None]) -> None:
    """Mark an error as seen: those who wait for the channel get it, and there may be none."""
    if not future.cancelled():
        future.exception()


def frame(body: bytes) -> bytes:
    """`body` as one unmasked WebSocket text frame (RFC 6455, section 5.2)."""
    size = len(body)
    if size < 126:
        return bytes((0x81, size)) + body
    if size < 65536:
        return b"\x81\x7e" + size.to_bytes(2, "big") + body
    return b"\x81\x7f" + size.to_bytes(8, "big") + body


def _within(lines: list[bytes], start: int, size: int) -> int:
    """The end of the slice from `start` that weighs at most `size` bytes, at least one line long."""
    end = start
    while end < len(lines) and (end == start or size > 0):
        size -= len(lines[end])
        end += 1
    return end
