"""The embedded Valkey that processes share."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.embedded import Embedded
from pipeline.server import open_redis
from redis_config import Address, ConfigError, Settings, command_client
from tests.services import ROOT, clean_environment, until, wait_until


def given(**values: object) -> Settings:
    return Settings(_env_file=None, **values)  # type: ignore[arg-type]


async def test_a_data_dir_that_is_too_long_or_not_a_directory(data_dir: Path) -> None:
    with pytest.raises(ConfigError, match="DATA_DIR is too long"):
        await Embedded(data_dir / ("x" * 120)).join()
    (data_dir / "file").write_text("")
    with pytest.raises(ConfigError, match=r"DATA_DIR .* cannot be written"):
        await Embedded(data_dir / "file").join()


USER = """
import asyncio, sys
from pathlib import Path
from pipeline.embedded import Embedded
from redis_config import command_client

async def main():
    server = Embedded(Path(sys.argv[1]))
    await server.join()
    async with command_client(server.address) as client:
        await client.incr("starts")
        print("up", flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            print(await client.incr("count"), flush=True)
    await server.leave()
    print("left", flush=True)

asyncio.run(main())
"""


class User:
    """A process that uses the embedded server of a directory; each line it is sent counts up."""

    def __init__(self, data_dir: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", USER, str(data_dir)],
            cwd=ROOT,
            env=clean_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def reads(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def count(self) -> int:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return int(self.reads())

    def leave(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert self.reads() == "left"
        self.end()

    def kill(self) -> None:
        self.process.kill()
        self.end()

    def end(self) -> None:
        self.process.wait(60)
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()


def server_pid(data_dir: Path) -> int:
    return int((data_dir / "valkey.pid").read_text())


def runs(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def test_the_starter_may_be_killed_and_the_last_one_stops_the_server(data_dir: Path) -> None:
    first = User(data_dir)
    assert first.reads() == "up"
    second = User(data_dir)
    assert second.reads() == "up"
    assert (first.count(), second.count()) == (1, 2)
    pid = server_pid(data_dir)
    first.kill()
    assert second.count() == 3 and runs(pid)
    second.leave()
    wait_until(lambda: not runs(pid), what="the server ends with its last user")

    third = User(data_dir)  # and its data is there again
    assert third.reads() == "up"
    assert third.count() == 4
    third.leave()


def test_users_that_come_at_once_start_one_server(data_dir: Path) -> None:
    users = [User(data_dir) for _ in range(4)]
    assert [user.reads() for user in users] == ["up"] * 4
    assert sorted(user.count() for user in users) == [1, 2, 3, 4]
    for user in users[1:]:
        user.leave()
    assert runs(server_pid(data_dir))
    users[0].leave()


async def test_acknowledged_data_survives_kill_9(data_dir: Path) -> None:
    server = Embedded(data_dir)
    await server.join()
    async with command_client(server.address) as client:
        await client.xadd("stream", {"a": "1"})
        await client.waitaof(1, 0, 5000)
    os.kill(server_pid(data_dir), signal.SIGKILL)
    wait_until(lambda: not runs(server_pid(data_dir)), what="the server is dead")
    await server.start()
    async with command_client(server.address) as client:
        assert await client.xlen("stream") == 1
    await server.leave()


async def test_a_killed_server_is_started_again_by_whoever_watches(data_dir: Path) -> None:
    embedded = Embedded(data_dir)
    await embedded.join()
    server = await open_redis(given(data_dir=data_dir))
    assert server.embedded and str(data_dir) in server.describe()
    watch = asyncio.create_task(server.watch())
    pid = server_pid(data_dir)
    os.kill(pid, signal.SIGKILL)
    await until(lambda: server_pid(data_dir) != pid, what="a new server")
    await until(lambda: _pings(server.address), what="it answers")
    watch.cancel()
    await asyncio.gather(watch, return_exceptions=True)
    await server.close()
    await embedded.leave()


async def _pings(address: Address) -> bool:
    async with command_client(address) as client:
        try:
            return bool(await client.ping())
        except OSError:
            return False
        except Exception as error:  # loading
            assert "loading" in str(error).lower() or "connect" in str(error).lower(), error
            return False


async def test_data_of_an_embedded_server_goes_before_localhost(data_dir: Path) -> None:
    """Nobody finds another, empty Redis in place of the messages of yesterday."""
    (data_dir / "appendonlydir").mkdir()
    server = await open_redis(given(data_dir=data_dir))
    assert server.embedded
    await server.close()
