"""The Laravel example and ours call each other over one real Redis: both its files, by PHP and phpredis."""

import asyncio
import contextlib
import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from app import AppSettings
from bridge.rpc import Rpc
from chat.errors import BadRequest, CallFailed
from redis_config import Address
from tests.services import ROOT, clean_environment, until

STAND_IN = ROOT / "tests" / "bridge" / "laravel" / "stand_in.php"


@asynccontextmanager
async def php(settings: AppSettings, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """The example behind stand-ins of what it uses of Laravel."""
    program = shutil.which("php")
    if program is None:
        raise RuntimeError("php is missing; make test installs it (apt-get install php-cli php-redis)")
    pipe = asyncio.subprocess.PIPE
    environment = clean_environment({"REDIS_PORT": str(Address.parse(settings).port)})
    command = [program, str(STAND_IN), *arguments]
    process = await asyncio.create_subprocess_exec(*command, env=environment, stdout=pipe, stderr=pipe)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


async def run(settings: AppSettings, *arguments: str) -> tuple[int | None, str, str]:
    """Its exit code, output and errors."""
    async with php(settings, *arguments) as process, asyncio.timeout(180):
        out, error = await process.communicate()
        return process.returncode, out.decode(), error.decode()


@asynccontextmanager
async def ours(settings: AppSettings) -> AsyncIterator[Rpc]:
    rpc = Rpc(Address.parse(settings), settings, {"configs": {"version": "peyk"}})

    @rpc.action("double")
    def double(data: Any) -> object:
        if not isinstance(data, int):
            raise BadRequest("give a number")
        return {"double": 2 * data, "name": "سارا"}

    async with rpc:
        yield rpc


async def test_we_call_laravel(bridge_settings: AppSettings) -> None:
    async with php(bridge_settings, "answer") as process, ours(bridge_settings) as rpc:

        async def answers() -> bool:  # it says that it answers before it listens
            with contextlib.suppress(TimeoutError):
                return bool(await rpc.call("sum", [1, 2, 3], timeout=0.5) == {"total": 6})
            return False

        await until(answers, what="Laravel answers")
        assert await rpc.call("configs") == {"app": "پیک", "locale": "fa"}
        assert rpc.configuration == {"app": "پیک", "locale": "fa"}
        results = await asyncio.gather(*[rpc.call("sum", [i, 1]) for i in range(100)])
        assert [result["total"] for result in results] == [i + 1 for i in range(100)]
        with pytest.raises(CallFailed, match="sum failed; the log of its service says more"):
            await rpc.call("sum", "no list")
        assert process.returncode is None


async def test_laravel_calls_us(bridge_settings: AppSettings) -> None:
    async with ours(bridge_settings):
        code, out, error = await run(bridge_settings, "call", "double,configs,double", "21")
        answers = [json.loads(line) for line in out.splitlines()]
        twice = {"double": 42, "name": "سارا"}
        assert (code, answers) == (0, [twice, {"version": "peyk"}, twice]), error
        assert await run(bridge_settings, "call", "double", '"x"') == (1, "", "give a number\n")
        assert await run(bridge_settings, "call", "nobody", "1", "0.2") == (1, "", "Timeout exceeded\n")


async def test_what_laravel_sends_is_heard(bridge_settings: AppSettings) -> None:
    heard: list[Any] = []
    rpc = Rpc(Address.parse(bridge_settings), bridge_settings)
    rpc.action("seen")(heard.append)
    async with rpc:
        assert (await run(bridge_settings, "send", "seen", '{"user":"سارا"}'))[0] == 0
        await until(lambda: heard == [{"user": "سارا"}])
