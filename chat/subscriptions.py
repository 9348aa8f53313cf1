"""Subscriptions: who belongs to what, in Redis sets. Belonging outlasts a connection; being there now is presence.

How far somebody has read ends with the membership, and both with the channel.
"""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

from chat.errors import LimitExceeded
from chat.models import User
from pipeline.keys import Keys
from pipeline.resp import FAILURES, Command, Link, ReplyError

logger = logging.getLogger(__name__)

_KEPT = 10_000  # user ids

# KEYS: the channel's subscribers, the user's channels, read positions and name.
# ARGV: the user's id, the channel's, then what the script needs.

# ARGV[3] the most channels a user may have (0: any number), ARGV[4] the name. -1: that would be one more; else as SADD.
_JOIN = """
local limit = tonumber(ARGV[3])
if limit > 0 and redis.call('SCARD', KEYS[2]) >= limit and redis.call('SISMEMBER', KEYS[2], ARGV[2]) == 0 then
    return -1
end
redis.call('SADD', KEYS[2], ARGV[2])
redis.call('HSET', KEYS[4], 'id', ARGV[1], 'username', ARGV[4])
return redis.call('SADD', KEYS[1], ARGV[1])
"""

# ARGV[3] "1": the user leaves; else the channel was deleted, and who belongs to it by now does so to a new one.
_LEAVE = """
local there = ARGV[3] == '1' and redis.call('SREM', KEYS[1], ARGV[1]) or 0
if redis.call('SISMEMBER', KEYS[1], ARGV[1]) == 1 then return 0 end
redis.call('SREM', KEYS[2], ARGV[2])
redis.call('HDEL', KEYS[3], ARGV[2])
return there
"""
_AT_ONCE = 500  # users in one round trip


class Subscriptions:
    """Memberships, by user id and channel id."""

    def __init__(self, link: Link, keys: Keys, limit: int = 0) -> None:
        self._link, self._keys, self._limit = link, keys, limit
        self._met: set[str] = set()  # user ids that are known to Redis
        self._tasks: set[asyncio.Task[None]] = set()

    def meet(self, user: User) -> None:
        """Somebody came with a token: others may ask to talk to them from now on. Nobody waits for it."""
        if user.id not in self._met:
            if len(self._met) >= _KEPT:
                self._met.clear()
            self._met.add(user.id)
            task = asyncio.create_task(self._know(user))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _know(self, user: User) -> None:
        try:
            await self._link.call("HSET", self._keys.user(user.id), "id", user.id, "username", user.username)
        except FAILURES as error:
            self._met.discard(user.id)
            logger.info("%s is not known to others: %s", user.id, error)

    async def add(self, user: User, channel: str) -> bool:
        """Make `user` a subscriber of `channel`; whether they were not one before. Raises LimitExceeded."""
        added = await self._link.call(*self._script(_JOIN, user.id, channel, self._limit, user.username))
        if added < 0:
            raise LimitExceeded(f"a user may belong to {self._limit} channels; leave one first", "user_channels")
        return bool(added)

    async def remove(self, user: str, channel: str) -> bool:
        """End a membership; whether there was one."""
        return bool(await self._link.call(*self._script(_LEAVE, user, channel, 1)))

    async def end(self, channel: str, users: Sequence[str]) -> None:
        """A channel was deleted that these users belonged to."""
        for start in range(0, len(users), _AT_ONCE):
            await self._ask(*(self._script(_LEAVE, user, channel, 0) for user in users[start : start + _AT_ONCE]))

    def _script(self, script: str, user: str, channel: str, *more: str | int) -> Command:
        keys = [self._keys.subscribers(channel), self._keys.user_channels(user)]
        keys += [self._keys.read(user), self._keys.user(user)]
        return ["EVAL", script, len(keys), *keys, user, channel, *more]

    async def has(self, user: str, channel: str) -> bool:
        return bool(await self._link.call("SISMEMBER", self._keys.subscribers(channel), user))

    async def subscribers(self, channel: str) -> list[str]:
        """User ids, sorted."""
        return await self._members(self._keys.subscribers(channel))

    async def names(self, users: Sequence[str]) -> dict[str, str]:
        """How those who belong somewhere write themselves, by user id."""
        names = await self._ask(*(["HGET", self._keys.user(user), "username"] for user in users)) if users else []
        return {user: name.decode() if name else user for user, name in zip(users, names, strict=True)}

    async def channels(self, user: str) -> list[str]:
        """Channel ids the user belongs to, sorted."""
        return await self._members(self._keys.user_channels(user))

    async def _members(self, key: str) -> list[str]:
        return sorted(member.decode() for member in await self._link.call("SMEMBERS", key))

    async def _ask(self, *commands: Command) -> list[Any]:
        replies = await self._link.pipeline(commands)
        for reply in replies:
            if isinstance(reply, ReplyError):
                raise reply
        return replies
