"""`python -m bench.hostile`: a server that others can reach, under floods, and what its ordinary clients notice.

Twenty clients at one address talk, while one connection, and then twenty, at another do what bench/floods.py lists.
Shown are how much the server's memory grows and how long the ordinary clients' messages take, without the flood and
with it; of theirs nothing may be lost, doubled or out of order.
"""

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import psutil

from bench import floods, load
from bench.cpus import pin
from bench.numbers import table
from pipeline.producer import Producer
from redis_config import Address, Settings
from tests.services import ROOT, PeykServer, RedisProcess

PUBLIC = {
    "TRUSTED_PROXIES": "192.0.2.1",  # a proxy that is not there: the server behaves as one that others can reach
    "GUESTS": "yes",
    "REGISTRATION": "yes",
    "AUTH_SECRET": "of-a-server-that-lives-for-one-flood-only",
    "ARCHIVE": "0",
}
NEIGHBOURS = "127.0.0.2"
TALK = f"-f {NEIGHBOURS} -n 20 -P 1 -r 20 -w 30"  # 20 clients who hear 20 messages a second, from one who speaks
GROWTH = 64.0  # MiB the server may grow
GROWTH_EACH = 2.0  # MiB of that for each connection of a flood,
FIRST = 8.0  # MiB besides: what a process takes when it does a thing for the first time
HASH = 20.0  # MiB that the hash of a password takes, one at a time,
HASHED = "accounts", "sign-ins"  # in these
SLOWER = 3.0  # times the neighbours' p99 without the flood
SLACK = 10.0  # ms on top of that
HISTORY = 900  # messages of 1 KiB in the channel whose pages are asked for
CHANNELS = 5000  # channels that are there when lists of them are asked for
CONNECTIONS = 1, 20
LONGER = "pipelined"  # what runs ten times as long, from one connection
NICE = 19  # of the attackers, who share a CPU with the neighbours: what is tried is the server
LOOK = 0.1  # seconds between looks at the memory


@dataclass(frozen=True)
class Found:
    """One flood from so many connections."""

    flood: str
    connections: int
    growth: float  # MiB, at the most
    calm: load.Report  # the neighbours without it
    under: load.Report  # and with it
    tally: floods.Tally

    @property
    def broken(self) -> list[str]:
        """What was not held, in words."""
        first = FIRST + HASH if self.flood in HASHED else FIRST
        allowed = min(GROWTH, GROWTH_EACH * self.connections + first)
        before = self.calm["latency_ms"]["p99"]
        during = self.under["latency_ms"]["p99"]
        said = []
        if self.growth >= allowed:
            said.append(f"grew by {self.growth:.0f} MiB, at most {allowed:.0f}")
        if during > SLOWER * before + SLACK:
            said.append(f"p99 {during:.0f} ms, {before:.0f} without")
        if not self.under["good"]:
            said.append("messages were lost, doubled, reordered or refused")
        return said

    def row(self) -> list[str]:
        times = [f"{report['latency_ms'][share]:.1f}" for report in (self.calm, self.under) for share in ("p50", "p99")]
        return [
            self.flood,
            str(self.connections),
            f"{self.tally.bytes_sent / 2**20:,.1f}",
            f"{self.growth:.1f}",
            *times,
            "; ".join(self.broken) or "held",
        ]


HEAD = ["flood", "connections", "sent MiB", "grew MiB", "p50 ms", "p99 before", "p50 ms", "p99 under it", ""]


async def fill(redis: RedisProcess) -> None:
    """Channels to list, and messages to page through."""
    settings = Settings(redis_url=redis.url, publish_timeout=60, _env_file=None)
    async with Producer(Address.parse(settings), settings) as producer:
        channels = [*(f"there-{number}" for number in range(CHANNELS)), *["c0"] * HISTORY]
        line = json.dumps({"text": "x" * 1024}).encode()
        await asyncio.gather(*(producer.publish(channel, line, user="sara") for channel in channels))


def talk(server: PeykServer, seconds: float) -> load.Report:
    """What the neighbours met for so long. Raises LoadError."""
    return load.run(server.port, [*TALK.split(), "-d", str(seconds)], [server.pid], seconds + 120)


@contextmanager
def watched(process: psutil.Process) -> Iterator[list[int]]:
    """The most memory a process took meanwhile, in bytes: the only item of the list."""
    peak = [process.memory_info().rss]
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(LOOK):
            peak[0] = max(peak[0], process.memory_info().rss)

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield peak
    finally:
        ended.set()
        watcher.join()


@contextmanager
def public_server(cpus: Sequence[int] = ()) -> Iterator[PeykServer]:
    """A server that behaves as one that others can reach, with something to ask it for."""
    with RedisProcess("valkey") as redis, PeykServer({"REDIS_URL": redis.url, **PUBLIC}) as server:
        if len(cpus) > 1:
            pin(server.pid, cpus[0])
        asyncio.run(fill(redis))
        yield server


def flooded(
    server: PeykServer, name: str, connections: int, seconds: float, nice: int = 0
) -> tuple[float, load.Report, floods.Tally]:
    """How many MiB a server grew by under one flood, at the most; what the neighbours met; what the flood met.

    Raises LoadError where the flood could not begin.
    """
    process = psutil.Process(server.pid)
    before = process.memory_info().rss
    command = ["nice", "-n", str(nice), sys.executable, "-m", "bench.floods"]
    command += [name, str(server.port), str(connections), str(seconds)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as flood:
        try:
            with watched(process) as peak:
                if not flood.stdout or flood.stdout.readline().strip() != floods.BEGUN:
                    raise load.LoadError(f"the flood {name} could not begin")
                under = talk(server, seconds)
                said, _ = flood.communicate(timeout=seconds + 60)
        finally:
            flood.kill()
    return (peak[0] - before) / 2**20, under, floods.Tally(**json.loads(said))


def run_once(name: str, connections: int, seconds: float, cpus: Sequence[int]) -> Found:
    """One flood against a server of its own: the neighbours alone first, then beside it. Raises LoadError."""
    with public_server(cpus) as server:
        calm = talk(server, min(seconds, 10.0))
        growth, under, tally = flooded(server, name, connections, seconds, NICE)
        return Found(name, connections, growth, calm, under, tally)


def main() -> int:
    """0; 1 if a flood was not held off."""
    parser = argparse.ArgumentParser(prog="python -m bench.hostile", description="A server under floods: a table.")
    parser.add_argument("--flood", action="append", choices=floods.FLOODS, help="only this one; may be repeated (all)")
    parser.add_argument("--seconds", type=float, default=60.0, help=f"of each flood; ten times as long of {LONGER}")
    parser.add_argument("--connections", type=int, action="append", help="of the attacker; may be repeated (1 and 20)")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    load.build()
    cpus = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cpus[-1]})  # the server has the first, what is started here the last
    rows = [HEAD]
    held = True
    for name in options.flood or floods.FLOODS:
        for connections in options.connections or CONNECTIONS:
            seconds = options.seconds * (10 if name == LONGER and connections == 1 else 1)
            print(f"{name}, {connections} connections, {seconds:g} s", file=sys.stderr, flush=True)
            found = run_once(name, connections, seconds, cpus)
            held = held and not found.broken
            rows.append(found.row())
            print("  ".join(found.row()), file=sys.stderr, flush=True)
    print(table(rows))
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
