"""The methods a page lives on, at the protocol: unread counts that all of a user's clients agree on, and who writes."""

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx2 as httpx
import pytest
import redis
from websockets.asyncio.client import connect

from chat import typing
from chat.models import User
from pipeline.keys import Keys
from tests.chat.conftest import Dial, Talk
from tests.services import PeykServer, RedisProcess, until


async def rpc(talk: Talk, method: str, **data: Any) -> Any:
    return (await talk.ask(rpc={"method": method, "data": data}))["rpc"]["data"]


async def unread(talk: Talk) -> dict[str, tuple[int, int]]:
    """Read and top, by channel."""
    return {name: (at["read"], at["top"]) for name, at in (await rpc(talk, "unread"))["channels"].items()}


async def publish(talk: Talk, channel: str, count: int) -> None:
    for i in range(count):
        assert "publish" in await talk.ask(publish={"channel": channel, "data": {"text": f"{i}"}})


async def test_unread_is_of_the_user_whichever_client_asks(dial: Dial) -> None:
    async with dial("mahsa") as page, dial("Mahsa") as terminal, dial("other") as other:
        assert await unread(page) == {}
        await page.ask(subscribe={"channel": "unread-a"})
        await page.ask(subscribe={"channel": "خوانده"})
        await publish(other, "unread-a", 3)
        assert await unread(terminal) == {"unread-a": (0, 3), "خوانده": (0, 0)}
        assert await rpc(page, "read", channel="unread-A", offset=2) == {}
        assert await unread(terminal) == {"unread-a": (2, 3), "خوانده": (0, 0)}
        await rpc(terminal, "read", channel="unread-a", offset=1)  # it never moves back
        await rpc(terminal, "read", channel="unread-a", offset=99)  # nor beyond the top
        assert (await unread(page))["unread-a"] == (3, 3)
        assert await unread(other) == {}  # who only publishes belongs to nothing
        await page.ask(unsubscribe={"channel": "unread-a"})
        assert list(await unread(page)) == ["خوانده"]


@pytest.mark.parametrize(
    "data", [{}, {"channel": "x"}, {"channel": "x", "offset": -1}, {"channel": "a b", "offset": 1}]
)
async def test_a_read_that_says_too_little_is_told_so(dial: Dial, data: dict[str, Any]) -> None:
    async with dial("mahsa") as talk:
        assert (await talk.fail(rpc={"method": "read", "data": data}))[0] == 107


async def heard(talk: Talk, channel: str) -> list[dict[str, Any]]:
    """The publications without a position that came in a channel so far."""
    await talk.ask(ping={})
    return [p["pub"] for p in talk.pushes if p["channel"] == channel and "pub" in p and "offset" not in p["pub"]]


async def test_typing_is_told_to_those_who_hear_joins_and_kept_nowhere(dial: Dial) -> None:
    async with dial("Sara") as sara, dial("reza") as reza, dial("deaf") as deaf:
        for talk in (sara, reza):
            await talk.ask(subscribe={"channel": "typing", "join_leave": True})
        await deaf.ask(subscribe={"channel": "typing"})
        assert await rpc(sara, "typing", channel="Typing") == {}
        assert (await reza.push("pub"))["pub"] == {"data": {"typing": True}, "info": {"user": "Sara"}}
        await publish(sara, "typing", 1)
        assert (await deaf.push("pub"))["pub"]["offset"] == 1
        assert await heard(deaf, "typing") == []
        history = await reza.ask(history={"channel": "typing", "limit": 10})
        assert [pub["offset"] for pub in history["history"]["publications"]] == [1]


async def test_typing_is_told_at_most_once_an_interval(dial: Dial) -> None:
    async with dial("sara") as sara, dial("reza") as reza:
        await reza.ask(subscribe={"channel": "often", "join_leave": True})
        for _ in range(20):
            await rpc(sara, "typing", channel="often")
        await publish(sara, "often", 1)
        while not any(p.get("pub", {}).get("offset") for p in reza.pushes):
            await reza.read()
        assert len(await heard(reza, "often")) == 1


async def test_an_interval_ends(dial: Dial) -> None:
    async with dial("sara") as sara, dial("reza") as reza:
        await reza.ask(subscribe={"channel": "again", "join_leave": True})
        async with asyncio.timeout(4 * typing.INTERVAL):
            while len(await heard(reza, "again")) < 2:
                await rpc(sara, "typing", channel="again")
                await asyncio.sleep(0.1)


class Deaf:
    """A link to nowhere."""

    async def call(self, *command: object) -> None:
        pass


async def test_many_who_write_are_not_looked_through_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(typing, "INTERVAL", 1000.0)
    told = typing.Typing(Deaf(), Keys("channel:", "message:", 1), 1)  # type: ignore[arg-type]
    known, looks = told._told, 0
    for number in range(8000):
        await told.tell(User.named("sara"), f"channel-{number}")
        looks += told._told is not known
        known = told._told
    assert looks == 3


async def test_a_full_channel_is_told_of_nobody(dial: Dial, redis_of_module: RedisProcess) -> None:
    with PeykServer({"REDIS_URL": redis_of_module.url, "JOIN_LEAVE_LIMIT": "1"}) as small:
        async with dial("sara", small) as sara, dial("reza", small) as reza:
            for talk in (sara, reza):
                await talk.ask(subscribe={"channel": "crowd", "join_leave": True})
            with redis.Redis(port=redis_of_module.port) as direct:
                await until(lambda: direct.hlen("presence:crowd") == 2)
            await rpc(sara, "typing", channel="crowd")
            await publish(sara, "crowd", 1)
            while not any(p.get("pub", {}).get("offset") for p in reza.pushes):
                await reza.read()
            assert await heard(reza, "crowd") == []


@pytest.fixture(scope="module")
def closed(redis_of_module: RedisProcess) -> Iterator[PeykServer]:
    with PeykServer({"REDIS_URL": redis_of_module.url, "GUESTS": "no"}) as server:
        yield server


async def test_strangers_learn_and_tell_nothing_of_a_private_channel(closed: PeykServer) -> None:
    tokens = {}
    for name in ("owner", "stranger"):
        async with httpx.AsyncClient(base_url=closed.url, trust_env=False) as http:
            body = {"username": f"unread-{name}", "password": "a long password"}
            assert (await http.post("/api/accounts", json=body)).status_code == 201
            tokens[name] = http.cookies["peyk"]
    async with (
        connect(closed.ws_url, proxy=None) as one,
        connect(closed.ws_url, proxy=None) as two,
    ):
        owner, stranger = Talk(one), Talk(two)
        await owner.ask(connect={"token": tokens["owner"]})
        await stranger.ask(connect={"token": tokens["stranger"]})
        await stranger.ask(subscribe={"channel": "unread-secret"})
        await rpc(owner, "channels.create", name="unread-private", kind="private")
        for method, data in (
            ("typing", {"channel": "unread-private"}),
            ("read", {"channel": "unread-private", "offset": 1}),
            ("channels.subscribers", {"id": "unread-private"}),
        ):
            assert (await stranger.fail(rpc={"method": method, "data": data}))[0] == 103, method
        assert await rpc(owner, "channels.subscribers", id="unread-private") == {"subscribers": [], "names": {}}
        # A member whom it was closed to later no longer hears how far it is.
        assert list(await unread(stranger)) == ["unread-secret"]
        await rpc(stranger, "channels.update", id="unread-secret", kind="private")
        await rpc(stranger, "channels.role", id="unread-secret", user="unread-owner", role="member")
        await owner.ask(subscribe={"channel": "unread-secret"})
        assert list(await unread(owner)) == ["unread-secret"]
        await rpc(stranger, "channels.role", id="unread-secret", user="unread-owner", role="banned")
        assert await unread(owner) == {}


async def test_the_subscribers_of_a_channel(dial: Dial) -> None:
    async with dial("Sara") as sara, dial("علی\u200cرضا") as ali:
        for talk in (sara, ali):
            await talk.ask(subscribe={"channel": "club"})
        assert await rpc(sara, "channels.subscribers", id="Club") == {
            "subscribers": ["sara", "علیرضا"],
            "names": {"sara": "Sara", "علیرضا": "علی\u200cرضا"},
        }
        assert (await sara.fail(rpc={"method": "channels.subscribers", "data": {"id": "never"}}))[0] == 102
