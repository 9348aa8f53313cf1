"""`python -m tests.faults`: numbered messages through kills, pauses and cuts, and the check that each arrived once.

Without --url it starts a Redis and nodes of its own and does faults to them. With --url it drives live servers on this
machine, in channels of its own, and does faults only to its own clients: some drop their connection, some read slowly.
"""

import argparse
import asyncio
import contextlib
import random
import signal
import sys
from pathlib import Path
from urllib.parse import urlsplit

from tests.bridge.outage import KILLED, RATE, outage
from tests.bridge.stage import Stage
from tests.faults.injector import Installation
from tests.faults.run import Report, Size, run

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def loopback(text: str) -> list[str]:
    """URLs of servers on this machine, separated by commas. Raises ArgumentTypeError."""
    urls = [part.rstrip("/") for part in text.split(",")]
    for url in urls:
        parts = urlsplit(url)
        if parts.scheme != "http" or parts.hostname not in LOOPBACK:
            raise argparse.ArgumentTypeError(f"{url}: only servers on this machine, such as http://127.0.0.1:5000")
    return urls


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults", description="Check that no message is lost, doubled or reordered under faults."
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="time of publishing and faults (%(default)g)")
    parser.add_argument("--seed", type=int, help="draws the faults (by chance; it is printed)")
    parser.add_argument("--url", type=loopback, help="live servers, separated by commas; no faults to them")
    parser.add_argument(
        "--redis", choices=("valkey", "redis"), default="valkey", help="the private Redis (%(default)s)"
    )
    parser.add_argument(
        "--appendfsync", choices=("no", "everysec", "always"), default="no", help="of the private Redis (%(default)s)"
    )
    parser.add_argument(
        "--sinks", action="store_true", help="instead, kill PostgreSQL, MongoDB, then both, for --seconds each"
    )
    parser.add_argument("--nodes", type=int, default=4, help="nodes of its own (%(default)s)")
    parser.add_argument("--clients", type=int, default=Size.clients, help="subscribers (%(default)s)")
    parser.add_argument("--rate", type=float, default=Size.rate, help="messages a second in all (%(default)g)")
    parser.add_argument("--json", type=Path, help="file for the report")
    parser.add_argument("--logs", type=Path, help="directory to keep the logs of its own processes in")
    options = parser.parse_args()
    if not 1 <= options.seconds <= 3600 or not 1 <= options.nodes <= 16:
        parser.error("--seconds is 1 to 3600, --nodes 1 to 16")
    if not 1 <= options.clients <= 2000 or not 1 <= options.rate <= 5000:
        parser.error("--clients is 1 to 2000, --rate 1 to 5000")
    return options


async def sinks(seconds: float) -> int:
    """Outages of the archive's databases, one after the other. Raises AssertionError where a promise was broken."""
    with Stage({"HISTORY_LENGTH": "1000000"}) as stage:
        for who in KILLED:
            count = await outage(stage, who, seconds)
            print(
                f"{who} away for {seconds:g} s under {RATE} events/s: {count} events, each once in all three",
                flush=True,
            )
    return 0


def main() -> int:
    """0 if every promise was kept, 1 if not."""
    options = arguments()
    if options.sinks:
        return asyncio.run(sinks(options.seconds))
    seed = random.randrange(2**31) if options.seed is None else options.seed
    size = Size(clients=options.clients, rate=options.rate)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is stopped
    print(f"seed {seed}, {options.seconds:g} s", flush=True)
    with contextlib.ExitStack() as stack:
        installation, urls = None, options.url
        if urls is None:
            installation = stack.enter_context(
                Installation(options.redis, options.nodes, options.logs, options.appendfsync)
            )
            urls = installation.urls
        report: Report = asyncio.run(run(urls, options.seconds, seed, size, installation))
    print(report.text())
    if options.json is not None:
        options.json.write_text(report.json() + "\n")
    return 0 if report.clean else 1


if __name__ == "__main__":
    sys.exit(main())
