"""How far each user has read, on the server, so that a page, a second tab and a terminal agree: unread = top - read.

It is kept of the channels somebody belongs to, and goes with the membership (chat/subscriptions.py): so USER_CHANNELS
bounds it as well.
"""

from collections.abc import Sequence

from pipeline.keys import Keys
from pipeline.resp import Link, ReplyError

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
        return found
