"""How many channels somebody may make in an hour, by whatever door, and what becomes of names that nobody used."""

import contextlib
import re
from collections.abc import AsyncIterator, Iterator

import httpx2 as httpx
import pytest

from chat.auth import Policy
from chat.policies import NEW, Policies
from chat.settings import ServerSettings
from pipeline.keys import Keys
from pipeline.resp import Link
from redis_config import Address
from tests.chat.conftest import Talk
from tests.chat.limited import codes, dial, refused, registered
from tests.services import PeykServer, RedisClient, RedisProcess

KEY = "0123456789abcdef"
SETTINGS = {"TRUSTED_PROXIES": "127.0.0.1", "GUESTS": "yes", "API_KEY": KEY}
SETTINGS |= {"USER_NEW_CHANNELS": "3", "ADDRESS_NEW_CHANNELS": "5"}


@pytest.fixture(scope="module")
def servers(redis_of_module: RedisProcess) -> Iterator[tuple[PeykServer, PeykServer]]:
    env = {"REDIS_URL": redis_of_module.url, **SETTINGS}
    with PeykServer(env) as one, PeykServer(env) as other:
        yield one, other


@contextlib.asynccontextmanager
async def http(server: PeykServer, address: str) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"x-forwarded-for": address}
    async with httpx.AsyncClient(base_url=server.url, timeout=180, trust_env=False, headers=headers) as client:
        yield client


async def make(talk: Talk, way: str, name: str) -> int:
    """Use a channel that is not there; the error's code."""
    match way:
        case "publish":
            reply = await talk.ask(publish={"channel": name, "data": 1})
        case "rpc publish":
            reply = await talk.ask(rpc={"method": "publish", "data": {"channel": name, "data": 1}})
        case "subscribe":
            reply = await talk.ask(subscribe={"channel": name})
        case _:
            reply = await talk.ask(rpc={"method": "channels.create", "data": {"name": name}})
    return codes([reply])[0]


async def test_a_user_makes_so_many_in_an_hour_at_any_door_of_any_node(servers: tuple[PeykServer, PeykServer]) -> None:
    cookie = await registered(servers[0], "maker")
    async with (
        dial(servers[0], "maker", "192.0.2.1", cookie) as one,
        dial(servers[1], "maker", "192.0.2.2", cookie) as two,
    ):
        assert await make(one, "publish", "made-1") == 0
        assert await make(two, "subscribe", "made-2") == 0
        assert await make(one, "create", "made-3") == 0
        for talk in (one, two):
            for way in ("publish", "rpc publish", "subscribe", "create"):
                assert await make(talk, way, "made-4") == 106, way
        refusal = (await one.ask(publish={"channel": "made-4", "data": 1}))["error"]["message"]
        assert re.search(r"a user makes at most 3 new channels in an hour; .* wait (60|5\d) min", refusal)
        for way in ("publish", "rpc publish", "subscribe"):
            for name in ("made-1", "made-3"):
                assert await make(one if name == "made-1" else two, way, name) in (0, 105), way  # those are there
    async with http(servers[0], "192.0.2.9") as client:
        assert (await client.get("/api/channels/made-4")).status_code == 404
    assert await refused(servers[0], "new_channels") >= 5


async def test_nobody_uses_up_what_guests_elsewhere_may_make(servers: tuple[PeykServer, PeykServer]) -> None:
    for number in range(5):
        async with http(servers[0], f"192.0.2.{60 + number}") as client:  # each is `anonymous`
            path = f"/api/channels/of-anybody-{number}/messages"
            assert (await client.post(path, json={"text": "x"})).status_code == 201


async def test_an_address_makes_so_many_whoever_it_says_it_is(servers: tuple[PeykServer, PeykServer]) -> None:
    for number in range(5):
        async with dial(servers[number % 2], f"guest-{number}", "192.0.2.50") as talk:
            assert await make(talk, "publish", f"from-there-{number}") == 0
    async with dial(servers[0], "guest-other", "192.0.2.50") as talk, http(servers[1], "192.0.2.50") as client:
        assert await make(talk, "publish", "from-there-5") == 106
        message = await client.post("/api/channels/from-there-5/messages", json={"text": "x"})
        event = await client.post("/api/events", json={"type": "x", "channel": "from-there-5", "payload": 1})
        channel = await client.post("/api/channels", json={"name": "from-there-5"})
        for reply in (message, event, channel):
            assert reply.status_code == 429 and reply.json()["error"]["code"] == 106, reply.text
            assert 3000 < int(reply.headers["retry-after"]) <= 3600
        assert (await client.post("/api/channels/from-there-4/messages", json={"text": "x"})).status_code == 201
        for number in range(8):  # a program's key makes as many as there may be
            path = f"/api/channels/of-a-program-{number}/messages"
            assert (await client.post(path, json={"text": "x"}, headers={"x-api-key": KEY})).status_code == 201


@pytest.fixture
async def policies(settings: ServerSettings, redis_client: RedisClient) -> AsyncIterator[Policies]:
    for channel in "abc":
        await redis_client.hset(f"channel:{channel}", mapping={"id": channel, "epoch": "e", "offset": 0})
    link = Link(Address.parse(settings))
    yield Policies(link, Keys.of(settings), 60, 64)
    link.close()


async def test_names_that_are_asked_for_are_not_kept(policies: Policies) -> None:
    names = [f"name-{number}" for number in range(2000)]
    assert await policies.of(names) == dict.fromkeys(names, NEW)
    assert await policies.get("one-more") is NEW
    assert len(policies) == 0 and policies.known("one-more") is None


async def test_what_nobody_asks_for_any_more_is_not_read_again(policies: Policies) -> None:
    policies.subscribed = lambda: ["a"]
    for channel in "abc":
        assert await policies.get(channel) == Policy()
    assert policies._begin_check() == ["a", "b", "c"]
    assert policies.known("b") == Policy()
    assert sorted(policies._begin_check()) == ["a", "b"]
    assert policies._begin_check() == ["a"] == policies._begin_check()
    assert len(policies) == 1


async def test_a_change_that_was_not_told_is_found_where_somebody_listens(
    policies: Policies, redis_client: RedisClient
) -> None:
    changes: list[tuple[str, str]] = []
    policies.on_change = lambda channel, policy: changes.append((channel, policy.kind))
    policies.subscribed = lambda: ["a", "b"]
    await policies.of(["a", "b", "c"])
    for _ in range(3):
        await policies.read(policies._begin_check())
    for channel in "abc":
        await redis_client.hset(f"channel:{channel}", "kind", "private")
    await redis_client.delete("channel:b")
    await policies.read(policies._begin_check())
    assert changes == [("a", "private"), ("b", "public")]
    assert policies.known("b") is None
    assert (await policies.get("c")).kind == "private"
