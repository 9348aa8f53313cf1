"""Two people: one asks, the other accepts or declines, and nobody else is ever let in."""

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx2 as httpx
import jwt
import pytest
from websockets.asyncio.client import connect

from chat.auth import Tokens
from tests.chat.conftest import Talk
from tests.services import PeykServer, RedisProcess, until

SECRET = "a secret of thirty-two bytes or more"
KEY = "0123456789abcdef"
TOKENS = Tokens(SECRET)
CHANNELS, ASKS = 5, 2


@pytest.fixture(scope="module")
def server() -> Iterator[PeykServer]:
    settings = {"GUESTS": "yes", "USER_CHANNELS": str(CHANNELS), "USER_ASKS": str(ASKS), "REGISTRATION": "yes"}
    settings |= {"AUTH_SECRET": SECRET, "API_KEY": KEY}
    with RedisProcess("redis") as redis, PeykServer({"REDIS_URL": redis.url, **settings}) as server:
        yield server


@pytest.fixture
async def http(server: PeykServer) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=180) as client:
        yield client


def bearer(name: str, **more: Any) -> dict[str, str]:
    return {"authorization": f"Bearer {TOKENS.issue(name, 600, **more)}"}


@asynccontextmanager
async def people(server: PeykServer, *names: str) -> AsyncIterator[list[Talk]]:
    """Bearers of tokens who were here."""
    async with AsyncExitStack() as stack:
        talks = []
        for name in names:
            talk = Talk(await stack.enter_async_context(connect(server.ws_url, proxy=None)))
            assert "connect" in await talk.ask(connect={"token": TOKENS.issue(name, 600)})
            assert "subscribe" in await talk.ask(subscribe={"channel": f"{name.lower()}s-own"})
            talks.append(talk)
        yield talks


async def rpc(talk: Talk, method: str, **data: Any) -> Any:
    reply = await talk.ask(rpc={"method": method, "data": data})
    assert "rpc" in reply, reply
    return reply["rpc"]["data"]


async def opens(talk: Talk, name: str) -> str:
    return str((await rpc(talk, "channels.private", user=name))["id"])


async def asks(talk: Talk) -> list[str]:
    return [ask["user"] for ask in (await rpc(talk, "channels.asks"))["asks"]]


async def mine(talk: Talk) -> list[str]:
    channels: list[str] = (await rpc(talk, "subscriptions.list"))["channels"]
    return channels


async def test_asked_and_accepted(server: PeykServer) -> None:
    async with people(server, "Sara", "Reza") as (sara, reza):
        channel = await opens(sara, "reza")
        assert "publish" in await sara.ask(publish={"channel": channel, "data": "hello"})
        assert await asks(reza) == ["Sara"] and await asks(sara) == []
        assert await mine(reza) == ["rezas-own"] and channel in await mine(sara)
        for command in ("subscribe", "history", "presence"):
            assert (await reza.fail(**{command: {"channel": channel}}))[0] == 103
        assert channel not in str(await rpc(reza, "channels.list")) and channel not in str(await rpc(reza, "unread"))
        assert await opens(sara, "Reza") == channel  # again: nothing new
        assert await asks(reza) == ["Sara"]

        assert await opens(reza, "sara") == channel
        assert await asks(reza) == [] and channel in await mine(reza)
        page = (await reza.ask(history={"channel": channel, "limit": 10}))["history"]
        assert [pub["data"] for pub in page["publications"]] == ["hello"]
        for talk in (sara, reza):
            assert "subscribe" in await talk.ask(subscribe={"channel": channel})
        await reza.ask(publish={"channel": channel, "data": "yes"})
        assert (await sara.texts(1))[0][1] == "yes"
        await reza.ask(unsubscribe={"channel": channel})
        assert await opens(sara, "reza") == channel and channel in await mine(reza)  # they know each other


async def test_throw_away_names_fill_nobodys_place(server: PeykServer) -> None:
    async with people(server, "victim", *(f"throwaway{n}" for n in range(5))) as (victim, *others):
        for talk in others:
            await opens(talk, "victim")
        assert await mine(victim) == ["victims-own"]
        assert await asks(victim) == ["throwaway4", "throwaway3"] or len(await asks(victim)) == ASKS
        for number in range(CHANNELS - 1):  # all of what one may belong to is still there
            assert "subscribe" in await victim.ask(subscribe={"channel": f"victim-{number}"})


async def test_what_was_declined_is_not_asked_again(server: PeykServer, http: httpx.AsyncClient) -> None:
    async with people(server, "pest", "quiet") as (pest, quiet):
        channel = await opens(pest, "quiet")
        deleted = await http.delete(f"/api/channels/{channel}", headers=bearer("pest"))
        assert deleted.status_code == 403 and "has not accepted" in deleted.text  # or it could be asked anew
        await rpc(quiet, "channels.decline", user="Pest")
        assert await asks(quiet) == [] and await opens(pest, "quiet") == channel and await asks(quiet) == []
        assert "publish" in await pest.ask(publish={"channel": channel, "data": "hello?"})  # who asked learns nothing
        assert (await quiet.fail(history={"channel": channel}))[0] == 103
        assert "error" in await pest.ask(rpc={"method": "channels.decline", "data": {"user": "quiet"}})
        assert await opens(quiet, "pest") == channel  # they may change their mind
        assert "history" in await quiet.ask(history={"channel": channel})
        await rpc(quiet, "channels.decline", user="pest")  # and change it again
        assert (await quiet.fail(history={"channel": channel}))[0] == 103 and channel not in await mine(quiet)


async def test_only_these_two_are_ever_let_in(server: PeykServer, http: httpx.AsyncClient) -> None:
    async with people(server, "ali", "mina", "third") as (ali, mina, third):
        channel = await opens(ali, "mina")
        await opens(mina, "ali")
        path = f"/api/channels/{channel}"
        for talk, name in ((ali, "ali"), (mina, "mina")):
            for role in ("member", "moderator", "banned"):
                asked = {"id": channel, "user": "third", "role": role}
                assert "error" in await talk.ask(rpc={"method": "channels.role", "data": asked})
                reply = await http.put(f"{path}/roles/third", json={"role": role}, headers=bearer(name))
                assert reply.status_code == 403
            for kind in ("public", "read-only", "private", "pair"):
                assert (await http.patch(path, json={"kind": kind}, headers=bearer(name))).status_code in (400, 403)
            assert (await http.patch(path, json={"description": "x"}, headers=bearer(name))).status_code == 403
            assert "error" in await talk.ask(rpc={"method": "channels.kick", "data": {"id": channel, "user": "third"}})
            assert (await http.get(path, headers=bearer(name))).json()["kind"] == "pair"
        grant = jwt.encode({"sub": "third", "channel": channel}, SECRET, algorithm="HS256")
        for asked in ({"channel": channel}, {"channel": channel, "token": grant}):
            assert (await third.fail(subscribe=asked))[0] == 103
        assert (await third.fail(publish={"channel": channel, "data": 1}))[0] == 103
        for headers in (bearer("third"), bearer("admin", admin=True), {"x-api-key": KEY}, {}):
            for method, more, body in (
                ("GET", "/messages", None),
                ("GET", "/subscribers", None),
                ("POST", "/messages", {"text": "x"}),
                ("PUT", "/subscribers/third", None),
                ("PUT", "/roles/third", {"role": "member"}),
            ):
                reply = await http.request(method, path + more, json=body, headers=headers)
                assert reply.status_code == 403, (method, more, reply.text)
        assert (await http.delete(path, headers=bearer("mina"))).status_code == 204  # either of the two may

        async def gone() -> bool:
            return (await ali.fail(publish={"channel": channel, "data": "to all?"}))[0] == 103

        await until(gone)  # and what is left of it becomes nobody's
        for headers in (bearer("third"), {"x-api-key": KEY}, bearer("ali")):
            for name in (channel, "dm-mine"):
                made = await http.post("/api/channels", json={"name": name}, headers=headers)
                said = await http.post(f"/api/channels/{name}/messages", json={"text": "x"}, headers=headers)
                assert made.status_code == said.status_code == 403


async def test_both_must_be_somebody(server: PeykServer, http: httpx.AsyncClient) -> None:
    async with people(server, "known") as (known,):
        code, text = await known.fail(rpc={"method": "channels.private", "data": {"user": "nobody-here"}})
        assert code == 107 and "nobody is known here by the name nobody-here" in text
        async with connect(server.ws_url, proxy=None) as socket:
            guest = Talk(socket)
            await guest.ask(connect={"data": {"user": "passing"}})
            await guest.ask(subscribe={"channel": "square"})
            for method in ("channels.private", "channels.decline"):
                code, text = await guest.fail(rpc={"method": method, "data": {"user": "known"}})
                assert code == 103 and "sign in first" in text
            assert await asks(guest) == []
            assert (await known.fail(rpc={"method": "channels.private", "data": {"user": "guest-passing"}}))[0] == 107
        async with connect(server.ws_url, proxy=None) as socket:
            await Talk(socket).ask(connect={"token": TOKENS.issue("arrived", 60)})

            async def met() -> bool:
                return "rpc" in await known.ask(rpc={"method": "channels.private", "data": {"user": "arrived"}})

            await until(met)  # the bearer of a token, though in no channel yet
        new = {"username": "registered", "password": "a long password"}
        assert (await http.post("/api/accounts", json=new)).status_code == 201
        assert (await opens(known, "Registered")).startswith("dm-")  # though never seen in a channel


async def test_one_asks_so_many_in_a_day(server: PeykServer) -> None:
    async with people(server, "eager", "a1", "a2", "a3") as (eager, a1, a2, _):
        for name in ("a1", "a2"):
            await opens(eager, name)
        code, text = await eager.fail(rpc={"method": "channels.private", "data": {"user": "a3"}})
        assert code == 106 and f"{ASKS} people" in text
        assert (await opens(eager, "a1")).startswith("dm-")  # whoever was asked already
        assert await opens(a1, "eager") == await opens(eager, "a1")
        await opens(a2, "eager")
        assert (await opens(eager, "a3")).startswith("dm-")  # who accepted counts no longer
