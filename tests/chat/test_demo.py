"""The demo: channels with a history, people who are there and go on talking; never where others' channels are."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import httpx2 as httpx
from websockets.asyncio.client import connect

from chat.demo import script
from tests.chat.conftest import Talk
from tests.services import ROOT, PeykServer, clean_environment, until


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


def test_it_leaves_others_channels_alone(tmp_path: Path) -> None:
    with PeykServer() as other:
        url = f"{other.url}/api/channels/mine/messages"
        httpx.post(url, json={"text": "x"}, trust_env=False).raise_for_status()
        env = clean_environment({"DATA_DIR": str(other.dir)})
        command = [sys.executable, "app.py", "demo", "--port", "0"]
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=30)
        assert done.returncode != 0 and "DATA_DIR" in done.stderr
        assert len(httpx.get(f"{other.url}/api/channels", trust_env=False).json()) == 1
