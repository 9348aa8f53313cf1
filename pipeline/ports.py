"""What the outside systems offer, as the pipeline and the edge see them. bridge/ implements these; app.py joins them.

A new destination or source is one file in bridge/ and one line in app.py.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from pipeline.dead import DeadLetter
from pipeline.encode import Message
from pipeline.event import Event

Measures = Mapping[str, tuple[str, int]]
"""What /metrics shows of a part: a name (with _total: a counter) to its meaning and value."""


class Extent(NamedTuple):
    """How many messages of one epoch of a channel an archive holds, and its lowest and highest offset."""

    channel: str
    epoch: str
    size: int
    first: int
    last: int


class Holder(NamedTuple):
    """A channel with an event of some id, and when its first and its last such event came (Unix ms)."""

    channel: str
    first: int
    last: int


Readable = Callable[[Sequence[str]], Awaitable[Mapping[str, float]]]
"""Those of some channels that somebody may read, and when each was made (Unix ms): what is older was deleted."""


class Sink(Protocol):
    """Where messages are archived. `group` is the name of its consumer group, too."""

    group: str

    async def store(self, messages: Sequence[Message]) -> None:
        """Store messages, each once however often it is given: the key is (channel, epoch, offset).

        Raises pipeline.consumer.Away while the destination is away; what else it raises is the messages' own fault.
        """


class Archive(Protocol):
    """Messages that may be older than the stream: the history goes on here."""

    async def first(self, channel: str, epoch: str) -> int | None:
        """The lowest offset that is here; None: nothing of this channel and epoch is. Raises Away."""

    async def after(self, channel: str, epoch: str, offset: int, limit: int) -> list[Message]:
        """Up to `limit` messages with offsets above `offset`, oldest first. Raises Away."""

    async def before(self, channel: str, epoch: str, offset: int, limit: int) -> list[Message]:
        """As after, newest first, with offsets below `offset`. Raises Away."""

    async def since(self, channel: str, epoch: str, ms: int) -> int | None:
        """The offset just before the first message at or after `ms` (Unix ms); None: there is none. Raises Away."""


class EventStore(Protocol):
    """Events by their id, and the newest ones."""

    async def event(self, id: str, readable: Readable, channel: str = "") -> tuple[Message | None, bool]:
        """The message that carries the event in `channel`, else in one that is readable; and whether a cache answered.

        An id belongs to its channel. Of several channels the one that had it first. Raises Away.
        """

    async def events(self, channel: str, type: str, limit: int) -> list[Message]:
        """The newest events of a channel, of one type unless `type` is empty. Raises Away."""


class Gateway(Protocol):
    """Takes events in, durably: a broker, from which the bridge brings them into the streams."""

    async def publish(self, events: Sequence[Event]) -> None:
        """Return when every event is confirmed.

        Raises Unavailable (nothing accepted), Unroutable, UnknownChannel, StorageFull, and OutcomeUnknown (may be
        accepted; retry with the same ids). An error among several events names those it is about.
        """


class QueueState(NamedTuple):
    """A queue of the broker: messages that wait, that consumers have in hand (None: not known), and its consumers."""

    name: str
    ready: int
    unacknowledged: int | None
    consumers: int


class BrokerUser(NamedTuple):
    """A user of the broker; `tags` say what the management shows it."""

    name: str
    tags: str


class BrokerConnection(NamedTuple):
    """A connection to the broker: whose, from where, and what it calls itself."""

    user: str
    peer: str
    name: str
    vhost: str
    state: str
    channels: int


class Overview(NamedTuple):
    """What the broker's management shows, and in `notes` what it does not, and why."""

    queues: Sequence[QueueState]
    users: Sequence[BrokerUser]
    connections: Sequence[BrokerConnection]
    notes: Sequence[str]


class Queues(Protocol):
    """The broker's queues, and the dead letters among them: what could never be an event."""

    async def states(self) -> list[QueueState]:
        """Each queue. Raises Unavailable."""

    async def overview(self) -> Overview:
        """All queues beside those, and the broker's users and connections."""

    async def list(self) -> list[DeadLetter]:
        """All dead letters, oldest first. Raises Unavailable."""

    async def retry(self, letters: Sequence[DeadLetter]) -> None:
        """Put them into the queues they came from. Raises Unavailable and Unroutable."""

    async def drop(self, letters: Sequence[DeadLetter]) -> None:
        """Forget them. Raises Unavailable."""


class Caller(Protocol):
    """Calls other services."""

    async def call(self, action: str, data: object, timeout: float = 5.0) -> object:  # noqa: ASYNC109
        """The other service's answer. Raises TimeoutError, CallFailed (it says so itself) and Away."""

    async def send(self, action: str, data: object) -> None:
        """Tell the other services something, and wait for nothing. Raises Away."""


@dataclass
class Parts:
    """The outside systems one node is joined to; what is not configured is missing."""

    sinks: Sequence[Sink] = ()
    archive: Archive | None = None
    events: EventStore | None = None
    gateway: Gateway | None = None
    queues: Queues | None = None
    caller: Caller | None = None
    measures: list[Callable[[], Measures]] = field(default_factory=list)
    states: dict[str, Callable[[], str]] = field(default_factory=dict)
    """Outside systems by name, and how each is now: "ok", or what is wrong. For /ready."""
    moved: list[Callable[[], None]] = field(default_factory=list)
    """Called when Redis is not where it was: whoever listens there opens a new connection."""
    off: dict[str, str] = field(default_factory=dict)
    """What is off, and the setting that would turn it on: for `status`."""
