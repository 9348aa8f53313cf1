"""Cache-aside for events: Redis first, then the databases, and what they say is kept in Redis for a while.

The worker that stored an event puts it there as well. The databases stay the truth: a cache that is away, slow or full
costs time, never an answer. Of several events with one id the first that was stored counts, there as here; those of
a channel that was deleted do not.
"""

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

from bridge.settings import BridgeSettings
from pipeline.encode import Message, from_log, to_log
from pipeline.event import ID_LIMIT, event_of
from pipeline.keys import Keys
from pipeline.ports import Measures, Sink
from pipeline.resp import Command, ConnectionLost, Link, ReplyError
from redis_config import Address

logger = logging.getLogger(__name__)

Found = tuple[Message | None, bool]
Began = Callable[[str], Awaitable[float]]
"""When a channel was made (Unix ms); infinite: there is none."""
_IMPOSSIBLE = re.compile("[\x00\ud800-\udfff]")  # what no database can be asked for
_ABSENT = b"-"  # what stands for an event that the databases do not have
_GONE = 100  # channels that are passed over to find an event
_PAUSE = 1.0  # seconds a cache that failed is left alone
_OVERHEAD = 150  # bytes Redis needs for an entry beside its key and value
COUNTED = {
    "hits": "events the cache answered",
    "misses": "events the databases were asked for",
    "failures": "times the cache was away or refused",
}


def packed(message: Message) -> bytes:
    """A message as the cache holds it."""
    return b" ".join(to_log(message))


def unpacked(value: bytes) -> Message:
    """A message of the cache. Raises ValueError if it is damaged."""
    channel, rest = value.split(b" ", 1)
    return from_log(channel, rest)


class Databases(Protocol):
    """What is asked where the cache has no answer."""

    async def event(self, id: str, gone: Mapping[str, float]) -> Message | None:
        """The first message that carries the event. Raises Away.

        Without those that are `gone`: of these channels, and older than what it says (Unix ms; infinite: all).
        """

    async def events(self, channel: str, type: str, limit: int) -> list[Message]:
        """As EventStore's."""


class EventCache:
    """An EventStore before the databases. Use `async with`."""

    def __init__(self, store: Databases, began: Began, address: Address, settings: BridgeSettings) -> None:
        self._store, self._began, self._keys = store, began, Keys.of(settings)
        self._ttl, self._absent_ttl = settings.cache_ttl, max(1, int(settings.cache_absent_ttl * 1000))
        self._largest, self._budget = settings.cache_bytes, settings.cache_size // 2
        self._link = Link(address, settings.cache_timeout)
        self._flights: dict[str, asyncio.Task[Found]] = {}
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

    async def event(self, id: str) -> Found:
        """The message that carries the event, and whether the cache answered. Raises Away.

        All who ask for the same event at the same time share one answer.
        """
        if not 0 < len(id) <= ID_LIMIT or _IMPOSSIBLE.search(id):
            return None, False  # no event has such an id
        flight = self._flights.get(id)
        if flight is None:
            flight = self._flights[id] = asyncio.create_task(self._find(id))
            flight.add_done_callback(lambda done: self._landed(id, done))
        return await asyncio.shield(flight)

    async def events(self, channel: str, type: str, limit: int) -> list[Message]:
        """The newest events, from the databases: a list changes with every event. Raises Away."""
        return await self._store.events(channel, type, limit)

    def _landed(self, id: str, flight: "asyncio.Task[Found]") -> None:
        del self._flights[id]
        if not flight.cancelled():
            flight.exception()  # perhaps nobody waits any more

    async def _find(self, id: str) -> Found:
        key = self._keys.event(id)
        (value,) = await self._ask([["GET", key]]) if self._ttl else [None]
        if value == _ABSENT:
            self._counts["hits"] += 1
            return None, True
        if isinstance(value, bytes):
            try:
                message = unpacked(value)
            except ValueError as error:
                logger.warning("the cache holds damaged data at %s: %s", key, error)
            else:
                if message.ms >= await self._began(message.channel):
                    self._counts["hits"] += 1
                    return message, True
                await self._ask([["DEL", key]])  # nor may it keep out one that comes now
        self._counts["misses"] += 1
        found = await self._first(id)
        await self._keep(key, found)
        return found, False

    async def _first(self, id: str) -> Message | None:
        """The first message that carries the event, of a channel that there is. Raises Away."""
        gone: dict[str, float] = {}
        for _ in range(_GONE):
            message = await self._store.event(id, gone)
            if message is None:
                break
            began = await self._began(message.channel)
            if message.ms >= began:
                return message
            gone[message.channel] = began
        return None

    async def _keep(self, key: str, found: Message | None) -> None:
        """Remember what the databases said. That there is no event must not hide one that was stored meanwhile."""
        value = _ABSENT if found is None else packed(found)
        if not self._ttl or not self._fits(key, value):
            return
        if found is None:
            await self._ask([["SET", key, value, "NX", "PX", self._absent_ttl]])
        else:
            await self._ask([["SET", key, value, "EX", self._ttl]])

    # -- filling

    async def fill(self, messages: Sequence[Message]) -> None:
        """Put the events among messages that were stored into the cache. Never raises for a cache that is away."""
        entries: dict[str, bytes] = {}
        for message in messages if self._ttl else ():
            if message.offset and (event := event_of(message)):
                entries.setdefault(self._keys.event(event.id), packed(message))
        if not entries:
            return
        fitting = {key: value for key, value in entries.items() if self._fits(key, value)}
        commands: list[Command] = [["SET", key, value, "NX", "GET", "EX", self._ttl] for key, value in fitting.items()]
        commands += [["DEL", key] for key in entries.keys() - fitting.keys()]  # it may say: absent
        replies = await self._ask(commands)
        before = zip(fitting.items(), replies, strict=False)
        if absent := [entry for entry, reply in before if reply == _ABSENT]:
            await self._ask([["SET", key, value, "EX", self._ttl] for key, value in absent])

    def _fits(self, key: str, value: bytes) -> bool:
        """Whether an entry is small enough, and this node has not put too many into the cache lately."""
        now = asyncio.get_running_loop().time()
        if now >= self._window_ends:
            self._window_ends, self._spent = now + self._ttl, 0
        size = len(key) + len(value) + _OVERHEAD
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
