"""Where channels stand, many at once: what a node compares with what it has shown."""

from collections.abc import Sequence
from typing import NamedTuple

from pipeline.keys import Keys
from pipeline.producer import new_epoch
from pipeline.resp import Link

AT_ONCE = 500  # channels: about a millisecond of Redis

_READ = """
local found = {}
for i = 1, #ARGV do
  local hash, history, tombstone = KEYS[3 * i - 2], KEYS[3 * i - 1], KEYS[3 * i]
  local position = redis.pcall('HMGET', hash, 'epoch', 'offset')
  if position.err or not position[1] then
    found[i] = {'', '0', '', redis.call('EXISTS', tombstone)}
  else
    local entries = redis.pcall('XRANGE', history, ARGV[i], ARGV[i])
    found[i] = {position[1], position[2] or '0', entries[1] and entries[1][1] or '', 0}
  end
end
return found"""

_RENEW = """
if redis.call('HGET', KEYS[1], 'epoch') == ARGV[1] then redis.call('HSET', KEYS[1], 'epoch', ARGV[2]) end"""


class Standing(NamedTuple):
    """A channel in Redis: its epoch ("": there is none), its highest offset, the time (ms) of the message at the offset
    asked about (0: not there any more), and whether it was deleted on purpose.
    """

    epoch: str
    offset: int
    ms: int
    deleted: bool


async def standings(link: Link, keys: Keys, asked: Sequence[tuple[str, int]]) -> list[Standing]:
    """For each (channel, offset) asked about, AT_ONCE at most. Raises ConnectionLost and ReplyError."""
    names = [key for c, _ in asked for key in (keys.channel(c), keys.history(c), keys.tombstone(c))]
    found = await link.call("EVAL_RO", _READ, len(names), *names, *[offset for _, offset in asked])
    return [
        Standing(epoch.decode(), int(offset), int(entry.partition(b"-")[2] or 0), bool(deleted))
        for epoch, offset, entry, deleted in found
    ]


async def renew_epoch(link: Link, keys: Keys, channel: str, epoch: str) -> None:
    """Give a channel a new epoch if it is in `epoch` still: Redis came back older, positions in it mean nothing now."""
    await link.call("EVAL", _RENEW, 1, keys.channel(channel), epoch, new_epoch())
