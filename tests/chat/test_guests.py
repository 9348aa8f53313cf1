"""Guests: of a server that others can reach they leave nothing behind; on a laptop one comes back to one's place."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import httpx2 as httpx
import pytest
from redis import Redis
from websockets.asyncio.client import connect

from tests.chat.conftest import Dial, Talk
from tests.services import PeykServer, RedisProcess, until

KEY = "0123456789abcdef"


@pytest.fixture(scope="module")
def redis_of_public() -> Iterator[RedisProcess]:
    with RedisProcess("redis") as process:
        yield process


@pytest.fixture(scope="module")
def public(redis_of_public: RedisProcess) -> Iterator[PeykServer]:
    """A server behind a proxy, which others can reach."""
    env = {"REDIS_URL": redis_of_public.url, "TRUSTED_PROXIES": "127.0.0.1", "GUESTS": "yes", "API_KEY": KEY}
    with PeykServer(env) as server:
        yield server


@asynccontextmanager
async def come(server: PeykServer, name: str) -> AsyncIterator[Talk]:
    async with connect(server.ws_url, proxy=None) as socket:
        talk = Talk(socket)
        assert "connect" in await talk.ask(connect={"data": {"user": name} if name else {}})
        yield talk


async def unread(talk: Talk) -> dict[str, dict[str, int]]:
    channels: dict[str, dict[str, int]] = (await talk.ask(rpc={"method": "unread"}))["rpc"]["data"]["channels"]
    return channels


async def test_a_guest_leaves_nothing_behind(public: PeykServer, redis_of_public: RedisProcess) -> None:
    with Redis(port=redis_of_public.port, decode_responses=True) as client:
        async with httpx.AsyncClient(base_url=public.url, trust_env=False, headers={"x-api-key": KEY}) as program:
            for channel in ("one", "two", "three"):
                await program.post(f"/api/channels/{channel}/messages", json={"text": "x"})
        before = {key for key in client.scan_iter("*") if not key.startswith(("idem:", "batch:", "lease:"))}
        for name in ("passer-by", "passer-by", ""):
            async with come(public, name) as talk:
                for channel in ("one", "two", "three"):
                    assert "subscribe" in await talk.ask(subscribe={"channel": channel})
                await talk.ask(publish={"channel": "one", "data": {"text": "hi"}})
                await talk.ask(rpc={"method": "read", "data": {"channel": "two", "offset": 1}})
                await talk.ask(rpc={"method": "read", "data": {"channel": "elsewhere", "offset": 1}})
                await talk.ask(rpc={"method": "typing", "data": {"channel": "one"}})
                await talk.ask(unsubscribe={"channel": "three"})
                mine = (await talk.ask(rpc={"method": "subscriptions.list"}))["rpc"]["data"]["channels"]
                assert mine == ["one", "two"]
                counts = await unread(talk)
                assert counts.keys() == {"one", "two"} and counts["two"] == {"read": 1, "top": 1}
                assert counts["one"]["read"] == 0
                asked = {"method": "channels.subscribers", "data": {"id": "one"}}
                assert (await talk.ask(rpc=asked))["rpc"]["data"]["subscribers"] == []

        async def left() -> bool:
            keys = {key for key in client.scan_iter("*") if not key.startswith(("idem:", "batch:", "lease:"))}
            return keys == before

        await until(left, what=str(set(client.scan_iter("*")) - before))
        assert not list(client.scan_iter("user:*")) and not list(client.scan_iter("*:subscribers"))


@pytest.mark.parametrize("name", ["api", "API", "ａｐｉ"])
@pytest.mark.parametrize("reached_by_others", [True, False])
async def test_no_guest_is_called_as_programs_are(
    name: str, reached_by_others: bool, public: PeykServer, server: PeykServer
) -> None:
    """Nobody could tell which of both said something."""
    at = public if reached_by_others else server
    sentence = "api is the name of programs that name nobody; choose another name"
    async with connect(at.ws_url, proxy=None) as socket:
        talk = Talk(socket)
        assert await talk.fail(connect={"data": {"user": name}}) == (107, sentence)
        assert "connect" in await talk.ask(connect={"data": {"user": "apia"}})  # who is told that may choose another
    async with httpx.AsyncClient(base_url=at.url, trust_env=False, timeout=180) as http:
        for path, body in (
            ("/api/channels/forged/messages", {"text": "forged"}),
            ("/api/events", {"type": "t", "channel": "forged", "payload": 1}),
        ):
            reply = await http.post(path, json=body | {"user": name})
            assert (reply.status_code, reply.json()["error"]["message"]) == (400, sentence)


async def test_a_program_may_say_its_own_name(public: PeykServer) -> None:
    async with httpx.AsyncClient(base_url=public.url, trust_env=False, headers={"x-api-key": KEY}) as program:
        for body in ({"text": "real"}, {"text": "real", "user": "api"}):
            assert (await program.post("/api/channels/real/messages", json=body)).status_code == 201
        said = (await program.get("/api/channels/real/messages")).json()["publications"]
        assert [one["info"]["user"] for one in said] == ["api", "api"]


async def test_whoever_is_a_guest_there_recovers_all_the_same(public: PeykServer) -> None:
    async with come(public, "returning") as talk:
        begun = (await talk.ask(subscribe={"channel": "bridge"}))["subscribe"]
        await talk.ask(publish={"channel": "bridge", "data": 1})
    async with come(public, "returning") as talk:
        again = await talk.ask(
            subscribe={"channel": "bridge", "recover": True, "epoch": begun["epoch"], "offset": begun["offset"]}
        )
        assert again["subscribe"]["recovered"] and len(again["subscribe"]["publications"]) == 1
        assert "bridge" in await unread(talk)
        async with httpx.AsyncClient(base_url=public.url, trust_env=False) as http:
            belong = await http.put("/api/channels/bridge/subscribers/returning")
            assert belong.status_code == 403 and "leave nothing behind" in belong.text


async def test_on_a_laptop_one_comes_back_to_ones_place(dial: Dial) -> None:
    async with dial("homely") as talk:
        await talk.ask(subscribe={"channel": "kitchen"})
        await talk.ask(publish={"channel": "kitchen", "data": 1})
        await talk.ask(rpc={"method": "read", "data": {"channel": "kitchen", "offset": 1}})
    async with dial("homely") as talk:
        assert (await unread(talk))["kitchen"] == {"read": 1, "top": 1}
