"""Peyk's own methods, called through the protocol's `rpc`; one of them, `call`, goes on to other services."""

import re
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from chat import moderation
from chat.access import Access
from chat.calls import Call, call_service
from chat.directory import DEFAULT_PAGE
from chat.errors import BadRequest, UnknownMethod
from chat.models import channel_id
from chat.private import asks_of, decline_private, open_private
from pipeline.content import UNREADABLE

if TYPE_CHECKING:
    from chat.node import Node


class Nothing(msgspec.Struct):
    pass


class Asked(msgspec.Struct, forbid_unknown_fields=True):
    """A page of channels: those behind `after` that begin with `prefix`, or those of `ids`.

    Who says `listen` hears of changes from then on: a push `message` with `{"channels":{"changed","gone","many"}}`.
    """

    after: str = ""
    limit: Annotated[int, msgspec.Meta(ge=0)] = DEFAULT_PAGE
    prefix: str = ""
    ids: list[str] | None = None
    listen: bool = False


class Named(msgspec.Struct, forbid_unknown_fields=True):
    id: str


class NewChannel(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    description: str = ""
    kind: str = "public"


class ChangedChannel(msgspec.Struct, forbid_unknown_fields=True):
    id: str
    description: str | None = None
    kind: str | None = None


class Seen(msgspec.Struct, forbid_unknown_fields=True):
    """`channel` is read up to `offset`."""

    channel: str
    offset: Annotated[int, msgspec.Meta(ge=0)]


class Place(msgspec.Struct, forbid_unknown_fields=True):
    channel: str


class Judged(msgspec.Struct, forbid_unknown_fields=True):
    id: str
    user: str
    role: str = ""


class Private(msgspec.Struct, forbid_unknown_fields=True):
    user: str


async def _list(node: "Node", access: Access, params: Asked) -> Any:
    limit = node.settings.page_limit
    if params.listen:
        access.listens = True
    if params.ids is None:
        return await node.directory.page(access, params.after, min(params.limit, limit), params.prefix)
    if len(params.ids) > limit:
        raise BadRequest.beyond("page", f"ask for at most {limit} channels at once")
    return await node.directory.named(access, params.ids)


async def _create(node: "Node", access: Access, params: NewChannel) -> Any:
    await node.allow(access, "create", channel_id(params.name))
    owner, makers = access.identity.owns_as, node.makers(access)
    return await node.channels.create(params.name, params.description, owner, params.kind, makers)


async def _update(node: "Node", access: Access, params: ChangedChannel) -> Any:
    await node.allow(access, "manage", channel_id(params.id))
    return await node.channels.update(params.id, params.description, params.kind)


async def _delete(node: "Node", access: Access, params: Named) -> Any:
    await node.allow(access, "manage", channel_id(params.id))
    await node.channels.delete(params.id)
    return {}


async def _roles(node: "Node", access: Access, params: Named) -> Any:
    return {"roles": await moderation.roles(node, access, params.id)}


async def _role(node: "Node", access: Access, params: Judged) -> Any:
    return await moderation.give_role(node, access, params.id, params.user, params.role)


async def _kick(node: "Node", access: Access, params: Judged) -> Any:
    await moderation.kick(node, access, params.id, params.user)
    return {}


async def _private(node: "Node", access: Access, params: Private) -> Any:
    return await open_private(node, access, params.user)


async def _asks(node: "Node", access: Access, params: Nothing) -> Any:
    return {"asks": await asks_of(node, access)}


async def _decline(node: "Node", access: Access, params: Private) -> Any:
    await decline_private(node, access, params.user)
    return {}


async def _subscriptions(node: "Node", access: Access, params: Nothing) -> Any:
    return {"channels": [channel for channel in await _mine(node, access) if access.reaches("subscribe", channel)]}


async def _mine(node: "Node", access: Access) -> list[str]:
    """The channels somebody belongs to; those a guest is in just now."""
    if access.passing is not None:
        return sorted(access.passing)
    return await node.subscriptions.channels(access.identity.user.id)


async def _subscribers(node: "Node", access: Access, params: Named) -> Any:
    await node.allow(access, "presence", channel_id(params.id))
    channel = await node.channels.get(params.id)
    users = await node.subscriptions.subscribers(channel.id)
    return {"subscribers": users, "names": await node.subscriptions.names(users)}


async def _unread(node: "Node", access: Access, params: Nothing) -> Any:
    """Read position and top of each channel the user belongs to and may read."""
    user = access.identity.user.id
    mine = await _mine(node, access)
    access.looks_up(len(mine))
    policies = await node.policies.of(mine)
    readable = [channel for channel in mine if access.may("history", channel, policies[channel])]
    found = await node.reading.unread(user, readable)
    if access.passing is not None:
        found = {channel: (min(access.passing.get(channel, 0), top), top) for channel, (_, top) in found.items()}
    return {"channels": {channel: {"read": read, "top": top} for channel, (read, top) in found.items()}}


async def _read(node: "Node", access: Access, params: Seen) -> Any:
    channel = channel_id(params.channel)
    await node.allow(access, "history", channel)
    if access.passing is not None:
        if channel in access.passing:
            access.passing[channel] = max(access.passing[channel], params.offset)
        return {}
    await node.reading.read(access.identity.user.id, channel, params.offset)
    return {}


async def _typing(node: "Node", access: Access, params: Place) -> Any:
    channel = channel_id(params.channel)
    await node.allow(access, "publish", channel)
    await node.typing.tell(access.identity.user, channel)
    return {}


async def _call(node: "Node", access: Access, params: Call) -> Any:
    return await call_service(node, access, params.action, bytes(params.data))


METHODS: dict[str, tuple[type, Callable[["Node", Access, Any], Awaitable[Any]]]] = {
    "channels.list": (Asked, _list),
    "channels.create": (NewChannel, _create),
    "channels.update": (ChangedChannel, _update),
    "channels.delete": (Named, _delete),
    "channels.roles": (Named, _roles),
    "channels.role": (Judged, _role),
    "channels.kick": (Judged, _kick),
    "channels.private": (Private, _private),
    "channels.asks": (Nothing, _asks),
    "channels.decline": (Private, _decline),
    "channels.subscribers": (Named, _subscribers),
    "subscriptions.list": (Nothing, _subscriptions),
    "unread": (Nothing, _unread),
    "read": (Seen, _read),
    "typing": (Place, _typing),
    "call": (Call, _call),
}

# Their answers are as long as there are channels or members: a client has one at a time.
LONG = {"channels.asks", "channels.list", "channels.roles", "channels.subscribers", "subscriptions.list", "unread"}

LAST_WORDS = {"read"}  # what a page says as it goes: it is done though the client is gone
_DONE_ANYWAY = "|".join(["unsubscribe", *sorted(LAST_WORDS)])
LAST_LINE = re.compile(f'"(?:{_DONE_ANYWAY})"'.encode())
"""Found in each line of commands that may say such a word, or unsubscribe."""


async def call_method(node: "Node", access: Access, method: str, data: msgspec.Raw) -> Any:
    """Call `method` with its JSON parameters. Raises UnknownMethod, BadRequest and what the method raises."""
    if method not in METHODS:
        raise UnknownMethod(f"method {method[:64]} not found; there are publish, {', '.join(METHODS)}")
    kind, function = METHODS[method]
    try:
        params: Any = msgspec.json.decode(bytes(data) or b"{}", type=kind)
    except UNREADABLE as error:
        raise BadRequest(f"{method}: {error}") from None
    return await function(node, access, params)
