"""Calls to other services: who may, and what can go wrong, for HTTP, the WebSocket and the command line alike."""

from typing import TYPE_CHECKING, Any

import msgspec

from chat.access import Access
from chat.auth import check_call
from chat.errors import BadRequest, NoAnswer, NotAvailable, Unavailable
from pipeline.consumer import Away
from pipeline.content import json_line
from pipeline.ports import Caller

if TYPE_CHECKING:
    from chat.node import Node

ACTION_LIMIT = 128  # characters


class Call(msgspec.Struct, forbid_unknown_fields=True):
    """`data` is any JSON."""

    action: str
    data: msgspec.Raw = msgspec.Raw(b"null")


async def call_service(node: "Node", access: Access, action: str, data: bytes) -> Any:
    """What another service answers to `action`, an object. `data` is JSON.

    Raises PermissionDenied, BadRequest, TooLarge, NotAvailable, NoAnswer, CallFailed and Unavailable.
    """
    settings = node.settings
    check_call(access.identity, action, settings.open_actions)
    if node.parts.caller is None:
        raise NotAvailable("this server calls no other services; its operator can set RPC_CHANNEL")
    return await ask(node.parts.caller, action, json_line(data, settings.message_limit, settings.json_depth))


async def ask(caller: Caller, action: str, line: bytes, send: bool = False) -> Any:
    """As call_service, without asking who asks; with `send` no answer is awaited. `line` is a line of JSON."""
    if not 0 < len(action) <= ACTION_LIMIT or not action.isprintable():
        raise BadRequest(f"an action has 1 to {ACTION_LIMIT} printable characters")
    try:
        return await (caller.send if send else caller.call)(action, msgspec.Raw(line))
    except TimeoutError as error:
        raise NoAnswer(str(error)) from None
    except Away as error:
        raise Unavailable(str(error)) from None
