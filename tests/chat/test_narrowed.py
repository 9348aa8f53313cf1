"""A token for some channels and actions does nothing beyond them, also not with what is its user's own."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2 as httpx
import jwt
import pytest
from websockets.asyncio.client import connect

from chat.auth import ACTIONS, CAPS, Tokens
from tests.chat.conftest import Talk
from tests.services import PeykServer, RedisProcess

SECRET = "a secret of thirty-two bytes or more"
TOKENS = Tokens(SECRET)


@pytest.fixture(scope="module")
def server() -> Iterator[PeykServer]:
    with RedisProcess("redis") as redis, PeykServer({"REDIS_URL": redis.url, "AUTH_SECRET": SECRET}) as server:
        yield server


@asynccontextmanager
async def coming(server: PeykServer, name: str, **narrowed: Any) -> AsyncIterator[Talk]:
    async with connect(server.ws_url, proxy=None) as socket:
        talk = Talk(socket)
        assert "connect" in await talk.ask(connect={"token": TOKENS.issue(name, 600, **narrowed)})
        yield talk


def rpc(method: str, **data: Any) -> dict[str, Any]:
    return {"rpc": {"method": method, "data": data}}


async def got(talk: Talk, method: str, **data: Any) -> Any:
    return (await talk.ask(**rpc(method, **data)))["rpc"]["data"]


async def state(mia: Talk) -> list[Any]:
    """What is hers: where she belongs, how far she has read, and who asks her."""
    return [await got(mia, method) for method in ("subscriptions.list", "unread", "channels.asks")]


def commands(channel: str, mia: str, sara: str) -> dict[str, tuple[str, dict[str, Any]]]:
    """Each thing one can do by WebSocket, and the cap it needs."""
    return {
        "subscribe": ("subscribe", {"subscribe": {"channel": channel}}),
        "unsubscribe": ("subscribe", {"unsubscribe": {"channel": channel}}),
        "leave": ("subscribe", rpc("channels.kick", id=channel, user=mia)),
        "history": ("history", {"history": {"channel": channel, "limit": 1}}),
        "read": ("history", rpc("read", channel=channel, offset=1)),
        "presence": ("presence", {"presence": {"channel": channel}}),
        "presence_stats": ("presence", {"presence_stats": {"channel": channel}}),
        "subscribers": ("presence", rpc("channels.subscribers", id=channel)),
        "publish": ("publish", {"publish": {"channel": channel, "data": 1}}),
        "rpc publish": ("publish", rpc("publish", channel=channel, data=1)),
        "typing": ("publish", rpc("typing", channel=channel)),
        "create": ("create", rpc("channels.create", name=f"{channel}-new")),
        "ask": ("create", rpc("channels.private", user=sara)),
        "decline": ("create", rpc("channels.decline", user=sara)),
        "roles": ("moderate", rpc("channels.roles", id=channel)),
        "role": ("moderate", rpc("channels.role", id=channel, user=sara, role="muted")),
        "kick": ("moderate", rpc("channels.kick", id=channel, user=sara)),
        "update": ("manage", rpc("channels.update", id=channel, description="new")),
        "delete": ("manage", rpc("channels.delete", id=channel)),
    }


def requests(channel: str, mia: str) -> dict[str, tuple[str, str, str, Any]]:
    """Each thing one can do by HTTP, and the cap it needs."""
    where = f"/api/channels/{channel}"
    return {
        "see": ("subscribe", "GET", where, None),
        "join": ("subscribe", "PUT", f"{where}/subscribers/{mia}", None),
        "leave": ("subscribe", "DELETE", f"{where}/subscribers/{mia}", None),
        "messages": ("history", "GET", f"{where}/messages", None),
        "events": ("history", "GET", f"/api/events?channel={channel}", None),
        "subscribers": ("presence", "GET", f"{where}/subscribers", None),
        "subscriber": ("presence", "GET", f"{where}/subscribers/{mia}", None),
        "publish": ("publish", "POST", f"{where}/messages", {"text": "hi"}),
        "event": ("publish", "POST", "/api/events", {"type": "t", "channel": channel, "payload": 1}),
        "create": ("create", "POST", "/api/channels", {"name": f"{channel}-new"}),
        "roles": ("moderate", "GET", f"{where}/roles", None),
        "role": ("moderate", "PUT", f"{where}/roles/somebody", {"role": "muted"}),
        "update": ("manage", "PATCH", where, {"description": "new"}),
        "delete": ("manage", "DELETE", where, None),
    }


@asynccontextmanager
async def at_home(server: PeykServer, channel: str, mia: str, sara: str) -> AsyncIterator[Talk]:
    """Mia owns the channel and belongs to it, where something was said; Sara asks to talk to her."""
    async with coming(server, mia) as talk, coming(server, sara) as other:
        await got(talk, "channels.create", name=channel)
        assert "subscribe" in await talk.ask(subscribe={"channel": channel})
        assert "publish" in await talk.ask(publish={"channel": channel, "data": "first"})
        await got(other, "channels.private", user=mia)
        yield talk


def narrowed_otherwise(cap: str) -> list[dict[str, Any]]:
    return [{"channels": ["lobby"]}, {"caps": [other for other in CAPS if other != cap]}]


@pytest.mark.parametrize("what", list(commands("", "m", "s")))
async def test_a_command_beyond_the_token_changes_nothing(what: str, server: PeykServer) -> None:
    channel = f"ws-{what.replace(' ', '-').replace('_', '-')}"
    mia, sara = f"{channel}-mia", f"{channel}-sara"
    cap, command = commands(channel, mia, sara)[what]
    async with at_home(server, channel, mia, sara) as home:
        before = await state(home)
        for narrowed in narrowed_otherwise(cap):
            async with coming(server, mia, **narrowed) as talk:
                code, message = await talk.fail(**command)
                assert code == 103 and message.startswith("your token allows"), (narrowed, message)
            assert await state(home) == before, narrowed
        async with coming(server, mia, channels=["dm-*", f"{channel}*"], caps=[cap]) as talk:
            assert "error" not in await talk.ask(**command)


@pytest.mark.parametrize("what", list(requests("", "m")))
async def test_a_request_beyond_the_token_changes_nothing(what: str, server: PeykServer) -> None:
    channel = f"http-{what}"
    mia = f"{channel}-mia"
    cap, method, path, body = requests(channel, mia)[what]

    async def asks(**narrowed: Any) -> httpx.Response:
        headers = {"authorization": f"Bearer {TOKENS.issue(mia, 600, **narrowed)}"}
        return await http.request(method, path, json=body, headers=headers)

    async with (
        at_home(server, channel, mia, f"{channel}-sara") as home,
        httpx.AsyncClient(base_url=server.url, timeout=180, trust_env=False) as http,
    ):
        before = await state(home)
        for narrowed in narrowed_otherwise(cap):
            reply = await asks(**narrowed)
            assert reply.status_code == 403, (narrowed, reply.text)
            assert reply.json()["error"]["message"].startswith("your token allows")
            assert await state(home) == before, narrowed
        assert (await asks(channels=[f"{channel}*"], caps=[cap])).is_success


@pytest.mark.parametrize(
    ("method", "cap", "field"),
    [
        ("subscriptions.list", "subscribe", "channels"),
        ("channels.list", "subscribe", "channels"),
        ("unread", "history", "channels"),
        ("channels.asks", "create", "asks"),
    ],
)
async def test_a_list_shows_what_the_token_is_for(method: str, cap: str, field: str, server: PeykServer) -> None:
    channel = f"list-{method.replace('.', '-')}"
    mia, sara = f"{channel}-mia", f"{channel}-sara"
    params = {"prefix": channel} if method == "channels.list" else {}
    async with at_home(server, channel, mia, sara) as home:
        assert (await got(home, method, **params))[field]
        for narrowed in narrowed_otherwise(cap):
            async with coming(server, mia, **narrowed) as talk:
                assert not (await got(talk, method, **params))[field], narrowed
        async with coming(server, mia, channels=["dm-*", channel], caps=[cap]) as talk:
            assert (await got(talk, method, **params))[field]


async def test_what_a_client_is_subscribed_to_it_may_always_end(server: PeykServer) -> None:
    """The membership is its user's, and stays where the token is not for that."""
    async with at_home(server, "ends", "ends-mia", "ends-sara") as home, coming(server, "ends-mia") as talk:
        assert "subscribe" in await talk.ask(subscribe={"channel": "ends"})
        own = TOKENS.issue("ends-mia", 600, caps=["subscribe"], channels=["lobby"])
        assert "refresh" in await talk.ask(refresh={"token": own})
        await talk.push("unsubscribe")  # it is beyond that token
        assert (await talk.fail(unsubscribe={"channel": "ends"}))[0] == 103
        assert (await got(home, "subscriptions.list"))["channels"] == ["ends"]


async def test_who_came_in_by_a_token_for_the_subscription_leaves_by_it(server: PeykServer) -> None:
    async with at_home(server, "given", "given-mia", "given-sara"), coming(server, "eve", channels=["lobby"]) as talk:
        token = jwt.encode({"sub": "eve", "channel": "given"}, SECRET, algorithm="HS256")
        assert "subscribe" in await talk.ask(subscribe={"channel": "given", "token": token})
        assert (await got(talk, "subscriptions.list"))["channels"] == ["given"]
        assert "unsubscribe" in await talk.ask(unsubscribe={"channel": "given"})
        async with coming(server, "eve") as full:
            assert (await got(full, "subscriptions.list"))["channels"] == []


@pytest.mark.parametrize("role", ["muted", "banned"])
async def test_who_may_do_nothing_else_may_leave(role: str, server: PeykServer) -> None:
    channel, eve = f"leave-{role}", f"leave-{role}-eve"
    async with at_home(server, channel, f"{channel}-mia", f"{channel}-sara") as home, coming(server, eve) as talk:
        for leave in ({"unsubscribe": {"channel": channel}}, rpc("channels.kick", id=channel, user=eve)):
            await got(home, "channels.role", id=channel, user=eve, role="")
            assert "subscribe" in await talk.ask(subscribe={"channel": channel})
            await got(home, "channels.role", id=channel, user=eve, role=role)
            assert "error" not in await talk.ask(**leave)
            assert (await got(talk, "subscriptions.list"))["channels"] == []
            talk.pushes.clear()
            if role == "muted":
                await talk.ask(unsubscribe={"channel": channel})


def test_every_cap_is_tried() -> None:
    tried = {cap for cap, *_ in [*commands("", "m", "s").values(), *requests("", "m").values()]}
    assert tried == set(ACTIONS)
