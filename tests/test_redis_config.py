"""Where Redis is found, what is refused, and the embedded server that processes share."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from redis_config import (
    Address,
    ConfigError,
    Embedded,
    Settings,
    blocking_client,
    check_server,
    command_client,
    open_redis,
)
from tests.services import (
    ROOT,
    RedisClient,
    RedisProcess,
    clean_environment,
    free_port,
    until,
    wait_until,
)


@pytest.fixture
async def client(redis_process: RedisProcess) -> AsyncIterator[RedisClient]:
    async with command_client(Address(port=redis_process.port)) as client:
        await client.flushall()
        yield client


def given(**values: object) -> Settings:
    return Settings(_env_file=None, **values)  # type: ignore[arg-type]


# -- addresses


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://h", Address("h")),
        ("redis://:s%40crt@h:7000/3", Address("h", 7000, "", 3, "", "s@crt")),
        ("rediss://u:p@h:7000", Address("h", 7000, "", 0, "u", "p", True)),
        ("unix:///run/r.sock", Address(path="/run/r.sock")),
    ],
)
def test_a_url_says_it_all(url: str, expected: Address) -> None:
    assert Address.parse(given(redis_url=url)) == expected


def test_host_port_db_and_password() -> None:
    settings = given(redis_host="h", redis_port=7, redis_db=2, redis_password="p")
    assert Address.parse(settings) == Address("h", 7, "", 2, "", "p")


@pytest.mark.parametrize("url", ["http://h", "redis://", "redis://h:x", "redis://h/db", "h:6379"])
def test_a_malformed_url_names_the_setting(url: str) -> None:
    with pytest.raises(ConfigError, match="REDIS_URL must look like"):
        Address.parse(given(redis_url=url))


def test_the_password_is_never_shown() -> None:
    address = Address.parse(given(redis_url="redis://u:sesame@h:7/1"))
    assert "sesame" not in f"{address} {address!r}"
    assert str(address) == "h:7/1"


async def test_a_blocking_client_waits_longer_than_any_timeout(redis_process: RedisProcess) -> None:
    address = Address(port=redis_process.port)
    reader: RedisClient = blocking_client(address)
    async with reader, command_client(address) as writer:
        assert reader.connection_pool.connection_kwargs["socket_timeout"] is None
        waiting = asyncio.create_task(reader.blpop(["q"], timeout=0))
        await until(lambda: _blocked(writer), what="the reader blocks")
        await writer.rpush("q", "x")
        assert list(await waiting) == ["q", "x"]


async def _blocked(client: RedisClient) -> bool:
    return int((await client.info("clients"))["blocked_clients"]) > 0


async def test_more_commands_at_once_than_connections(client: RedisClient) -> None:
    assert await asyncio.gather(*(client.sadd("many", i) for i in range(500))) == [1] * 500
    assert int((await client.info("clients"))["connected_clients"]) < 100


# -- what is refused


async def test_a_server_that_evicts_is_refused(client: RedisClient) -> None:
    await client.config_set("maxmemory-policy", "allkeys-lru")
    try:
        with pytest.raises(ConfigError, match="CONFIG SET maxmemory-policy noeviction"):
            await check_server(client, given())
    finally:
        await client.config_set("maxmemory-policy", "noeviction")
    await check_server(client, given())


async def test_another_number_of_partitions_is_refused(client: RedisClient) -> None:
    await check_server(client, given(partitions=4))
    with pytest.raises(ConfigError, match="set PARTITIONS=4"):
        await check_server(client, given(partitions=8))
    await check_server(client, given(partitions=4))


async def test_a_wrong_password_is_refused(redis_process: RedisProcess, client: RedisClient) -> None:
    await client.config_set("requirepass", "sesame")
    try:
        for url in (redis_process.url, redis_process.url.replace("//", "//:wrong@")):
            with pytest.raises(ConfigError, match="REDIS_PASSWORD") as caught:
                await open_redis(given(redis_url=url))
            assert "wrong@" not in str(caught.value)
        server = await open_redis(given(redis_url=redis_process.url.replace("//", "//:sesame@")))
        await server.close()
    finally:
        await client.config_set("requirepass", "")


async def test_a_database_that_is_not_there_is_refused(redis_process: RedisProcess) -> None:
    with pytest.raises(ConfigError, match="REDIS_DB"):
        await open_redis(given(redis_url=redis_process.url.removesuffix("0") + "99"))


async def test_nothing_at_the_given_place_is_an_error(data_dir: Path) -> None:
    port = free_port()
    with pytest.raises(ConfigError, match=f"no Redis at localhost:{port}.*REDIS_HOST"):
        await open_redis(given(redis_port=port, data_dir=data_dir))
    assert os.listdir(data_dir) == []  # nothing was started instead


@pytest.mark.parametrize("kind", ["redis", "valkey"])
async def test_a_server_that_reads_its_data_back_is_waited_for(kind: str) -> None:
    """It answers INFO meanwhile, and refuses all else with LOADING."""
    with RedisProcess(kind) as process:
        async with command_client(Address(port=process.port)) as client:
            pipe = client.pipeline(transaction=False)
            for i in range(20_000):
                pipe.set(f"key-{i}", i)
            await pipe.execute()
        process.args += ["--key-load-delay", "10"]  # microseconds a key, and what it takes to sleep them
        process.kill()
        starting = asyncio.create_task(asyncio.to_thread(process.start))
        while True:
            try:
                server = await open_redis(given(redis_url=process.url))
                break
            except ConfigError as error:
                assert "no Redis at" in str(error)
        await server.close()
        await starting


async def test_a_data_dir_that_is_too_long_or_not_a_directory(data_dir: Path) -> None:
    with pytest.raises(ConfigError, match="DATA_DIR is too long"):
        await Embedded(data_dir / ("x" * 120)).join()
    (data_dir / "file").write_text("")
    with pytest.raises(ConfigError, match=r"DATA_DIR .* cannot be written"):
        await Embedded(data_dir / "file").join()


def test_a_setting_of_the_wrong_kind_is_named() -> None:
    env = clean_environment({"REDIS_PORT": "six"})
    done = subprocess.run([sys.executable, "app.py", "status"], cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 1 and "REDIS_PORT" in done.stderr and "Traceback" not in done.stderr


# -- the embedded server


USER = """
import asyncio, sys
from pathlib import Path
from redis_config import Embedded, command_client

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
        self.process.wait(10)
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
