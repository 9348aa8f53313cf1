"""Subscriptions: who belongs to what, in Redis sets. Belonging outlasts a connection; being there now is presence."""

from redis.asyncio import Redis

from chat.models import User
from pipeline.keys import Keys


class Subscriptions:
    """Memberships, by user id and channel id."""

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self._redis, self._keys = redis, keys

    async def add(self, user: User, channel: str) -> bool:
        """Make `user` a subscriber of `channel`; whether they were not one before."""
        async with self._redis.pipeline(transaction=False) as pipe:
            pipe.sadd(self._keys.subscribers(channel), user.id)
            pipe.sadd(self._keys.user_channels(user.id), channel)
            pipe.hset(self._keys.user(user.id), mapping={"id": user.id, "username": user.username})
            replies = await pipe.execute()
        return bool(replies[0])

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
