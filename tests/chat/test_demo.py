"""The demo: channels with a history, people who are there and go on talking; never where others' channels are."""

import contextlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import httpx2 as httpx
import pytest
import redis
from websockets.asyncio.client import connect

from chat.demo import script
from tests.chat.conftest import Talk
from tests.services import PeykServer, RedisProcess, run_app, until


class Demo(PeykServer):
    def command(self) -> Sequence[str]:
        return [sys.executable, "app.py", "demo", "--port", str(self.port)]


async def test_a_visitor_sees_life_at_once() -> None:
    with Demo() as demo:
        async with httpx.AsyncClient(base_url=demo.url, trust_env=False) as http:
            channels = {channel["name"] for channel in (await http.get("/api/channels")).json()}
            assert {"general", "عمومی", "برنامه‌نویسی", "deploys"} <= channels
            said = [line for line in script() if line.channel == "عمومی"]
            page = (await http.get("/api/channels/عمومی/messages")).json()
            assert [p["data"] for p in page["publications"]][: len(said)] == [json.loads(line.data) for line in said]
        async with connect(demo.ws_url, proxy=None) as socket:
            talk = Talk(socket)
            await talk.ask(connect={"data": {"user": "visitor"}})
            for channel in channels:
                await talk.ask(subscribe={"channel": channel.replace("\u200c", ""), "join_leave": True})
            await until(lambda: _are_here(talk, {"mina", "reza", "visitor"}), what="all are there")
            await until(lambda: _spoke(talk), 40, "somebody says something new")
        demo.stop()
        demo.start()  # it goes on where it was
        async with httpx.AsyncClient(base_url=demo.url, trust_env=False) as http:
            again = (await http.get("/api/channels/عمومی/messages")).json()["publications"]
            assert again[: len(said)] == page["publications"][: len(said)] and len(again) < 2 * len(said)


async def _are_here(talk: Talk, users: set[str]) -> bool:
    here = (await talk.ask(presence={"channel": "general"}))["presence"]["presence"]
    return users <= {info["user"] for info in here.values()}


async def _spoke(talk: Talk) -> bool:
    await talk.read()
    return any("pub" in push and "offset" in push["pub"] for push in talk.pushes)


def refused(**env: str) -> str:
    """What a demo that does not start says, in one line."""
    done = run_app("demo", "--port", "0", **env)
    lines = done.stderr.splitlines()
    assert done.returncode == 1 and len(lines) == 1 and lines[0].startswith("peyk: "), done.stderr
    return lines[0]


def test_it_leaves_others_data_alone(tmp_path: Path) -> None:
    """Also where nobody has made a channel yet."""
    with PeykServer() as other:
        assert "DATA_DIR=" in refused(DATA_DIR=str(other.dir))
        assert httpx.get(f"{other.url}/api/channels", trust_env=False).json() == []
    with RedisProcess() as process, contextlib.closing(redis.Redis(port=process.port)) as client:
        client.set("of another program", "1")
        assert "REDIS_DB=" in refused(DATA_DIR=str(tmp_path), REDIS_URL=process.url)
        assert client.keys() == [b"of another program"]


@pytest.mark.parametrize(
    "name, value",
    [
        ("DATABASE_URL", "postgresql://a:secret@127.0.0.1:1/b"),
        ("MONGO_URL", "mongodb://a:secret@127.0.0.1:1/b"),
        ("AMQP_URL", "amqp://a:secret@127.0.0.1:1/"),
    ],
)
def test_it_starts_beside_no_database_or_broker(tmp_path: Path, name: str, value: str) -> None:
    line = refused(DATA_DIR=str(tmp_path / "new"), **{name: value})
    assert line.endswith(f"start it without {name}") and "secret" not in line
    assert not (tmp_path / "new").exists()


def test_an_archive_without_its_redis_is_not_the_demos(tmp_path: Path) -> None:
    archive = tmp_path / "peyk.sqlite"
    archive.write_bytes(b"somebody's")
    archive.chmod(0o600)
    assert str(archive) in refused(DATA_DIR=str(tmp_path))
    assert archive.read_bytes() == b"somebody's"
