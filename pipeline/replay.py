"""Replay: read a channel's history from a position. Recovery, paging and every repair are this one read."""

from collections.abc import Sequence
from typing import NamedTuple

from chat.errors import UnknownChannel
from pipeline.encode import Message, from_history, publication
from pipeline.keys import Keys
from pipeline.resp import Link, ReplyError

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


class Replay:
    """Reads histories."""

    def __init__(self, link: Link, keys: Keys) -> None:
        self._link, self._keys = link, keys

    async def position(self, channel: str) -> tuple[str, int] | None:
        """The epoch and highest offset of `channel`; None if there is no such channel."""
        epoch, offset = await self._link.call("HMGET", self._keys.channel(channel), "epoch", "offset")
        return (epoch.decode(), int(offset or 0)) if epoch else None

    async def chunk(self, channel: str, after: int, count: int = CHUNK) -> Page | None:
        """Up to `count` messages with offsets above `after`, in order, and the channel's position read just before."""
        return await self._page(channel, ["XRANGE", self._keys.history(channel), after + 1, "+", "COUNT", count])

    async def after(self, channel: str, offset: int, limit: int, size: int) -> Page:
        """Up to `limit` messages and about `size` bytes, oldest first, with offsets above `offset`."""
        return await self._collect(channel, offset, limit, size, forward=True)

    async def before(self, channel: str, offset: int | None, limit: int, size: int) -> Page:
        """As after, newest first, with offsets below `offset` (None: the newest)."""
        return await self._collect(channel, offset, limit, size, forward=False)

    async def since(self, channel: str, ms: int) -> int:
        """The offset just before the first message at or after `ms` (Unix milliseconds), for `after`."""
        found = int(await self._link.call("EVAL", _SINCE, 1, self._keys.history(channel), ms))
        if found >= 0:
            return found
        position = await self.position(channel)
        return position[1] if position else 0

    async def _page(self, channel: str, command: Sequence[str | int]) -> Page | None:
        hash_key = self._keys.channel(channel)
        position, entries = await self._link.pipeline([["HMGET", hash_key, "epoch", "offset"], command])
        for reply in (position, entries):
            if isinstance(reply, ReplyError):
                raise reply
        if position[0] is None:
            return None
        epoch = position[0].decode()
        return Page(epoch, int(position[1] or 0), [from_history(channel, epoch, entry) for entry in entries])

    async def _collect(self, channel: str, at: int | None, limit: int, size: int, forward: bool) -> Page:
        key, weight = self._keys.history(channel), 0
        messages: list[Message] = []
        if limit <= 0:
            position = await self.position(channel)
            if position is None:
                raise UnknownChannel.named(channel)
            return Page(*position, [])
        while True:
            count = min(CHUNK, limit - len(messages))
            if forward:
                command: list[str | int] = ["XRANGE", key, (at or 0) + 1, "+", "COUNT", count]
            else:
                command = ["XREVRANGE", key, "+" if at is None else max(at - 1, 0), "-", "COUNT", count]
            page = await self._page(channel, command)
            if page is None:
                raise UnknownChannel.named(channel)
            for message in page.messages:
                weight += len(publication(message)) + 1
                if weight > size and messages:
                    return Page(page.epoch, page.top, messages)
                messages.append(message)
            if len(page.messages) < count or len(messages) >= limit:
                return Page(page.epoch, page.top, messages)
            at = messages[-1].offset
