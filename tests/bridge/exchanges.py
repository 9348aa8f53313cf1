"""Numbered events of a foreign program through each type of exchange: each is in its stream once, in order."""

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path

import redis
from pydantic import SecretStr

from app import AppSettings, join
from bridge.rabbitmq import Life, QueueConsumer
from chat.node import Node
from tests.bridge.foreign import Host
from tests.bridge.stage import in_mongo, in_sql
from tests.clients import Client
from tests.services import AppProcess, PeykServer, RedisProcess, until

Databases = Mapping[str, str]
"""DATABASE_URL and MONGO_URL of databases that are empty."""
Reader = Callable[[str, str, str], Awaitable[list[int]]]

TYPES = ("direct", "fanout", "topic", "headers")
TOPOLOGY = "".join(
    f"""
[[exchange]]
name = "{kind}"
type = "{kind}"

[[queue]]
name = "{kind}"
channel = "{kind}"
prefetch = 5000

[[queue.bind]]
exchange = "{kind}"
{binding}
"""
    for kind, binding in {
        "direct": 'key = "wanted"',
        "fanout": "",
        "topic": 'key = "*.wanted.#"',
        "headers": 'headers = { wanted = "yes", kind = "n" }',
    }.items()
)
KEYS = {"direct": ("wanted", "other"), "fanout": ("", ""), "topic": ("a.wanted.b.c", "wanted"), "headers": ("", "")}


def publish(host: Host, kind: str, count: int) -> None:
    """`count` events with ids through one exchange, and a few that its queue must not get."""
    wanted, other = KEYS[kind]
    host.send(kind, [(f"{kind}-{n}", {"n": n}) for n in range(count)], wanted, {"wanted": "yes", "kind": "n"})
    if kind != "fanout":
        host.send(kind, [(f"other-{n}", {"n": -1}) for n in range(3)], other, {"wanted": "no", "kind": "n"})


def settings_of(host: Host, redis_url: str, directory: Path, text: str = TOPOLOGY) -> AppSettings:
    """A bridge's settings for a bridge.toml."""
    file = directory / "bridge.toml"
    file.write_text(text)
    return AppSettings(
        redis_url=redis_url, amqp_url=SecretStr(host.url), bridge_file=file, data_dir=directory, history_length=100_000,
        _env_file=None,
    )  # fmt: skip


@contextlib.asynccontextmanager
async def subscriber(redis_url: str, databases: Mapping[str, str], *channels: str) -> AsyncIterator[Client]:
    """A WebSocket client of a server that has nothing to do with RabbitMQ, and archives in `databases`."""
    with PeykServer({"REDIS_URL": redis_url, "HISTORY_LENGTH": "100000", **databases}) as server:
        client = await Client.open(server.port, "sara")
        await client.subscribe(*channels)
        try:
            yield client
        finally:
            client.abort()


def numbers(redis_url: str, channel: str) -> list[int]:
    """What a stream holds."""
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        return [json.loads(entry["data"])["payload"]["n"] for _, entry in client.xrange(f"message:{channel}")]


async def four_exchanges(
    host: Host, redis_process: RedisProcess, databases: Databases, directory: Path, count: int
) -> None:
    """`count` events through each exchange: in the stream once and in order, and on a subscriber's screen as well."""
    settings = settings_of(host, redis_process.url, directory)
    async with subscriber(redis_process.url, databases, *TYPES) as client, Node(settings, "bridge", join):
        await until(lambda: all(host.consumers(kind) == 1 for kind in TYPES))
        await asyncio.gather(*[asyncio.to_thread(publish, host, kind, count) for kind in TYPES])
        await check(redis_process.url, databases, client, count)


async def redelivered(
    host: Host, redis_process: RedisProcess, databases: Databases, directory: Path, count: int
) -> None:
    """The same, and each event is delivered three times, because the connection ends before it was acked."""
    settings = settings_of(host, redis_process.url, directory, TOPOLOGY.replace("5000", str(min(count, 65535))))
    told = dict.fromkeys(TYPES, 0)
    acks = asyncio.Event()
    ack, stored = QueueConsumer._ack, QueueConsumer._stored

    async def late_ack(self: QueueConsumer, channel: object, life: Life) -> None:
        await acks.wait()
        await ack(self, channel, life)  # type: ignore[arg-type]

    def counted(self: QueueConsumer, *args: object) -> None:
        told[self._queue.name] += 1
        stored(self, *args)  # type: ignore[arg-type]

    try:
        QueueConsumer._ack, QueueConsumer._stored = late_ack, counted  # type: ignore[method-assign,assignment]
        async with subscriber(redis_process.url, databases, *TYPES) as client, Node(settings, "bridge", join) as node:
            await until(lambda: all(host.consumers(kind) == 1 for kind in TYPES))
            await asyncio.gather(*[asyncio.to_thread(publish, host, kind, count) for kind in TYPES])
            for turn in (1, 2):
                await until(lambda turn=turn: all(told[kind] == turn * count for kind in TYPES))  # type: ignore[misc]
                await drop_connections(host)
            await until(lambda: all(told[kind] == 3 * count for kind in TYPES))
            acks.set()
            await check(redis_process.url, databases, client, count)
            await until(lambda: all(host.ready(kind) == 0 for kind in TYPES))
            assert node.parts.states["rabbitmq"]() == "ok"
    finally:
        QueueConsumer._ack, QueueConsumer._stored = ack, stored  # type: ignore[method-assign]


class BridgeProcess(AppProcess):
    """`python app.py bridge`."""

    def command(self) -> Sequence[str]:
        return [sys.executable, "app.py", "bridge"]

    def is_up(self) -> bool:
        return self.log.read_text().count("bridge from RabbitMQ") > self.killed

    killed = 0

    def restart(self) -> None:
        """SIGKILL, and start again."""
        self.kill()
        self.killed = self.log.read_text().count("bridge from RabbitMQ")
        self.start()


async def killed(
    host: Host, redis_process: RedisProcess, databases: Databases, directory: Path, seconds: float, every: float
) -> None:
    """Our bridge is killed every so many seconds while a foreign program publishes: each event is there once."""
    settings_of(host, redis_process.url, directory)
    env = {"REDIS_URL": redis_process.url, "AMQP_URL": host.url, "BRIDGE_FILE": str(directory / "bridge.toml")}
    async with subscriber(redis_process.url, databases, "direct") as client:
        with BridgeProcess({**env, "HISTORY_LENGTH": "100000"}) as bridge:
            assert isinstance(bridge, BridgeProcess)
            await until(lambda: host.consumers("direct") == 1)
            over = time.monotonic() + seconds
            publishing = asyncio.create_task(asyncio.to_thread(_publish_until, host, over))
            while time.monotonic() < over:
                await asyncio.sleep(every)  # between faults, not for an effect
                await asyncio.to_thread(bridge.restart)
            count = await publishing
            await until(lambda: len(numbers(redis_process.url, "direct")) >= count)
            await client.reach("direct", count, 30)
            await until(lambda: host.ready("direct") == 0)
            assert host.ready("peyk.dead") == 0
        await check_archives(databases, "direct", count)
    assert numbers(redis_process.url, "direct") == list(range(count))
    assert [data["payload"]["n"] for _, data in client.seen["direct"]] == list(range(count))


def _publish_until(host: Host, over: float) -> int:
    """Publish numbered events, 200 a second or so, until that time; how many."""

    def paced() -> Iterator[tuple[str, object]]:
        n = 0
        while time.monotonic() < over:
            yield f"m{n}", {"n": n}
            n += 1
            time.sleep(0.005)

    return host.send("direct", paced(), "wanted")


async def drop_connections(host: Host) -> None:
    """End every connection of ours from the broker's side."""
    await until(host.connections)
    for name in host.connections():
        with contextlib.suppress(OSError):  # ended meanwhile
            host.rabbit.manage("DELETE", f"connections/{name.replace(' ', '%20').replace('>', '%3E')}")


async def check(redis_url: str, databases: Databases, client: Client, count: int) -> None:
    """Every stream holds 0, 1, 2 …, the subscriber saw the same, and both databases hold each event once."""
    for kind in TYPES:
        await until(lambda kind=kind: len(numbers(redis_url, kind)) >= count, 120, f"{kind} is stored")  # type: ignore[misc]
        await client.reach(kind, count, 60)
    for kind in TYPES:
        assert numbers(redis_url, kind) == list(range(count)), kind
        seen = [data["payload"]["n"] for _, data in client.seen[kind]]
        assert seen == list(range(count)) and client.offsets(kind) == list(range(1, count + 1)), kind
        await check_archives(databases, kind, count)


async def check_archives(databases: Databases, channel: str, count: int) -> None:
    """Both databases hold the events 1 … count of a channel, each once."""
    offsets = list(range(1, count + 1))
    for read, url, name in (
        (in_sql, databases["DATABASE_URL"], "SQL"),
        (in_mongo, databases["MONGO_URL"], "MongoDB"),
    ):

        async def whole(read: Reader = read, url: str = url) -> bool:
            return len(await read(url, channel, "events")) >= count

        await until(whole, 120, f"{channel} is in {name}")
        assert await read(url, channel, "events") == offsets, (name, channel)
