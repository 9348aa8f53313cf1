"""Replay: read a channel's history from a position. Recovery, paging and every repair are this one read.

A page goes on in the archive where the stream no longer reaches. Only the channel's current epoch is asked for there:
what an older epoch held stays in the databases, but its offsets may name other messages, and a channel that was
deleted and made again must not show what was said before.
"""

from collections.abc import Sequence
from typing import NamedTuple

from chat.errors import Unavailable, UnknownChannel
from pipeline.consumer import Away
from pipeline.encode import Message, from_history, publication
from pipeline.keys import Keys
from pipeline.ports import Archive
from pipeline.resp import Link, ReplyError
from pipeline.turns import Turns

CHUNK = 128  # entries asked for at once: bounds what one reply can weigh
_SINCE = """
local first = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
if not first then return -1 end
local function split(id) local o, ms = string.match(id, '(%d+)-(%d+)') return tonumber(o), tonumber(ms) end
local low, high = split(first[1]), split(last[1]) + 1
while low < high do
  local middle = math.floor((low + high) / 2)
  local entry = redis.call('XRANGE', KEYS[1], string.format('%.0f', middle), '+', 'COUNT', 1)[1]
  local _, ms = split(entry[1])
  if ms < tonumber(ARGV[1]) then low = middle + 1 else high = middle end
end
return low - 1"""


class Page(NamedTuple):
    """Messages in the order asked for, and where the channel stands: its epoch and its highest offset."""

    epoch: str
    top: int
    messages: list[Message]


def unseen(position: int, first: int, last: int) -> int | None:
    """How many messages of the run first…last a reader at `position` knows already; None: there is a hole before it.

    What every merge of history with the live stream comes down to. A run it knows wholly gives its length.
    """
    if first > position + 1:
        return None
    return min(position, last) - first + 1


def dense(messages: Sequence[Message], at: int, step: int) -> list[Message]:
    """The messages that follow the offset `at` without a hole, upward (`step` 1) or downward (-1)."""
    following: list[Message] = []
    for message in messages:
        if message.offset != at + step * (len(following) + 1):
            break
        following.append(message)
    return following


class Replay:
    """Reads histories. `archive` holds what is older than the streams, if anything does."""

    def __init__(self, link: Link, keys: Keys, archive: Archive | None = None) -> None:
        self._link, self._keys, self.archive = link, keys, archive
        self._turns = Turns()

    async def position(self, channel: str) -> tuple[str, int] | None:
        """The epoch and highest offset of `channel`; None if there is no such channel."""
        epoch, offset = await self._link.call("HMGET", self._keys.channel(channel), "epoch", "offset")
        return (epoch.decode(), int(offset or 0)) if epoch else None

    async def chunk(self, channel: str, after: int, count: int = CHUNK) -> Page | None:
        """Up to `count` messages of the stream with offsets above `after`, in order, and the channel's position read
        just before.
        """
        read = await self._read(channel, ["XRANGE", self._keys.history(channel), after + 1, "+", "COUNT", count])
        return read and read[0]

    async def after(self, channel: str, offset: int, limit: int, size: int) -> Page:
        """Up to `limit` messages and about `size` bytes, oldest first, with offsets above `offset`.

        Raises UnknownChannel; and Unavailable while the archive lacks what the stream no longer has.
        """
        return await self._collect(channel, offset, limit, size, forward=True)

    async def before(self, channel: str, offset: int | None, limit: int, size: int) -> Page:
        """As after, newest first, with offsets below `offset` (None: the newest)."""
        return await self._collect(channel, offset, limit, size, forward=False)

    async def older(self, channel: str, epoch: str, offset: int) -> list[Message]:
        """What follows a position, up to CHUNK messages, if only the archive has it; else none. Raises Unavailable."""
        read = await self._read(channel, ["XRANGE", self._keys.history(channel), "-", "+", "COUNT", 1])
        if self.archive is None or read is None or read[0].epoch != epoch or offset + 1 >= read[1]:
            return []
        return dense(await self._archived(self.archive, channel, epoch, offset, read[1], CHUNK), offset, 1)

    async def since(self, channel: str, ms: int) -> int:
        """The offset just before the first message at or after `ms` (Unix milliseconds), for `after`."""
        history = self._keys.history(channel)
        found = int(await self._link.call("EVAL", _SINCE, 1, history, ms))
        read = await self._read(channel, ["XRANGE", history, "-", "+", "COUNT", 1])
        if read is None:
            return max(found, 0)
        page, first = read
        if found < 0:
            found = page.top
        if self.archive is None or found + 1 > first or not await self._archived_before(channel, page.epoch, first, 1):
            return found
        try:
            older = await self.archive.since(channel, page.epoch, ms)
        except Away as error:
            raise _unavailable(error) from error
        return found if older is None else min(older, found)

    async def _read(self, channel: str, command: Sequence[str | int]) -> tuple[Page, int] | None:
        """Where the channel stands, then what `command` finds in its stream, then the stream's first offset."""
        history = self._keys.history(channel)
        ask: list[Sequence[str | int]] = [["HMGET", self._keys.channel(channel), "epoch", "offset"], command]
        replies = await self._link.pipeline([*ask, ["XRANGE", history, "-", "+", "COUNT", 1]])
        for reply in replies:
            if isinstance(reply, ReplyError):
                raise reply
        position, entries, lowest = replies
        if position[0] is None:
            return None
        await self._turns.take()
        epoch, top = position[0].decode(), int(position[1] or 0)
        first = int(lowest[0][0].partition(b"-")[0]) if lowest else top + 1
        return Page(epoch, top, [from_history(channel, epoch, entry) for entry in entries]), first

    async def _collect(self, channel: str, at: int | None, limit: int, size: int, forward: bool) -> Page:
        weight = 0
        messages: list[Message] = []
        begun: Page | None = None
        if limit <= 0:
            position = await self.position(channel)
            if position is None:
                raise UnknownChannel.named(channel)
            return Page(*position, [])
        while True:
            page, more = await self._step(channel, at, min(CHUNK, limit - len(messages)), forward)
            begun = begun or page
            if page.epoch != begun.epoch:  # deleted and made again meanwhile: these offsets are of other messages
                return begun._replace(messages=messages)
            for message in page.messages:
                weight += len(publication(message)) + 1
                if weight > size and messages:
                    return page._replace(messages=messages)
                messages.append(message)
            if not more or len(messages) >= limit:
                return page._replace(messages=messages)
            at = messages[-1].offset

    async def _step(self, channel: str, at: int | None, count: int, forward: bool) -> tuple[Page, bool]:
        """The next messages behind `at`, at most `count`, from one place; and whether there may be more."""
        history = self._keys.history(channel)
        if forward:
            command: list[str | int] = ["XRANGE", history, (at or 0) + 1, "+", "COUNT", count]
        else:
            command = ["XREVRANGE", history, "+" if at is None else max(at - 1, 0), "-", "COUNT", count]
        read = await self._read(channel, command)
        if read is None:
            raise UnknownChannel.named(channel)
        page, first = read
        if self.archive is None:
            return page, len(page.messages) == count
        if forward:
            if (at or 0) + 1 < first:
                older = await self._archived(self.archive, channel, page.epoch, at or 0, first, count)
                if older:
                    return page._replace(messages=older), True
            return page, len(page.messages) == count
        if not page.messages and first > 1:
            at = first if at is None else min(at, first)
            older = await self._archived_before(channel, page.epoch, at, count)
            return page._replace(messages=older), bool(older)
        return page, bool(page.messages) and page.messages[-1].offset > 1

    async def _archived(
        self, archive: Archive, channel: str, epoch: str, at: int, end: int, count: int
    ) -> list[Message]:
        """The archive's messages above `at` and below `end`, the stream's first; none: what was there is lost.

        History may begin above `at`; behind its begin a hole means that the archive is not there yet.
        """
        try:
            found = [m for m in await archive.after(channel, epoch, at, count) if m.offset < end]
            if found and found[0].offset == at + 1:
                return dense(found, at, 1)
            first = await archive.first(channel, epoch)
        except Away as error:
            raise _unavailable(error) from error
        if first is None or first <= at:
            raise _behind(channel, at + 1)
        return dense(found, found[0].offset - 1, 1) if found else []

    async def _archived_before(self, channel: str, epoch: str, at: int, count: int) -> list[Message]:
        """The archive's messages below `at` (at most the stream's first), newest first; none: there are none."""
        if self.archive is None or at <= 1:
            return []
        try:
            found = dense(await self.archive.before(channel, epoch, at, count), at, -1)
            first = at if found else await self.archive.first(channel, epoch)
        except Away as error:
            raise _unavailable(error) from error
        if first is None or first < at:
            raise _behind(channel, at - 1)
        return found


def _unavailable(error: Away) -> Unavailable:
    return Unavailable(f"this is older than the stream, and the archive cannot be asked: {error}; try again")


def _behind(channel: str, offset: int) -> Unavailable:
    return Unavailable(
        f"message {offset} of {channel} is no longer in the stream and not yet in the archive; try again, "
        "and if it stays so have the operator run: python app.py reconcile"
    )
