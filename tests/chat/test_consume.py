"""`consume`: a channel in a file, each message once, whatever becomes of the consumer."""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import httpx2 as httpx
import pytest

from chat.auth import Tokens
from chat.consume import Record, opened_record
from chat.errors import BadRequest, NameTaken
from chat.source import Said
from tests.services import ROOT, PeykServer, clean_environment, wait_until

WAIT = 180.0  # seconds for what was published to be in the file


class Consuming:
    """`python app.py consume CHANNEL >> FILE`, as a shell runs it."""

    def __init__(self, env: Mapping[str, str], file: Path, *words: str) -> None:
        command = [sys.executable, "app.py", "consume", "news", *words]
        self.errors = file.with_suffix(".err")
        with file.open("ab") as out, self.errors.open("ab") as err:
            self.process = subprocess.Popen(command, cwd=ROOT, env=clean_environment(env), stdout=out, stderr=err)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def publish(server: PeykServer, *texts: str) -> None:
    with httpx.Client(base_url=server.url, trust_env=False, timeout=180) as http:
        for text in texts:
            reply = http.post("/api/channels/news/messages", json={"text": text})
            assert reply.status_code == 201, reply.text


def texts(file: Path) -> list[str]:
    """What the whole lines of a file say."""
    if not file.exists():
        return []
    return [json.loads(line)["data"]["text"] for line in file.read_bytes().split(b"\n")[:-1]]


@pytest.mark.parametrize("words", [(), ("--url", "ws")], ids=["straight", "server"])
def test_a_consumer_that_is_killed_goes_on_where_it_was(tmp_path: Path, words: Sequence[str]) -> None:
    file = tmp_path / "news.jsonl"
    with PeykServer() as server:
        env = {"REDIS_URL": f"unix://{server.dir}/valkey.sock", "DATA_DIR": str(tmp_path)}
        words = [word if word != "ws" else f"ws://127.0.0.1:{server.port}" for word in words]
        expected: list[str] = []
        for turn in range(3):
            before = [f"{turn} before {n}" for n in range(20)]
            publish(server, *before)  # nobody consumes
            consuming = Consuming(env, file, *words)
            try:
                wait_until(lambda: len(texts(file)) == len(expected + before), WAIT)  # noqa: B023
                live = [f"{turn} live {n}" for n in range(20)]
                publish(server, *live)
                expected += before + live
                wait_until(lambda: len(texts(file)) == len(expected), WAIT)  # noqa: B023
            finally:
                consuming.kill()
            with file.open("ab") as torn:
                torn.write(b'{"epoch":"half a line')  # as a kill in the middle of a write leaves it
        assert texts(file) == expected
    offsets = [json.loads(line)["offset"] for line in file.read_bytes().split(b"\n")[:-1]]
    assert offsets == list(range(1, len(expected) + 1))


def test_a_consumer_may_come_before_the_channel_and_outlive_it(tmp_path: Path) -> None:
    file = tmp_path / "news.jsonl"
    secret = "s" * 40
    with PeykServer({"AUTH_SECRET": secret, "GUESTS": "yes"}) as server:
        token = Tokens(secret).issue("owner", 600)
        env = {"REDIS_URL": f"unix://{server.dir}/valkey.sock", "DATA_DIR": str(tmp_path)}
        consuming = Consuming(env, tmp_path / "stdout", str(file), "--user", "owner")
        try:
            with httpx.Client(base_url=server.url, trust_env=False) as http:
                wait_until(lambda: http.get("/api/channels/news").status_code == 200, WAIT)
                publish(server, "one", "two")
                wait_until(lambda: texts(file) == ["one", "two"], WAIT)
                gone = http.delete("/api/channels/news", headers={"authorization": f"Bearer {token}"})
                assert gone.status_code < 300, gone.text
            publish(server, "three")
            wait_until(lambda: texts(file) == ["one", "two", "three"], WAIT)
            assert consuming.process.poll() is None
        finally:
            consuming.kill()
    assert "began anew" in consuming.errors.read_text()


def test_a_pipe_has_no_place_to_keep(tmp_path: Path) -> None:
    command = [sys.executable, "app.py", "consume", "news"]
    env = clean_environment({"DATA_DIR": str(tmp_path)})
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=180)
    assert done.returncode == 1 and "replay CHANNEL --follow" in done.stderr and "Traceback" not in done.stderr


def test_one_file_has_one_consumer(tmp_path: Path) -> None:
    with opened_record(tmp_path / "a") as record:
        record.write("e", [Said({"text": "x"}, "sara", 7, 1)])
        with pytest.raises(NameTaken, match="another consumer"), opened_record(tmp_path / "a"):
            pass
    with opened_record(tmp_path / "a") as record:
        assert (record.epoch, record.offset) == ("e", 7)


@pytest.mark.parametrize(
    "text", [b"hello\n", b"hello", b'{"epoch":"e","offset":1}\nhello', b"\xff\n", b'{"offset":1}\n']
)
def test_a_file_that_holds_something_else_is_left_alone(tmp_path: Path, text: bytes) -> None:
    file = tmp_path / "a"
    file.write_bytes(text)
    with pytest.raises(BadRequest, match="name another file"), opened_record(file):
        pass
    assert file.read_bytes() == text
    with pytest.raises(BadRequest, match="cannot be read and written"), opened_record(tmp_path):
        pass


def test_a_long_last_line_is_found(tmp_path: Path) -> None:
    with opened_record(tmp_path / "a") as record:
        record.write("e", [Said({"text": "x" * 200_000}, "sara", n, 1) for n in range(1, 4)])
    with opened_record(tmp_path / "a") as record:
        assert isinstance(record, Record) and record.offset == 3
