"""The private channel of two people: one asks, the other accepts or declines, and nobody else is ever let in.

Its name follows from theirs. Whoever asked owns it, the other becomes its member by accepting; both may do the same.
Until then the asked one belongs to nothing: an ask is a line in a list. What was declined stays so until they open it
themselves.
"""

import contextlib
import time
from hashlib import blake2b
from typing import TYPE_CHECKING

import msgspec

from chat.access import Access
from chat.auth import ASKED, DECLINED, PAIR, PAIR_PREFIX, Policy
from chat.errors import BadRequest, LimitExceeded, PermissionDenied
from chat.models import Channel, User

if TYPE_CHECKING:
    from chat.node import Node

_DAY = 86400  # seconds in which one may ask USER_ASKS people

# KEYS: the channel's roles, who asks the other one, whom one asked. ARGV: the other's id, the channel, now (Unix s),
# how many may ask. Ask, unless there was an answer; the role the other has then. Of too many who ask the oldest goes.
_ASK = f"""
local role = redis.call('HGET', KEYS[1], ARGV[1])
if role == 'member' or role == '{DECLINED}' then return role end
redis.call('HSET', KEYS[1], ARGV[1], '{ASKED}')
redis.call('ZADD', KEYS[2], 'NX', ARGV[3], ARGV[2])
redis.call('ZREMRANGEBYRANK', KEYS[2], 0, -1 - tonumber(ARGV[4]))
redis.call('ZADD', KEYS[3], 'NX', ARGV[3], ARGV[2])
redis.call('EXPIRE', KEYS[3], {_DAY})
return '{ASKED}'"""


class Ask(msgspec.Struct):
    """Somebody wants to talk to one; `channel` is where, `time` since when (Unix ms)."""

    user: str
    channel: str
    time: int


def private_id(secret: str, one: User, other: User) -> str:
    """The channel of two users, in whichever order. Without the installation's secret nobody can ask for it."""
    names = "\n".join(sorted((one.id, other.id))).encode()
    return PAIR_PREFIX + blake2b(names, digest_size=12, key=secret.encode()[:64]).hexdigest()


async def open_private(node: "Node", access: Access, name: str, anybody: bool = False) -> Channel:
    """The private channel of whoever asks and `name`, made if it is missing. Who was asked accepts by it.

    `anybody`: both belong to it at once, whoever they are, as on a laptop's terminal. Raises PermissionDenied,
    BadRequest and LimitExceeded.
    """
    me, other = access.identity.user, await _other(node, access, name)
    channel = private_id(node.doors.secret, me, other)
    access.check("create", channel, Policy(PAIR, me.id))
    policy = await node.policies.get(channel)
    if not policy.owner:
        if not anybody:
            await _check_may_ask(node, me, other)
        policy = Policy(PAIR, (await node.channels.pair(channel, me, other, node.makers(access))).owner)
    if policy.owner != me.id:  # who asked was the other
        await _answer(node, channel, policy.owner, me, "member")
        await node.subscriptions.add(me, channel)
        return await node.channels.get(channel)
    if anybody:
        await _answer(node, channel, me.id, other, "member")
        role = "member"
    else:
        role = await _ask(node, channel, me, other)
    await node.subscriptions.add(me, channel)
    if role == "member":  # they know each other
        with contextlib.suppress(LimitExceeded):  # which is theirs to see to
            await node.subscriptions.add(other, channel)
    return await node.channels.get(channel)


async def decline_private(node: "Node", access: Access, name: str) -> None:
    """Whoever asked hears nothing of it, and cannot ask again. Raises PermissionDenied and BadRequest."""
    me, other = access.identity.user, await _other(node, access, name)
    channel = private_id(node.doors.secret, me, other)
    access.check_reach("create", channel)
    policy = await node.policies.get(channel)
    if policy.owner == me.id:
        raise BadRequest(f"you asked {other.username}; leave the channel, or delete it once it was accepted")
    if policy.owner:
        await _answer(node, channel, policy.owner, me, DECLINED)
        await node.subscriptions.remove(me.id, channel)


async def asks_of(node: "Node", access: Access) -> list[Ask]:
    """Who wants to talk to somebody, the latest first; those whom the token lets them answer."""
    found = await node.link.call("ZREVRANGE", node.keys.asks(access.identity.user.id), 0, -1, "WITHSCORES")
    asks = []
    for name, at in zip(found[::2], found[1::2], strict=True):
        channel = name.decode()
        if not access.reaches("create", channel):
            continue
        owner = (await node.policies.get(channel)).owner
        if owner:
            user = (await node.subscriptions.names([owner]))[owner]
            asks.append(Ask(user, channel, int(at) * 1000))
    return asks


async def _other(node: "Node", access: Access, name: str) -> User:
    """Who is meant by `name`, as they write it themselves."""
    me, other = access.identity.user, User.named(name)
    if access.identity.guest:
        raise PermissionDenied("guests have no private channels, since anybody may take their name; sign in first")
    if me.id == other.id:
        raise BadRequest("that is you; name somebody else")
    known = await node.redis.hget(node.keys.user(other.id), "username")
    return User(other.id, str(known or other.username))


async def _check_may_ask(node: "Node", me: User, other: User) -> None:
    """Only who is somebody can be asked, and only so many. Raises BadRequest and LimitExceeded."""
    known = await node.redis.exists(node.keys.account(other.id))
    if not known and node.settings.names_given:  # with tokens, and who brought one was here
        known = await node.redis.exists(node.keys.user(other.id))
    if not known:
        raise BadRequest(f"nobody is known here by the name {other.username}; they sign in first")
    limit, since = node.settings.user_asks, int(time.time()) - _DAY
    if await node.redis.zcount(node.keys.asked(me.id), since, "+inf") >= limit:
        raise LimitExceeded(f"one may ask {limit} people in a day; wait until tomorrow", "user_asks")


async def _ask(node: "Node", channel: str, me: User, other: User) -> str:
    """Ask, if that was not done; the role the other one has."""
    keys = node.keys.roles(channel), node.keys.asks(other.id), node.keys.asked(me.id)
    arguments = (other.id, channel, int(time.time()), node.settings.user_asks)
    await node.redis.zremrangebyscore(node.keys.asked(me.id), "-inf", int(time.time()) - _DAY)
    role: bytes = await node.link.call("EVAL", _ASK, 3, *keys, *arguments)
    await node.channels.policy_changed(channel)
    return role.decode()


async def _answer(node: "Node", channel: str, asker: str, me: User, role: str) -> None:
    """`me` accepts or declines."""
    async with node.redis.pipeline(transaction=True) as pipe:
        pipe.hset(node.keys.roles(channel), me.id, role)
        pipe.zrem(node.keys.asks(me.id), channel)
        if role == "member":
            pipe.zrem(node.keys.asked(asker), channel)
        await pipe.execute()
    await node.channels.policy_changed(channel)
