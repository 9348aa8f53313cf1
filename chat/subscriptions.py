"""Subscriptions: who belongs to what, in Redis sets. Belonging outlasts a connection; being there now is presence."""

from redis.asyncio import Redis

from chat.errors import LimitExceeded
from chat.models import User
from pipeline.keys import Keys

# Add ARGV[1] to the set, unless it would have more than ARGV[2] (0: any number). -1: it would; else as SADD.
_ADD = """
local limit = tonumber(ARGV[2])
if limit > 0 and redis.call('SCARD', KEYS[1]) >= limit and redis.call('SISMEMBER', KEYS[1], ARGV[1]) == 0 then
    return -1
end
return redis.call('SADD', KEYS[1], ARGV[1])
"""


class Subscriptions:
    """Memberships, by user id and channel id."""

    def __init__(self, redis: Redis, keys: Keys, limit: int = 0) -> None:
        self._redis, self._keys, self._limit = redis, keys, limit

    async def add(self, user: User, channel: str) -> bool:
        """Make `user` a subscriber of `channel`; whether they were not one before. Raises LimitExceeded."""
        subscribers, mine = self._keys.subscribers(channel), self._keys.user_channels(user.id)
        async with self._redis.pipeline(transaction=False) as pipe:
            pipe.sadd(subscribers, user.id)
            pipe.eval(_ADD, 1, mine, channel, str(self._limit))
            pipe.hset(self._keys.user(user.id), mapping={"id": user.id, "username": user.username})
            new, added, _ = await pipe.execute()
        if added < 0:
            if new:
                await self._redis.srem(subscribers, user.id)
            raise LimitExceeded(f"a user may belong to {self._limit} channels; leave one first", "user_channels")
        return bool(new)

    async def remove(self, user: str, channel: str) -> bool:
        """End a membership; whether there was one."""
        async with self._redis.pipeline(transaction=False) as pipe:
            pipe.srem(self._keys.subscribers(channel), user)
            pipe.srem(self._keys.user_channels(user), channel)
            replies = await pipe.execute()
        return bool(replies[0])

    async def has(self, user: str, channel: str) -> bool:
        return bool(await self._redis.sismember(self._keys.subscribers(channel), user))

    async def subscribers(self, channel: str) -> list[str]:
        """User ids, sorted."""
        return sorted(map(str, await self._redis.smembers(self._keys.subscribers(channel))))

    async def channels(self, user: str) -> list[str]:
        """Channel ids the user belongs to, sorted."""
        return sorted(map(str, await self._redis.smembers(self._keys.user_channels(user))))
