"""The ways to load a server: load.c for sockets, and from Python what is not about many sockets.

Each returns a report like that of load.c: `mode`, what was broken (BROKEN), what was done in how many `seconds`, and
the `processes` (the server, Redis) with the CPU they used.
"""

import asyncio
import json
import os
import time
import urllib.request
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import psutil
import uvloop
from websockets.asyncio.client import ClientConnection, connect

from bench import load
from bench.cpus import by_turns, pin
from bench.load import Report
from tests.services import PeykServer, wait_until

BROKEN = "lost", "duplicated", "out_of_order", "offset_breaks", "misrouted", "malformed", "errors", "disconnects"
OVERHEAD = 200.0  # seconds a run may need beyond its measured time: connecting, warming up, waiting for the rest
_TEXT = "x" * 100
_WARM_UP = 0.5  # seconds
_AT_ONCE = 500  # commands in a frame
_TURNS = 4  # a worker of several runs in one of them
_MESSAGES = "/api/channels/c{}/messages"


def by_load(server: PeykServer, pids: Sequence[int], options: str, seconds: float) -> Report:
    """Sockets: see load.c."""
    return load.run(server.port, options.split(), pids, seconds + OVERHEAD)


def by_ingest(server: PeykServer, pids: Sequence[int], options: str, seconds: float) -> Report:
    """Publishers alone; what they were told is stored must be in the streams."""
    report = by_load(server, pids, options, seconds)
    missing = int(report["published"]) - stored(server, int(report["channels"]))
    rate = {"publishes_per_s": report["acknowledged_per_s"]}  # what was answered counts, not what was sent
    return report | rate | {"lost": report["lost"] + missing, "good": report["good"] and not missing}


def by_workers(server: PeykServer, pids: Sequence[int], options: str, seconds: float) -> Report:
    """Ingest into HTTP_WORKERS processes, each of which runs in one turn of _TURNS, all on the first CPU.

    So one cannot use what another leaves, and neither Redis nor the load generator is ever the limit.
    """
    supervisor, *others = pids
    count = int(server.env["HTTP_WORKERS"])
    wait_until(lambda: server.log.read_text().count("Peyk at ") == count, 20, "every worker serves")
    children = [child.pid for child in psutil.Process(supervisor).children() if "spawn_main" in str(child.cmdline())]
    workers = children or [supervisor]
    for worker in workers:
        pin(worker, min(os.sched_getaffinity(supervisor)))
    with by_turns(workers, _TURNS):
        report = by_ingest(server, [*workers, *others], options, seconds)
    used = sum(process["cpu_s"] for process in report["processes"][:count])
    return report | {"processes": [{"cpu_s": used}, *report["processes"][count:]]}


def by_posts(server: PeykServer, pids: Sequence[int], options: str, seconds: float) -> Report:
    """So many programs, each with a connection and a channel of its own, post one message after another."""
    clients = int(options)
    report = uvloop.run(_post_all(server.port, pids, clients, seconds))
    lost = report["answered"] - stored(server, clients)
    return report | _judged(lost=lost, errors=report["refused"])


def by_replay(server: PeykServer, pids: Sequence[int], options: str, seconds: float) -> Report:
    """So many clients page through one channel's history of so many messages, again and again."""
    clients, messages = map(int, options.split())
    return uvloop.run(_replay(server.ws_url, pids, clients, messages, seconds))


def by_recovery(server: PeykServer, pids: Sequence[int], options: str, seconds: float) -> Report:
    """So many clients connect, and then all at once ask for what they missed."""
    clients, missed = options.split()
    for number in range(int(missed)):
        text = f"~0.{number}.{time.monotonic_ns()}~"
        epoch = _ask(server, _MESSAGES.format(0), {"text": text.ljust(len(_TEXT), "x")})["epoch"]
    return by_load(server, pids, f"-n {clients} -R {epoch}:{missed}", seconds)


WAYS: dict[str, Callable[[PeykServer, Sequence[int], str, float], Report]] = {
    "load": by_load,
    "ingest": by_ingest,
    "workers": by_workers,
    "posts": by_posts,
    "replay": by_replay,
    "recovery": by_recovery,
}


def stored(server: PeykServer, channels: int) -> int:
    """How many messages the streams c0, c1, … have taken in all."""
    return sum(int(_ask(server, _MESSAGES.format(number) + "?limit=1")["offset"]) for number in range(channels))


def _ask(server: PeykServer, path: str, body: Any = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(server.url + path, data, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as reply:
        return json.load(reply)


def _judged(**broken: int) -> Report:
    """The part of a report that says what was broken."""
    return {**dict.fromkeys(BROKEN, 0), **broken, "good": not any(broken.values())}


class _Usage:
    """What processes use between `start` and `stop`, and we ourselves."""

    def __init__(self, pids: Sequence[int]) -> None:
        self._processes = [psutil.Process(pid) for pid in [*pids, psutil.Process().pid]]
        self._before = self._cpu()
        self._since = time.monotonic()

    def _cpu(self) -> list[float]:
        return [times.user + times.system for times in (process.cpu_times() for process in self._processes)]

    def stop(self) -> Report:
        seconds = time.monotonic() - self._since
        *theirs, own = [now - before for now, before in zip(self._cpu(), self._before, strict=True)]
        return {"seconds": seconds, "generator_cpu_s": own, "processes": [{"cpu_s": cpu} for cpu in theirs]}


async def _measured(tallies: Sequence[list[int]], pids: Sequence[int], seconds: float) -> Report:
    """Let what runs run; what was counted meanwhile, and used. A tally is one number that grows."""
    await asyncio.sleep(_WARM_UP)
    usage, before = _Usage(pids), [tally[0] for tally in tallies]
    await asyncio.sleep(seconds)
    done = [tally[0] - was for tally, was in zip(tallies, before, strict=True)]
    return usage.stop() | {"done_in_window": done}


# -- HTTP


class _Poster(asyncio.Protocol):
    """A program on one connection that posts again as soon as it is answered."""

    def __init__(self, number: int, answered: list[int], took: list[float]) -> None:
        body = json.dumps({"text": _TEXT}).encode()
        head = f"POST {_MESSAGES.format(number)} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        self._request = f"{head}content-length: {len(body)}\r\n\r\n".encode() + body
        self._answered, self._took, self._buffer = answered, took, b""
        self.refused, self.stopping, self._sent = 0, False, 0.0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self._post()

    def _post(self) -> None:
        self._sent = time.monotonic()
        self.transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, blank, body = self._buffer.partition(b"\r\n\r\n")
        if not blank or len(body) < int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0]):
            return
        self._buffer = b""
        self._took.append(time.monotonic() - self._sent)
        self._answered[0] += 1
        if b" 201 " not in head[:16]:
            self.refused += 1
        if self.stopping:
            self.done.set_result(None)
            self.transport.close()
        else:
            self._post()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(load.LoadError("the server closed the connection of a program that posts"))


async def _post_all(port: int, pids: Sequence[int], clients: int, seconds: float) -> Report:
    loop, answered, took = asyncio.get_running_loop(), [0], list[float]()
    posters = [_Poster(number, answered, took) for number in range(clients)]
    for poster in posters:
        await loop.create_connection(lambda poster=poster: poster, "127.0.0.1", port)  # type: ignore[misc]
    report = await _measured([answered], pids, seconds)
    for poster in posters:
        poster.stopping = True
    await asyncio.gather(*(poster.done for poster in posters))
    took.sort()
    latency = {f"p{share}": took[len(took) * share // 100] * 1000 for share in (50, 99)}
    (done,) = report["done_in_window"]
    return report | {
        "mode": "posts",
        "published_in_window": done,
        "publishes_per_s": done / report["seconds"],
        "latency_ms": latency,
        "answered": answered[0],
        "refused": sum(poster.refused for poster in posters),
    }


# -- history


class _Entry(msgspec.Struct):
    offset: int


class _Page(msgspec.Struct):
    publications: list[_Entry]
    epoch: str
    offset: int


class _Answer(msgspec.Struct):
    history: _Page


_page = msgspec.json.Decoder(_Answer).decode


async def _greeted(url: str) -> ClientConnection:
    client = await connect(url, compression=None, max_size=None, ping_interval=None)
    await client.send('{"id":1,"connect":{"data":{"user":"reader"}}}')
    await client.recv()
    return client


async def _hear(client: ClientConnection) -> str:
    """The next frame that is not a ping of the protocol; those are answered."""
    while (said := str(await client.recv())) == "{}":
        await client.send("{}")
    return said


async def _fill(client: ClientConnection, messages: int) -> None:
    """Publish so many messages to c0."""
    line = json.dumps({"id": 2, "publish": {"channel": "c0", "data": {"text": _TEXT}}})
    answered = 0
    while answered < messages:
        await client.send("\n".join([line] * min(_AT_ONCE, messages - answered)))
        due = answered + min(_AT_ONCE, messages - answered)
        while answered < due:
            answered += (await _hear(client)).count('"publish":')


async def _read_again_and_again(client: ClientConnection, tally: list[int], broken: list[int]) -> None:
    """Page through c0 from its beginning to its end, and begin anew. Counts holes between offsets."""
    offset = 0
    while True:
        asked = {"channel": "c0", "limit": 1000, "since": {"offset": offset, "epoch": ""}}
        await client.send(json.dumps({"id": 3, "history": asked}))
        page = _page(await _hear(client)).history
        for entry in page.publications:
            broken[0] += entry.offset != offset + 1
            offset = entry.offset
        tally[0] += len(page.publications)
        if offset >= page.offset or not page.publications:
            broken[0] += offset != page.offset
            offset = 0


async def _replay(url: str, pids: Sequence[int], clients: int, messages: int, seconds: float) -> Report:
    tallies, broken = [[0] for _ in range(clients)], [0]
    readers = [await _greeted(url) for _ in range(clients)]
    await _fill(readers[0], messages)
    tasks = [
        asyncio.create_task(_read_again_and_again(client, tally, broken))
        for client, tally in zip(readers, tallies, strict=True)
    ]
    report = await _measured(tallies, pids, seconds)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    failed = [task for task in tasks if not task.cancelled()]
    for reader in readers:
        reader.transport.abort()
    entries = sum(report["done_in_window"])
    shown = {"mode": "replay", "entries_in_window": entries, "entries_per_s": entries / report["seconds"]}
    return report | shown | _judged(offset_breaks=broken[0], disconnects=len(failed))
