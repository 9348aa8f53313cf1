"""Cache-aside for events: Redis first, then the databases, and what they say is kept in Redis for a while.

The worker that stored an event puts it there as well. The databases stay the truth: a cache that is away, slow or full
costs time, never an answer. An event's id belongs to its channel: what somebody says under the same id elsewhere hides
nothing. So an event is kept by channel and id, and beside the events a list of the channels that have the id; who asks
without naming a channel gets the event of the first of these that they may read, and learns nothing of the others.
"""

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from math import inf
from typing import Any, Protocol, TypeVar

from bridge.settings import BridgeSettings
from pipeline.consumer import Away
from pipeline.encode import Message, from_log, to_log
from pipeline.event import ID_LIMIT, event_of
from pipeline.keys import Keys
from pipeline.ports import Holder, Measures, Readable, Sink
from pipeline.resp import Command, ConnectionLost, Link, ReplyError
from redis_config import Address

logger = logging.getLogger(__name__)

Found = tuple[Message | None, bool]
Answer = TypeVar("Answer")
_IMPOSSIBLE = re.compile("[\x00\ud800-\udfff]")  # what no database can be asked for
_ABSENT = b"-"  # what stands for an event that the databases do not have
_PAGE = 1000  # channels with one id that are looked at together
_LISTED = 64  # of these in the cache
_PAUSE = 1.0  # seconds a cache that failed is left alone
_OVERHEAD = 150  # bytes Redis needs for an entry beside its key and value
COUNTED = {
    "hits": "events the cache answered",
    "misses": "events the databases were asked for",
    "failures": "times the cache was away or refused",
}

# Remember that no channel has an event, unless somebody has remembered one meanwhile.
_NOWHERE = """
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
redis.call('ZADD', KEYS[1], 0, '')
return redis.call('PEXPIRE', KEYS[1], ARGV[1])"""


def packed(message: Message) -> bytes:
    """A message as the cache holds it."""
    return b" ".join(to_log(message))


def unpacked(value: bytes) -> Message:
    """A message of the cache. Raises ValueError if it is damaged."""
    channel, rest = value.split(b" ", 1)
    return from_log(channel, rest)


class Databases(Protocol):
    """What is asked where the cache has no answer."""

    async def event(self, channel: str, id: str, began: float) -> Message | None:
        """The first message of a channel since `began` (Unix ms) that carries the event. Raises Away."""

    async def holders(self, id: str, skip: int, limit: int) -> tuple[list[Holder], Away | None]:
        """The channels with an event of that id, the first that had it first; Away: perhaps there are more."""

    async def events(self, channel: str, type: str, limit: int) -> list[Message]:
        """As EventStore's."""


class EventCache:
    """An EventStore before the databases. Use `async with`."""

    def __init__(self, store: Databases, address: Address, settings: BridgeSettings) -> None:
        self._store, self._keys = store, Keys.of(settings)
        self._ttl, self._absent_ttl = settings.cache_ttl, max(1, int(settings.cache_absent_ttl * 1000))
        self._largest, self._budget = settings.cache_bytes, settings.cache_size // 2
        self._link = Link(address, settings.cache_timeout)
        self._flights: dict[Sequence[object], asyncio.Task[Any]] = {}
        self._away_until = self._window_ends = 0.0
        self._spent = 0  # bytes put into the cache in this window; they are gone at the end of the next
        self._counts = dict.fromkeys(COUNTED, 0)

    async def __aenter__(self) -> "EventCache":
        return self

    async def __aexit__(self, *exc: object) -> None:
        flights = list(self._flights.values())
        for flight in flights:
            flight.cancel()
        await asyncio.gather(*flights, return_exceptions=True)
        self._link.close()

    # -- reading

    async def event(self, id: str, readable: Readable, channel: str = "") -> Found:
        """The message that carries the event, in `channel` or the first readable one that has it; whether the cache
        answered. Raises Away.

        All who ask for the same event at the same time share one answer of the databases.
        """
        if not 0 < len(id) <= ID_LIMIT or _IMPOSSIBLE.search(id):
            return None, False  # no event has such an id
        message, hit = await (self._first(id, {channel: inf}, readable) if channel else self._anywhere(id, readable))
        self._counts["hits" if hit else "misses"] += 1
        return message, hit

    async def events(self, channel: str, type: str, limit: int) -> list[Message]:
        """The newest events, from the databases: a list changes with every event. Raises Away."""
        return await self._store.events(channel, type, limit)

    async def _anywhere(self, id: str, readable: Readable) -> Found:
        """The event in the first channel that has it and is readable, of those the cache knows, else of all."""
        listed = await self._shared(self._listed, id)
        if listed == [""]:
            return None, True
        message, hit = await self._first(id, dict.fromkeys(listed, inf), readable)
        skip = 0
        away: Away | None = None
        while message is None:
            holders, wrong = await self._shared(self._holders, id, skip)
            away = away or wrong
            message, hit = await self._first(id, {holder.channel: holder.last for holder in holders}, readable)
            skip += _PAGE
            if message is None and len(holders) < _PAGE:
                if away is not None:  # where it may be
                    raise away
                return None, False
        return message, hit

    async def _first(self, id: str, last: Mapping[str, float], readable: Readable) -> Found:
        """The event in the first readable channel that has it. `last`: when the channels' last such event came."""
        began = await readable(list(last)) if last else {}
        hit = False
        for channel in last:
            if channel in began and last[channel] >= began[channel]:
                message, hit = await self._shared(self._of_channel, channel, id, began[channel])
                if message is not None:
                    return message, hit
        return None, hit

    async def _shared(self, ask: Callable[..., Awaitable[Answer]], *about: object) -> Answer:
        """What `ask` answers about something, asked once for all who want to know at the same time."""
        key = ask.__name__, *about
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = asyncio.ensure_future(ask(*about))
            flight.add_done_callback(lambda done: self._landed(key, done))
        answer: Answer = await asyncio.shield(flight)
        return answer

    def _landed(self, key: Sequence[object], flight: "asyncio.Task[Any]") -> None:
        del self._flights[key]
        if not flight.cancelled():
            flight.exception()  # perhaps nobody waits any more

    async def _of_channel(self, channel: str, id: str, began: float) -> Found:
        """The event of one channel, which was made at `began`."""
        key = self._keys.event(channel, id)
        (value,) = await self._ask([["GET", key]]) if self._ttl else [None]
        if value == _ABSENT:
            return None, True
        if isinstance(value, bytes):
            try:
                message = unpacked(value)
            except ValueError as error:
                logger.warning("the cache holds damaged data at %s: %s", key, error)
            else:
                if message.ms >= began:
                    return message, True
                await self._ask([["DEL", key]])  # nor may it keep out one that comes now
        found = await self._store.event(channel, id, began)
        await self._keep(key, found)
        return found, False

    async def _keep(self, key: str, found: Message | None) -> None:
        """Remember what the databases said. That there is no event must not hide one that was stored meanwhile."""
        value = _ABSENT if found is None else packed(found)
        if not self._ttl or not self._fits(key, value):
            return
        if found is None:
            await self._ask([["SET", key, value, "NX", "PX", self._absent_ttl]])
        else:
            await self._ask([["SET", key, value, "EX", self._ttl]])

    async def _listed(self, id: str) -> list[str]:
        """The channels with the event that the cache knows of, perhaps not all; only "": there are none."""
        asked: Command = ["ZRANGE", self._keys.holders(id), 0, _LISTED]
        (names,) = await self._ask([asked]) if self._ttl else [None]
        channels = [name.decode() for name in names or ()]
        return channels if channels == [""] else [channel for channel in channels if channel]

    async def _holders(self, id: str, skip: int) -> tuple[list[Holder], Away | None]:
        """A page of the channels with the event, by the databases. The first is remembered."""
        holders, away = await self._store.holders(id, skip, _PAGE)
        key = self._keys.holders(id)
        some = holders[:_LISTED]
        if skip or not self._ttl or not self._fits(key, b" ".join([holder.channel.encode() for holder in some])):
            return holders, away
        if some:
            scores = [part for holder in some for part in (holder.first, holder.channel)]
            await self._ask([["ZADD", key, *scores], ["EXPIRE", key, self._ttl]])
        elif away is None:
            await self._ask([["EVAL", _NOWHERE, 1, key, self._absent_ttl]])
        return holders, away

    # -- filling

    async def fill(self, messages: Sequence[Message]) -> None:
        """Put the events among messages that were stored into the cache. Never raises for a cache that is away."""
        events: dict[str, tuple[Message, str]] = {}
        for message in messages if self._ttl else ():
            if message.offset and (event := event_of(message)):
                events.setdefault(self._keys.event(message.channel, event.id), (message, self._keys.holders(event.id)))
        new: list[tuple[str, bytes]] = []
        keep: list[Command] = []
        drop: list[Command] = []
        for key, (message, holders) in events.items():
            value = packed(message)
            if self._fits(key, value):
                new.append((key, value))
                keep.append(["SET", key, value, "NX", "GET", "EX", self._ttl])
                keep += [["ZADD", holders, "NX", message.ms, message.channel], ["EXPIRE", holders, self._ttl]]
            else:
                drop += [["DEL", key], ["ZREM", holders, ""]]  # they may say: absent
        if not events:
            return
        replies = (await self._ask([*keep, *drop]))[: len(keep) : 3]
        if absent := [entry for entry, before in zip(new, replies, strict=True) if before == _ABSENT]:
            await self._ask([["SET", key, value, "EX", self._ttl] for key, value in absent])

    def _fits(self, key: str, value: bytes) -> bool:
        """Whether an entry is small enough, and this node has not put too many into the cache lately."""
        now = asyncio.get_running_loop().time()
        if now >= self._window_ends:
            self._window_ends, self._spent = now + self._ttl, 0
        size = 2 * (len(key) + _OVERHEAD) + len(value)  # with its place in the list of channels
        if len(value) > self._largest or self._spent + size > self._budget:
            return False
        self._spent += size
        return True

    async def _ask(self, commands: Sequence[Command]) -> list[Any]:
        """The replies; None for each that did not come. A cache that failed is left alone for a moment."""
        loop = asyncio.get_running_loop()
        if loop.time() >= self._away_until:
            try:
                replies = await self._link.pipeline(commands)
            except (ConnectionLost, ReplyError) as error:
                self._counts["failures"] += 1
                self._away_until = loop.time() + _PAUSE
                logger.info("the cache is away (%s); going on without it for %g s", error, _PAUSE)
            else:
                self._counts["failures"] += any(isinstance(reply, ReplyError) for reply in replies)
                return [None if isinstance(reply, ReplyError) else reply for reply in replies]
        return [None] * len(commands)

    def measures(self) -> Measures:
        """What /metrics shows of it."""
        return {f"cache_{name}_total": (f"Cache: {text}.", self._counts[name]) for name, text in COUNTED.items()}


class FillingSink:
    """A sink whose events are in the cache as soon as it has stored them."""

    def __init__(self, sink: Sink, cache: EventCache) -> None:
        self.group = sink.group
        self._sink, self._cache = sink, cache

    async def store(self, messages: Sequence[Message]) -> None:
        """As the sink does; the cache does not fail it."""
        await self._sink.store(messages)
        await self._cache.fill(messages)
