"""Channels: Redis hashes, and the sorted set that lists them."""

from collections.abc import Sequence
from typing import Any

from redis.asyncio import Redis

from chat.auth import GIVEN, KINDS, MUTED_MEMBER, PAIR, Policy
from chat.errors import BadRequest, ChannelExists, LimitExceeded, PermissionDenied, UnknownChannel
from chat.models import Channel, User, channel_id, is_line
from chat.policies import POLICY, Policies
from chat.subscriptions import Subscriptions
from pipeline.content import normal
from pipeline.keys import CHANNELS, Keys
from pipeline.producer import new_epoch
from pipeline.resp import Command, Link, ReplyError
from redis_config import Settings

DESCRIPTION_LIMIT = 500  # characters
PAGE = 500  # channels read in one round trip
_FIELDS = "id", "name", "description", "created_at", "owner", "kind"
ROLE_LIMIT = 10_000  # people with a role in one channel; each node that looks at the channel reads them all
_TOMBSTONE = 3600  # seconds a node that missed the word "deleted" has to find it out
KICK = "kick "  # before the channel's id and the user's
_HOUR = 3600  # seconds in which a user, or an address, may make so many
DELETED = "deleted "  # said on Pub/Sub `control`, before the channel's id, its epoch and its kind

# Make a channel if there is none: whether it is new ("1"), then its fields and values. What is there stays as it is.
# It is as old as Redis says, by whose clock messages are, too. Nothing, if it would be one more than ARGV[1] (0: any).
# KEYS[3] and more count what its makers made within ARGV[3] seconds; their limits are ARGV[4] and more. Who may not:
# its place among them, and the seconds to wait.
_MAKE = """
local new, limit = 1 - redis.call('HEXISTS', KEYS[1], 'id'), tonumber(ARGV[1])
local makers = #KEYS - 2
if new == 1 then
    for i = 1, makers do
        if tonumber(redis.call('GET', KEYS[2 + i]) or 0) >= tonumber(ARGV[3 + i]) then
            return {tostring(i), tostring(redis.call('TTL', KEYS[2 + i]))}
        end
    end
    if limit > 0 and not redis.call('ZSCORE', KEYS[2], ARGV[2]) and redis.call('ZCARD', KEYS[2]) >= limit then
        return {}
    end
    for i = 1, makers do
        if redis.call('INCR', KEYS[2 + i]) == 1 then redis.call('EXPIRE', KEYS[2 + i], ARGV[3]) end
    end
end
redis.call('ZADD', KEYS[2], 0, ARGV[2])
if new == 1 then
    local time = redis.call('TIME')
    redis.call('HSETNX', KEYS[1], 'created_at', string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000)))
    for i = 4 + makers, #ARGV, 2 do redis.call('HSETNX', KEYS[1], ARGV[i], ARGV[i + 1]) end
end
return {tostring(new), unpack(redis.call('HGETALL', KEYS[1]))}"""

# Delete the channel ARGV[1] at once: who publishes meanwhile makes a whole new one. KEYS: the list, the tombstone (kept
# ARGV[2] seconds), and all the channel has. ARGV[4] is told on ARGV[3]. What takes room comes last: a full Redis lets a
# script go on that has removed something.
_DELETE = """
redis.call('DEL', unpack(KEYS, 3))
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('SET', KEYS[2], 1, 'EX', ARGV[2])
return redis.call('PUBLISH', ARGV[3], ARGV[4])"""

# Give ARGV[1] the role ARGV[2], unless more than ARGV[3] would have one: 0.
# A mute takes nothing but the word: who was a member is one still.
_GIVE = f"""
local was, role = redis.call('HGET', KEYS[1], ARGV[1]), ARGV[2]
if not was and redis.call('HLEN', KEYS[1]) >= tonumber(ARGV[3]) then return 0 end
if role == 'muted' and (was == 'member' or was == 'moderator' or was == '{MUTED_MEMBER}') then
    role = '{MUTED_MEMBER}'
end
redis.call('HSET', KEYS[1], ARGV[1], role)
return 1"""


Makers = Sequence[tuple[str, int]]
"""Whom a new channel counts for, and how many each may make in an hour (Limits.makers)."""


class Channels:
    """Create, update, delete, list. Every method takes a name in any spelling (chat.models.channel_id)."""

    def __init__(
        self, redis: Redis, link: Link, settings: Settings, policies: Policies, subscriptions: Subscriptions
    ) -> None:
        self._redis, self._link, self._keys = redis, link, Keys.of(settings)
        self._subscriptions = subscriptions
        self._on_demand, self._limit, self._policies = settings.create_channels, settings.channel_limit, policies

    async def create(
        self, name: str, description: str = "", owner: str = "", kind: str = "public", makers: Makers = ()
    ) -> Channel:
        """Make a channel. Raises ChannelExists, LimitExceeded and BadRequest."""
        if _checked_kind(kind) != "public" and not owner:
            raise BadRequest(f"a {kind} channel needs an owner; sign in first")
        channel, new = await self._make(name, description, owner, kind, makers)
        if not new:
            raise ChannelExists(f"channel {channel.id} exists already; join it, or choose another name")
        return channel

    async def pair(self, id: str, one: User, other: User, makers: Makers = ()) -> Channel:
        """The private channel of two people, made and owned by the one if it is missing. Raises LimitExceeded."""
        channel, _ = await self._make(id, f"{one.username} {other.username}", one.id, PAIR, makers)
        return channel

    async def ensure(self, name: str, owner: str, makers: Makers = ()) -> Channel:
        """The channel, made on the spot if CREATE_CHANNELS allows it. Raises UnknownChannel and LimitExceeded."""
        if not self._on_demand:
            return await self.get(name)
        channel, _ = await self._make(name, "", owner, "public", makers)
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

    async def names(self, after: str = "", limit: int = PAGE, prefix: str = "") -> list[str]:
        """The next `limit` ids behind `after` that begin with `prefix`, sorted; however many there are besides."""
        low = f"({after}".encode() if after >= prefix and after else f"[{prefix}".encode() if prefix else b"-"
        high = f"({prefix}".encode() + b"\xff" if prefix else b"+"
        found = await self._link.call("ZRANGEBYLEX", CHANNELS, low, high, "LIMIT", 0, limit)
        return [name.decode() for name in found]

    async def all(self) -> list[Channel]:
        """Every channel, by id, for commands that need them all; see chat.directory for pages."""
        found: list[Channel] = []
        names = await self.names()
        while names:
            found += await self.read(names)
            names = await self.names(names[-1])
        return found

    async def read(self, ids: Sequence[str]) -> list[Channel]:
        """Those of `ids` that are there."""
        return [channel for channel, _ in await self.seen_by("", ids)]

    async def seen_by(self, user: str, ids: Sequence[str]) -> list[tuple[Channel, Policy]]:
        """Those of `ids` that are there, and what each says of one user id; all in one round trip."""
        commands: list[Command] = []
        for channel in ids:
            commands.append(["HMGET", self._keys.channel(channel), *_FIELDS])
            commands.append(["HGET", self._keys.roles(channel), user])
        replies = await self._link.pipeline(commands) if commands else []
        found = []
        for values, role in zip(replies[::2], replies[1::2], strict=True):
            for reply in (values, role):
                if isinstance(reply, ReplyError):
                    raise reply
            pairs = zip(_FIELDS, values, strict=True)
            there = _channel({name: value.decode() for name, value in pairs if value is not None})
            if there is not None:
                roles = {user: role.decode()} if role else {}
                found.append((there, Policy(there.kind, there.owner, roles)))
        return found

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
            given = await self._link.call("EVAL", _GIVE, 1, self._keys.roles(channel.id), user.id, role, ROLE_LIMIT)
            if not given:
                raise LimitExceeded(f"{ROLE_LIMIT} people have a role in {channel.id}; take one away first", "roles")
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
        members = await self._subscriptions.subscribers(channel.id)
        of = self._keys
        keys = [CHANNELS, of.tombstone(channel.id), of.channel(channel.id), of.presence(channel.id)]
        keys += [of.roles(channel.id), of.history(channel.id), of.subscribers(channel.id)]
        word = f"{DELETED}{channel.id} {epoch} {channel.kind}"
        await self._link.call("EVAL", _DELETE, len(keys), *keys, channel.id, _TOMBSTONE, of.control, word)
        await self._subscriptions.end(channel.id, members)
        await self.policy_changed(channel.id)

    async def policy_changed(self, channel: str) -> None:
        """Every node reads it again; this one before it answers."""
        await self._redis.publish(self._keys.control, POLICY + channel.encode())
        await self._policies.read([channel])

    async def _make(self, name: str, description: str, owner: str, kind: str, makers: Makers) -> tuple[Channel, bool]:
        """The channel and whether it is new."""
        channel, key = channel_id(name), self._keys.channel(channel_id(name))
        fields = {"id": channel, "name": normal(name), "description": _checked(description)}
        fields |= {"owner": owner, "kind": kind, "epoch": new_epoch(), "offset": "0"}
        made = [part for field in fields.items() for part in field]
        keys = [key, CHANNELS, *(self._keys.made(who) for who, _ in makers)]
        limits = [limit for _, limit in makers]
        reply = await self._link.call("EVAL", _MAKE, len(keys), *keys, self._limit, channel, _HOUR, *limits, *made)
        if not reply:
            raise LimitExceeded.of_channels(self._limit)
        if len(reply) == 2:
            who, limit = makers[int(reply[0]) - 1]
            raise LimitExceeded.of_new_channels("an address" if who[0] == "@" else "a user", limit, int(reply[1]))
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
