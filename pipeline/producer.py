"""The append: messages of one event-loop turn become one call of publish.lua for each partition.

Group commit: one batch is in flight per partition; what comes meanwhile is the next. A batch has an id under which
Redis keeps its reply, so a batch whose reply was lost is sent again and appends nothing twice.
"""

import asyncio
import contextlib
import hashlib
import logging
import secrets
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from importlib import resources
from typing import Any, NamedTuple

from chat.errors import LimitExceeded, OutcomeUnknown, PeykError, StorageFull, Unavailable, UnknownChannel
from pipeline.keys import CHANNELS, Keys
from pipeline.lasting import lasting
from pipeline.resp import Connection, ConnectionLost, Refused, ReplyError, connect, pack
from redis_config import Address, Settings

logger = logging.getLogger(__name__)

BATCH_MESSAGES = 500
BATCH_BYTES = 1024 * 1024
QUEUE_BYTES = 32 * 1024 * 1024  # of a partition, waiting for Redis; beyond it publishing is refused
SEEN_CHANNELS = 100_000  # positions remembered, to notice a Redis that came back older
SAVED_REPLY_MS = 30_000  # longer than a batch is ever resent
TICK = 0.1  # seconds between looks at what waits too long
_BACKOFF = 0.05, 1.0  # seconds: first and longest wait before connecting again
_SILENT = "Redis does not answer"
_LASTED = 1.0  # seconds a connection lasts that was no failure
_RETRY = ("BUSY", "TRYAGAIN", "NOREPLICAS")  # refused now, nothing written

SCRIPT = resources.files(__package__).joinpath("publish.lua").read_text()
_SHA = hashlib.sha1(SCRIPT.encode(), usedforsecurity=False).hexdigest()


def new_epoch() -> str:
    """A random name for one life of a channel's stream."""
    return secrets.token_urlsafe(6)


class Position(NamedTuple):
    """Where a message stands: its offset and time (Unix ms) in an epoch of its channel."""

    offset: int
    ms: int
    epoch: str
    duplicate: bool = False

    @property
    def id(self) -> str:
        """Its entry id in the channel's history."""
        return f"{self.offset}-{self.ms}"


Done = Callable[[Position | PeykError], None]


class Append:
    """One message on its way in, and who wants to hear of it."""

    __slots__ = ("channel", "client", "data", "done", "key", "patient", "since", "store", "user")

    def __init__(
        self, channel: str, data: bytes, user: str, client: str, key: str, store: bool, since: float, done: Done
    ) -> None:
        self.channel, self.data, self.user, self.client, self.key = channel, data, user, client, key
        self.store, self.since, self.done = store, since, done
        self.patient = False

    def settle(self, outcome: Position | PeykError) -> None:
        """Tell the publisher, once: what comes later (a reply after "unknown") is not told."""
        done, self.done = self.done, _told
        try:
            done(outcome)
        except Exception:  # the others of its batch are told all the same
            logger.exception("channel %s: a publisher could not be told its outcome", self.channel)


def _told(outcome: Position | PeykError) -> None:
    pass


class Batch:
    """One EVALSHA: the same bytes each time it is sent. `doubtful`: it was sent, and may have run."""

    __slots__ = ("appends", "doubtful", "packed", "since")

    def __init__(self, appends: list[Append], packed: bytes, since: float) -> None:
        self.appends, self.packed, self.since = appends, packed, since
        self.doubtful = False


class Lane:
    """What waits for one partition."""

    __slots__ = ("batch", "number", "queue", "size")

    def __init__(self, number: int) -> None:
        self.number, self.size = number, 0
        self.queue: deque[Append] = deque()
        self.batch: Batch | None = None


class Producer:
    """Appends messages to the streams of one Redis. Use `async with`, or `start` and `close`."""

    def __init__(self, address: Address, settings: Settings) -> None:
        self._address, self._settings, self._keys = address, settings, Keys.of(settings)
        self._lanes = [Lane(p) for p in range(settings.partitions)]
        self._ready: list[Lane] = []  # lanes to send at the end of this turn
        self._connection: Connection | None = None
        self._seen: dict[str, tuple[str, int]] = {}
        self.shown: Callable[[str], tuple[str, int] | None] = lambda channel: None
        """The position this node has shown of a channel, beside those it appended itself."""
        self.on_refused: Callable[[], None] = lambda: None
        """Called when the Redis that was asked is not the one to ask: it became a replica, or moved."""
        self._silence = _SILENT  # why messages wait
        self._tasks: list[asyncio.Task[None]] = []
        self._lost = asyncio.Event()
        self._settled = asyncio.Event()

    async def start(self) -> None:
        """Connect in the background, from now on whenever the connection is lost."""
        self._loop = asyncio.get_running_loop()
        self._tasks = [lasting(self._stay_connected), lasting(self._watch)]

    async def close(self) -> None:
        """Wait for what is in flight (at most publish_timeout), then stop."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._settings.publish_timeout):
                while self._outstanding():
                    self._settled.clear()
                    await self._settled.wait()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for lane in self._lanes:
            for append in [*lane.queue, *(lane.batch.appends if lane.batch else ())]:
                append.patient = False
            self._give_up(lane, float("inf"))
        if self._connection is not None:
            self._connection.abort()

    async def __aenter__(self) -> "Producer":
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def publish(
        self, channel: str, data: bytes, *, user: str, client: str = "-", key: str = "", store: bool = True
    ) -> Position:
        """Append one message to `channel` (an id) and return its position once it is in the stream.

        `data` is one line of JSON. With `key`, the same key by the same user within 5 minutes gives the same
        position and no second entry. Raises UnknownChannel, LimitExceeded, StorageFull and Unavailable (not stored) and
        OutcomeUnknown (retry with the same key).
        """
        future: asyncio.Future[Position] = self._loop.create_future()

        def done(outcome: Position | PeykError) -> None:
            if future.done():  # its waiter was cancelled
                return
            if isinstance(outcome, PeykError):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)

        self.append(channel, data, user, client, key, store, done)
        return await future

    def append(
        self,
        channel: str,
        data: bytes,
        user: str,
        client: str,
        key: str,
        store: bool,
        done: Done,
        patient: bool = False,
    ) -> None:
        """As publish, without a future: `done` is called with the position or the error.

        A `patient` message keeps its place until Redis takes it: it is never told that Redis is away or full, so those
        behind it cannot overtake. Who appends such bounds how many there are; without a key one may be stored twice.
        """
        lane = self._lanes[self._keys.partition(channel)]
        if lane.size >= QUEUE_BYTES and not patient:
            done(Unavailable(f"{QUEUE_BYTES} bytes wait for Redis already, nothing was stored; try again in a second"))
            return
        lane.size += len(data)
        append = Append(channel, data, user, client, key, store, self._loop.time(), done)
        append.patient = patient
        lane.queue.append(append)
        self._schedule(lane)

    def _outstanding(self) -> bool:
        return any(lane.queue or lane.batch for lane in self._lanes)

    # -- sending

    def _schedule(self, lane: Lane) -> None:
        if lane.batch is None and lane.queue and self._connection is not None:
            if not self._ready:
                self._loop.call_soon(self._flush)
            if lane not in self._ready:
                self._ready.append(lane)

    def _flush(self) -> None:
        """Send the batches of all ready lanes in one write: a write is a system call."""
        lanes, self._ready = self._ready, []
        connection = self._connection
        if connection is None:
            return
        packed, callbacks = [], []
        for lane in lanes:
            if lane.batch is None and lane.queue:
                lane.batch = batch = self._next_batch(lane)
                packed.append(batch.packed)
                callbacks.append(partial(self._on_reply, lane, batch))
        if packed:
            connection.write(b"".join(packed), callbacks)

    def _next_batch(self, lane: Lane) -> Batch:
        """Take what waits in `lane`, at most BATCH_MESSAGES and BATCH_BYTES, as one packed EVALSHA."""
        appends: list[Append] = []
        places: dict[str, int] = {}
        size, queue = 0, lane.queue
        while queue and len(appends) < BATCH_MESSAGES and (not appends or size + len(queue[0].data) <= BATCH_BYTES):
            append = queue.popleft()
            size += len(append.data)
            lane.size -= len(append.data)
            appends.append(append)
            places.setdefault(append.channel, len(places) + 1)
        keys = [self._keys.log(lane.number), self._keys.batch(lane.number, secrets.token_hex(8)), CHANNELS]
        s = self._settings
        args: list[str | bytes | int] = [s.history_length, s.log_length, s.idempotency_ttl * 1000, SAVED_REPLY_MS]
        args += [new_epoch(), s.channel_limit if s.create_channels else -1, len(places), self._keys.control]
        for channel in places:
            keys += [self._keys.channel(channel), self._keys.history(channel)]
            args += [channel, *self._highest(channel)]
        for append in appends:
            place = 0
            if append.key:
                keys.append(self._keys.idempotency(append.channel, append.user, append.key))
                place = len(keys)
            args += [places[append.channel], place, int(append.store), append.user, append.client, append.data]
        return Batch(appends, pack(["EVALSHA", _SHA, len(keys), *keys, *args]), self._loop.time())

    def _highest(self, channel: str) -> tuple[str, int]:
        """The highest position this node knows of, so that a Redis which came back older is noticed."""
        seen, shown = self._seen.get(channel), self.shown(channel)
        if seen is None or (shown is not None and shown[0] == seen[0]):
            return max(seen or ("", 0), shown or ("", 0))
        return seen

    # -- replies

    def _on_reply(self, lane: Lane, batch: Batch, reply: Any) -> None:
        if lane.batch is not batch:  # given up meanwhile
            return
        if isinstance(reply, bytes):
            lane.batch = None
            self._settle(lane, batch, reply)
            self._schedule(lane)
            self._settled.set()
        elif isinstance(reply, Refused) and not batch.doubtful:  # it did not run: its messages wait as others do
            lane.batch = None
            self._put_back(lane, batch.appends)
        elif isinstance(reply, ConnectionLost):
            batch.doubtful = True  # _stay_connected sends the batch again
        else:
            self._on_error(lane, batch, str(reply))

    def _settle(self, lane: Lane, batch: Batch, reply: bytes) -> None:
        """Give each message of the batch its line of the reply."""
        for append, line in zip(batch.appends, reply.decode().split("\n"), strict=True):
            offset, ms, *rest = line.split(" ", 3)
            if offset != "!":
                position = Position(int(offset), int(ms), rest[0], len(rest) > 1)
                if append.store and not position.duplicate:
                    self._seen[append.channel] = (position.epoch, position.offset)
                append.settle(position)
            elif ms == "UNKNOWN":
                append.settle(UnknownChannel.named(append.channel))
            elif ms == "LIMIT":
                append.settle(LimitExceeded.of_channels(self._settings.channel_limit))
            else:
                append.settle(Unavailable(f"Redis refused the message: {line[2:]}"))
        while len(self._seen) > SEEN_CHANNELS:
            del self._seen[next(iter(self._seen))]

    def _on_error(self, lane: Lane, batch: Batch, error: str) -> None:
        """An error for the whole batch: nothing of it was written (publish.lua), except where we cannot know."""
        word = error.partition(" ")[0]
        if word == "NOSCRIPT" and self._connection is not None:
            self._connection.send(_ignore, ["SCRIPT", "LOAD", SCRIPT])
            self._send(lane, batch)
        elif word in _RETRY:
            self._loop.call_later(_BACKOFF[1] / 4, self._send, lane, batch)
        else:
            logger.error("partition %d: Redis refused an append: %s", lane.number, error)
            outcome: type[PeykError] = OutcomeUnknown
            text = f"Redis answered: {error}; retry with the same idempotency key"
            if word in ("OOM", "FULL"):
                outcome, text = StorageFull, f"storage full, nothing was stored; try again later ({error})"
            elif word in ("MISCONF", "NOAUTH", "NOPERM", "WRONGTYPE"):
                outcome, text = Unavailable, f"Redis cannot store messages now: {error}"
            lane.batch = None
            patient = _tell(batch.appends, outcome(text))
            self._put_back(lane, patient)
            self._loop.call_later(_BACKOFF[1] / 4 if patient else 0, self._schedule, lane)

    def _put_back(self, lane: Lane, appends: Sequence[Append]) -> None:
        """Messages of a batch that was not taken are first again."""
        lane.queue.extendleft(reversed(appends))
        lane.size += sum(len(append.data) for append in appends)

    def _send(self, lane: Lane, batch: Batch) -> None:
        if self._connection is not None and lane.batch is batch:
            self._connection.write(batch.packed, [partial(self._on_reply, lane, batch)])

    # -- time and faults

    async def _stay_connected(self) -> None:
        wait = _BACKOFF[0]
        while True:
            try:
                connection = await connect(self._address, on_lost=self._lost.set)
                await connection.call("SCRIPT", "LOAD", SCRIPT)
            except (ConnectionLost, ReplyError) as error:
                self._silence = str(error) if isinstance(error, Refused) else _SILENT
                logger.info("producer: %s; next try in %.2f s", error, wait)
                await asyncio.sleep(wait)
                wait = min(wait * 2, _BACKOFF[1])
                continue
            began = self._loop.time()
            self._lost.clear()
            self._connection = connection
            if connection.lost:
                self._lost.set()
            for lane in self._lanes:
                if lane.batch is not None:
                    self._send(lane, lane.batch)
                self._schedule(lane)
            await self._lost.wait()
            self._connection, self._ready = None, []
            wait = _BACKOFF[0] if self._loop.time() - began > _LASTED else wait
            self._silence = connection.refusal or _SILENT
            if connection.refusal:
                logger.info("producer: %s; next try in %.2f s", connection.refusal, wait)
                self.on_refused()
                await asyncio.sleep(wait)
                wait = min(wait * 2, _BACKOFF[1])

    async def _watch(self) -> None:
        """Tell publishers within publish_timeout, drop batches after retry_window, drop a connection that hangs."""
        while True:
            await asyncio.sleep(TICK)
            now = self._loop.time()
            for lane in self._lanes:
                self._give_up(lane, now)

    def _give_up(self, lane: Lane, now: float) -> None:
        late = now - self._settings.publish_timeout
        overdue: list[Append] = []
        while lane.queue and lane.queue[0].since <= late:
            overdue.append(lane.queue.popleft())
            lane.size -= len(overdue[-1].data)
        self._put_back(lane, _tell(overdue, Unavailable(f"{self._silence}; nothing was stored, try again")))
        batch = lane.batch
        if batch is None:
            return
        if batch.since <= now - TICK:  # a node that is behind is not a Redis that is silent
            unknown = OutcomeUnknown("Redis did not answer in time; retry with the same idempotency key")
            _tell([append for append in batch.appends if append.since <= late], unknown)
        if self._connection is not None and batch.since <= late - self._settings.publish_timeout:
            self._connection.abort()  # silent for twice as long: try another connection
        if batch.since <= now - self._settings.retry_window:
            lane.batch = None
            self._put_back(lane, [append for append in batch.appends if append.patient])
            self._schedule(lane)


def _tell(appends: Sequence[Append], error: PeykError) -> list[Append]:
    """Settle those who cannot wait; those who can."""
    for append in appends:
        if not append.patient:
            append.settle(error)
    return [append for append in appends if append.patient]


def _ignore(reply: Any) -> None:
    pass
