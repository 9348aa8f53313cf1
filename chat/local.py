"""One channel as this node shows it: how far, and to whom. No Redis here, and nothing that waits."""

import asyncio
from collections.abc import Callable
from typing import NamedTuple, Protocol


class Receiver(Protocol):
    """Whoever subscribes: a WebSocket session, an event stream, a terminal."""

    framed: bool  # wants WebSocket frames; else newline-joined lines
    full: bool  # has too much unread: is pushed nothing until Hub.drained

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
        "early", "epoch", "framed", "id", "live", "ms", "offset", "opened", "plain", "readers", "target", "task",
    )  # fmt: skip

    def __init__(self, channel: str, opened: asyncio.Future[None]) -> None:
        self.id, self.opened = channel, opened
        self.epoch, self.offset, self.ms, self.target = "", 0, 0, 0
        self.early = "", 0  # the last run heard before the position was known
        self.live: set[Subscription] = set()
        self.readers: set[Subscription] = set()
        self.framed: tuple[Callable[[bytes], None], ...] | None = ()  # writers of the live; None: to be rebuilt
        self.plain: tuple[Callable[[bytes], None], ...] = ()
        self.task: asyncio.Task[None] | None = None

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
        for subscription in self.live:
            if subscription.joins:
                subscription.receiver.write(frame(body) if subscription.receiver.framed else body)

    def lowest(self) -> int | None:
        """The offset to catch up from: of the reader furthest behind, or the hub's own before a hole; None: level."""
        behind = [s.offset for s in self.readers if not s.receiver.full]
        if self.target > self.offset:
            behind.append(self.offset)
        return min(behind, default=None)


def frame(body: bytes) -> bytes:
    """`body` as one unmasked WebSocket text frame (RFC 6455, section 5.2)."""
    size = len(body)
    if size < 126:
        return bytes((0x81, size)) + body
    if size < 65536:
        return b"\x81\x7e" + size.to_bytes(2, "big") + body
    return b"\x81\x7f" + size.to_bytes(8, "big") + body
