"""Two people at two terminals on one machine, with and without a server."""

import json
import os
import signal
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.tmux import Tmux
from tests.services import PeykServer, end_embedded, wait_until


@pytest.fixture
def data_dir() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="pk-") as name:
        yield Path(name)
        end_embedded(Path(name))


@pytest.fixture
def tmux(data_dir: Path) -> Iterator[Tmux]:
    with Tmux(data_dir) as tmux:
        yield tmux


def valkey_runs(data_dir: Path) -> bool:
    pid = (data_dir / "valkey.pid").read_text().strip() if (data_dir / "valkey.pid").exists() else "0"
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def post(server: PeykServer, channel: str, text: str) -> None:
    body = json.dumps({"text": text, "user": "curl"}).encode()
    url = f"{server.url}/api/channels/{channel}/messages"
    request = urllib.request.Request(url, body, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as reply:
        assert reply.status == 201


def test_two_terminals_chat_without_a_server(tmux: Tmux, data_dir: Path) -> None:
    sara = tmux.open("sara", "--user", "sara")
    babak = tmux.open("babak", "--user", "بابک")
    assert "Peyk" in sara.text() and "1.0" in sara.text()
    sara.type("hello there")
    babak.wait("sara: hello there")
    babak.type("/send سلام سارا")
    sara.wait("بابک: سلام سارا")
    sara.type("/quit")
    wait_until(sara.ended, what="sara's terminal ends")
    babak.type("still here")
    babak.wait("بابک: still here")
    babak.press("C-d")
    wait_until(babak.ended, what="babak's terminal ends")
    wait_until(lambda: not valkey_runs(data_dir), what="the last one stops the embedded server")

    late = tmux.open("late", "--user", "late")  # what was said is still there
    late.wait("بابک: still here")
    assert late.text().index("hello there") < late.text().index("سلام سارا") < late.text().index("still here")


def test_commands_and_what_they_say(tmux: Tmux) -> None:
    screen = tmux.open("sara", "--user", "sara")
    screen.type("/join برنامه‌نویسی")
    screen.wait("* joined برنامه‌نویسی")
    screen.type("/channels")
    screen.wait("» برنامه‌نویسی")
    assert "+ general" in screen.text()
    screen.type("/leave")
    screen.wait("* left")
    screen.type("to nobody")
    screen.wait("! you are in no channel; /join <channel> first")
    screen.type("/dance")
    screen.wait("! there is no command /dance; there are /join")
    screen.type("/join a b")
    screen.wait("! a channel name has 1 to 64 letters")
    screen.type("/join General")
    screen.wait("* joined general")


def test_terminals_page_and_curl_are_one_conversation(tmux: Tmux, data_dir: Path) -> None:
    with PeykServer({"DATA_DIR": str(data_dir)}) as server:
        sara = tmux.open("sara", "--user", "sara")
        babak = tmux.open("babak", "--user", "babak")
        post(server, "general", "from curl")
        sara.wait("curl: from curl")
        babak.wait("curl: from curl")
        sara.type("from the terminal")
        babak.wait("sara: from the terminal")
        with urllib.request.urlopen(f"{server.url}/api/channels/general/messages", timeout=10) as reply:
            texts = [p["data"]["text"] for p in json.load(reply)["publications"]]
        assert texts == ["from curl", "from the terminal"]
        server.stop()  # the server goes: the terminals play the fan-out themselves
        babak.type("without the server")
        sara.wait("babak: without the server")


def test_the_one_who_started_valkey_may_be_killed_and_valkey_too(tmux: Tmux, data_dir: Path) -> None:
    first = tmux.open("first", "--user", "first")
    second = tmux.open("second", "--user", "second")
    os.kill(first.pid(), signal.SIGKILL)
    second.type("one")
    second.wait("second: one")
    third = tmux.open("third", "--user", "third")
    pid = int((data_dir / "valkey.pid").read_text())
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: int((data_dir / "valkey.pid").read_text()) != pid, what="somebody starts it again")
    wait_until(lambda: valkey_runs(data_dir))

    def heard() -> bool:
        third.type("two")
        return "third: two" in second.text()

    wait_until(heard, 20, "they hear each other again")
