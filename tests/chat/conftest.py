"""One server for a module's tests, and a small client of the protocol."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2 as httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect

from tests.services import PeykServer, RedisProcess

PATIENCE = 30.0  # seconds a test waits for what must come


@pytest.fixture(scope="module")
def redis_of_module() -> Iterator[RedisProcess]:
    with RedisProcess("redis") as process:
        yield process


@pytest.fixture(scope="module")
def server(redis_of_module: RedisProcess) -> Iterator[PeykServer]:
    with PeykServer({"REDIS_URL": redis_of_module.url, "RECOVERY_LIMIT": "50", "HISTORY_LENGTH": "1000"}) as server:
        yield server


@pytest.fixture
async def http(server: PeykServer) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=server.url, timeout=180, trust_env=False) as client:
        yield client


class Talk:
    """One connection: sends commands, sorts what comes into replies and pushes."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.replies: dict[int, dict[str, Any]] = {}
        self.pushes: list[dict[str, Any]] = []
        self._id = 0

    async def read(self) -> None:
        """Take the next frame; a test waits for something, so it must come."""
        async with asyncio.timeout(PATIENCE):
            frame = await self.socket.recv()
        assert isinstance(frame, str)
        for line in frame.split("\n"):
            item = json.loads(line)
            if "push" in item:
                self.pushes.append(item["push"])
            elif item == {}:
                await self.socket.send("{}")
            else:
                self.replies[item["id"]] = item

    async def ask(self, **command: Any) -> dict[str, Any]:
        """Send one command; its reply, without the id."""
        self._id += 1
        await self.socket.send(json.dumps({"id": self._id, **command}))
        return await self.reply(self._id)

    async def reply(self, number: int) -> dict[str, Any]:
        while number not in self.replies:
            await self.read()
        reply = self.replies.pop(number)
        del reply["id"]
        return reply

    async def fail(self, **command: Any) -> tuple[int, str]:
        """Send a command that must fail; its error's code and message."""
        error = (await self.ask(**command))["error"]
        return error["code"], error["message"]

    async def texts(self, count: int) -> list[tuple[int, Any]]:
        """The offset and data of the first `count` publications pushed."""
        while len([p for p in self.pushes if "pub" in p]) < count:
            await self.read()
        return [(p["pub"].get("offset", 0), p["pub"]["data"]) for p in self.pushes if "pub" in p]

    async def push(self, name: str) -> dict[str, Any]:
        """The next push of a kind."""
        while not any(name in p for p in self.pushes):
            await self.read()
        return next(p for p in self.pushes if name in p)


Dial = Callable[..., Any]


@pytest.fixture
def dial(server: PeykServer) -> Dial:
    """`async with dial("sara") as talk`: a connected client."""

    @asynccontextmanager
    async def open_talk(user: str = "sara", to: PeykServer = server) -> AsyncIterator[Talk]:
        async with connect(to.ws_url, max_size=None, proxy=None) as socket:
            talk = Talk(socket)
            if user:
                assert "client" in (await talk.ask(connect={"data": {"user": user}}))["connect"]
            yield talk

    return open_talk
