"""The private channel of two people: its name follows from theirs, and only they are let in."""

from hashlib import blake2b
from typing import TYPE_CHECKING

from chat.access import Access
from chat.errors import BadRequest, ChannelExists, PermissionDenied
from chat.models import Channel, User

if TYPE_CHECKING:
    from chat.node import Node

PREFIX = "dm-"


def private_id(secret: str, one: User, other: User) -> str:
    """The channel of two users, in whichever order. Without the installation's secret nobody can ask for it."""
    names = "\n".join(sorted((one.id, other.id))).encode()
    return PREFIX + blake2b(names, digest_size=12, key=secret.encode()[:64]).hexdigest()


async def open_private(node: "Node", access: Access, name: str) -> Channel:
    """The private channel of whoever asks and `name`; made if it is missing, and both belong to it.

    Guests have none: anybody may come in under their name. Raises PermissionDenied and BadRequest.
    """
    me, other = access.identity.user, User.named(name)
    known = await node.redis.hget(node.keys.user(other.id), "username")  # as they write it themselves
    other = User(other.id, str(known or other.username))
    if access.identity.guest:
        raise PermissionDenied("guests have no private channels, since anybody may take their name; sign in first")
    if me.id == other.id:
        raise BadRequest("that is you; name somebody else")
    channel = private_id(node.doors.secret, me, other)
    try:
        await node.allow(access, "create", channel)
        made = await node.channels.create(
            channel, f"{me.username} {other.username}", me.id, "private", node.makers(access)
        )
        await node.channels.give_role(channel, other, "member")
    except ChannelExists:
        made = await node.channels.get(channel)
        if made.kind != "private" or made.owner not in (me.id, other.id):
            raise PermissionDenied(f"the channel {channel} was made by somebody else; tell the operator") from None
        if made.owner == me.id:  # perhaps who made it was stopped half-way
            await node.channels.give_role(channel, other, "member")
    for user in (me, other):
        await node.subscriptions.add(user, channel)
    return made
