"""docs/rabbitmq.md: its routing example runs, its arguments are ours."""

import asyncio
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import redis

from app import join
from bridge.topology import parse
from chat.node import Node
from tests.bridge.consuming import BACK
from tests.bridge.exchanges import settings_of
from tests.bridge.foreign import Host
from tests.services import ROOT, RedisProcess, clean_environment, until

PAGE = (ROOT / "docs/rabbitmq.md").read_text()
ROUTING = PAGE[PAGE.index("## Routing") :]


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def run(program: str, host: Host) -> None:
    program = program.replace("amqp://guest:guest@localhost:5672/", host.url)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr


def start(command: str, env: Mapping[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(["bash", "-c", command], cwd=ROOT, env=env)


def said(valkey: RedisProcess, channel: str) -> list[str]:
    with redis.Redis(port=valkey.port, decode_responses=True) as client:
        return [entry["data"] for _, entry in client.xrange(f"message:{channel}")]


async def test_the_routing_example_runs_as_written(host: Host, valkey: RedisProcess, tmp_path: Path) -> None:
    settings = settings_of(host, valkey.url, tmp_path, "\n".join(blocks(ROUTING, "toml")))
    errors = tmp_path / "errors.jsonl"
    (commands,) = blocks(ROUTING, "sh")
    consume, _ = commands.replace("python", f"exec {sys.executable}").replace("errors.jsonl", str(errors)).splitlines()
    env = clean_environment({"REDIS_URL": valkey.url, "DATA_DIR": str(tmp_path)})
    async with Node(settings, "bridge", join) as node:
        await until(lambda: node.parts.states["rabbitmq"]() == "ok", BACK)
        consumer = start(consume, env)
        try:
            (program,) = blocks(ROUTING, "python")
            await asyncio.to_thread(run, program, host)
            await until(lambda: errors.exists() and errors.read_text().count("\n") == 1, BACK)
        finally:
            consumer.kill()
            consumer.wait()
        assert '"a line of error"' in errors.read_text()
        lines = [f'{{"text":"a line of {severity}"}}' for severity in ("info", "warning", "error")]
        await until(lambda: said(valkey, "log-all") == lines, BACK)
        await until(lambda: said(valkey, "important") == ['{"text":"the kettle burns"}'], BACK)
        await until(lambda: host.ready("office.all") == 0, BACK)
        assert said(valkey, "office-live") == []


async def test_a_script_may_declare_one_of_ours(host: Host, valkey: RedisProcess, tmp_path: Path) -> None:
    section = PAGE[PAGE.index("## Other programs") : PAGE.index("## Routing")]
    parse(blocks(section, "toml")[0])
    text = '[[queue]]\nname = "peyk.events"\nchannel = "c"\n'
    async with Node(settings_of(host, valkey.url, tmp_path, text), "bridge", join):
        await until(lambda: host.consumers("peyk.events") == 1, BACK)
        (program,) = blocks(section, "python")
        await asyncio.to_thread(run, program, host)
