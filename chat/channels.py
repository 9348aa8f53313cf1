"""Channels: Redis hashes, and the set that lists them."""

import time
from typing import Any

from redis.asyncio import Redis

from chat.errors import BadRequest, ChannelExists, UnknownChannel
from chat.models import Channel, channel_id, is_line
from pipeline.keys import CHANNELS, CONTROL, Keys
from pipeline.producer import new_epoch

DESCRIPTION_LIMIT = 500  # characters
_TOMBSTONE = 3600  # seconds a node that missed the word "deleted" has to find it out
DELETED = "deleted "  # said on Pub/Sub `control`, before the channel's id


class Channels:
    """Create, update, delete, list. Every method takes a name in any spelling (chat.models.channel_id)."""

    def __init__(self, redis: Redis, keys: Keys, on_demand: bool) -> None:
        self._redis, self._keys, self._on_demand = redis, keys, on_demand

    async def create(self, name: str, description: str = "", owner: str = "") -> Channel:
        """Make a channel. Raises ChannelExists and BadRequest."""
        channel, new = await self._make(name, description, owner)
        if not new:
            raise ChannelExists(f"channel {channel.id} exists already; join it, or choose another name")
        return channel

    async def ensure(self, name: str, owner: str) -> Channel:
        """The channel, made on the spot if it is missing and CREATE_CHANNELS allows it. Raises UnknownChannel."""
        if not self._on_demand:
            return await self.get(name)
        channel, _ = await self._make(name, "", owner)
        return channel

    async def get(self, name: str) -> Channel:
        """Raises UnknownChannel."""
        channel = _channel(await self._redis.hgetall(self._keys.channel(channel_id(name))))
        if channel is None:
            raise UnknownChannel.named(channel_id(name))
        return channel

    async def list(self) -> list[Channel]:
        """Every channel, by name."""
        ids = sorted(map(str, await self._redis.smembers(CHANNELS)))
        async with self._redis.pipeline(transaction=False) as pipe:
            for channel in ids:
                pipe.hgetall(self._keys.channel(channel))
            hashes = await pipe.execute()
        return [channel for channel in map(_channel, hashes) if channel is not None]

    async def update(self, name: str, description: str) -> Channel:
        """Change the description; the name is what the channel is. Raises UnknownChannel and BadRequest."""
        channel = await self.get(name)
        await self._redis.hset(self._keys.channel(channel.id), "description", _checked(description))
        return await self.get(name)

    async def delete(self, name: str) -> None:
        """Remove the channel, its history and its subscriptions, and tell every node. Raises UnknownChannel."""
        channel = await self.get(name)
        members = await self._redis.smembers(self._keys.subscribers(channel.id))
        async with self._redis.pipeline(transaction=False) as pipe:
            pipe.delete(self._keys.channel(channel.id))
            pipe.delete(self._keys.presence(channel.id))
            pipe.delete(self._keys.history(channel.id))
            pipe.delete(self._keys.subscribers(channel.id))
            for member in members:
                pipe.srem(self._keys.user_channels(str(member)), channel.id)
            pipe.srem(CHANNELS, channel.id)
            pipe.set(self._keys.tombstone(channel.id), 1, ex=_TOMBSTONE)
            pipe.publish(CONTROL, DELETED + channel.id)
            await pipe.execute()

    async def _make(self, name: str, description: str, owner: str) -> tuple[Channel, bool]:
        """The channel and whether it is new. Each field is set only if absent, so a race has one winner."""
        channel, key = channel_id(name), self._keys.channel(channel_id(name))
        fields = {"id": channel, "name": name, "description": _checked(description), "owner": owner}
        fields |= {"created_at": str(int(time.time() * 1000)), "epoch": new_epoch(), "offset": "0"}
        await self._redis.sadd(CHANNELS, channel)  # first: a crash after it leaves a name that the listing skips
        async with self._redis.pipeline(transaction=True) as pipe:
            for field, value in fields.items():
                pipe.hsetnx(key, field, value)
            pipe.hgetall(key)
            *_, stored = replies = await pipe.execute()
        made = _channel(stored)
        assert made is not None
        return made, bool(replies[0])


def _channel(fields: dict[Any, Any]) -> Channel | None:
    if "id" not in fields:
        return None
    created = int(fields.get("created_at", 0))
    return Channel(fields["id"], fields["name"], fields.get("description", ""), created, fields.get("owner", ""))


def _checked(description: str) -> str:
    if len(description) > DESCRIPTION_LIMIT or not is_line(description):
        raise BadRequest(f"a description is one line of at most {DESCRIPTION_LIMIT} characters")
    return description
