"""Two people at two terminals on one machine, with and without a server."""

import json
import os
import signal
import urllib.request
from functools import partial
from pathlib import Path

import pytest

from chat.plain import width
from tests.e2e.tmux import Screen, Tmux
from tests.services import PeykServer, run_app, valkey_runs, wait_until


def post(server: PeykServer, channel: str, text: str) -> None:
    body = json.dumps({"text": text, "user": "curl"}).encode()
    url = f"{server.url}/api/channels/{channel}/messages"
    request = urllib.request.Request(url, body, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=180) as reply:
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


def said(tmux: Tmux, data_dir: Path, channel: str) -> list[str]:
    """The texts of a channel, as `replay` gives them."""
    lines = run_app("replay", channel, DATA_DIR=str(data_dir)).stdout.splitlines()
    return [json.loads(line)["data"]["text"] for line in lines]


@pytest.mark.parametrize("face", ["--plain", "--user=sara"])
def test_bytes_that_are_no_text_are_typed_and_the_terminal_goes_on(tmux: Tmux, data_dir: Path, face: str) -> None:
    screen = tmux.open("sara", face)
    screen.send(b"caf\xe9\r")
    screen.wait("caf\ufffd")
    screen.send(b"\xff\xc3")
    screen.send("\xe9 then سلام\r".encode())
    screen.wait("then سلام")
    assert said(tmux, data_dir, "general") == ["caf\ufffd", "\ufffd\ufffdé then سلام"]


def test_a_paste_arrives_in_order_and_without_controls(tmux: Tmux, data_dir: Path) -> None:
    screen = tmux.open("sara", "--user=sara")
    pasted = b"first\x1b[31mred\x1b[0m end\x0bone\r\ntwo\x1b]0;title\x07\x00\x1bOP " + "سلام\x1b".encode()
    screen.send(b"\x1b[200~" + pasted + b"\x1b[201~")
    screen.wait("سلام")
    screen.send(b"\x1b[200~ and \x1b[20")  # the mark comes in two parts
    screen.send(b"1~ keys\r")
    screen.wait("sara: first")
    assert said(tmux, data_dir, "general") == ["first[31mred[0m end\none\ntwo]0;titleOP سلام and  keys"]


def test_commands_and_what_they_say(tmux: Tmux) -> None:
    screen = tmux.open("sara", "--user", "sara")
    for typed, said in (
        ("/join برنامه‌نویسی", "* joined برنامه‌نویسی"),
        ("/channels", "» برنامه‌نویسی"),
        ("hello", "sara: hello"),
        ("/send there", "sara: there"),
        ("/me waves", "* sara waves"),
        ("/topic About code", "* برنامه‌نویسی: About code"),
        ("/who", "* 1 here: sara"),
        ("/search THE", "sara: there"),
        ("/msg babak psst", "* joined @babak"),
        ("/leave", "* left @babak"),
        ("to nobody", "! you are in no channel; /join <channel> first"),
        ("/dance", "! there is no command /dance; there are /join"),
        ("/join a b", "! a channel name has 1 to 64 letters"),
        ("/help", "/topic <text>"),
        ("/name سارا", "* you are سارا now"),
        ("/join General", "* joined general"),
        ("/join General", "! you are in General already"),
    ):
        screen.type(typed)
        screen.wait(said)
    peyk, dark = "\x1b[48;5;236m Peyk", "\x1b[48;5;233m Peyk"  # #333333 and #101114 in 256 colours
    assert peyk in screen.raw()
    screen.type("/theme dark")
    wait_until(lambda: dark in screen.raw(), what="the colours change")
    for n in range(40):
        screen.type(f"line {n}")
    screen.wait("سارا: line 39")
    assert "line 9" not in screen.text()
    screen.type("/history")
    screen.wait("سارا: line 9")
    screen.type("/quit")
    assert screen.code() == 0


def test_a_screen_is_resized_and_takes_persian_and_wide_letters(tmux: Tmux) -> None:
    screen = tmux.open("sara", "--user", "سارا", "--lang", "fa", "--channel", "عمومی", begins="پیوستید")
    screen.type("می‌خواهم بنویسم: 日本語 👩‍💻 ❤️ پایان")
    screen.wait("سارا: می‌خواهم بنویسم: 日本語 👩💻 ❤ پایان")
    for columns, rows in ((60, 15), (120, 40), (61, 16)):
        screen.resize(columns, rows)
        wait_until(partial(_fits, screen, columns, rows), what=f"{columns} × {rows}")
        screen.wait("پایان")
    screen.press("C-c")
    screen.wait("یک بار دیگر Ctrl+C")
    screen.press("C-c")
    assert screen.code() == 130


def _fits(screen: Screen, columns: int, rows: int) -> bool:
    """Whether the five parts are there, each row as wide as the window."""
    lines = screen.text().splitlines()
    drawn = len(lines) == rows and "پیک" in lines[0] and lines[-2].startswith(" >") and "متصل" in lines[-1]
    return drawn and all(width(line) <= columns for line in lines)


def test_a_screen_on_a_server_survives_its_end(tmux: Tmux, data_dir: Path) -> None:
    with PeykServer({"DATA_DIR": str(data_dir)}) as server:
        sara = tmux.open("sara", "--user", "sara", "--url", server.url)
        babak = tmux.open("babak", "--user", "babak", "--url", f"ws://127.0.0.1:{server.port}")
        sara.type("one")
        babak.wait("sara: one")
        server.kill()
        sara.wait("reconnecting…")
        sara.type("two")
        sara.wait("not sent yet")
        server.start()
        babak.wait("sara: two")
        for screen in (sara, babak):
            screen.wait("· connected")
            screen.wait("sara: two")
            assert "not sent yet" not in screen.text()
            assert screen.text().count("sara: one") == screen.text().count("sara: two") == 1


def test_terminals_page_and_curl_are_one_conversation(tmux: Tmux, data_dir: Path) -> None:
    with PeykServer({"DATA_DIR": str(data_dir)}) as server:
        sara = tmux.open("sara", "--user", "sara")
        babak = tmux.open("babak", "--user", "babak")
        post(server, "general", "from curl")
        sara.wait("curl: from curl")
        babak.wait("curl: from curl")
        sara.type("from the terminal")
        babak.wait("sara: from the terminal")
        with urllib.request.urlopen(f"{server.url}/api/channels/general/messages", timeout=180) as reply:
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

    wait_until(heard, 60, "they hear each other again")
