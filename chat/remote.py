"""The source of a terminal that talks to a server: what it asks, in the words of the Centrifugal protocol."""

import contextlib
import json
import urllib.error
import urllib.request
from collections.abc import Sequence
from typing import Any

import msgspec

from chat import errors
from chat.connection import PATIENCE, Connection, Item, addresses
from chat.errors import Unauthorized, Unavailable
from chat.models import Channel, channel_id
from chat.source import LISTED, Began, Past, Place, Said

_AT_ONCE = 200  # channels asked for by their ids


class _History(msgspec.Struct):
    epoch: str
    offset: int
    publications: list[msgspec.Raw] = []


_history = msgspec.json.Decoder(_History)


class Remote(Connection):
    """A client of one server. `start` raises what keeps it from connecting the first time; later it tries for ever."""

    async def _rpc(self, method: str, **params: Any) -> Any:
        return (await self.ask(rpc={"method": method, "data": params})).rpc.get("data")

    async def channels(self, ids: Sequence[str] = ()) -> list[Channel]:
        pages = [await self._rpc("channels.list", limit=LISTED)]
        for start in range(0, len(ids), _AT_ONCE):
            pages.append(await self._rpc("channels.list", ids=ids[start : start + _AT_ONCE]))
        return [channel for page in pages for channel in msgspec.convert(page["channels"], list[Channel])]

    async def mine(self) -> list[str]:
        return [str(channel) for channel in (await self._rpc("subscriptions.list"))["channels"]]

    async def subscribe(self, name: str, since: tuple[str, int] | None = None) -> Began:
        channel, begun = channel_id(name), []
        if since is None and channel != name:  # a spelling of its own: the name others see
            with contextlib.suppress(errors.ChannelExists, errors.PermissionDenied):
                await self._rpc("channels.create", name=name)
        asked = {"recover": True, "epoch": since[0], "offset": since[1]} if since else {}

        def began(item: Item) -> None:
            begun.append(self.begin(channel, item))

        await self.ask(began, subscribe={"channel": channel, **asked})
        return begun[0]

    async def leave(self, channel: str) -> None:
        await self.ask(unsubscribe={"channel": channel})
        self.positions.pop(channel, None)

    async def before(self, channel: str, offset: int | None, limit: int) -> Past:
        since = {} if offset is None else {"since": {"offset": offset, "epoch": ""}}
        past = await self._past(channel, limit=limit, reverse=True, **since)
        return past._replace(messages=past.messages[::-1])

    async def after(self, channel: str, offset: int, limit: int) -> Past:
        return await self._past(channel, limit=limit, since={"offset": offset, "epoch": ""})

    async def _past(self, channel: str, **asked: Any) -> Past:
        page = _history.decode((await self.ask(history={"channel": channel, **asked})).history)
        return Past(page.epoch, page.offset, [Said.read(pub) for pub in page.publications])

    async def publish(self, channel: str, data: bytes, key: str) -> Place:
        reply = await self._rpc("publish", channel=channel, data=msgspec.Raw(data), key=key)
        return Place(int(reply["offset"]), int(reply["time"]))

    async def present(self, channel: str) -> list[str]:
        clients = (await self.ask(presence={"channel": channel})).presence.get("presence", {})
        return sorted({str(info.get("user", "?")) for info in clients.values()})

    async def describe(self, channel: str, description: str) -> None:
        await self._rpc("channels.update", id=channel, description=description)

    async def private(self, name: str) -> Channel:
        return msgspec.convert(await self._rpc("channels.private", user=name), Channel)

    async def asks(self) -> list[str]:
        return [str(ask["user"]) for ask in (await self._rpc("channels.asks"))["asks"]]

    async def decline(self, name: str) -> None:
        await self._rpc("channels.decline", user=name)

    async def unread(self, channels: Sequence[str]) -> dict[str, tuple[int, int]]:
        known = (await self._rpc("unread"))["channels"]
        return {channel: (known[channel]["read"], known[channel]["top"]) for channel in channels if channel in known}

    async def read(self, channel: str, offset: int) -> None:
        await self._rpc("read", channel=channel, offset=offset)


def sign_in(url: str, username: str, password: str) -> str:
    """A token for who knows the password. Waits: call it in a thread. Raises Unauthorized and Unavailable."""
    body = json.dumps({"username": username, "password": password}).encode()
    request = urllib.request.Request(addresses(url)[1] + "/api/session", body, {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as reply:
            return str(reply.headers.get("set-cookie", "")).partition("=")[2].partition(";")[0]
    except urllib.error.HTTPError as error:
        raise Unauthorized(json.loads(error.read())["error"]["message"]) from None
    except (OSError, ValueError) as error:
        raise Unavailable(f"{url}: {error}") from None
