"""The doors of running servers: tokens over WebSocket and HTTP, refreshed, expired, revoked; guests and programs."""

import asyncio
import secrets
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx2 as httpx
import jwt
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from chat.auth import Identity, Tokens
from chat.node import Node
from chat.settings import ServerSettings
from tests.chat.conftest import Talk
from tests.services import PeykServer, RedisProcess, run_app

SECRET = "a secret of thirty-two bytes or more"


KEY, SCOPED = "0123456789abcdef", "fedcba9876543210"


TOKENS = Tokens(SECRET)


@pytest.fixture(scope="module")
def environment(redis_of_module: RedisProcess) -> dict[str, str]:
    keys = f"{KEY},{SCOPED}=news.*"
    return {"REDIS_URL": redis_of_module.url, "AUTH_SECRET": SECRET, "API_KEY": keys, "GUESTS": "no"}


@pytest.fixture(scope="module")
def server(environment: dict[str, str]) -> Iterator[PeykServer]:
    with PeykServer(environment) as server:
        yield server


@pytest.fixture(scope="module")
def other(environment: dict[str, str]) -> Iterator[PeykServer]:
    with PeykServer(environment) as server:
        yield server


@pytest.fixture
async def socket(server: PeykServer) -> AsyncIterator[ClientConnection]:
    async with connect(server.ws_url, proxy=None) as socket:
        yield socket


@pytest.fixture
def talk(socket: ClientConnection) -> Talk:
    return Talk(socket)


def token(user: str = "Sara", ttl: int = 60, **claims: Any) -> str:
    return TOKENS.issue(user, ttl, **claims)


async def closed(talk: Talk) -> int:
    """The code the server closes with."""
    async with asyncio.timeout(180):
        while True:
            try:
                await talk.read()
            except ConnectionClosed:
                return talk.socket.close_code or 0


async def test_a_token_says_who_it_is(talk: Talk) -> None:
    reply = (await talk.ask(connect={"token": token(), "data": {"user": "somebody-else"}}))["connect"]
    assert reply["data"] == {"user": "Sara", "guest": False} and reply["expires"] and 55 <= reply["ttl"] <= 60
    await talk.ask(subscribe={"channel": "who"})
    await talk.ask(publish={"channel": "who", "data": 1})
    assert (await talk.push("pub"))["pub"]["info"]["user"] == "Sara"


@pytest.mark.parametrize(
    ("given", "code", "says"),
    [
        ({}, 101, "guests are not let in"),
        ({"data": {"user": "sara"}}, 101, "guests are not let in"),
        ({"token": "garbage"}, 101, "not valid"),
        ({"token": TOKENS.issue("sara", -60)}, 109, "expired"),
    ],
)
async def test_who_is_not_let_in(talk: Talk, given: dict[str, Any], code: int, says: str) -> None:
    failed = await talk.fail(connect=given)
    assert failed[0] == code and says in failed[1]
    assert (await talk.fail(subscribe={"channel": "who"}))[0] == 107
    assert "connect" in await talk.ask(connect={"token": token()})  # a better one is taken


async def test_a_token_opens_only_what_it_names(talk: Talk) -> None:
    await talk.ask(connect={"token": token(channels=["news.*"], caps=["subscribe", "history"])})
    assert "subscribe" in await talk.ask(subscribe={"channel": "news.world"})
    for command in (
        {"subscribe": {"channel": "general"}},
        {"publish": {"channel": "news.world", "data": 1}},
        {"rpc": {"method": "publish", "data": {"channel": "news.world", "data": 1}}},
        {"rpc": {"method": "channels.create", "data": {"name": "news.more"}}},
        {"rpc": {"method": "channels.delete", "data": {"id": "news.world"}}},
        {"rpc": {"method": "channels.update", "data": {"id": "news.world", "description": "x"}}},
        {"history": {"channel": "general"}},
        {"presence": {"channel": "news.world"}},
        {"presence_stats": {"channel": "news.world"}},
    ):
        assert (await talk.fail(**command))[0] == 103, command
    listed = (await talk.ask(rpc={"method": "channels.list"}))["rpc"]["data"]["channels"]
    assert [channel["id"] for channel in listed] == ["news.world"]


async def test_what_a_token_says_of_its_owner_is_shown_in_presence(talk: Talk) -> None:
    claims = {"sub": "Sara", "info": {"name": "سارا", "team": 3}}
    await talk.ask(connect={"token": jwt.encode(claims, SECRET, algorithm="HS256")})
    await talk.ask(subscribe={"channel": "shown"})
    while not (clients := (await talk.ask(presence={"channel": "shown"}))["presence"]["presence"]):
        pass
    (client,) = clients.values()
    assert client["user"] == "Sara" and client["conn_info"] == {"name": "سارا", "team": 3}


async def test_a_tokens_info_has_a_limit(talk: Talk) -> None:
    claims = {"sub": "Sara", "info": "x" * 1023}  # with its quotes one too many
    code, text = await talk.fail(connect={"token": jwt.encode(claims, SECRET, algorithm="HS256")})
    assert code == 101 and "at most 1024 bytes" in text


async def test_an_expired_connection_is_closed_unless_it_refreshes(server: PeykServer) -> None:
    async with connect(server.ws_url, proxy=None) as one, connect(server.ws_url, proxy=None) as two:
        stays, goes = Talk(one), Talk(two)
        await stays.ask(connect={"token": token(ttl=1)})
        await goes.ask(connect={"token": token(ttl=1)})
        assert (await stays.fail(refresh={"token": token("reza")}))[1].startswith("this token is reza's")
        refreshed = (await stays.ask(refresh={"token": token(ttl=60)}))["refresh"]
        assert refreshed["expires"] and refreshed["ttl"] > 50
        assert await closed(goes) == 3005
        assert "ping" in await stays.ask(ping={})


async def test_a_narrower_token_ends_what_it_does_not_allow(talk: Talk, http: httpx.AsyncClient) -> None:
    await talk.ask(connect={"token": token(channels=["wide", "narrow"])})
    for channel in ("wide", "narrow"):
        assert "subscribe" in await talk.ask(subscribe={"channel": channel})
    assert "refresh" in await talk.ask(refresh={"token": token(channels=["narrow"])})
    ended = await talk.push("unsubscribe")
    assert ended["channel"] == "wide" and ended["unsubscribe"]["code"] == 2001
    for channel in ("wide", "narrow"):
        path = f"/api/channels/{channel}/messages"
        assert (await http.post(path, json={"text": "x"}, headers=bearer(token()))).status_code == 201
    assert (await talk.push("pub"))["channel"] == "narrow"


def grant(user: str, channel: str, ttl: int = 60, **claims: Any) -> str:
    """A token for one subscription."""
    return jwt.encode({"sub": user, "channel": channel, "exp": int(time.time()) + ttl, **claims}, SECRET, "HS256")


@pytest.fixture
async def private(server: PeykServer) -> str:
    """A new private channel of somebody else."""
    name = f"private-{secrets.token_hex(4)}"
    async with httpx.AsyncClient(base_url=server.url, trust_env=False) as http:
        reply = await http.post("/api/channels", json={"name": name, "kind": "private"}, headers=bearer(token("owner")))
        assert reply.status_code == 201, reply.text
    return name


@pytest.mark.parametrize("by", ["user", "token"])
async def test_a_revoked_client_goes_on_every_node(
    server: PeykServer, other: PeykServer, environment: dict[str, str], by: str
) -> None:
    name, bystander = f"bad-{by}", token(f"good-{by}")
    bad = token(name)
    words = [name] if by == "user" else ["--token", TOKENS.identify(bad).token]
    async with (
        connect(server.ws_url, proxy=None) as a,
        connect(other.ws_url, proxy=None) as b,
        connect(other.ws_url, proxy=None) as c,
    ):
        one, two, good = Talk(a), Talk(b), Talk(c)
        await one.ask(connect={"token": bad})
        await two.ask(connect={"token": bad})
        await good.ask(connect={"token": bystander})
        done = await asyncio.to_thread(run_app, "revoke", *words, **environment)
        assert done.returncode == 0, done.stderr
        assert await closed(one) == await closed(two) == 3500
        assert "rpc" in await good.ask(rpc={"method": "subscriptions.list"})
    async with connect(other.ws_url, proxy=None) as again:
        assert "revoked" in (await Talk(again).fail(connect={"token": bad}))[1]


async def test_a_program_is_not_the_person_of_its_name(environment: dict[str, str]) -> None:
    settings = ServerSettings(redis_url=environment["REDIS_URL"], api_key=KEY, _env_file=None)
    async with Node(settings, "tool") as node:
        program = node.doors.by_key(KEY)
        await node.doors.revoke(user=program.user.username)
        assert not node.doors.revoked(program)
        assert node.doors.revoked(Identity(program.user))


async def test_a_node_ends_in_the_very_moment_it_looks_again(redis_of_module: RedisProcess) -> None:
    """redis-py may keep a cancellation to itself; what lasts must not wait for it."""
    for _ in range(20):
        async with asyncio.timeout(180):
            async with Node(ServerSettings(redis_url=redis_of_module.url, _env_file=None), "tool") as node:
                await node.doors.revoke(user="nobody")


# -- HTTP


@pytest.fixture
async def http(server: PeykServer) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=server.url, trust_env=False) as client:
        yield client


def bearer(value: str) -> dict[str, str]:
    return {"authorization": f"Bearer {value}"}


MESSAGES = "/api/channels/news.world/messages"


async def test_http_by_token(http: httpx.AsyncClient) -> None:
    said = await http.post(MESSAGES, json={"text": "hi"}, headers=bearer(token()))
    assert said.status_code == 201
    page = (await http.get(MESSAGES, headers=bearer(token()))).json()
    assert page["publications"][-1]["info"]["user"] == "Sara"
    forged = await http.post(MESSAGES, json={"text": "hi", "user": "reza"}, headers=bearer(token()))
    assert forged.status_code == 403 and "you are Sara" in forged.json()["error"]["message"]
    other = await http.put("/api/channels/news.world/subscribers/reza", headers=bearer(token()))
    assert other.status_code == 403
    narrow = bearer(token(channels=["sport"], caps=["history"]))
    assert (await http.get(MESSAGES, headers=narrow)).status_code == 403


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/channels"),
        ("POST", "/api/channels"),
        ("GET", "/api/channels/news.world"),
        ("PATCH", "/api/channels/news.world"),
        ("DELETE", "/api/channels/news.world"),
        ("GET", "/api/channels/news.world/subscribers"),
        ("GET", "/api/channels/news.world/subscribers/sara"),
        ("PUT", "/api/channels/news.world/subscribers/sara"),
        ("DELETE", "/api/channels/news.world/subscribers/sara"),
        ("POST", MESSAGES),
        ("GET", MESSAGES),
        ("GET", "/api/session"),
    ],
)
async def test_no_door_is_open_to_nobody(http: httpx.AsyncClient, method: str, path: str) -> None:
    body = {"name": "x"} if method in ("POST", "PATCH") else None
    for headers in ({}, bearer("garbage"), {"x-api-key": "garbage"}, {"authorization": "Basic c2FyYTp4"}):
        reply = await http.request(method, path, headers=headers, json=body)
        assert reply.status_code == 401, (headers, reply.text)
        assert reply.headers["www-authenticate"] == "Bearer"
        assert reply.json()["error"]["code"] == 101


async def test_a_token_that_is_no_text_is_refused_at_every_door(
    http: httpx.AsyncClient, server: PeykServer, talk: Talk
) -> None:
    odd = "eyJhbGciOiJIUzI1NiIsImNyaXQiOlsiXHVkODAwIl19.eyJzdWIiOiJzYXJhIn0.c2ln"  # "crit":["\\ud800"]
    for headers in (bearer(odd), {"cookie": f"peyk={odd}"}):
        reply = await http.get("/api/session", headers=headers)
        assert reply.status_code == 401 and reply.json()["error"]["code"] == 101, reply.text
    assert (await http.post("/api/session", json={"token": odd})).status_code == 401
    code, text = await talk.fail(connect={"token": odd})
    assert code == 101 and "\\ud800" in text
    assert "Traceback" not in server.log.read_text()


async def test_event_streams_ask_too(http: httpx.AsyncClient) -> None:
    events = {"accept": "text/event-stream"}
    assert (await http.get(MESSAGES, headers=events)).status_code == 401
    assert (await http.get(MESSAGES, headers=events | bearer(token(channels=["sport"])))).status_code == 403


@pytest.mark.parametrize("how", ["expired", "revoked", "banned", "no member", "kicked"])
async def test_event_streams_end_with_what_let_them_in(
    http: httpx.AsyncClient, other: PeykServer, private: str, how: str
) -> None:
    owner = bearer(token("owner"))
    path, name = f"/api/channels/{private}/messages", f"follows-{private}"
    await http.put(f"/api/channels/{private}/roles/{name}", json={"role": "member"}, headers=owner)
    assert (await http.post(path, json={"text": "first"}, headers=owner)).status_code == 201
    mine = token(name, ttl=1 if how == "expired" else 60)
    good = {"accept": "text/event-stream"} | owner
    bad = {"accept": "text/event-stream"} | bearer(mine)
    async with (
        httpx.AsyncClient(base_url=other.url, trust_env=False, timeout=180) as away,
        away.stream("GET", path + "?after=0", headers=good) as stays,
        away.stream("GET", path + "?after=0", headers=bad) as goes,
    ):
        assert stays.status_code == goes.status_code == 200
        place, role = f"/api/channels/{private}", f"/api/channels/{private}/roles/{name}"
        done = await {  # on another node
            "expired": lambda: http.get("/health"),
            "revoked": lambda: http.delete("/api/session", headers=bearer(mine)),
            "banned": lambda: http.put(role, json={"role": "banned"}, headers=owner),
            "no member": lambda: http.delete(role, headers=owner),
            "kicked": lambda: http.delete(f"{place}/subscribers/{name}", headers=owner),
        }[how]()
        assert done.status_code < 300, done.text
        async with asyncio.timeout(180):
            async for _ in goes.aiter_raw():  # ends
                pass
        await http.post(path, json={"text": "second"}, headers=owner)
        async for line in stays.aiter_lines():
            if "second" in line:
                break
        else:
            raise AssertionError("the other stream ended as well")


async def test_programs_come_with_a_key(http: httpx.AsyncClient) -> None:
    for key, status in ((KEY, 201), (SCOPED, 201), (SCOPED[:-1], 401)):
        reply = await http.post(MESSAGES, json={"text": "hi", "user": "weather"}, headers={"x-api-key": key})
        assert reply.status_code == status
    elsewhere = await http.post("/api/channels/general/messages", json={"text": "x"}, headers={"x-api-key": SCOPED})
    assert elsewhere.status_code == 403
    assert (await http.delete("/api/channels/news.world", headers={"x-api-key": KEY})).status_code == 403


async def test_a_cookie_is_for_the_page_and_its_socket(http: httpx.AsyncClient, server: PeykServer) -> None:
    assert (await http.post("/api/session", json={"token": "garbage"})).status_code == 401
    signed_in = await http.post("/api/session", json={"token": token()})
    assert signed_in.status_code == 201 and signed_in.json()["user"] == "Sara"
    cookie = signed_in.headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=lax" in cookie and "max-age" in cookie
    assert (await http.get("/api/session")).json() == signed_in.json()
    header = {"cookie": f"peyk={http.cookies['peyk']}"}
    async with connect(server.ws_url, proxy=None, additional_headers=header) as socket:
        assert (await Talk(socket).ask(connect={}))["connect"]["data"] == {"user": "Sara", "guest": False}
    await http.delete("/api/session")
    assert (await http.get("/api/session")).status_code == 401


async def test_secrets_are_not_in_the_log(http: httpx.AsyncClient, server: PeykServer) -> None:
    value = token("logged")
    await http.get("/api/session", headers=bearer(value))
    await http.get("/api/session", headers=bearer(value[:-2]))
    await http.get("/api/session", headers={"x-api-key": KEY})
    log = server.log.read_text()
    for secret in (SECRET, KEY, SCOPED, value, value[:-2]):
        assert secret not in log


def test_the_token_command(environment: dict[str, str]) -> None:
    def run(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
        return run_app("token", *words, **env)

    done = run("Sara", "--ttl", "60", "--channels", "news.*", AUTH_SECRET=SECRET)
    identity = TOKENS.identify(done.stdout.strip())
    assert identity.user.username == "Sara" and identity.channels == ("news.*",)
    refused = run("Sara")
    assert refused.returncode == 1 and "AUTH_SECRET, which is not set" in refused.stderr
