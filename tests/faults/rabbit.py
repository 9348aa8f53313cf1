"""`python -m tests.faults.rabbit`: 10,000 events through each type of exchange, once and three times, and kills.

The suite runs the same in short (tests/bridge/test_rabbitmq.py).
"""

import argparse
import asyncio
import logging
import secrets
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import redis

from tests.bridge import exchanges
from tests.bridge.foreign import Host
from tests.services import MongoProcess, PostgresProcess, RabbitProcess, RedisProcess

Scenario = Callable[[Host, RedisProcess, exchanges.Databases, Path], Awaitable[None]]


def scenarios(count: int, seconds: float) -> dict[str, Scenario]:
    """What is tried, by name."""
    return {
        f"{count} events through each exchange": lambda h, r, b, d: exchanges.four_exchanges(h, r, b, d, count),
        f"{count} events, each delivered three times": lambda h, r, b, d: exchanges.redelivered(h, r, b, d, count),
        f"the bridge killed every 2 s for {seconds:g} s": lambda h, r, b, d: exchanges.killed(h, r, b, d, seconds, 2.0),
    }


def main() -> int:
    """0 if every event was there once and in order, 1 if not."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.rabbit", description=__doc__)
    parser.add_argument("--count", type=int, default=10_000, help="events through each exchange (%(default)s)")
    parser.add_argument("--seconds", type=float, default=30.0, help="of kills (%(default)g)")
    options = parser.parse_args()
    logging.getLogger("pika").setLevel(logging.CRITICAL)
    failed = 0
    with (
        RabbitProcess() as rabbit,
        RedisProcess("valkey") as valkey,
        PostgresProcess() as postgres,
        MongoProcess() as mongo,
        tempfile.TemporaryDirectory() as directory,
    ):
        for name, scenario in scenarios(options.count, options.seconds).items():
            with redis.Redis(port=valkey.port) as client:
                client.flushall()
            token = secrets.token_hex(4)
            host, start = Host(rabbit, token), time.monotonic()
            databases = {
                "DATABASE_URL": postgres.database(f"t{token}"),
                "MONGO_URL": f"mongodb://127.0.0.1:{mongo.port}/t{token}?directConnection=true",
            }
            try:
                asyncio.run(_run(scenario, host, valkey, databases, Path(directory)))
                outcome = "each once, in order, in both databases"
            except (AssertionError, TimeoutError) as error:
                outcome, failed = f"FAILED: {error!r}"[:2000], 1
            finally:
                host.close()
            print(f"{name}: {outcome} ({time.monotonic() - start:.0f} s)", flush=True)
    return failed


async def _run(
    scenario: Scenario, host: Host, valkey: RedisProcess, databases: exchanges.Databases, directory: Path
) -> None:
    await scenario(host, valkey, databases, directory)


if __name__ == "__main__":
    sys.exit(main())
