"""Channels: Redis hashes, and the set that lists them."""

from collections.abc import Sequence
from typing import Any

from redis.asyncio import Redis

from chat.auth import GIVEN, KINDS, MUTED_MEMBER, PAIR
from chat.errors import BadRequest, ChannelExists, LimitExceeded, PermissionDenied, UnknownChannel
from chat.models import Channel, User, channel_id, is_line
from chat.policies import POLICY, Policies
from pipeline.content import normal
from pipeline.keys import CHANNELS, Keys
from pipeline.producer import new_epoch
from pipeline.resp import Link
from redis_config import Settings

DESCRIPTION_LIMIT = 500  # characters
_TOMBSTONE = 3600  # seconds a node that missed the word "deleted" has to find it out
KICK = "kick "  # before the channel's id and the user's
DELETED = "deleted "  # said on Pub/Sub `control`, before the channel's id and its epoch

# Make a channel if there is none: whether it is new ("1"), then its fields and values. What is there stays as it is.
# It is as old as Redis says, by whose clock messages are, too. Nothing, if it would be one more than ARGV[1] (0: any).
_MAKE = """
local new, limit = 1 - redis.call('HEXISTS', KEYS[1], 'id'), tonumber(ARGV[1])
if new == 1 and limit > 0 and redis.call('SISMEMBER', KEYS[2], ARGV[2]) == 0
    and redis.call('SCARD', KEYS[2]) >= limit then return {} end
redis.call('SADD', KEYS[2], ARGV[2])
if new == 1 then
    local time = redis.call('TIME')
    redis.call('HSETNX', KEYS[1], 'created_at', string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000)))
    for i = 3, #ARGV, 2 do redis.call('HSETNX', KEYS[1], ARGV[i], ARGV[i + 1]) end
end
return {tostring(new), unpack(redis.call('HGETALL', KEYS[1]))}"""

# Give ARGV[1] the role ARGV[2]. A mute takes nothing but the word: who was a member is one still.
_GIVE = f"""
local was, role = redis.call('HGET', KEYS[1], ARGV[1]), ARGV[2]
if role == 'muted' and (was == 'member' or was == 'moderator' or was == '{MUTED_MEMBER}') then
    role = '{MUTED_MEMBER}'
end
redis.call('HSET', KEYS[1], ARGV[1], role)"""


class Channels:
    """Create, update, delete, list. Every method takes a name in any spelling (chat.models.channel_id)."""

    def __init__(self, redis: Redis, link: Link, settings: Settings, policies: Policies) -> None:
        self._redis, self._link, self._keys = redis, link, Keys.of(settings)
        self._on_demand, self._limit, self._policies = settings.create_channels, settings.channel_limit, policies

    async def create(self, name: str, description: str = "", owner: str = "", kind: str = "public") -> Channel:
        """Make a channel. Raises ChannelExists, LimitExceeded and BadRequest."""
        if _checked_kind(kind) != "public" and not owner:
            raise BadRequest(f"a {kind} channel needs an owner; sign in first")
        channel, new = await self._make(name, description, owner, kind)
        if not new:
            raise ChannelExists(f"channel {channel.id} exists already; join it, or choose another name")
        return channel

    async def pair(self, id: str, one: User, other: User) -> Channel:
        """The private channel of two people, made and owned by the one if it is missing."""
        channel, _ = await self._make(id, f"{one.username} {other.username}", one.id, PAIR)
        return channel

    async def ensure(self, name: str, owner: str) -> Channel:
        """The channel, made on the spot if CREATE_CHANNELS allows it. Raises UnknownChannel and LimitExceeded."""
        if not self._on_demand:
            return await self.get(name)
        channel, _ = await self._make(name, "", owner, "public")
        return channel

    async def get(self, name: str) -> Channel:
        """Raises UnknownChannel."""
        channel = _channel(await self._redis.hgetall(self._keys.channel(channel_id(name))))
        if channel is None:
            raise UnknownChannel.named(channel_id(name))
        return channel

    async def began(self, channels: Sequence[str]) -> dict[str, float]:
        """When each of some channels (ids) was made, Unix ms; nothing of those that there are not."""
        async with self._redis.pipeline(transaction=False) as pipe:
            for channel in channels:
                pipe.hmget(self._keys.channel(channel), "id", "created_at")
            found = await pipe.execute()
        return {channel: int(made or 0) for channel, (id, made) in zip(channels, found, strict=True) if id}

    async def list(self) -> list[Channel]:
        """Every channel, by name."""
        ids = sorted(map(str, await self._redis.smembers(CHANNELS)))
        async with self._redis.pipeline(transaction=False) as pipe:
            for channel in ids:
                pipe.hgetall(self._keys.channel(channel))
            hashes = await pipe.execute()
        return [channel for channel in map(_channel, hashes) if channel is not None]

    async def update(self, name: str, description: str | None = None, kind: str | None = None) -> Channel:
        """Change description or kind; the name is what the channel is. Raises UnknownChannel and BadRequest."""
        channel = await self.get(name)
        if channel.kind == PAIR:
            raise PermissionDenied("a private channel of two stays what it is")
        fields: dict[Any, Any] = {} if description is None else {"description": _checked(description)}
        if kind is not None:
            if _checked_kind(kind) != "public" and not channel.owner:
                raise BadRequest(f"channel {channel.id} has no owner and stays public")
            fields["kind"] = kind
        if not fields:
            raise BadRequest("say a new description, or a kind")
        await self._redis.hset(self._keys.channel(channel.id), mapping=fields)
        await self.policy_changed(channel.id)
        return await self.get(name)

    async def roles(self, name: str) -> dict[str, str]:
        """The roles that were given in a channel, by user id. Raises UnknownChannel."""
        channel = await self.get(name)
        roles = await self._redis.hgetall(self._keys.roles(channel.id))
        return {str(user): "muted" if role == MUTED_MEMBER else str(role) for user, role in sorted(roles.items())}

    async def give_role(self, name: str, user: User, role: str) -> None:
        """Make a user member, moderator, muted or banned; "" takes the role away. Raises UnknownChannel, BadRequest."""
        channel = await self.get(name)
        if role and role not in GIVEN:
            raise BadRequest(f"a role is one of {', '.join(GIVEN)}")
        if user.id == channel.owner:
            raise BadRequest(f"{user.username} owns {channel.id}; an owner has no other role")
        if role:
            await self._link.call("EVAL", _GIVE, 1, self._keys.roles(channel.id), user.id, role)
        else:
            await self._redis.hdel(self._keys.roles(channel.id), user.id)
        await self.policy_changed(channel.id)

    async def kick(self, name: str, user: User) -> None:
        """End a user's subscriptions of the moment, on every node. They may come back; see give_role for banning."""
        channel = await self.get(name)
        await self._redis.publish(self._keys.control, f"{KICK}{channel.id} {user.id}")

    async def delete(self, name: str) -> None:
        """Remove the channel, its history and its subscriptions, and tell every node. Raises UnknownChannel."""
        channel = await self.get(name)
        if channel.kind == PAIR and "member" not in (await self.roles(channel.id)).values():
            raise PermissionDenied("who was asked has not accepted; leave it, and it is no longer listed")
        epoch = str(await self._redis.hget(self._keys.channel(channel.id), "epoch"))
        members = await self._redis.smembers(self._keys.subscribers(channel.id))
        async with self._redis.pipeline(transaction=True) as pipe:  # who publishes meanwhile makes a whole new one
            pipe.delete(self._keys.channel(channel.id))
            pipe.delete(self._keys.presence(channel.id))
            pipe.delete(self._keys.roles(channel.id))
            pipe.delete(self._keys.history(channel.id))
            pipe.delete(self._keys.subscribers(channel.id))
            pipe.srem(CHANNELS, channel.id)
            pipe.set(self._keys.tombstone(channel.id), 1, ex=_TOMBSTONE)
            pipe.publish(self._keys.control, f"{DELETED}{channel.id} {epoch}")
            await pipe.execute()
        async with self._redis.pipeline(transaction=False) as pipe:
            for member in members:
                pipe.srem(self._keys.user_channels(str(member)), channel.id)
            await pipe.execute()
        await self.policy_changed(channel.id)

    async def policy_changed(self, channel: str) -> None:
        """Every node reads it again; this one before it answers."""
        await self._redis.publish(self._keys.control, POLICY + channel.encode())
        await self._policies.read([channel])

    async def _make(self, name: str, description: str, owner: str, kind: str) -> tuple[Channel, bool]:
        """The channel and whether it is new."""
        channel, key = channel_id(name), self._keys.channel(channel_id(name))
        fields = {"id": channel, "name": normal(name), "description": _checked(description)}
        fields |= {"owner": owner, "kind": kind, "epoch": new_epoch(), "offset": "0"}
        made = [part for field in fields.items() for part in field]
        reply = await self._link.call("EVAL", _MAKE, 2, key, CHANNELS, self._limit, channel, *made)
        if not reply:
            raise LimitExceeded.of_channels(self._limit)
        new, *stored = [text.decode() for text in reply]
        if new == "1":
            await self.policy_changed(channel)
        there = _channel(dict(zip(stored[::2], stored[1::2], strict=True)))
        assert there is not None
        return there, new == "1"


def _channel(fields: dict[Any, Any]) -> Channel | None:
    if "id" not in fields:
        return None
    created = int(fields.get("created_at", 0))
    owner, kind = fields.get("owner", ""), fields.get("kind", "public")
    return Channel(fields["id"], fields["name"], fields.get("description", ""), created, owner, kind)


def _checked_kind(kind: str) -> str:
    if kind not in KINDS:
        raise BadRequest(f"a channel's kind is one of {', '.join(KINDS)}")
    return kind


def _checked(description: str) -> str:
    if len(description) > DESCRIPTION_LIMIT or not is_line(description):
        raise BadRequest(f"a description is one line of at most {DESCRIPTION_LIMIT} characters")
    return normal(description)
