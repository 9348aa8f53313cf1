"""`python -m bench.sinks`: how fast the log goes into each database; half of the messages are events.

The log is filled first, then one node's consumer takes it: what is measured is reading, storing, committing and
acking, everything but the publishing. Each database and Redis are private and fresh.
"""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from bridge.archives import Store
from bridge.mongo import MongoArchive
from bridge.settings import database
from bridge.sql import SqlArchive
from pipeline.archive import Archiver
from pipeline.keys import Keys
from pipeline.producer import Producer
from pipeline.resp import Link
from pipeline.status import group_states
from redis_config import Address, Settings
from tests.pipeline.members import Member
from tests.services import MongoProcess, PostgresProcess, RedisProcess

CHANNELS = 200
MARK = 5_000  # messages/s each sink should reach
IN_FLIGHT = 500  # publishes at a time while the log is filled

Open = Callable[[ExitStack, Path], Store]


@dataclass(frozen=True)
class Result:
    """What one sink did. `cpu_us` is our process's CPU a message; `exact`: each message is there, once."""

    sink: str
    messages: int
    seconds: float
    per_s: float
    cpu_us: float
    exact: bool


def _postgresql(stack: ExitStack, directory: Path) -> Store:
    return SqlArchive(database(stack.enter_context(PostgresProcess()).url, directory))


def _mongodb(stack: ExitStack, directory: Path) -> Store:
    return MongoArchive(stack.enter_context(MongoProcess()).url)


SINKS: dict[str, Open] = {
    "PostgreSQL": _postgresql,
    "MongoDB": _mongodb,
    "SQLite": lambda stack, directory: SqlArchive(database("", directory)),
}


async def measure(name: str, count: int) -> Result:
    """Fill a log with `count` messages and have one sink take them."""
    with ExitStack() as stack:
        redis = stack.enter_context(RedisProcess("valkey"))
        settings = Settings(redis_url=redis.url, _env_file=None)
        store, keys, link = SINKS[name](stack, redis.dir), Keys.of(settings), Link(Address.parse(settings))
        try:
            async with store:
                await fill(settings, count)
                member = Member(settings, "bench", store.group, work=Archiver(store, keys))
                begin, cpu = time.perf_counter(), time.process_time()
                await member.start()
                while not await _level(link, keys, store.group):  # noqa: ASYNC110  # Redis tells nobody
                    await asyncio.sleep(0.01)
                seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
                await member.leave()
                extents = await store.extents()
        finally:
            link.close()
    exact = sum(e.size for e in extents) == count and all(e.last - e.first + 1 == e.size for e in extents)
    return Result(name, count, seconds, count / seconds, cpu * 1e6 / count, exact)


async def fill(settings: Settings, count: int) -> None:
    """Publish `count` messages to CHANNELS channels, half of them events."""
    async with Producer(Address.parse(settings), settings) as producer:
        for begin in range(0, count, IN_FLIGHT):
            numbers = range(begin, min(begin + IN_FLIGHT, count))
            await asyncio.gather(*[producer.publish(f"c{n % CHANNELS}", body(n), user="bench") for n in numbers])


def body(number: int) -> bytes:
    """About 100 bytes: an event, or what a person says."""
    if number % 2:
        return (
            b'{"text":"message %d, \xd8\xb3\xd9\x84\xd8\xa7\xd9\x85, and so on until it is of a usual length"}' % number
        )
    return b'{"id":"event-%d","type":"order.paid","payload":{"order":%d,"amount":12.5,"items":[1,2,3]}}' % (
        number,
        number,
    )


async def _level(link: Link, keys: Keys, group: str) -> bool:
    states = [state for state in await group_states(link, keys) if state.group == group]
    return len(states) == keys.partitions and not any(state.lag or state.pending for state in states)


def main() -> int:
    """0; 1 if a sink does not hold each message once. The mark is shown, not enforced."""
    parser = argparse.ArgumentParser(prog="python -m bench.sinks", description=__doc__.partition("\n")[0])
    parser.add_argument("--sink", action="append", choices=list(SINKS), help="may be repeated (all)")
    parser.add_argument("--messages", type=int, default=50_000, help="(%(default)s)")
    parser.add_argument("--json", action="store_true", help="one JSON line for each sink")
    options = parser.parse_args()
    exact = True
    for name in options.sink or SINKS:
        result = asyncio.run(measure(name, options.messages))
        exact = exact and result.exact
        said = "each once" if result.exact else "NOT EACH ONCE"
        met = "met" if result.per_s >= MARK else "not met"
        line = (
            f"{name:<11} {result.per_s:>9,.0f} messages/s (≥ {MARK:,}: {met}), {result.cpu_us:.1f} µs CPU each, {said}"
        )
        print(json.dumps(asdict(result)) if options.json else line, flush=True)
    return 0 if exact else 1


if __name__ == "__main__":
    sys.exit(main())
