"""The Node example and ours call each other, over one real Redis."""

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
from pipeline.consumer import Away
from redis_config import Address
from tests.services import ROOT, RedisProcess, clean_environment, until

NODE = ROOT / "examples" / "node"


@asynccontextmanager
async def node(settings: AppSettings, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """`node ARGUMENTS` in the example's directory."""
    program = shutil.which("node")
    if program is None or not (NODE / "node_modules" / "ioredis").is_dir():
        raise RuntimeError("the Node example is not installed; make test does it (npm ci in examples/node)")
    pipe = asyncio.subprocess.PIPE
    environment = clean_environment({"REDIS_URL": settings.redis_url, "LARAVEL_REDIS_CHANNEL": settings.rpc_channel})
    process = await asyncio.create_subprocess_exec(
        program, *arguments, cwd=NODE, env=environment, stdout=pipe, stderr=pipe
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


async def run(settings: AppSettings, *arguments: str) -> tuple[int | None, str, str]:
    """Its exit code, output and errors."""
    async with node(settings, *arguments) as process, asyncio.timeout(180):
        out, error = await process.communicate()
        return process.returncode, out.decode(), error.decode()


async def script(settings: AppSettings, body: str) -> str:
    """What a script with a connected `rpc` writes."""
    head, tail = 'import { connect } from "./rpc.js"; const rpc = await connect();', "await rpc.close();"
    code, out, error = await run(settings, "--input-type=module", "-e", head + body + tail)
    assert code == 0, error
    return out


@asynccontextmanager
async def answering(settings: AppSettings) -> AsyncIterator[asyncio.subprocess.Process]:
    """answer.js, once it listens."""
    async with node(settings, "answer.js") as process:
        assert process.stdout is not None
        assert await asyncio.wait_for(process.stdout.readline(), 180) == b"answering sum and hello\n"
        yield process


async def double(data: Any) -> object:
    if not isinstance(data, int):
        raise BadRequest("give a number")
    return {"double": 2 * data}


@asynccontextmanager
async def ours(settings: AppSettings) -> AsyncIterator[Rpc]:
    rpc = Rpc(
        Address.parse(settings),
        settings,
        {"configs": {"version": "peyk", "name": "پیک"}, "subscribed": {"subscribed": True}},
    )
    rpc.action("double")(double)
    async with rpc:
        yield rpc


async def test_we_call_node(bridge_settings: AppSettings) -> None:
    async with answering(bridge_settings), ours(bridge_settings) as rpc:
        assert await rpc.call("sum", [1, 2, 3]) == {"total": 6}
        assert await rpc.call("hello", "سارا") == {"result": "سلام سارا"}
        with pytest.raises(CallFailed, match="sum failed; the log of its service says more"):
            await rpc.call("sum", "no list")
        answers = await asyncio.gather(*[rpc.call("sum", [i, 1]) for i in range(300)])
        assert [answer["total"] for answer in answers] == [i + 1 for i in range(300)]
        assert not any(rpc.counts.values())


async def test_node_calls_us(bridge_settings: AppSettings) -> None:
    async with ours(bridge_settings) as rpc:
        configs = await run(bridge_settings, "call.js", "configs")
        assert (configs[0], json.loads(configs[1])) == (0, {"version": "peyk", "name": "پیک"}), configs[2]
        assert (await run(bridge_settings, "call.js", "double", "21"))[:2] == (0, '{"double":42}\n')
        refused = await run(bridge_settings, "call.js", "double", '"x"')
        assert (refused[0], refused[2]) == (1, "give a number\n")
        assert await script(bridge_settings, "console.log((await rpc.call()).subscribed);") == "true\n"
        many = "console.log((await Promise.all([...Array(300).keys()].map((i) => rpc.call('double', i)))).length);"
        assert await script(bridge_settings, many) == "300\n"
        late = "await rpc.call('nobody', 1, 100).catch((e) => console.log(e.message));"
        assert await script(bridge_settings, late) == "Timeout exceeded\n"
        assert rpc.counts["malformed"] == 0


async def test_what_is_said_unasked_is_heard_on_both_sides(bridge_settings: AppSettings) -> None:
    heard: list[dict[str, Any]] = []
    sent: list[Any] = []
    rpc = Rpc(Address.parse(bridge_settings), bridge_settings)

    @rpc.on_event
    async def on_event(message: dict[str, Any]) -> None:
        heard.append(message)

    @rpc.action("seen")
    async def seen(data: Any) -> None:
        sent.append(data)

    event = (
        "await rpc.redis.publish(rpc.channel, JSON.stringify({source: 'nodejs', action: 'moved', requestId: null}));"
    )
    async with rpc, answering(bridge_settings) as process:
        await script(bridge_settings, "await rpc.send('seen', {user: 'sara'});" + event)
        await until(lambda: heard and sent)
        assert sent == [{"user": "sara"}] and heard == [{"source": "nodejs", "action": "moved", "requestId": None}]
        await rpc._publish(bridge_settings.rpc_channel, b'{"source":"laravel","action":"configs","theme":"dark"}')
        assert process.stdout is not None
        line = await asyncio.wait_for(process.stdout.readline(), 180)
        assert json.loads(line)["theme"] == "dark"
        await until(lambda: rpc.configuration == {"theme": "dark"})


async def test_of_node_and_us_one_answers(bridge_settings: AppSettings) -> None:
    calls = 0
    rpc = Rpc(Address.parse(bridge_settings), bridge_settings)

    @rpc.action("sum")
    async def total(data: Any) -> object:
        nonlocal calls
        calls += 1
        return {"total": sum(data)}

    async with rpc, answering(bridge_settings), answering(bridge_settings):
        for i in range(100):
            assert await rpc.call("sum", [i, 1]) == {"total": i + 1}
        assert rpc.counts["duplicate"] == 0 and calls <= 100


async def test_node_comes_back_with_redis(bridge_settings: AppSettings) -> None:
    with RedisProcess("valkey") as process:
        settings = bridge_settings.model_copy(update={"redis_url": process.url})
        async with answering(settings), ours(settings) as rpc:
            assert await rpc.call("sum", [1]) == {"total": 1}
            process.restart()

            async def answers() -> bool:
                with contextlib.suppress(TimeoutError, Away):
                    return bool(await rpc.call("sum", [2], timeout=0.5) == {"total": 2})
                return False

            await until(answers)
