"""Revocations: a time for each user, single tokens until they end, and what a node reads is what is new."""

import time
from collections.abc import AsyncIterator, Iterator

import httpx2 as httpx
import pytest
from redis.asyncio import Redis

from chat.auth import Identity, Tokens
from chat.models import User
from chat.revocations import Revocations
from chat.settings import ServerSettings
from pipeline.keys import REVOKED, REVOKED_ORDER, Keys
from pipeline.resp import Link
from redis_config import Address
from tests.services import PeykServer, RedisProcess

MOST = 3
NOW = int(time.time())
SARA, REZA = User.named("sara"), User.named("reza")
SECRET = "a secret of thirty-two bytes or more"
TOKENS = Tokens(SECRET)


def session(user: User, token: str, issued: int = NOW, expires: int = NOW + 86_400) -> Identity:
    return Identity(user, expires=expires, issued=issued, token=token)


@pytest.fixture
async def nodes(settings: ServerSettings, redis_client: Redis) -> AsyncIterator[tuple[Revocations, Revocations]]:
    """As two nodes know them."""
    link = Link(Address.parse(settings))
    control = Keys.of(settings).control
    yield Revocations(link, control, MOST), Revocations(link, control, MOST)
    link.close()


async def changes(redis_client: Redis) -> int:
    return int(await redis_client.hget(REVOKED, "") or 0)


async def test_one_session_ends_and_the_others_go_on(nodes: tuple[Revocations, Revocations]) -> None:
    one, other = nodes
    await one.of_session(session(SARA, "a"))
    await other.load()
    for node in nodes:
        assert node.hold(session(SARA, "a"))
        assert not node.hold(session(SARA, "b")) and not node.hold(session(REZA, "a"))
        assert node.news == {"sara"}


async def test_a_users_time_and_a_token_whoever_has_it(nodes: tuple[Revocations, Revocations]) -> None:
    one, other = nodes
    await one.of_user("sara", NOW)
    await one.of_token("stolen")
    await one.of_user("sara", NOW - 100)  # it never moves back
    await other.load()
    for node in nodes:
        assert node.hold(session(SARA, "x", issued=NOW)) and not node.hold(session(SARA, "x", issued=NOW + 1))
        assert node.hold(session(REZA, "stolen")) and not node.hold(session(REZA, "x"))
        assert not node.hold(Identity(SARA, guest=True)) and not node.hold(Identity(SARA, program=True))


async def test_a_repeated_sign_out_changes_nothing(nodes: tuple[Revocations, Revocations], redis_client: Redis) -> None:
    one, other = nodes
    for _ in range(3):
        await one.of_session(session(SARA, "a"))
        await other.of_session(session(SARA, "a"))
    assert await changes(redis_client) == 1
    await one.of_user("sara", NOW)
    await one.of_session(session(SARA, "old", issued=NOW - 5))  # over already
    assert await changes(redis_client) == 2


async def test_so_many_sign_outs_of_one_user_are_kept(
    nodes: tuple[Revocations, Revocations], redis_client: Redis
) -> None:
    """One more ends all of that user's sessions, and nobody else's; Redis keeps one entry."""
    one, other = nodes
    for number in range(MOST):
        await one.of_session(session(SARA, f"token {number}"))
    assert not one.hold(session(SARA, "untouched"))
    for number in range(50):
        await one.of_session(session(SARA, f"more {number}"))
    await other.load()
    for node in nodes:
        assert node.hold(session(SARA, "untouched")) and node.hold(session(SARA, "token 0"))
        assert not node.hold(session(SARA, "later", issued=int(time.time()) + 1))
        assert not node.hold(session(REZA, "untouched"))
    assert await redis_client.hlen(REVOKED) == 2 and await redis_client.zcard(REVOKED_ORDER) == 1
    assert len(str(await redis_client.hget(REVOKED, "user sara"))) < 200


async def test_a_node_reads_what_is_new_and_no_more(
    nodes: tuple[Revocations, Revocations], redis_client: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = nodes
    for number in range(1200):  # more than one part
        await redis_client.hset(REVOKED, f"user u{number}", '{"before":5,"tokens":{},"ends":0}')
        await redis_client.zadd(REVOKED_ORDER, {f"user u{number}": number + 1})
    await redis_client.hset(REVOKED, "", 1200)
    await other.load()
    assert len(other.news) == 1200 and other.hold(session(User.named("u1199"), "x", issued=5))
    other.news.clear()
    taken: list[str] = []
    monkeypatch.setattr(other, "_take", lambda name, entry: taken.append(name))
    await one.of_session(session(SARA, "a"))
    await other.load()
    await other.load()
    assert taken == ["user sara"]


async def test_what_has_ended_is_forgotten(nodes: tuple[Revocations, Revocations], redis_client: Redis) -> None:
    one, other = nodes
    await one.of_session(session(SARA, "a", expires=NOW - 2))
    await one.of_session(session(REZA, "a", expires=NOW + 86_400))
    await one.of_session(session(REZA, "b", expires=NOW - 2))
    await one.of_guest("mina", -5)
    await one.of_user("omid", NOW)
    await other.load()
    for node in nodes:
        await node.forget()
        assert not node.hold(session(SARA, "a")) and not node.hold(Identity(User.named("mina"), guest=True))
        assert node.hold(session(REZA, "a")) and node.hold(session(User.named("omid"), "x"))
    assert sorted(await redis_client.zrange(REVOKED_ORDER, 0, -1)) == ["user omid", "user reza"]
    assert sorted(await redis_client.hkeys(REVOKED)) == ["", "user omid", "user reza"]


async def test_redis_that_came_back_empty_or_older(nodes: tuple[Revocations, Revocations], redis_client: Redis) -> None:
    one, other = nodes
    await one.of_user("sara", NOW)
    await one.of_user("reza", NOW)
    await redis_client.flushall()
    await other.of_token("stolen")
    await one.load()
    assert "" in one.news  # everybody is looked at anew
    assert one.hold(session(REZA, "stolen")) and not one.hold(session(SARA, "x"))


# -- on a running server


@pytest.fixture(scope="module")
def server() -> Iterator[PeykServer]:
    with RedisProcess("redis") as redis, PeykServer({"REDIS_URL": redis.url, "AUTH_SECRET": SECRET}) as server:
        yield server


async def test_signing_out_again_or_as_nobody_writes_nothing(server: PeykServer) -> None:
    async with (
        httpx.AsyncClient(base_url=server.url, trust_env=False) as http,
        Redis.from_url(server.environment()["REDIS_URL"], decode_responses=True) as client,
    ):
        mine = {"authorization": f"Bearer {TOKENS.issue('sara', 600)}"}
        assert (await http.delete("/api/session", headers=mine)).status_code == 204
        assert (await http.get("/api/session", headers=mine)).status_code == 401
        assert int(await client.hget(REVOKED, "") or 0) == 1
        forged = {"authorization": f"Bearer {Tokens('another' * 8).issue('sara', 600)}"}
        over = {"authorization": f"Bearer {TOKENS.issue('sara', 1, at=NOW - 60)}"}
        for headers in (mine, forged, over, {}, {"cookie": "peyk=x"}, {"authorization": "Bearer x"}):
            for _ in range(3):
                assert (await http.delete("/api/session", headers=headers)).status_code == 204
        assert int(await client.hget(REVOKED, "") or 0) == 1
