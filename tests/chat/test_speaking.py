"""Who speaks: the name that is spoken for is judged at every door; a role gives, or takes, what its name says."""

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx2 as httpx
import pytest
from websockets.asyncio.client import connect

from chat.auth import KINDS
from tests.chat.conftest import Talk
from tests.chat.test_permissions import KEY, READ, SECRET, SOCKET_DOORS, WRITE, credentials, made, may, talk_as
from tests.services import PeykServer, RedisProcess, until

GIVEN = ("member", "moderator", "muted", "muted member", "banned")
NAMES = [*GIVEN, "owner", "stranger"]  # by their role


@pytest.fixture(scope="module")
def server(redis_of_module: RedisProcess) -> Iterator[PeykServer]:
    env = {"REDIS_URL": redis_of_module.url, "AUTH_SECRET": SECRET, "API_KEY": KEY, "GUESTS": "yes"}
    with PeykServer(env | {"REGISTRATION": "yes"}) as server:
        yield server


@pytest.fixture
async def http(server: PeykServer) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=180) as client:
        yield client


def guest(role: str) -> str:
    return "guest-" + role.replace(" ", "-")


async def give(http: httpx.AsyncClient, channel: str, user: str, *roles: str) -> None:
    for role in roles:
        path = f"/api/channels/{channel}/roles/{user}"
        assert (await http.put(path, json={"role": role}, headers=credentials("owner"))).status_code == 200


async def peopled(http: httpx.AsyncClient, kind: str, name: str) -> str:
    """A channel in which guests' names have roles as well."""
    if (there := await http.get(f"/api/channels/{name}", headers=credentials("owner"))).status_code == 200:
        assert there.json()["kind"] == kind
        return name
    channel = await made(http, kind, name)
    for role in GIVEN:
        await give(http, channel, guest(role), *role.split()[::-1])
    return channel


async def deny(http: httpx.AsyncClient, channel: str, name: str, headers: dict[str, str]) -> list[tuple[str, int]]:
    """What each door of HTTP answers to who speaks by a name."""
    event = {"type": "t", "channel": channel, "payload": 1, "user": name}
    lines = {"content": json.dumps(event) + "\n", "headers": headers | {"content-type": "application/x-ndjson"}}
    asked: list[tuple[str, str, str, dict[str, Any]]] = [
        ("publish", "POST", f"/api/channels/{channel}/messages", {"json": {"text": "x", "user": name}}),
        ("publish", "POST", "/api/events", {"json": event}),
        ("publish", "POST", "/api/events", {"json": [event]}),
        ("publish", "POST", "/api/events", lines),
        ("subscribe", "PUT", f"/api/channels/{channel}/subscribers/{name}", {}),
        ("subscribe", "DELETE", f"/api/channels/{channel}/subscribers/{name}", {}),
    ]
    replies = []
    for action, method, path, more in asked:
        reply = await http.request(method, path, **{"headers": headers, **more})
        replies.append((action, reply.status_code))
        if reply.status_code == 403 and name.endswith(("banned", "muted")):
            assert any(word in reply.text for word in (" is banned in ", " is muted in ", "not for a", "guests belong"))
    return replies


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("role", NAMES)
async def test_a_program_speaks_for_nobody_who_may_not(http: httpx.AsyncClient, kind: str, role: str) -> None:
    channel = await peopled(http, kind, f"program-{kind}")
    allowed = set() if role == "banned" else READ if role.startswith("muted") else WRITE
    for name in (role.replace(" ", "-"), role.replace(" ", "-").upper(), guest(role)):
        for action, status in await deny(http, channel, name, {"x-api-key": KEY}):
            assert status in ((200, 201, 202, 204) if action in allowed else (403,)), (name, action, status)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("role", NAMES)
async def test_a_guest_only_loses_by_a_name(http: httpx.AsyncClient, kind: str, role: str) -> None:
    channel = await peopled(http, kind, f"guests-{kind}")
    standing = role if role in ("banned", "muted") else "muted" if role == "muted member" else "stranger"
    for name in (guest(role), guest(role).title()):
        replies = await deny(http, channel, name, {})
        assert replies.pop(-2) == ("subscribe", 403)  # PUT: a guest of a network belongs nowhere
        for action, status in replies:
            assert (status < 300) is may(kind, standing, action), (name, action, status)
            assert status < 300 or status == 403


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("role", ["member", "muted", "muted member", "banned", "stranger"])
@pytest.mark.parametrize("who", ["guest", "account"])
async def test_a_connection_is_judged_by_its_name(
    http: httpx.AsyncClient, server: PeykServer, kind: str, role: str, who: str
) -> None:
    channel = await peopled(http, kind, f"{who}s-{kind}")
    user, cookie, standing = guest(role), {}, role
    if who == "account":
        user = f"{kind}-{role}".replace(" ", "-")
        new = await http.post("/api/accounts", json={"username": user, "password": "a long password"})
        assert new.status_code == 201, new.text
        cookie = {"cookie": f"peyk={http.cookies['peyk']}"}
        await give(http, channel, user, *(role.split()[::-1] if role != "stranger" else ()))
    else:
        standing = {"member": "stranger", "muted member": "muted"}.get(role, role)
    async with connect(server.ws_url, proxy=None, additional_headers=cookie) as socket:
        talk = Talk(socket)
        assert "connect" in await talk.ask(connect={"data": {"user": user}})
        for action, command in SOCKET_DOORS:
            asked = command(channel)
            if "subscribe" in asked:
                await talk.ask(unsubscribe={"channel": channel})
            reply = await talk.ask(**asked)
            assert ("error" not in reply) is may(kind, standing, action), (action, reply)
            assert "error" not in reply or reply["error"]["code"] == 103


async def test_whom_one_names_is_oneself_for_who_is_known(http: httpx.AsyncClient) -> None:
    channel = await peopled(http, "public", "selves")
    for name, status in (("member", 201), ("MEMBER", 201), ("stranger", 403), ("guest-stranger", 403)):
        body = {"text": "x", "user": name}
        reply = await http.post(f"/api/channels/{channel}/messages", json=body, headers=credentials("member"))
        assert reply.status_code == status, name


async def test_a_program_that_names_nobody_is_judged_by_its_own_name(http: httpx.AsyncClient) -> None:
    channel = await made(http, "public", "robots")
    path, key = f"/api/channels/{channel}/messages", {"x-api-key": KEY}
    assert (await http.post(path, json={"text": "x"}, headers=key)).status_code == 201
    await give(http, channel, "api", "muted")
    refused = await http.post(path, json={"text": "x"}, headers=key)
    assert refused.status_code == 403 and "api is muted in robots" in refused.text
    assert (await http.get(path, headers=key)).status_code == 200


async def test_a_mute_gives_nothing_when_a_channel_becomes_private(http: httpx.AsyncClient, server: PeykServer) -> None:
    """Who was no member reads no longer; who was one reads on, and speaks again when the mute is taken back."""
    channel = await made(http, "public", "closing")
    await give(http, channel, "passing", "muted")
    await give(http, channel, "reza", "member", "muted")
    await give(http, channel, "mina", "moderator", "muted")
    async with talk_as(server, "passing") as passing, talk_as(server, "reza") as reza:
        for talk in (passing, reza):
            assert "subscribe" in await talk.ask(subscribe={"channel": channel})
        body = {"kind": "private"}
        await http.patch(f"/api/channels/{channel}", json=body, headers=credentials("owner"))
        assert (await passing.push("unsubscribe"))["unsubscribe"]["code"] == 2001
        for command in ({"subscribe": {"channel": channel}}, {"history": {"channel": channel}}):
            assert (await passing.fail(**command))[0] == 103
        assert "history" in await reza.ask(history={"channel": channel})
        assert (await reza.fail(publish={"channel": channel, "data": 1}))[0] == 103
        await give(http, channel, "reza", "member")

        async def speaks() -> bool:
            return "publish" in await reza.ask(publish={"channel": channel, "data": 1})

        await until(speaks)
    page = await http.get(f"/api/channels/{channel}/messages", headers=credentials("mina"))
    assert page.status_code == 200  # a moderator is a member, too
    role = await http.get(f"/api/channels/{channel}/roles", headers=credentials("mina"))
    assert role.status_code == 403
    listed = (await http.get(f"/api/channels/{channel}/roles", headers=credentials("owner"))).json()
    assert {"user": "mina", "role": "muted"} in listed
