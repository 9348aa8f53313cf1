"""Reconcile: compare the streams and the archives, and refill what one has and another lacks."""

import logging
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from pipeline.consumer import Away
from pipeline.encode import Message
from pipeline.keys import Keys
from pipeline.ports import Archive, Extent, Sink
from pipeline.replay import Replay
from pipeline.resp import Link, ReplyError
from pipeline.status import group_states

logger = logging.getLogger(__name__)

CHUNK = 500  # messages read and compared at once
REPORT = ("channel", "epoch", "place", "messages", "first", "last", "refilled", "refused")


class Store(Sink, Archive, Protocol):
    """A sink that can also be asked what it holds."""

    async def extents(self) -> list[Extent]:
        """How much there is of each epoch of each channel. Raises Away."""

    async def ids(self, channel: str, first: int, last: int) -> set[str]:
        """The entry ids of a channel's messages from one offset to another, of every epoch. Raises Away."""


class Refilled(NamedTuple):
    """How many messages were stored, and how many the database refused for good."""

    stored: int = 0
    refused: int = 0

    def plus(self, other: "Refilled") -> "Refilled":
        return Refilled(self.stored + other.stored, self.refused + other.refused)


def _has_gaps(extent: Extent) -> bool:
    """Two that lack as many, each others, look alike."""
    return extent.size < extent.last - extent.first + 1


class Reconciler:
    """Compares and refills. May run beside nodes that archive: what they store meanwhile is there once all the same."""

    def __init__(self, link: Link, keys: Keys, stores: Sequence[Store]) -> None:
        self._link, self._keys, self._stores = link, keys, stores
        self._replay = Replay(link, keys)
        self._done: dict[tuple[str, str, str], Refilled] = {}

    async def fill(self, channels: Sequence[str]) -> None:
        """Store what the streams hold in archives that are used for the first time; what goes wrong is logged."""
        if not channels or not self._stores:
            return
        logger.info("a new archive is filled with what %d streams hold", len(channels))
        try:
            for store in self._stores:
                for channel in channels:
                    await self._from_stream(store, channel)
        except (Away, ReplyError, OSError) as error:
            logger.warning("the new archive lacks what was said before (%s); run: python app.py reconcile", error)

    async def run(self, channels: Sequence[str]) -> list[tuple[str, ...]]:
        """Refill everything; the rows of a table with the columns REPORT. Raises Away and ConnectionLost."""
        for store in self._stores:
            for channel in channels:
                await self._from_stream(store, channel)
        extents = {store.group: {(e.channel, e.epoch): e for e in await store.extents()} for store in self._stores}
        for source in self._stores:
            for store in self._stores:
                if store is not source:
                    for key, extent in extents[source.group].items():
                        if extents[store.group].get(key) != extent or _has_gaps(extent):
                            await self._from_archive(store, source, extent)
        return [*[row for channel in channels for row in await self._stream_row(channel)], *await self._archive_rows()]

    async def _from_stream(self, store: Store, channel: str) -> None:
        """Store what the stream holds, the store lacks and the log brings no more.

        A message is compared by its entry id in any epoch: one that outlived a failover stands in the stream as if
        of the new epoch, and is archived under the old.
        """
        until, after = await self._acked_until(store.group, channel), 0
        while (page := await self._replay.chunk(channel, after, CHUNK)) and page.messages:
            first, after = page.messages[0].offset, page.messages[-1].offset
            there = await store.ids(channel, first, after)
            await self._store(store, [m for m in page.messages if m.ms < until and m.id not in there])

    async def _acked_until(self, group: str, channel: str) -> int:
        """The time (Unix ms) before which the group has acked every message of the channel."""
        seconds, micros = await self._link.call("TIME")
        place = group, self._keys.partition(channel)
        states = await group_states(self._link, self._keys)
        waiting = [s.oldest for s in states if (s.group, s.partition) == place and s.oldest]
        return min([int(seconds) * 1000 + int(micros) // 1000, *waiting])

    async def _from_archive(self, store: Store, source: Store, extent: Extent) -> None:
        """Store what another archive holds of one epoch of a channel and this one lacks."""
        after = extent.first - 1
        while messages := await source.after(extent.channel, extent.epoch, after, CHUNK):
            first, after = messages[0].offset, messages[-1].offset
            there = {m.offset for m in await store.after(extent.channel, extent.epoch, first - 1, CHUNK)}
            await self._store(store, [m for m in messages if m.offset not in there])

    async def _store(self, store: Store, messages: Sequence[Message]) -> None:
        if not messages:
            return
        done = Refilled(len(messages))
        try:
            await store.store(messages)
        except (Away, OSError):
            raise
        except Exception:
            if len(messages) > 1:
                for message in messages:
                    await self._store(store, [message])
                return
            done = Refilled(0, 1)
        key = store.group, messages[0].channel, messages[0].epoch
        self._done[key] = self._done.get(key, Refilled()).plus(done)

    async def _stream_row(self, channel: str) -> list[tuple[str, ...]]:
        position, history = await self._replay.position(channel), self._keys.history(channel)
        if position is None:  # deleted meanwhile
            return []
        size, lowest = await self._link.pipeline([["XLEN", history], ["XRANGE", history, "-", "+", "COUNT", 1]])
        first = lowest[0][0].partition(b"-")[0].decode() if lowest else "-"
        return [(channel, position[0], "stream", str(size), first, str(position[1]), "-", "-")]

    async def _archive_rows(self) -> list[tuple[str, ...]]:
        rows: list[tuple[str, ...]] = []
        for store in self._stores:
            for e in await store.extents():
                done = self._done.get((store.group, e.channel, e.epoch), Refilled())
                rows.append((e.channel, e.epoch, store.group, *map(str, (e.size, e.first, e.last, *done))))
        return rows
