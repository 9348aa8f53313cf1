"""A server whose limits are low, for the tests of limits: its settings, and clients that each have an address."""

import contextlib
import itertools
import json
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx2 as httpx
import pytest
from websockets.asyncio.client import connect

from tests.chat.conftest import Talk
from tests.services import PeykServer, RedisProcess

BURST = 20  # commands; a token comes back every half second, see at_limit
SETTINGS = {
    "TRUSTED_PROXIES": "127.0.0.1",  # so that each test has an address of its own
    "GUESTS": "yes",
    "API_KEY": "0123456789abcdef",
    "COMMAND_RATE": "2",
    "PUBLISH_RATE": "1",
    "USER_COMMAND_RATE": "3",
    "USER_PUBLISH_RATE": "1",
    "RATE_BURST": "10",
    "ADDRESS_CONNECTIONS": "3",
    "USER_CONNECTIONS": "2",
    "SUBSCRIPTION_LIMIT": "4",
    "USER_CHANNELS": "6",
    "CHANNEL_NAME_LENGTH": "30",
    "JSON_DEPTH": "4",
    "PAGE_LIMIT": "10",
    "MESSAGE_LIMIT": "1000",
    "FRAME_LIMIT": "65536",
    "HEADER_LIMIT": "2000",
    "HANDSHAKE_TIMEOUT": "2",
    "CONNECT_TIMEOUT": "2",
}
_asking = itertools.count()


@pytest.fixture(scope="module")
def server(redis_of_module: RedisProcess) -> Iterator[PeykServer]:
    with PeykServer({"REDIS_URL": redis_of_module.url, **SETTINGS}) as server:
        yield server


@pytest.fixture
async def http(server: PeykServer, request: pytest.FixtureRequest) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"x-forwarded-for": request.node.name}
    async with httpx.AsyncClient(base_url=server.url, timeout=180, trust_env=False, headers=headers) as client:
        yield client


@contextlib.asynccontextmanager
async def dial(server: PeykServer, user: str, address: str = "", cookie: str = "") -> AsyncIterator[Talk]:
    headers = {"X-Forwarded-For": address or user} | ({"cookie": f"peyk={cookie}"} if cookie else {})
    async with connect(server.ws_url, max_size=None, proxy=None, additional_headers=headers) as socket:
        talk = Talk(socket)
        if user:
            assert "connect" in await talk.ask(connect={"data": {"user": user}})
        yield talk


async def registered(server: PeykServer, user: str) -> str:
    """The cookie of a new account, which was made at an address of its own."""
    async with httpx.AsyncClient(trust_env=False, headers={"x-forwarded-for": f"of-{user}"}) as client:
        body = {"username": user, "password": "correct horse"}
        reply = await client.post(f"{server.url}/api/accounts", json=body)
    assert reply.status_code == 201, reply.text
    return reply.cookies["peyk"]


async def refused(server: PeykServer, limit: str) -> int:
    """How often this limit was reached. Who asks is a new address each time: /metrics counts as well."""
    headers = {"x-forwarded-for": f"asking-{next(_asking)}"}
    async with httpx.AsyncClient(trust_env=False, headers=headers) as client:
        lines = (await client.get(f"{server.url}/metrics")).text.splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f'peyk_refused_total{{limit="{limit}"}}'))


async def ask_all(talk: Talk, *commands: dict[str, Any]) -> list[dict[str, Any]]:
    """The replies to commands sent in one frame."""
    numbers = [1000 + number for number in range(len(commands))]
    lines = [json.dumps({"id": number, **command}) for number, command in zip(numbers, commands, strict=True)]
    await talk.socket.send("\n".join(lines))
    return [await talk.reply(number) for number in numbers]


async def ask_until_refused(talk: Talk, *commands: dict[str, Any]) -> list[dict[str, Any]]:
    """The replies to commands in turn, one after another; the last is the first that says "too many"."""
    replies: list[dict[str, Any]] = []
    while codes(replies[-1:]) != [111]:
        assert len(replies) < 1000
        replies.append(await talk.ask(**commands[len(replies) % len(commands)]))
    return replies


def at_limit(served: int, burst: int, rate: float, since: float) -> bool:
    """Whether a full bucket was served, and besides only what came back since then: `rate` a second."""
    return burst <= served <= burst + rate * (time.monotonic() - since) + 1


def codes(replies: list[dict[str, Any]]) -> list[int]:
    return [reply["error"]["code"] if "error" in reply else 0 for reply in replies]
