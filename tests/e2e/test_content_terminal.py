"""What a hostile writer puts into Redis shows as harmless text in a real terminal.

The doors refuse control characters, so they are put into the streams directly: by another program, or an older one.
"""

import json
import re
import unicodedata
from pathlib import Path
from typing import Any

import pytest
import redis

from pipeline.encode import Message, to_log
from pipeline.keys import Keys
from redis_config import Settings
from tests.e2e.tmux import Screen, Tmux
from tests.services import RedisClient

FACES = ["screen", "--plain"]
CORPUS = {  # what is written, and what a terminal shows of it
    "clear and colour": ("A\x1b[2J\x1b[31mB", "A [2J [31mB"),
    "title": ("C\x1b]0;title\x07D", "C ]0;title D"),
    "clipboard": ("E\x1b]52;c;aGFjaw==\x1b\\F", "E ]52;c;aGFjaw== \\F"),
    "answerback": ("G\x1b[6n\x1b[c\x05H", "G [6n [c H"),
    "C1": ("I\u009b2J\u009d52;c;aGk=\u009cJ", "I 2J 52;c;aGk= J"),
    "overwrite": ("K honest\rsara: L forged", "K honest sara: L forged"),
    "new line": ("M\n[00:00] sara: N", "M [00:00] sara: N"),
    "backspace and form feed": ("O\b\b\b\f\vP", "O     P"),
    "bell and NUL": ("Q\x07\x00R", "Q  R"),
    "bidi": ("S\u202egnp.exe\u2066T", "S gnp.exe T"),
    "markup": ("[/b]U[bold]V<b>", "[/b]U[bold]V<b>"),
    "separators": ("W\u2028X\u2029\u200fY", "W X  Y"),
}


class Writer:
    """Somebody with the password of Redis: appends as publish.lua would, but whatever it likes."""

    def __init__(self, data_dir: Path) -> None:
        self.redis: RedisClient = redis.Redis(unix_socket_path=str(data_dir / "valkey.sock"))

    def write(self, data: bytes, user: str = "mallory", channel: str = "general") -> None:
        epoch, offset = self.redis.hmget(f"channel:{channel}", "epoch", "offset")
        assert epoch is not None and offset is not None
        message = Message(channel, int(offset) + 1, 1_795_000_000_000, epoch.decode(), user, "-", data)
        fields: dict[Any, Any] = {"user": user, "client": "-", "data": data}
        with self.redis.pipeline() as pipe:
            pipe.xadd(f"message:{channel}", fields, id=message.id)
            pipe.hset(f"channel:{channel}", "offset", message.offset)
            pipe.xadd(Keys.log(Keys.of(Settings()).partition(channel)), dict([to_log(message)]))
            pipe.execute()

    def say(self, text: str, **more: str) -> None:
        self.write(json.dumps({"text": text}).encode(), **more)


@pytest.fixture(params=FACES)
def face(request: pytest.FixtureRequest) -> list[str]:
    """What the command line says for it."""
    return [] if request.param == "screen" else [request.param]


@pytest.fixture
def screen(tmux: Tmux, data_dir: Path, face: list[str]) -> Screen:
    screen = tmux.open("sara", "--user", "sara", *face)
    screen.record(data_dir / "bytes")
    return screen


# What the screen itself writes: colours of 256 or more, where the next row begins, frames, the cursor.
_OURS = re.compile(r"\x1b\[(?:0|(?:\d;)*[34]8;[25][0-9;]*)m|\x1b\[\d+;\d+H|\x1b\[\?(?:2026|25)[hl]")


def assert_harmless(written: str) -> None:
    """What the program wrote: text, spaces, ends of lines, and what the screen itself needs."""
    written = _OURS.sub("", written)
    unseen = [c for c in written if c not in "\r\n\u200c\u200d" and unicodedata.category(c)[0] == "C"]
    assert unseen == [] and "\u2028" not in written


def test_a_hostile_text_is_shown_as_text_live_and_from_history(
    tmux: Tmux, screen: Screen, data_dir: Path, face: list[str]
) -> None:
    writer = Writer(data_dir)
    for text, _ in CORPUS.values():
        writer.say(text)
    writer.say("the end")
    screen.wait("mallory: the end")
    late = tmux.open("late", "--user", "late", *face)
    late.wait("mallory: the end")
    for terminal in (screen, late):
        lines = [line.rstrip() for line in terminal.text().splitlines()]
        for name, (_, shown) in CORPUS.items():
            if name == "new line" and not face:  # a screen shows two lines, the second where no message begins
                at = next(i for i, line in enumerate(lines) if line.endswith("] mallory: M"))
                assert lines[at + 1].endswith("         [00:00] sara: N")
                continue
            assert any(line.endswith(f"] mallory: {shown}") for line in lines), (name, terminal.text())
        assert "\x1b[31m" not in terminal.raw()
    assert_harmless((data_dir / "bytes").read_text())


def test_names_and_descriptions_are_as_harmless(screen: Screen, data_dir: Path, face: list[str]) -> None:
    writer = Writer(data_dir)
    writer.say("x", user="root\\u001b[31m\\u202e")  # as JSON escapes it: names are not encoded again
    screen.wait("root [31m : x")
    writer.redis.hset("channel:evil", mapping={"id": "evil", "name": "evil\x1b[2J", "description": "a\rb\x9b31m"})
    writer.redis.zadd("channels", {"evil": 0})
    screen.type("/channels")
    screen.wait("evil [2J  a b 31m")
    if face:  # what is typed into a screen are keys
        screen.type("/join \x1b[31mred")
        screen.wait("! a channel name has")
    assert_harmless((data_dir / "bytes").read_text())


def test_long_lines_piled_marks_and_damage_stop_nobody(screen: Screen, data_dir: Path) -> None:
    writer = Writer(data_dir)
    writer.say("long " * 12_000)
    writer.say("z" + "\u0301\u0316" * 500 + " piled")
    screen.wait("piled")
    for damaged in (b'{"text":"\\ud800"}', b"1e999", b"not json", b'{"text":"\xff"}'):
        writer.write(damaged)
    writer.say("after all that")
    screen.wait("mallory: after all that")
    assert screen.text().count("(a message that cannot be read)") == 4
    assert_harmless((data_dir / "bytes").read_text())
    screen.type("still mine")
    screen.wait("sara: still mine")
