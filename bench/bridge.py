"""`python -m bench.bridge`: how fast events come from RabbitMQ into the stream, and how fast they can be posted.

A queue is filled first, then one bridge takes it: what is measured is delivering, reading, appending and acking.
RabbitMQ and Redis are private and fresh; the bridge is in this process.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import redis
import uvloop
from pamqp.commands import Basic
from pydantic import SecretStr

from app import AppSettings, join
from bridge.broker import broker_urls, open_connection
from chat.node import Node
from pipeline.event import Event
from tests.bridge.exchanges import numbers
from tests.services import RabbitProcess, RedisProcess, until

MARK = 3_000  # events/s the bridge should reach
QUEUE = "peyk.events"


@dataclass(frozen=True)
class Result:
    """`consumed` and `posted` are events/s; `cpu_us` is our process's CPU an event consumed; `exact`: all, in order."""

    events: int
    consumed: float
    cpu_us: float
    posted: float
    exact: bool


async def fill(url: str, count: int) -> None:
    """Put numbered events with ids into the queue, confirmed."""
    connection = await open_connection(broker_urls(url)[0])
    channel = await connection.channel()
    for start in range(0, count, 500):
        numbers = range(start, min(start + 500, count))
        await asyncio.gather(
            *[
                channel.basic_publish(
                    json.dumps({"type": "bench", "channel": "bench", "payload": {"n": n}}).encode(),
                    routing_key=QUEUE,
                    properties=Basic.Properties(delivery_mode=2, message_id=f"bench-{n}"),
                )
                for n in numbers
            ]
        )
    await connection.close()


def stored(redis_url: str) -> int:
    """How many messages the stream holds."""
    with redis.Redis.from_url(redis_url) as client:
        return int(client.xlen("message:bench"))


async def measure(url: str, redis_url: str, directory: Path, count: int) -> Result:
    settings = AppSettings(
        redis_url=redis_url,
        amqp_url=SecretStr(url),
        data_dir=directory,
        archive=False,
        history_length=10 * count,
        _env_file=None,
    )
    async with Node(settings, "bridge", join) as node:
        await until(lambda: node.parts.states["rabbitmq"]() == "ok")  # the queue is made
    await fill(url, count)
    start, cpu = time.perf_counter(), time.process_time()
    async with Node(settings, "bridge", join) as node:
        await until(lambda: stored(redis_url) >= count, 300)
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        found = numbers(redis_url, "bench")
        gateway = node.parts.gateway
        assert gateway is not None
        await until(lambda: node.parts.states["gateway"]() == "ok")
        start = time.perf_counter()
        for batch in range(0, count // 2, 500):
            await gateway.publish([Event(f"p{batch + n}", "bench", "posted", b"1", "bench") for n in range(500)])
        posted = count // 2 / (time.perf_counter() - start)
    exact = found == list(range(count))
    return Result(count, round(count / seconds), round(1e6 * cpu / count, 1), round(posted), exact)


def main() -> int:
    """0 if every event is there once and in order; slower than MARK is said, not failed."""
    parser = argparse.ArgumentParser(prog="python -m bench.bridge", description="How fast RabbitMQ is emptied.")
    parser.add_argument("--events", type=int, default=30_000, help="(%(default)s)")
    parser.add_argument("--json", type=Path, help="file for the result")
    options = parser.parse_args()
    with RabbitProcess() as rabbit, RedisProcess("valkey") as valkey, tempfile.TemporaryDirectory() as directory:
        assert isinstance(rabbit, RabbitProcess)
        result = uvloop.run(measure(rabbit.url, valkey.url, Path(directory), options.events))
    mark = "" if result.consumed >= MARK else f" (below {MARK:,})"
    print(f"RabbitMQ → stream: {result.consumed:,.0f} events/s{mark}, {result.cpu_us} µs of CPU an event")
    print(f"posted, confirmed: {result.posted:,.0f} events/s;  each once and in order: {result.exact}")
    if options.json is not None:
        options.json.write_text(json.dumps(asdict(result)) + "\n")
    return 0 if result.exact else 1


if __name__ == "__main__":
    sys.exit(main())
