"""The five functions of the specification, and the command line."""

import asyncio
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import redis

import app
from bridge.settings import database
from bridge.sql import SqlArchive
from chat.errors import BadRequest, UnknownChannel
from chat.node import Node
from tests.services import (
    ROOT,
    PeykServer,
    RedisProcess,
    clean_environment,
    end_embedded,
    free_port,
    run_app,
    until,
    valkey_runs,
    wait_until,
)


@pytest.fixture
def data_dir(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="pk-") as name:
        monkeypatch.setenv("DATA_DIR", name)
        yield Path(name)
        end_embedded(Path(name))


@pytest.fixture
async def functions(data_dir: Path) -> AsyncIterator[None]:
    """The functions on an embedded Valkey; their node is closed behind each test."""
    yield
    await app.close_node()


@pytest.mark.usefixtures("functions")
class TestFunctions:
    async def test_a_published_message_is_received_by_subscribers(self) -> None:
        first: list[str] = []
        second: list[str] = []
        assert await app.subscribe_to_channel("General", first.append) == "Subscribed to channel general"
        await app.subscribe_to_channel("general", second.append)
        assert await app.publish_message("general", "سلام") == "Message published to channel general"
        await until(lambda: first and first[-1].endswith("] app: سلام") and second == [*second[:1], first[-1]])

    async def test_a_produced_message_is_stored_in_the_stream_model(self, data_dir: Path) -> None:
        produced = await app.produce_message("general", "hello")
        assert produced.startswith("Message produced to channel general: 1-")
        assert await app.consume_message("general") == "Consumed 1 messages from channel general"
        async with SqlArchive(database("", data_dir)) as archive:
            (row,) = await archive.messages("general")
        assert row.id == produced.rpartition(" ")[2]
        assert (row.channel_id, row.offset, row.message, row.user) == ("general", 1, '{"text":"hello"}', "app")
        assert len(row.epoch) == 8 and row.timestamp.year >= 2026

    async def test_consuming_again_stores_only_what_is_new(self, data_dir: Path) -> None:
        for i in range(300):
            await app.produce_message("general", str(i))
        assert await app.consume_message("general") == "Consumed 300 messages from channel general"
        assert await app.consume_message("general") == "Consumed 0 messages from channel general"
        await app.produce_message("general", "last")
        assert await app.consume_message("general") == "Consumed 1 messages from channel general"
        async with SqlArchive(database("", data_dir)) as archive:
            assert [row.offset for row in await archive.messages("general")] == list(range(1, 302))

    async def test_what_is_stored_is_not_stored_again_when_redis_came_back_older(
        self, data_dir: Path, valkey_process: RedisProcess, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its directory need not be there either."""
        monkeypatch.setenv("REDIS_URL", valkey_process.url)
        monkeypatch.setenv("DATA_DIR", str(data_dir / "new"))
        with redis.Redis(port=valkey_process.port) as client:
            client.flushall()
            for n in range(3):
                await app.produce_message("c", str(n))
            assert await app.consume_message("c") == "Consumed 3 messages from channel c"
            ((last, _),) = client.xrevrange("message:c", count=1)
            client.xdel("message:c", last)
            client.hset("channel:c", "offset", 2)
        await app.produce_message("c", "3")
        assert await app.consume_message("c") == "Consumed 1 messages from channel c"
        async with SqlArchive(database("", data_dir / "new")) as archive:
            rows = await archive.messages("c")
        assert [row.message for row in rows] == [f'{{"text":"{n}"}}' for n in range(4)]
        assert len({row.epoch for row in rows}) == 2

    async def test_consumed_messages_are_broadcast_to_subscribers(self) -> None:
        """What is produced to the stream the consumer group takes, and broadcasts to who subscribed."""
        lines: list[str] = []
        await app.subscribe_to_channel("general", lines.append)
        for i in range(50):
            await app.produce_message("general", str(i))
        await until(lambda: len([line for line in lines if " app: " in line]) == 50)
        assert [line.rpartition(" ")[2] for line in lines if " app: " in line] == [str(i) for i in range(50)]
        node = await app.open_node()
        log = node.keys.log(node.keys.partition("general"))
        await until(lambda: _acked(node, log), what="the group acked what it broadcast")

    async def test_a_broadcast_is_shown_and_not_kept(self) -> None:
        lines: list[str] = []
        await app.subscribe_to_channel("general", lines.append)
        assert await app.broadcast_message("general", "now") == "Message broadcast to channel general"
        await until(lambda: lines and lines[-1].endswith(" app: now"))
        assert await app.consume_message("general") == "Consumed 0 messages from channel general"

    @pytest.mark.parametrize("message", [None, 1, b"bytes", {"text": "x"}, ["x"], "half \ud800"])
    async def test_what_is_no_text_is_refused(self, message: object) -> None:
        for function in (app.produce_message, app.publish_message, app.broadcast_message):
            with pytest.raises(BadRequest, match="a message is a text"):
                await function("general", message)  # type: ignore[arg-type]
        for channel in (None, 1, b"general"):
            with pytest.raises(BadRequest, match="a channel is called by its name"):
                await app.publish_message(channel, "x")  # type: ignore[arg-type]
        with pytest.raises(UnknownChannel):
            await app.consume_message("general")

    async def test_functions_called_at_once_share_one_node(self) -> None:
        nodes = await asyncio.gather(*[app.open_node() for _ in range(3)])
        assert nodes[0] is nodes[1] is nodes[2]

    async def test_bad_names_and_unknown_channels(self) -> None:
        for call in (app.publish_message("a b", "x"), app.subscribe_to_channel("*"), app.broadcast_message("", "x")):
            with pytest.raises(BadRequest, match="1 to 64 letters"):
                await call
        with pytest.raises(UnknownChannel, match="create it first"):
            await app.consume_message("never")


def test_each_function_may_have_an_event_loop_of_its_own(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And leaves nothing behind: the embedded Valkey ends with the last who uses it."""
    for n in range(2):
        assert asyncio.run(app.publish_message("general", str(n))) == "Message published to channel general"
        wait_until(lambda: not valkey_runs(data_dir), what="the embedded Valkey ends")
    assert texts(data_dir, "general") == ["0", "1"]


async def _acked(node: Node, log: str) -> bool:
    return bool((await node.link.call("XPENDING", log, "fanout"))[0] == 0)


# -- the command line


def run(
    data_dir: Path, *words: str | bytes, stdin: bytes | str = b"", **env: str
) -> "subprocess.CompletedProcess[str]":
    return run_app(*words, stdin=stdin, DATA_DIR=str(data_dir), **env)


def test_a_terminal_takes_lines_from_a_pipe_and_replay_gives_them_back(data_dir: Path) -> None:
    done = run(data_dir, "--user", "sara", "--channel", "Pipe", stdin="hello\nسلام\n/send third\n/quit\nnever\n")
    assert done.returncode == 0, done.stderr
    assert "* joined Pipe" in done.stdout
    replayed = run(data_dir, "replay", "pipe")
    assert [line.split('"text":"')[1].split('"')[0] for line in replayed.stdout.splitlines()] == [
        "hello",
        "سلام",
        "third",
    ]
    assert run(data_dir, "replay", "pipe", "--after", "2").stdout.count("\n") == 1
    assert run(data_dir, "replay", "pipe", "--since", "2100-01-01").stdout == ""
    status = run(data_dir, "status")
    assert "pipe" in status.stdout and "fanout" in status.stdout and "embedded Valkey" in status.stdout


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("replay", "never"), "there is no channel never"),
        (("replay", "a b"), "1 to 64 letters"),
        (("replay", "x", "--since", "soon"), "since must be"),
        (("--user", "a b"), "a user name has"),
    ],
)
def test_errors_are_one_line_and_exit_code_1(data_dir: Path, words: tuple[str, ...], says: str) -> None:
    done = run(data_dir, *words)
    assert done.returncode == 1
    assert says in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_server_that_cannot_start_says_why_without_a_traceback(data_dir: Path, workers: str) -> None:
    done = run(data_dir, "serve", "--port", str(free_port()), "--workers", workers, REDIS_PORT=str(free_port()))
    assert done.returncode not in (0, None)
    assert "peyk: no Redis at localhost" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(("name", "value"), [("PARTITIONS", "0"), ("HTTP_PORT", "70000"), ("HTTP_PORT", "-1")])
def test_a_setting_out_of_range_is_named(data_dir: Path, name: str, value: str) -> None:
    done = run(data_dir, "status", **{name: value})
    assert done.returncode == 1 and name in done.stderr


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_port_in_use_is_named_before_anything_starts(data_dir: Path, workers: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = run(data_dir, "serve", "--port", port, "--workers", workers)
    assert done.returncode == 1 and done.stdout == "" and not list(data_dir.iterdir())
    assert done.stderr.startswith("peyk: ") and f"HTTP_PORT={port}" in done.stderr and "Traceback" not in done.stderr


def test_a_python_without_the_packages_says_which_to_take() -> None:
    command = [sys.executable, "-S", "app.py", "status"]  # -S: without site-packages
    done = subprocess.run(command, cwd=ROOT, env=clean_environment(), capture_output=True, text=True, timeout=180)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    assert "lacks" in done.stderr and "`make run`" in done.stderr and "`.venv/bin/python app.py`" in done.stderr


@pytest.mark.parametrize("offset", ["-5", "²", str(2**70)])
def test_an_offset_that_cannot_be_is_refused(data_dir: Path, offset: str) -> None:
    done = run(data_dir, "replay", "general", f"--after={offset}")
    assert done.returncode == 2 and "0 to 9007199254740992" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.usefixtures("functions")
async def test_dead_letters_are_listed_given_back_and_dropped(data_dir: Path) -> None:
    node = await app.open_node()
    await node.redis.xadd("log:0", {"c": "damaged"})
    await until(lambda: node.redis.xlen("dead:fanout"))
    listed = await asyncio.to_thread(run, data_dir, "dead", "list", "fanout")
    letter = json.loads(listed.stdout)
    assert (letter["log"], letter["channel"], letter["message"], letter["count"]) == ("log:0", "c", "damaged", 1)
    assert "ValueError" in letter["reason"]
    status = await asyncio.to_thread(run, data_dir, "status")
    assert re.search(r"^fanout +1$", status.stdout, re.MULTILINE)

    for action in ("list", "retry"):
        nobody = await asyncio.to_thread(run, data_dir, "dead", action, "fanoot")
        assert nobody.returncode == 1 and "no group fanoot; there are fanout\n" in nobody.stderr
    unsaid = await asyncio.to_thread(run, data_dir, "dead", "drop", "fanout")
    assert unsaid.returncode == 1 and "--all" in unsaid.stderr
    unknown = await asyncio.to_thread(run, data_dir, "dead", "retry", "fanout", "1-1")
    assert unknown.returncode == 1 and "no dead letter 1-1" in unknown.stderr
    again = await asyncio.to_thread(run, data_dir, "dead", "retry", "fanout", letter["id"])
    assert "given back" in again.stdout
    await until(lambda: node.redis.xlen("dead:fanout"))  # damaged still, set aside anew
    dropped = await asyncio.to_thread(run, data_dir, "dead", "drop", "fanout", "--all")
    assert dropped.stdout.startswith("1 dead letters")
    assert await node.redis.xlen("dead:fanout") == 0


@pytest.mark.usefixtures("functions")
async def test_a_group_that_nobody_plays_can_be_ended(data_dir: Path) -> None:
    node = await app.open_node()
    await app.produce_message("general", "hello")
    for p in range(8):
        await node.redis.xgroup_create(f"log:{p}", "old", "0", mkstream=True)
    played = await asyncio.to_thread(run, data_dir, "groups", "drop", "fanout")
    assert played.returncode == 1 and "plays fanout now" in played.stderr
    dropped = await asyncio.to_thread(run, data_dir, "groups", "drop", "old")
    assert dropped.stdout == "group old is gone from every log\n", dropped.stderr
    missing = await asyncio.to_thread(run, data_dir, "groups", "drop", "old")
    assert missing.returncode == 1 and "there are fanout" in missing.stderr


def test_a_pipe_sends_and_replays(data_dir: Path) -> None:
    sent = run(data_dir, "send", "Pipe", "--user", "sara", stdin="one\n\nدو\n")
    assert (sent.returncode, sent.stdout, sent.stderr) == (0, "", "")
    assert run(data_dir, "send", "pipe", "--user", "sara", "hello", "there").returncode == 0
    assert run(data_dir, "send", "pipe", "--whole", stdin="two\nlines\n").returncode == 0
    assert run(data_dir, "send", "pipe", "--json", stdin='{"type":"paid"}\n').returncode == 0
    lines = [json.loads(line) for line in run(data_dir, "replay", "pipe").stdout.splitlines()]
    assert [line["data"].get("text", line["data"]) for line in lines] == [
        *("one", "دو", "hello there", "two\nlines"),
        {"type": "paid"},
    ]
    assert [line["offset"] for line in lines] == [1, 2, 3, 4, 5] and lines[2]["info"]["user"] == "sara"


@pytest.mark.parametrize("words", [("replay", "full"), ("replay", "full", "--follow"), ("status",)])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_output_that_cannot_be_written_is_one_line(data_dir: Path, words: tuple[str, ...], unbuffered: str) -> None:
    assert run(data_dir, "send", "full", "--user", "sara", "hello").returncode == 0
    env = clean_environment({"DATA_DIR": str(data_dir), "PYTHONUNBUFFERED": unbuffered})
    command = [sys.executable, "app.py", *words]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, cwd=ROOT, env=env, stdout=full, stderr=subprocess.PIPE, timeout=180)
    says = "peyk: the output cannot be written: No space left on device\n"
    assert (done.returncode, done.stderr.decode()) == (1, says)


def texts(data_dir: Path, channel: str, **env: str) -> list[str]:
    lines = run(data_dir, "replay", channel, **env).stdout.splitlines()
    return [json.loads(line)["data"]["text"] for line in lines]


@pytest.mark.parametrize("locale", ["C.UTF-8", "C", "POSIX"])
@pytest.mark.parametrize("command", [("send", "any"), ("--plain", "--channel", "any", "--user", "sara")])
def test_any_bytes_are_taken_from_a_pipe(data_dir: Path, locale: str, command: tuple[str, ...]) -> None:
    lines = b"a\ncaf\xe9\n\x1b[31mred\x1b[0m\nx\x0cy\x0bz\n\x00\n\xff\xfe\xed\xa0\x80.\nn\x00ul\nb\xd8\xb3\n"
    done = run(data_dir, *command, stdin=lines, LC_ALL=locale)
    assert (done.returncode, done.stderr) == (0, "")
    assert texts(data_dir, "any", LC_ALL=locale) == [
        *("a", "caf\ufffd", "[31mred[0m", "x\ny\nz", "\ufffd" * 5 + ".", "nul", "bس")
    ]


def test_any_bytes_are_taken_from_elsewhere(data_dir: Path) -> None:
    assert run(data_dir, "send", "any", b"caf\xe9", b"\x1b[1mbold").returncode == 0
    assert run(data_dir, "send", "any", "--whole", stdin=b"two\r\nlines\xe9\n").returncode == 0
    assert run(data_dir, "send", "any", stdin="latin سلام\n".encode(), PYTHONIOENCODING="latin-1").returncode == 0
    assert texts(data_dir, "any", PYTHONIOENCODING="latin-1")[:2] == ["caf\ufffd [1mbold", "two\nlines\ufffd"]
    shown = run(data_dir, "--channel", "any", stdin=b"/quit\n", PYTHONIOENCODING="ascii")
    assert shown.returncode == 0 and "caf? [1mbold" in shown.stdout
    refusals: list[tuple[tuple[str | bytes, ...], str]] = [
        (("send", "any", "--json"), "data must be JSON"),
        (("send", b"a\xe9"), "a channel name has"),
        (("--user", b"a\xe9"), "a user name has"),
    ]
    for words, says in refusals:
        refused = run(data_dir, *words, stdin=b'{"a":"\xe9"\n')
        assert refused.returncode == 1 and says in refused.stderr and "Traceback" not in refused.stderr


@pytest.mark.parametrize("command", ["send any", "send any --whole", "--channel any"])
def test_input_that_cannot_be_read_ends_the_command(data_dir: Path, command: str) -> None:
    env = clean_environment({"DATA_DIR": str(data_dir)})
    for source, code, says in (("0>/dev/null", 1, "cannot be read"), ("<&-", 0, "")):
        shell = ["bash", "-c", f"{sys.executable} app.py {command} {source}"]
        done = subprocess.run(shell, cwd=ROOT, env=env, capture_output=True, text=True, timeout=180)
        assert done.returncode == code and says in done.stderr and "Traceback" not in done.stderr, done.stderr


def test_a_pipe_to_a_server_is_the_same(data_dir: Path) -> None:
    with PeykServer({"DATA_DIR": str(data_dir)}) as server:
        url = f"ws://127.0.0.1:{server.port}"
        assert run(data_dir, "send", "pipe", "--url", url, stdin="one\ntwo\n").returncode == 0
        over, direct = run(data_dir, "--url", url, "replay", "pipe"), run(data_dir, "replay", "pipe")
        assert over.stdout == direct.stdout and over.stdout.count("\n") == 2
        assert run(data_dir, "replay", "pipe", "--after", "1", PEYK_URL=url).stdout == over.stdout.split("\n")[1] + "\n"
        following = ["app.py", "replay", "pipe", "--follow", "--url", url]
        process = subprocess.Popen([sys.executable, *following], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None
            assert [process.stdout.readline() for _ in range(2)] == over.stdout.splitlines(keepends=True)
            run(data_dir, "send", "pipe", "three", "--url", url)
            assert '"text":"three"' in process.stdout.readline()
            process.send_signal(2)
            assert process.wait(60) == 130
        finally:
            process.kill()
            process.communicate()


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("send", "a b", "x"), 1, "1 to 64 letters"),
        (("send", "x", "--json", "not json"), 1, "data must be JSON"),
        (("send", "x", "--json", '{"n":12345678901234567.89}'), 1, "send it as a string"),
        (("send", "x", "y", "--url", "ftp://x"), 1, "no server's address"),
        (("send", "x", "y", "--url", "ws://127.0.0.1:1"), 75, "does not answer"),
        (("replay", "x", "--url", "ws://127.0.0.1:1"), 75, "does not answer"),
        (("dance",), 2, "invalid choice"),
    ],
)
def test_exit_codes(data_dir: Path, words: tuple[str, ...], code: int, says: str) -> None:
    done = run(data_dir, *words)
    assert done.returncode == code and says in done.stderr and "Traceback" not in done.stderr


def test_a_reader_that_has_enough_is_no_error(data_dir: Path) -> None:
    run(data_dir, "send", "pipe", stdin="x\n" * 500)
    env = clean_environment({"DATA_DIR": str(data_dir)})
    command = f"set -o pipefail; {sys.executable} app.py replay pipe --follow | head -1"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, env=env, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0 and done.stdout.count("\n") == 1 and done.stderr == ""


@pytest.fixture(scope="module")
def quiet_channel() -> Iterator[tuple[Path, str]]:
    """A server whose channel `quiet` holds one message, and its data directory."""
    with tempfile.TemporaryDirectory(prefix="pk-") as name:
        with PeykServer({"DATA_DIR": name}) as server:
            run(Path(name), "send", "quiet", "the only one")
            yield Path(name), f"ws://127.0.0.1:{server.port}"
        end_embedded(Path(name))


@pytest.mark.parametrize("words", [("replay", "quiet", "--follow"), ("--plain", "--channel", "quiet")])
@pytest.mark.parametrize("through", ["Redis", "the server"])
@pytest.mark.parametrize("output", ["pipe", "socket"])
def test_who_follows_a_quiet_channel_ends_when_its_reader_leaves(
    quiet_channel: tuple[Path, str], words: tuple[str, ...], through: str, output: str
) -> None:
    """All that there is has been read: no further write can find the pipe broken."""
    data_dir, url = quiet_channel
    where = ("--url", url) if through == "the server" else ()
    if output == "pipe":
        ends = [os.fdopen(end, mode) for end, mode in zip(os.pipe(), "rw", strict=True)]
    else:
        pair = socket.socketpair()
        ends = [end.makefile(mode) for end, mode in zip(pair, ("r", "w"), strict=True)]  # type: ignore[call-overload]
        for end in pair:
            end.close()  # for good when its file is closed
    reader, writer = ends
    process = subprocess.Popen(
        [sys.executable, "app.py", *where, *words],
        cwd=ROOT,
        env=clean_environment({"DATA_DIR": str(data_dir)}),
        stdin=subprocess.PIPE,  # and it stays open: what is typed ends nothing either
        stdout=writer,
        stderr=subprocess.PIPE,
    )
    writer.close()
    try:
        while "the only one" not in reader.readline():
            assert process.poll() is None
        reader.close()
        assert process.wait(60) == 0
        assert process.stderr is not None and process.stderr.read() == b""
    finally:
        process.kill()
        process.communicate()


async def test_replay_follow_goes_on_with_what_comes(data_dir: Path) -> None:
    run(data_dir, "--channel", "live", "--user", "sara", stdin="one\n")
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("app.py", "replay", "live", "--follow"),
        cwd=ROOT,
        env=clean_environment({"DATA_DIR": str(data_dir)}),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert process.stdout is not None
    async with asyncio.timeout(180):
        assert b'"text":"one"' in await process.stdout.readline()
        done = await asyncio.to_thread(run, data_dir, "--channel", "live", "--user", "b", stdin="two\n")
        assert done.returncode == 0
        assert b'"text":"two"' in await process.stdout.readline()
    process.send_signal(2)
    assert await asyncio.wait_for(process.wait(), 180) == 130
