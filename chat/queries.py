"""What a client asks for and hears in one reply: history, presence, Peyk's own methods. Each gives the reply's line."""

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from chat import protocol
from chat.access import Access
from chat.auth import Policy
from chat.errors import UnknownChannel
from chat.models import channel_id
from chat.presence import ClientInfo
from chat.rpc import LAST_WORDS, call_method
from pipeline.replay import Page

if TYPE_CHECKING:
    from chat.node import Node

NOTHING_YET = Page("", 0, [])  # the history of a channel that nobody made yet


async def history(node: "Node", access: Access, command_id: int, asked: protocol.History) -> bytes:
    """A page of messages. Raises PeykError."""
    channel = channel_id(asked.channel)
    await node.allow(access, "history", channel)
    try:
        page = await node.history(channel, asked)
    except UnknownChannel:
        _check_may_make(node, access, channel)
        page = NOTHING_YET
    return b'{"id":%d,"history":%b}' % (command_id, protocol.page_body(page))


async def presence(node: "Node", access: Access, command_id: int, channel: str) -> bytes:
    """Who is in a channel, by client id. Raises PeykError."""
    return protocol.reply(command_id, "presence", {"presence": await _present(node, access, channel)})


async def presence_stats(node: "Node", access: Access, command_id: int, channel: str) -> bytes:
    """How many are in a channel. Raises PeykError."""
    clients = await _present(node, access, channel)
    users = {info.user for info in clients.values()}
    return protocol.reply(command_id, "presence_stats", {"num_clients": len(clients), "num_users": len(users)})


def rpc(node: "Node", access: Access, command_id: int, asked: protocol.Rpc) -> Coroutine[Any, Any, bytes]:
    """What one of Peyk's own methods answers. LAST_WORDS are done though nobody waits for it. Raises PeykError."""
    work = _rpc(node, access, command_id, asked)
    if asked.method not in LAST_WORDS:
        return work
    task = asyncio.create_task(work)
    task.add_done_callback(lambda task: task.cancelled() or task.exception())  # else it is said that nobody heard it
    return _outlasting(task)


async def _rpc(node: "Node", access: Access, command_id: int, asked: protocol.Rpc) -> bytes:
    result = await call_method(node, access, asked.method, asked.data)
    return protocol.reply(command_id, "rpc", {"data": result})


async def _outlasting(task: "asyncio.Task[bytes]") -> bytes:
    return await asyncio.shield(task)


async def _present(node: "Node", access: Access, name: str) -> dict[str, ClientInfo]:
    channel = channel_id(name)
    await node.allow(access, "presence", channel)
    try:
        return await node.presence.clients(channel)
    except UnknownChannel:
        _check_may_make(node, access, channel)
        return {}


def _check_may_make(node: "Node", access: Access, channel: str) -> None:
    """A channel that is not there is empty for whoever makes it by coming; for others there is none.

    SDKs ask for history and presence first and subscribe then. Raises UnknownChannel.
    """
    policy = node.policies.known(channel) or Policy()
    comes = any(access.may(action, channel, policy) for action in ("subscribe", "publish"))
    if not node.settings.create_channels or not comes:
        raise UnknownChannel.named(channel)
