"""An installation of its own, and the faults done to it: processes killed, paused, drained; connections cut."""

import asyncio
import contextlib
import random
import shutil
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import redis

from tests.services import START_TIMEOUT, PeykServer, RedisProcess, free_port

LEASE_TTL = 4.0  # seconds
NODE_PAUSE = 6.0  # seconds a node stands still: longer than its lease
REDIS_PAUSE = 3.0  # seconds Redis stands still: longer than publishers are kept waiting
BETWEEN = 2.0, 4.0  # seconds from one fault to the next
AT_ONCE = 2  # faults that may overlap
RETURN = 180.0  # seconds a process has to come back

# Small buffers, so that a slow reader is one; early pings, so that a client leaves a node that stands still.
ENVIRONMENT = {"LEASE_TTL": str(LEASE_TTL), "HIGH_WATER": "16384", "PING_INTERVAL": "3", "RECOVERY_LIMIT": "5000"}


class Installation:
    """A private Redis and the nodes on it. `with Installation(…)` starts and ends them.

    With `appendfsync everysec` Redis puts off writing while an fsync is under way, but answers all the same
    (flushAppendOnlyFile in aof.c): kill -9 then loses what was acked. With `no` and `always` it writes before it
    answers.
    """

    def __init__(self, kind: str, nodes: int, logs: Path | None = None, appendfsync: str = "no") -> None:
        self.redis, self._logs = RedisProcess(kind, ["--appendfsync", appendfsync]), logs
        environment = {**ENVIRONMENT, "REDIS_URL": self.redis.url}
        self.nodes = [PeykServer(environment, free_port()) for _ in range(nodes)]
        self._stack = contextlib.ExitStack()

    @property
    def urls(self) -> list[str]:
        return [node.url for node in self.nodes]

    def __enter__(self) -> "Installation":
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.redis)
            for node in self.nodes:
                stack.enter_context(node)
            stack.callback(self._keep_logs)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def _keep_logs(self) -> None:
        if self._logs is not None:
            self._logs.mkdir(parents=True, exist_ok=True)
            for name, process in [("redis", self.redis), *((f"node-{node.port}", node) for node in self.nodes)]:
                shutil.copy(process.log, self._logs / f"{name}.log")


class Injector:
    """Does one fault after the other, in an order drawn by chance; each kind once before any comes again."""

    def __init__(self, installation: Installation, chance: random.Random, tally: Counter[str]) -> None:
        self._redis, self._chance, self._tally = installation.redis, chance, tally
        self._idle = list(installation.nodes)
        self._redis_alone, self._room = asyncio.Lock(), asyncio.Semaphore(min(AT_ONCE, len(self._idle)))

    async def run(self, until: float) -> None:
        """Begin faults until the clock of the loop says `until`; returns when all are over and everything is up."""
        loop = asyncio.get_running_loop()
        deck: list[str] = []
        async with asyncio.TaskGroup() as faults:
            while loop.time() + BETWEEN[1] < until:
                await asyncio.sleep(self._chance.uniform(*BETWEEN))
                deck = deck or self._chance.sample(sorted(FAULTS), len(FAULTS))
                await self._room.acquire()
                faults.create_task(self._do(deck.pop()))

    async def _do(self, kind: str) -> None:
        try:
            self._tally[kind] += 1
            await FAULTS[kind](self)
        finally:
            self._room.release()

    @contextlib.contextmanager
    def _a_node(self) -> Iterator[PeykServer]:
        """One that nothing is done to now; back among the others afterwards."""
        node = self._idle.pop(self._chance.randrange(len(self._idle)))
        try:
            yield node
        finally:
            self._idle.append(node)

    async def _start(self, node: PeykServer) -> None:
        """As a supervisor would: again, if Redis was away just then."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + RETURN
        while True:
            try:
                await asyncio.to_thread(node.start)
                return
            except RuntimeError:
                if loop.time() > deadline:
                    raise
                self._tally["node starts repeated"] += 1

    async def kill_node(self) -> None:
        with self._a_node() as node:
            await asyncio.to_thread(node.kill)
            await self._start(node)

    async def drain_node(self) -> None:
        with self._a_node() as node:
            await asyncio.to_thread(node.stop)
            await self._start(node)

    async def pause_node(self) -> None:
        with self._a_node() as node:
            node.pause()
            try:
                await asyncio.sleep(NODE_PAUSE)
            finally:
                node.resume()

    async def kill_redis(self) -> None:
        async with self._redis_alone:
            await asyncio.to_thread(self._redis.restart)

    async def pause_redis(self) -> None:
        async with self._redis_alone:
            self._redis.pause()
            try:
                await asyncio.sleep(REDIS_PAUSE)
            finally:
                self._redis.resume()

    async def cut(self, kind: str) -> None:
        async with self._redis_alone:
            await asyncio.to_thread(self._kill_clients, kind)

    def _kill_clients(self, kind: str) -> None:
        with contextlib.closing(redis.Redis(port=self._redis.port, socket_timeout=START_TIMEOUT)) as client:
            client.client_kill_filter(_type=kind, skipme=True)


FAULTS: dict[str, Callable[[Injector], Awaitable[None]]] = {
    "node killed": Injector.kill_node,
    "node paused": Injector.pause_node,
    "node drained": Injector.drain_node,
    "redis killed": Injector.kill_redis,
    "redis paused": Injector.pause_redis,
    "pubsub connections cut": lambda injector: injector.cut("pubsub"),
    "connections cut": lambda injector: injector.cut("normal"),
}
