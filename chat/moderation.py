"""Who gives and takes roles, and who is sent away: what moderators and owners do, asked for by RPC and HTTP alike."""

from typing import TYPE_CHECKING

import msgspec

from chat.access import Access
from chat.errors import PermissionDenied
from chat.models import User, channel_id

if TYPE_CHECKING:
    from chat.node import Node


class Role(msgspec.Struct):
    """A user's role in a channel: member, moderator, muted or banned; "" is none."""

    user: str
    role: str


async def roles(node: "Node", access: Access, name: str) -> list[Role]:
    """The roles given in a channel. Raises PermissionDenied and UnknownChannel."""
    await node.allow(access, "moderate", channel_id(name))
    return [Role(user, role) for user, role in (await node.channels.roles(name)).items()]


async def give_role(node: "Node", access: Access, name: str, username: str, role: str) -> Role:
    """Give a role, or take it away. Who moderates is the owner's to say. Raises PermissionDenied and UnknownChannel."""
    user = User.named(username)
    await _may_judge(node, access, name, user, makes=role)
    await node.channels.give_role(name, user, role)
    return Role(user.id, role)


async def kick(node: "Node", access: Access, name: str, username: str) -> None:
    """End a user's membership and subscriptions of the moment. Raises PermissionDenied and UnknownChannel."""
    user = User.named(username)
    if user.id == access.identity.user.id:  # who leaves, which a mute or a ban does not keep them from
        access.check_reach("subscribe", channel_id(name))
    else:
        await _may_judge(node, access, name, user)
        await node.channels.kick(name, user)
    await node.subscriptions.remove(user.id, channel_id(name))


async def _may_judge(node: "Node", access: Access, name: str, user: User, makes: str = "") -> None:
    """Moderators decide about others, but not about moderators and the owner."""
    channel = channel_id(name)
    policy = await node.policies.get(channel)
    access.check("moderate", channel, policy)
    above = user.id == policy.owner or "moderator" in (makes, policy.roles.get(user.id))
    if above and not access.may("manage", channel, policy):
        raise PermissionDenied(f"who moderates {channel} is its owner's to decide")
