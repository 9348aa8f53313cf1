"""What a terminal needs of the other side, be it Redis itself (chat/direct.py) or a server (chat/remote.py)."""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import msgspec

from chat.models import Channel
from pipeline.content import UNREADABLE

LISTED = 1000  # channels a terminal knows of; others are joined by name
DELETED = 2000  # an unsubscribe code: the channel is gone
RESUBSCRIBE = 2500  # unsubscribe codes from here on mean: subscribe again


class _Info(msgspec.Struct):
    user: str = "?"
    client: str = ""


class _Publication(msgspec.Struct):
    data: msgspec.Raw
    offset: int = 0
    time: int = 0
    info: _Info = msgspec.field(default_factory=_Info)


_publication = msgspec.json.Decoder(_Publication).decode
_data = msgspec.json.Decoder().decode
# How pipeline/encode.py begins and ends a publication, whatever stands between.
_HEAD = re.compile(rb'\{"offset":(\d{1,16}),"time":(\d{1,16}),')
_TAIL = re.compile(rb'"info":\{"user":"([^"]*)","client":"([^"]*)"\}\}$')
_DAMAGED = {"text": "(a message that cannot be read)"}


class Said(NamedTuple):
    """One message as a client reads it. `time` is in Unix ms (0: unknown); offset 0: shown, not stored."""

    data: Any
    user: str = "?"
    offset: int = 0
    time: int = 0
    client: str = ""

    @classmethod
    def read(cls, line: bytes | msgspec.Raw) -> "Said":
        """A publication of the protocol. What was not written by Peyk may be damaged, and says so."""
        try:
            pub = _publication(line)
            return cls(_data(pub.data), pub.info.user, pub.offset, pub.time, pub.info.client)
        except UNREADABLE:
            head, tail = _HEAD.match(bytes(line)), _TAIL.search(bytes(line))
            offset, time = map(int, head.groups()) if head else (0, 0)
            user, client = [name.decode(errors="replace") for name in tail.groups()] if tail else ("?", "")
            return cls(_DAMAGED, user, offset, time, client)

    @property
    def text(self) -> str:
        """What it says. An event is its type and what it carries; anything else its JSON."""
        if not isinstance(self.data, dict):
            return _json(self.data)
        text, kind = self.data.get("text"), self.data.get("type")
        if isinstance(text, str):
            return text
        if not isinstance(kind, str) or "payload" not in self.data:
            return _json(self.data)
        payload = self.data["payload"]
        values = payload.items() if isinstance(payload, dict) else [("", payload)]
        return " · ".join([kind, *(f"{name}: {_plain(value)}".removeprefix(": ") for name, value in values)])

    @property
    def is_action(self) -> bool:
        """Whether it was said with /me."""
        return isinstance(self.data, dict) and self.data.get("me") is True


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else _json(value)


class Began(NamedTuple):
    """Where a subscription begins. `recovered`: `messages` are all that were missed since the position asked from."""

    epoch: str
    offset: int
    recovered: bool = False
    messages: Sequence[Said] = ()


class Past(NamedTuple):
    """A page of history, oldest first, and where the channel stands."""

    epoch: str
    top: int
    messages: list[Said]


class Place(NamedTuple):
    """What a publisher hears: where the message stands, and when it was stored (Unix ms)."""

    offset: int
    time: int


class Listener(Protocol):
    """Who is told what happens on the other side. Nothing here waits."""

    def said(self, channel: str, message: Said) -> None:
        """A message came, behind those that came before it."""

    def began(self, channel: str, began: Began) -> None:
        """A subscription was taken up again, and what was missed since could not be told."""

    def ended(self, channel: str, code: int, reason: str) -> None:
        """A subscription ended for good; the code is an error's, or that of an unsubscribe push."""

    def connected(self, up: bool, why: str = "", final: bool = False) -> None:
        """The connection came or went. `final`: it does not come back by itself."""


class Source(Protocol):
    """The other side. Methods take channel ids and raise PeykError, and FAILURES when it cannot be reached."""

    listener: Listener
    username: str
    where: str  # what it is, for people
    clients: set[str]  # ids under which this terminal has published

    async def channels(self, ids: Sequence[str] = ()) -> list[Channel]:
        """Those one may see: the first LISTED, and those of `ids`."""
        ...

    async def mine(self) -> list[str]:
        """The ids of those one belongs to."""
        ...

    async def subscribe(self, name: str, since: tuple[str, int] | None = None) -> Began:
        """Belong to a channel, made if it is missing, and hear what is said from here on, or from (epoch, offset)."""
        ...

    async def leave(self, channel: str) -> None:
        """Belong no longer."""

    async def before(self, channel: str, offset: int | None, limit: int) -> Past:
        """The messages just below `offset` (None: the newest)."""
        ...

    async def after(self, channel: str, offset: int, limit: int) -> Past:
        """The messages just above `offset`."""
        ...

    async def publish(self, channel: str, data: bytes, key: str) -> Place:
        """Say something (a line of JSON). With the same key it may be said again and is stored once."""
        ...

    async def present(self, channel: str) -> list[str]:
        """The names of who is there now, sorted."""
        ...

    async def describe(self, channel: str, description: str) -> None:
        """Set what a channel is about."""

    async def private(self, name: str) -> Channel:
        """The private channel of oneself and another, made if it is missing."""
        ...

    async def asks(self) -> list[str]:
        """The names of those who want to talk to this user alone; `private` accepts."""
        ...

    async def decline(self, name: str) -> None:
        """Not to talk to who asked."""

    async def unread(self, channels: Sequence[str]) -> dict[str, tuple[int, int]]:
        """(read, top) by channel."""
        ...

    async def read(self, channel: str, offset: int) -> None:
        """Everything up to `offset` was read."""

    async def rename(self, name: str) -> None:
        """Go on under another name."""
