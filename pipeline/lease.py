"""Who plays which partition: every node says it lives, and each partition of a group has one owner at a time.

The members of a group share its partitions evenly and without talking: sorted by name, the n-th takes every
partition p with p % members == n. A lease in Redis makes sure that two never play one partition at once.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

from pipeline.keys import NODES, Keys
from pipeline.lasting import end, lasting
from pipeline.resp import Command, ConnectionLost, Link, ReplyError
from redis_config import Settings

logger = logging.getLogger(__name__)

RENEWALS = 4  # a lease is renewed this many times in its life
NODES_CHANGED = b"nodes"  # said on Pub/Sub `control` when a node comes, goes or lets go

# Redis counts the time to live of a key, and we that of a node, by its clock. If that goes back an hour, a dead node
# would hold what it held an hour longer; so what lasts longer than any lease is cut to one. Who lives renews it.
_LIVE = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local before = redis.call('ZSCORE', KEYS[1], ARGV[1])
local ahead = string.format('(%.0f', now + 2 * ARGV[2])
for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], ahead, '+inf')) do
  redis.call('ZADD', KEYS[1], string.format('%.0f', now + ARGV[2]), member)
end
redis.call('ZADD', KEYS[1], string.format('%.0f', now + ARGV[2]), ARGV[1])
return {
  before and tonumber(before) >= now and 1 or 0,
  redis.call('ZRANGEBYSCORE', KEYS[1], string.format('%.0f', now), '+inf'),
  redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now - ARGV[3])),
}"""

_CLAIM = """
local owner = redis.call('GET', KEYS[1])
if owner and owner ~= ARGV[1] then
  if redis.call('PTTL', KEYS[1]) > 2 * ARGV[2] then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
  return 0
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1"""

_RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"


@dataclass(frozen=True)
class Node:
    """One process that plays consumer groups. `kind` is serve, pipeline or terminal."""

    kind: str
    id: str
    groups: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.kind}:{self.id}:{','.join(self.groups)}"


def share(partitions: int, group: str, me: str, members: list[str]) -> set[int]:
    """The partitions of `group` that are `me`'s, given all live members.

    Workers of their own play before servers, and terminals only where nobody else does.
    """
    playing = sorted(m for m in members if group in m.split(":")[2].split(","))
    best = min((_rank(m) for m in playing), default=0)
    playing = [m for m in playing if _rank(m) == best]
    if me not in playing:
        return set()
    rank = playing.index(me)
    return {p for p in range(partitions) if p % len(playing) == rank}


def _rank(member: str) -> int:
    """Who plays first: `pipeline`, so that servers only serve; then servers; then terminals."""
    return {"pipeline": 0, "terminal": 2}.get(member.split(":")[0], 1)


class Leases:
    """This node's partitions, for each group it plays. `owned` changes only here."""

    def __init__(self, link: Link, settings: Settings, node: Node) -> None:
        self._link, self._keys, self._node = link, Keys.of(settings), node
        self._ttl = int(settings.lease_ttl * 1000)
        # With a renewal's wait before and behind, the dead are gone within presence_ttl.
        self._grace = max(0, int(settings.presence_ttl * 1000 - 1.5 * self._ttl))
        self._steady_since = 0.0
        self._partitions = settings.partitions
        self._task: asyncio.Task[None] | None = None
        self._woken = asyncio.Event()
        self.owned: dict[str, set[int]] = {group: set() for group in node.groups}
        self.unwanted: dict[str, set[int]] = {group: set() for group in node.groups}
        self.on_change: list[Callable[[], None]] = []
        self.on_lapse: Callable[[], None] = lambda: None
        """Called when this node's own lease was over, or forgotten."""
        self.on_dead: Callable[[list[str]], None] = lambda nodes: None
        """Called with nodes that are dead for good, until they are removed."""

    async def start(self) -> None:
        await self._renew_or_log()
        await self._tell()
        self._task = lasting(self._run)

    async def close(self) -> None:
        """Leave: others hear it at once and take over. Consumers must have stopped before."""
        await end(self._task)
        try:
            for group in self._node.groups:
                await self.release(group, set(range(self._partitions)))
            await self._link.pipeline(
                [["ZREM", NODES, str(self._node)], ["PUBLISH", self._keys.control, NODES_CHANGED]]
            )
        except (ConnectionLost, ReplyError) as error:
            logger.info("left without a word, the leases expire by themselves: %s", error)

    def wake(self) -> None:
        """Look again now: somebody came, went or let go."""
        self._woken.set()

    async def release(self, group: str, partitions: set[int]) -> None:
        """Let go of partitions whose work is done and acked. Called by the group's consumer between two batches."""
        self.owned[group] -= partitions
        self.unwanted[group] -= partitions
        keys = [self._keys.lease(group, p) for p in partitions]
        await self._link.pipeline([["EVAL", _RELEASE, 1, key, str(self._node)] for key in keys])
        await self._tell()

    async def _tell(self) -> None:
        """Have the others look again at once: this node came, or let go."""
        try:
            await self._link.call("PUBLISH", self._keys.control, NODES_CHANGED)
        except (ConnectionLost, ReplyError) as error:
            logger.info("the others will see it at their next renewal: %s", error)

    async def _run(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._ttl / 1000 / RENEWALS):
                    await self._woken.wait()
            except TimeoutError:
                pass
            self._woken.clear()
            await self._renew_or_log()

    async def _renew_or_log(self) -> None:
        try:
            await self._renew()
        except (ConnectionLost, ReplyError) as error:
            logger.info("leases not renewed: %s", error)

    async def _renew(self) -> None:
        me = str(self._node)
        steady, alive, dead = await self._link.call("EVAL", _LIVE, 1, NODES, me, self._ttl, self._grace)
        members = [m.decode() for m in alive]
        self._judge(bool(steady), [m.decode() for m in dead])
        for group in self._node.groups:
            wanted = share(self._partitions, group, me, members)
            owned = self.owned[group]
            asked = sorted(wanted | owned)
            claims: list[Command] = [["EVAL", _CLAIM, 1, self._keys.lease(group, p), me, self._ttl] for p in asked]
            replies = await self._link.pipeline(claims) if claims else []
            now = {p for p, reply in zip(asked, replies, strict=True) if reply == 1}
            if now != owned:
                logger.info("%s: plays partitions %s", group, sorted(now) or "none")
            changed = now != owned or now - wanted != self.unwanted[group]
            self.owned[group], self.unwanted[group] = now, now - wanted
            if changed:
                for callback in self.on_change:
                    callback()

    def _judge(self, steady: bool, dead: list[str]) -> None:
        """Tell who is dead; but while we were not well ourselves (Redis was away), everybody looks dead."""
        now = asyncio.get_running_loop().time()
        if not steady:
            self._steady_since = now
            self.on_lapse()
        elif dead and now - self._steady_since > self._ttl / 1000:
            self.on_dead(dead)
