"""How far each user has read, on the server, so that a page, a second tab and a terminal agree: unread = top - read.

It is kept of the channels somebody belongs to, and goes with the membership (chat/subscriptions.py): so USER_CHANNELS
bounds it as well.
"""

from collections.abc import Sequence
from typing import Any

from chat.models import fold
from pipeline.keys import Keys
from pipeline.resp import Command, Link, ReplyError

# KEYS: the user's read positions, the channel, the user's channels. ARGV: the channel's id, the offset read.
# Never beyond the channel's top; and a position beyond it is of a channel that was deleted and made anew.
_READ = """
if redis.call('SISMEMBER', KEYS[3], ARGV[1]) == 0 then return end
local top = tonumber(redis.call('HGET', KEYS[2], 'offset') or 0)
local known = tonumber(redis.call('HGET', KEYS[1], ARGV[1]) or 0)
local offset = math.min(tonumber(ARGV[2]), top)
if known > top then known = 0 end
if offset > known then redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f', offset)) end
"""


OWN = 50  # of one's own messages looked at together


class Reading:
    """Read positions, by user id and channel id."""

    def __init__(self, link: Link, keys: Keys) -> None:
        self._link, self._keys = link, keys

    async def read(self, user: str, channel: str, offset: int) -> None:
        """`user`, who belongs to `channel`, has read it up to `offset`. It never moves back, whoever tells it late."""
        keys = self._keys.read(user), self._keys.channel(channel), self._keys.user_channels(user)
        await self._link.call("EVAL", _READ, len(keys), *keys, channel, offset)

    async def unread(self, user: str, channels: Sequence[str]) -> dict[str, tuple[int, int]]:
        """(read, top) of each channel that exists, in one round trip; read 0: never read."""
        if not channels:
            return {}
        tops = [["HGET", self._keys.channel(channel), "offset"] for channel in channels]
        replies = await self._link.pipeline([["HMGET", self._keys.read(user), *channels], *tops])
        for reply in replies:
            if isinstance(reply, ReplyError):
                raise reply
        found = {}
        for channel, read, top in zip(channels, replies[0], replies[1:], strict=True):
            if top is not None:
                found[channel] = (int(read or 0) if int(read or 0) <= int(top) else 0, int(top))
        await self._pass_own(user, found)
        return found

    async def _pass_own(self, user: str, found: dict[str, tuple[int, int]]) -> None:
        """One's own messages are read, wherever one said them: the positions in `found` move behind them.

        Looked for when somebody asks, so that publishing pays nothing, and each only once.
        """
        asked = [channel for channel, (read, top) in found.items() if read < top]
        count = 1
        while asked:
            nexts: list[Command] = [
                ["XRANGE", self._keys.history(channel), f"{found[channel][0] + 1}-0", "+", "COUNT", count]
                for channel in asked
            ]
            going_on = []
            for channel, entries in zip(asked, await self._link.pipeline(nexts), strict=True):
                if isinstance(entries, ReplyError):
                    raise entries
                read, top = found[channel]
                own = _own(user, read, entries)
                if own:
                    found[channel] = min(read + own, top), top
                    await self.read(user, channel, read + own)
                if own == count and read + own < top:
                    going_on.append(channel)
            asked, count = going_on, OWN


def _own(user: str, read: int, entries: Sequence[Any]) -> int:
    """How many of the messages right behind `read` are the user's own."""
    for n, (entry, fields) in enumerate(entries):
        author = dict(zip(fields[::2], fields[1::2], strict=True)).get(b"user", b"").decode()
        if int(entry.partition(b"-")[0]) != read + n + 1 or fold(author) != user:
            return n
    return len(entries)
