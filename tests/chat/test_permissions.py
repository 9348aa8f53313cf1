"""Doors × roles × kinds of channel: every door gives the answer of the one function, and of this table."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

import httpx2 as httpx
import jwt
import pytest
from websockets.asyncio.client import connect

from chat.auth import ACTIONS, ALLOWED, KINDS, ROLES, Identity, Policy, Tokens, check
from chat.direct import Direct
from chat.errors import PermissionDenied
from chat.lines import Lines
from chat.models import Channel, User
from chat.node import Node
from chat.settings import ServerSettings
from chat.slash import Slash
from chat.terminal import Terminal
from chat.transcript import View
from chat.words import Words
from tests.chat.conftest import Talk
from tests.services import ROOT, PeykServer, RedisProcess, until

SECRET = "a secret of thirty-two bytes or more"
KEY = "0123456789abcdef"
TOKENS = Tokens(SECRET)

READ, WRITE = {"subscribe", "history", "presence"}, {"subscribe", "history", "presence", "publish"}
MAY = {
    "public": {"stranger": WRITE, "member": WRITE, "muted": READ},
    "private": {"stranger": set(), "member": WRITE, "muted": set()},
    "read-only": {"stranger": READ, "member": READ, "muted": READ},
}
for roles in MAY.values():
    roles["banned"], roles["muted member"] = set(), READ
    roles["program"], roles["muted program"] = WRITE, READ
    roles["moderator"] = WRITE | {"moderate"}
    roles["owner"] = roles["admin"] = WRITE | {"moderate", "manage"}
    roles["granted"] = roles["member"]  # a stranger with a token for the subscription

COMING = [role for role in ROLES if role != "muted program"]  # who speaks by a muted name: tests/chat/test_speaking.py


def may(kind: str, role: str, action: str) -> bool:
    return action in MAY[kind][role]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("role", [*ROLES, "granted"])
def test_the_function_says_what_the_table_says(kind: str, role: str) -> None:
    given = {name: name for name in ("member", "moderator", "muted", "banned")}
    policy = Policy(kind, "owner", given | {"muted-member": "muted member", "muted-program": "muted"})
    identity = Identity(User.named(user_of(role)), admin=role == "admin", program=role.endswith("program"))
    for action in set(ACTIONS) - {"create"}:
        try:
            check(identity, action, "c", policy, granted=role == "granted")
            allowed = True
        except PermissionDenied:
            allowed = False
        assert allowed is may(kind, role, action), action


def test_the_table_in_the_docs_is_the_table() -> None:
    words = {"reads": READ, "writes": {"publish", "create"}, "moderates": {"moderate"}, "manages": {"manage"}}
    text = (ROOT / "docs" / "security.md").read_text().partition("## Roles and kinds")[2]
    head, _, *rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    assert (head, [row[0] for row in rows]) == (["role", *ALLOWED], list(map(str, ROLES)))
    for role, *cells in rows:
        for kind, cell in zip(ALLOWED, cells, strict=True):
            said = set[str]().union(*(words[word] for word in cell.split(", ") if word != "nothing"))
            assert said == ALLOWED[kind][role], (role, kind)


# -- on a running server


@pytest.fixture(scope="module")
def server(redis_of_module: RedisProcess) -> Iterator[PeykServer]:
    env = {"REDIS_URL": redis_of_module.url, "AUTH_SECRET": SECRET, "API_KEY": KEY, "GUESTS": "no"}
    with PeykServer(env) as server:
        yield server


def user_of(role: str) -> str:
    """The name of who has a role."""
    return role.replace(" ", "-")


def credentials(role: str) -> dict[str, str]:
    if role == "program":
        return {"x-api-key": KEY}
    return {"authorization": f"Bearer {TOKENS.issue(user_of(role), 600, admin=role == 'admin')}"}


def subscription(user: str, channel: str) -> str:
    """A token for one subscription."""
    claims = {"sub": user, "channel": channel, "exp": int(time.time()) + 600}
    return jwt.encode(claims, SECRET, algorithm="HS256")


@pytest.fixture
async def http(server: PeykServer) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=180) as client:
        yield client


@asynccontextmanager
async def talk_as(server: PeykServer, user: str) -> AsyncIterator[Talk]:
    async with connect(server.ws_url, proxy=None) as socket:
        talk = Talk(socket)
        token = TOKENS.issue(user_of(user), 600, admin=user == "admin")
        assert "connect" in await talk.ask(connect={"token": token})
        yield talk


async def made(http: httpx.AsyncClient, kind: str, name: str) -> str:
    """A channel of a kind, with an owner and one user of each role; its id."""
    body = {"name": name, "kind": kind}
    reply = await http.post("/api/channels", json=body, headers=credentials("owner"))
    assert reply.status_code in (201, 409), reply.text
    given = [(role, role) for role in ("member", "moderator", "muted", "banned")]
    for user, role in [*given, ("muted-member", "member"), ("muted-member", "muted")]:
        path = f"/api/channels/{name}/roles/{user}"
        assert (await http.put(path, json={"role": role}, headers=credentials("owner"))).status_code == 200
    post = await http.post(f"/api/channels/{name}/messages", json={"text": "first"}, headers=credentials("owner"))
    assert post.status_code == 201, post.text
    return name


HTTP_DOORS = [
    ("subscribe", "GET", "", None, {}),
    ("history", "GET", "/messages", None, {}),
    ("history", "GET", "/messages", None, {"accept": "application/x-ndjson"}),
    ("presence", "GET", "/subscribers", None, {}),
    ("presence", "GET", "/subscribers/someone", None, {}),
    ("publish", "POST", "/messages", {"text": "x"}, {}),
    ("moderate", "GET", "/roles", None, {}),
    ("moderate", "PUT", "/roles/someone", {"role": "member"}, {}),
    ("moderate", "DELETE", "/roles/someone", None, {}),
    ("manage", "PUT", "/roles/somebody", {"role": "moderator"}, {}),
    ("manage", "DELETE", "/roles/somebody", None, {}),
    ("manage", "PATCH", "", {"description": "x"}, {}),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("role", COMING)
async def test_http_doors(http: httpx.AsyncClient, kind: str, role: str) -> None:
    channel = await made(http, kind, f"http-{kind}")
    for action, method, path, body, headers in HTTP_DOORS:
        url = f"/api/channels/{channel}{path}"
        if path.startswith("/roles/somebody") and method == "DELETE":
            await http.put(url, json={"role": "moderator"}, headers=credentials("owner"))
        reply = await http.request(method, url, json=body, headers=headers | credentials(role))
        assert (reply.status_code < 300) is may(kind, role, action), (action, method, path, reply.text)
        assert reply.status_code < 300 or reply.status_code == 403
    listed = [c["id"] for c in (await http.get("/api/channels", headers=credentials(role))).json()]
    assert (channel in listed) is may(kind, role, "subscribe")
    events = {"accept": "text/event-stream"} | credentials(role)
    async with http.stream("GET", f"/api/channels/{channel}/messages", headers=events) as stream:
        assert (stream.status_code == 200) is may(kind, role, "history")
    mine = await http.put(f"/api/channels/{channel}/subscribers/{user_of(role)}", headers=credentials(role))
    assert (mine.status_code < 300) is may(kind, role, "subscribe")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("role", COMING)
async def test_the_doors_of_events(http: httpx.AsyncClient, kind: str, role: str) -> None:
    channel = await made(http, kind, f"events-{kind}")
    event, id = {"type": "t", "channel": channel, "payload": 1}, f"first-{kind}"
    await http.post("/api/events", json={**event, "id": id}, headers=credentials("owner"))

    async def stored() -> bool:
        return (await http.get(f"/api/events/{id}", headers=credentials("owner"))).status_code == 200

    await until(stored)
    for action, method, path, body in (
        ("publish", "POST", "/api/events", event),
        ("publish", "POST", "/api/events", [event, event]),
        ("history", "GET", f"/api/events?channel={channel}", None),
        ("history", "GET", f"/api/events/{id}", None),
    ):
        reply = await http.request(method, path, json=body, headers=credentials(role))
        assert (reply.status_code < 300) is may(kind, role, action), (action, method, path, reply.text)
        hidden = 404 if path.endswith(id) else 403  # an id can be guessed, and says that there is an event, and where
        assert reply.status_code < 300 or reply.status_code == hidden


SOCKET_DOORS: list[tuple[str, Callable[[str], dict[str, Any]]]] = [
    ("subscribe", lambda c: {"subscribe": {"channel": c}}),
    ("subscribe", lambda c: {"subscribe": {"channel": c, "recover": True, "epoch": "x", "offset": 1}}),
    ("publish", lambda c: {"publish": {"channel": c, "data": 1}}),
    ("publish", lambda c: {"rpc": {"method": "publish", "data": {"channel": c, "data": 1}}}),
    ("history", lambda c: {"history": {"channel": c, "limit": 10}}),
    ("publish", lambda c: {"rpc": {"method": "typing", "data": {"channel": c}}}),
    ("history", lambda c: {"rpc": {"method": "read", "data": {"channel": c, "offset": 1}}}),
    ("presence", lambda c: {"rpc": {"method": "channels.subscribers", "data": {"id": c}}}),
    ("presence", lambda c: {"presence": {"channel": c}}),
    ("presence", lambda c: {"presence_stats": {"channel": c}}),
    ("moderate", lambda c: {"rpc": {"method": "channels.roles", "data": {"id": c}}}),
    ("moderate", lambda c: {"rpc": {"method": "channels.role", "data": {"id": c, "user": "x", "role": "muted"}}}),
    ("moderate", lambda c: {"rpc": {"method": "channels.kick", "data": {"id": c, "user": "x"}}}),
    ("manage", lambda c: {"rpc": {"method": "channels.role", "data": {"id": c, "user": "y", "role": "moderator"}}}),
    ("manage", lambda c: {"rpc": {"method": "channels.kick", "data": {"id": c, "user": "y"}}}),
    ("manage", lambda c: {"rpc": {"method": "channels.update", "data": {"id": c, "description": "x"}}}),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("role", [*(role for role in COMING if role != "program"), "granted"])
async def test_socket_doors(http: httpx.AsyncClient, server: PeykServer, kind: str, role: str) -> None:
    channel = await made(http, kind, f"socket-{kind}")
    async with talk_as(server, role) as talk:
        for action, command in SOCKET_DOORS:
            if '"y"' in str(command(channel)).replace("'", '"') and "kick" in str(command(channel)):
                await http.put(
                    f"/api/channels/{channel}/roles/y", json={"role": "moderator"}, headers=credentials("owner")
                )
                await _knows(http, channel, "y", "moderator")
            asked = command(channel)
            if "subscribe" in asked:
                await talk.ask(unsubscribe={"channel": channel})
                asked["subscribe"] |= {"token": subscription("granted", channel)} if role == "granted" else {}
            reply = await talk.ask(**asked)
            assert ("error" not in reply) is may(kind, role, action), (action, reply)
            assert "error" not in reply or reply["error"]["code"] == 103
        listed = (await talk.ask(rpc={"method": "channels.list"}))["rpc"]["data"]["channels"]
        assert (channel in [c["id"] for c in listed]) is may(kind, role, "subscribe")


async def _knows(http: httpx.AsyncClient, channel: str, user: str, role: str) -> None:
    async def so() -> bool:
        given = (await http.get(f"/api/channels/{channel}/roles", headers=credentials("owner"))).json()
        return {"user": user, "role": role} in given

    await until(so)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("role", ["owner", "moderator", "member", "muted", "muted member", "banned", "stranger"])
async def test_the_terminal_door(http: httpx.AsyncClient, redis_of_module: RedisProcess, kind: str, role: str) -> None:
    channel = await made(http, kind, f"terminal-{kind}")
    lines: list[str] = []
    async with Node(ServerSettings(redis_url=redis_of_module.url, _env_file=None), "tool") as node:
        face = Lines(lines.append, Words())
        terminal = face.terminal = Terminal(Direct(node, User.named(user_of(role))), face, Words())
        slash = Slash(terminal)
        await slash.enter(f"/join {channel}")
        assert (f"* joined {channel}" in lines) is may(kind, role, "subscribe"), lines
        terminal.current = terminal.current or View(Channel(channel, channel))
        lines.clear()
        await slash.enter("hello")
        await terminal.outbox.settled()
        assert (not [line for line in lines if line.startswith("!")]) is may(kind, role, "publish"), lines
        lines.clear()
        await slash.enter("/channels")
        assert bool([line for line in lines if channel in line]) is may(kind, role, "subscribe")
        await terminal.close()


async def test_deleting_is_the_owners(http: httpx.AsyncClient, server: PeykServer) -> None:
    for kind in KINDS:
        for role in COMING:
            channel = await made(http, kind, f"delete-{kind}-{user_of(role)}")
            reply = await http.delete(f"/api/channels/{channel}", headers=credentials(role))
            assert (reply.status_code == 204) is may(kind, role, "manage"), (kind, role)


# -- what changes takes effect at once


async def code_of(talk: Talk) -> int:
    code: int = (await talk.push("unsubscribe"))["unsubscribe"]["code"]
    return code


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (("PUT", "/roles/reza", {"role": "banned"}), 2001),
        (("PATCH", "", {"kind": "private"}), 2001),
        (("DELETE", "/subscribers/reza", None), 2002),
    ],
)
async def test_who_may_no_longer_read_hears_nothing_more(
    http: httpx.AsyncClient, server: PeykServer, redis_of_module: RedisProcess, change: Any, code: int
) -> None:
    method, path, body = change
    channel = await made(http, "public", f"change-{code}-{method.lower()}")
    env = {"REDIS_URL": redis_of_module.url, "AUTH_SECRET": SECRET, "GUESTS": "no"}
    with PeykServer(env) as other:
        async with talk_as(other, "reza") as reza, talk_as(server, "owner") as owner:
            await reza.ask(subscribe={"channel": channel})
            await owner.ask(subscribe={"channel": channel})
            follow = http.stream(
                "GET",
                f"/api/channels/{channel}/messages",
                headers={"accept": "text/event-stream"} | credentials("reza"),
            )
            async with follow as stream:
                assert stream.status_code == 200
                url = f"/api/channels/{channel}{path}"
                done = await http.request(method, url, json=body, headers=credentials("owner"))
                assert done.status_code < 300, done.text
                assert await code_of(reza) == code
                async with asyncio.timeout(180):
                    async for _ in stream.aiter_raw():  # ends
                        pass
            await owner.ask(publish={"channel": channel, "data": "secret"})
            await owner.texts(1)
            reply = await reza.ask(subscribe={"channel": channel})
            assert ("error" in reply) is (code == 2001)
            assert "secret" not in str(reza.pushes)


async def test_who_is_muted_reads_on(http: httpx.AsyncClient, server: PeykServer) -> None:
    channel = await made(http, "public", "mute")
    async with talk_as(server, "reza") as reza, talk_as(server, "moderator") as moderator:
        await reza.ask(subscribe={"channel": channel})
        assert "publish" in await reza.ask(publish={"channel": channel, "data": 1})
        await moderator.ask(rpc={"method": "channels.role", "data": {"id": channel, "user": "reza", "role": "muted"}})

        async def muted() -> bool:
            return "error" in await reza.ask(publish={"channel": channel, "data": 2})

        await until(muted)
        await moderator.ask(publish={"channel": channel, "data": 3})
        await until(_heard(reza, 3))


def _heard(talk: Talk, data: object) -> Callable[[], Awaitable[bool]]:
    async def heard() -> bool:
        await talk.ask(ping={})
        return any(p.get("pub", {}).get("data") == data for p in talk.pushes)

    return heard


async def test_moderators_do_not_judge_moderators(http: httpx.AsyncClient, server: PeykServer) -> None:
    channel = await made(http, "public", "judge")
    for path, body in (("/roles/owner", {"role": "banned"}), ("/roles/moderator", {"role": "member"})):
        reply = await http.put(f"/api/channels/{channel}{path}", json=body, headers=credentials("moderator"))
        assert reply.status_code == 403
    crown = await http.put(f"/api/channels/{channel}/roles/x", json={"role": "king"}, headers=credentials("owner"))
    assert crown.status_code == 400 and "a role is one of member" in crown.json()["error"]["message"]


async def test_a_channel_that_is_there_does_not_change_hands(http: httpx.AsyncClient) -> None:
    """A program's publish made it: nobody owns it, and whoever wants to make it again is told so, and no more."""
    posted = await http.post("/api/channels/orders/messages", json={"text": "x"}, headers=credentials("program"))
    assert posted.status_code == 201
    before = (await http.get("/api/channels/orders", headers=credentials("member"))).json()
    assert (before["owner"], before["kind"]) == ("", "public")
    body = {"name": "orders", "kind": "private", "description": "mine"}
    assert (await http.post("/api/channels", json=body, headers=credentials("stranger"))).status_code == 409
    assert (await http.get("/api/channels/orders", headers=credentials("member"))).json() == before


@pytest.mark.parametrize("spelling", ["cafe\u200c\u0301", "CAFE\u200c\u0301", "cafe\u0301"])
async def test_no_spelling_goes_round_a_door(http: httpx.AsyncClient, spelling: str) -> None:
    body = {"name": "café", "kind": "private"}
    await http.post("/api/channels", json=body, headers=credentials("owner"))  # of the first of these tests
    place, nobody = f"/api/channels/{quote(spelling)}", credentials("stranger")
    for method, path, json in (
        ("GET", "", None),
        ("GET", "/messages", None),
        ("GET", "/subscribers", None),
        ("PUT", "/subscribers/stranger", None),
        ("PATCH", "", {"description": "hacked"}),
        ("DELETE", "", None),
    ):
        reply = await http.request(method, place + path, json=json, headers=nobody)
        expected = 400 if "\u200c" in spelling else 403  # a joiner stands between letters only: that is no name
        assert reply.status_code == expected, (method, path, reply.text)


async def test_guests_on_a_network_are_nobody(redis_of_module: RedisProcess) -> None:
    """They may not do more than who signed in, nor act for people whose names come with tokens."""
    env = {"REDIS_URL": redis_of_module.url, "AUTH_SECRET": SECRET, "GUESTS": "yes"}
    with PeykServer(env) as open_server:
        async with httpx.AsyncClient(base_url=open_server.url, trust_env=False) as http:
            assert (await http.post("/api/channels/square/messages", json={"text": "x"})).status_code == 201
            await http.put("/api/channels/square/subscribers/stranger", headers=credentials("stranger"))
            for headers in ({}, credentials("stranger")):
                assert (await http.delete("/api/channels/square", headers=headers)).status_code == 403
            for method in ("PUT", "DELETE"):
                reply = await http.request(method, "/api/channels/square/subscribers/stranger")
                assert reply.status_code == 403 and "begins with guest-" in reply.text
            assert (await http.get("/api/channels/square/subscribers")).json() == ["stranger"]
            belong = await http.put("/api/channels/square/subscribers/guest-1")
            assert belong.status_code == 403 and "leave nothing behind" in belong.text


async def test_guests_own_nothing(redis_of_module: RedisProcess) -> None:
    with PeykServer({"REDIS_URL": redis_of_module.url}) as open_server:
        async with httpx.AsyncClient(base_url=open_server.url, trust_env=False) as http:
            private = await http.post("/api/channels", json={"name": "mine", "kind": "private"})
            assert private.status_code == 400 and "sign in first" in private.json()["error"]["message"]
            odd = await http.post("/api/channels", json={"name": "mine", "kind": "secret"})
            assert odd.status_code == 400 and "public, private, read-only" in odd.json()["error"]["message"]
            assert (await http.post("/api/channels", json={"name": "ours"})).json()["owner"] == ""
            assert (await http.patch("/api/channels/ours", json={"kind": "private"})).status_code == 400
            assert (await http.patch("/api/channels/ours", json={"description": "all's"})).status_code == 200
            assert (await http.delete("/api/channels/ours")).status_code == 204
