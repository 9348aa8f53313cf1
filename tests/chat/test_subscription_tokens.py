"""Tokens for one subscription: what they open, for how long, and what they do not."""

import asyncio
import secrets
import time

import httpx2 as httpx
import pytest

from chat.node import Node
from chat.settings import ServerSettings
from tests.chat.conftest import Talk
from tests.chat.test_doors import TOKENS, bearer, environment, grant, http, private, server, socket, talk, token
from tests.services import PeykServer

__all__ = ["environment", "http", "private", "server", "socket", "talk"]


async def test_a_subscription_token(talk: Talk) -> None:
    await talk.ask(connect={"token": token(channels=["news.*"])})
    assert (await talk.fail(subscribe={"channel": "club"}))[0] == 103
    for wrong in (grant("reza", "club"), grant("Sara", "other"), token()):
        assert (await talk.fail(subscribe={"channel": "club", "token": wrong}))[0] == 101
    reply = (await talk.ask(subscribe={"channel": "club", "token": grant("Sara", "club", 1)}))["subscribe"]
    assert reply["expires"] and reply["ttl"] == 1
    again = (await talk.ask(sub_refresh={"channel": "club", "token": grant("Sara", "club", 2)}))["sub_refresh"]
    assert again["expires"]
    assert (await talk.push("unsubscribe"))["unsubscribe"]["code"] == 2501
    assert (await talk.fail(history={"channel": "club"}))[0] == 103


async def test_a_subscription_token_makes_nobody_an_owner(talk: Talk, private: str) -> None:
    await talk.ask(connect={"token": token(caps=["subscribe"])})
    assert "subscribe" in await talk.ask(subscribe={"channel": private, "token": grant("Sara", private)})
    role = {"id": private, "user": "Sara", "role": "moderator"}
    for command in (
        {"publish": {"channel": private, "data": 1}},
        {"history": {"channel": private}},
        {"rpc": {"method": "channels.role", "data": role}},
        {"rpc": {"method": "channels.kick", "data": {"id": private, "user": "owner"}}},
        {"rpc": {"method": "channels.update", "data": {"id": private, "kind": "public"}}},
        {"rpc": {"method": "channels.delete", "data": {"id": private}}},
    ):
        assert (await talk.fail(**command))[0] == 103, command


async def test_nobody_owns_the_channel_that_a_subscription_token_made(talk: Talk, http: httpx.AsyncClient) -> None:
    name = f"new-{secrets.token_hex(4)}"
    await talk.ask(connect={"token": token(channels=["elsewhere"])})
    assert "subscribe" in await talk.ask(subscribe={"channel": name, "token": grant("Sara", name)})
    assert (await http.get(f"/api/channels/{name}", headers=bearer(token("reza")))).json()["owner"] == ""


async def test_a_subscription_token_opens_nothing_without_its_subscription(talk: Talk, private: str) -> None:
    await talk.ask(connect={"token": token()})

    async def closed() -> bool:
        return (await talk.fail(history={"channel": private}))[0] == 103

    code, text = await talk.fail(sub_refresh={"channel": private, "token": grant("Sara", private)})
    assert code == 107 and "not subscribed" in text and await closed()
    position = {"recover": True, "flag": 2, "epoch": "x", "offset": 1}
    asked = {"channel": private, "token": grant("Sara", private)}
    assert (await talk.fail(subscribe=asked | position))[0] == 112 and await closed()
    assert "subscribe" in await talk.ask(subscribe=asked)
    await talk.ask(unsubscribe={"channel": private})
    assert await closed()


async def test_a_subscription_token_that_opens_nothing_is_not_kept(talk: Talk, private: str) -> None:
    """The join fails for another reason: the token allows no subscribing at all."""
    await talk.ask(connect={"token": token(caps=["history"])})
    asked = {"channel": private, "token": grant("Sara", private)}
    assert (await talk.fail(subscribe=asked))[0] == 103
    assert (await talk.fail(history={"channel": private}))[0] == 103


async def test_who_is_banned_loses_what_a_subscription_token_opened(
    talk: Talk, http: httpx.AsyncClient, private: str
) -> None:
    await talk.ask(connect={"token": token()})
    assert "subscribe" in await talk.ask(subscribe={"channel": private, "token": grant("Sara", private)})
    path = f"/api/channels/{private}/roles/sara"
    assert (await http.put(path, json={"role": "banned"}, headers=bearer(token("owner")))).status_code == 200
    assert (await talk.push("unsubscribe"))["unsubscribe"]["code"] == 2001
    for command in ({"history": {"channel": private}}, {"subscribe": {"channel": private}}):
        assert (await talk.fail(**command))[0] == 103
    assert (await talk.fail(subscribe={"channel": private, "token": grant("Sara", private)}))[0] == 103


@pytest.mark.parametrize("by", ["user", "token"])
async def test_a_revoked_subscription_token(
    talk: Talk, server: PeykServer, environment: dict[str, str], private: str, by: str
) -> None:
    name, now = f"revoked-{by}-{private}", int(time.time())
    given = grant(name, private, jti=f"of {name}", iat=now)
    await talk.ask(connect={"token": TOKENS.issue(name, 60, at=now + 1)})  # outlives that of its user
    assert "subscribe" in await talk.ask(subscribe={"channel": private, "token": given})
    settings = ServerSettings(redis_url=environment["REDIS_URL"], _env_file=None)
    async with Node(settings, "tool") as node:
        revocations = node.doors.revocations
        await (revocations.of_user(name, now) if by == "user" else revocations.of_token(f"of {name}"))
    async with asyncio.timeout(180):
        assert (await talk.push("unsubscribe"))["unsubscribe"]["code"] == 2501
    assert (await talk.fail(history={"channel": private}))[0] == 103
    for asked in ({"channel": private, "token": given}, {"channel": private, "token": grant(name, private)}):
        newer = asked["token"] != given and by == "token"
        assert ("subscribe" in await talk.ask(subscribe=asked)) is newer  # without iat: as old as can be
