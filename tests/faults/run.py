"""One run: clients and publishers at work, faults, then a time to settle, then the check and its report."""

import asyncio
import contextlib
import itertools
import json
import random
import secrets
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import httpx2 as httpx
import msgspec

from tests.faults.checker import KINDS, Bad, History, Message, Verdict, check
from tests.faults.clients import Subscriber
from tests.faults.injector import Injector, Installation
from tests.faults.publishers import HttpPublisher, Publisher
from tests.faults.world import LOST, Pub, World
from tests.services import until as wait_for

SETTLE = 180.0  # seconds until every client must have reached the top, once the faults are over
QUIET = 1.0  # seconds in which what must not come may come
PAGE = 1000  # messages of a page of history
DISTURB = 0.5, 1.5  # seconds from one client fault to the next
CLIENT_FAULTS = DROPPED, SLOWED = "clients dropped", "clients slowed"
BROKEN = (*KINDS, "recovered false", "unsubscribed 2500", "closed 3010", "unacked", "stuck", "errors")


@dataclass(frozen=True)
class Size:
    """How much goes on: `rate` is messages a second in all; each channel has `producers`, one of them over HTTP."""

    clients: int = 200
    channels: int = 20
    joined: int = 2
    rate: float = 500.0
    producers: int = 3


@dataclass
class Report:
    """What a run did and found."""

    seconds: float
    seed: int
    faults: dict[str, int]
    published: int
    acked: int
    deliveries: int
    counts: dict[str, int]
    ack_ms: dict[str, float]
    standstill_s: float
    broken: dict[str, int]
    first_bad: Bad | None
    errors: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        return not any(self.broken.values())

    def text(self) -> str:
        """A table for people."""
        rows: list[tuple[str, object]] = [("seconds", f"{self.seconds:g}"), ("seed", self.seed)]
        rows += sorted(self.faults.items())
        rows += [("published", self.published), ("acked", self.acked), ("deliveries checked", self.deliveries)]
        rows += sorted(self.counts.items())
        rows += [(f"ack {name} ms", f"{value:.1f}") for name, value in self.ack_ms.items()]
        rows += [("longest standstill of publishing s", f"{self.standstill_s:.2f}"), *self.broken.items()]
        lines = [f"{name:<36}{value:>12}" for name, value in rows]
        lines += [f"first bad: {self.first_bad}"] if self.first_bad else []
        return "\n".join([*lines, *(f"error: {error}" for error in self.errors)])

    def json(self) -> str:
        values: dict[str, Any] = asdict(self) | {"clean": self.clean}
        values["first_bad"] = self.first_bad._asdict() if self.first_bad else None
        return json.dumps(values, indent=1, ensure_ascii=False)


async def run(
    urls: Sequence[str], seconds: float, seed: int, size: Size = Size(), installation: Installation | None = None
) -> Report:
    """Drive the nodes at `urls` for `seconds`, with faults in `installation` if there is one; check, and report."""
    chance, faults = random.Random(seed), Counter[str]()
    world = World(urls, random.Random(chance.random()))
    subscribers, publishers = _cast(size, world)
    injector = Injector(installation, random.Random(chance.random()), faults) if installation else None
    background = [asyncio.create_task(work) for work in (*(s.run() for s in subscribers), _watch(subscribers))]
    async with httpx.AsyncClient(timeout=180, trust_env=False) as http:
        try:
            await wait_for(lambda: all(s.stands_at_least({}) for s in subscribers), SETTLE, "all are subscribed")
            end = asyncio.get_running_loop().time() + seconds
            working = [asyncio.create_task(p.run(len(publishers) / size.rate, end)) for p in publishers]
            background += working
            async with asyncio.TaskGroup() as disturbing:
                disturbing.create_task(_disturb(subscribers, chance, faults, end))
                if injector is not None:
                    disturbing.create_task(injector.run(end))
            _, unfinished = await asyncio.wait(working, timeout=SETTLE)
            for work in unfinished:  # whose last number is unacked: counted
                work.cancel()
            await asyncio.gather(*unfinished, return_exceptions=True)
            tops = {channel: (await _page(http, urls, channel, 0, 0)).offset for channel in world.known}
            with contextlib.suppress(TimeoutError):  # who is stuck is counted
                await wait_for(lambda: all(s.stands_at_least(tops) for s in subscribers), SETTLE)
            await asyncio.sleep(QUIET)
        finally:
            for task in background:
                task.cancel()
            ended = await asyncio.gather(*background, return_exceptions=True)
        for failure in ended:
            if isinstance(failure, Exception):
                raise failure
        histories = [await _history(http, urls, channel) for channel in world.known]
    verdict = check(world.received, histories, [p.published for p in publishers])
    stuck = sum(not s.stands_at_least(tops) for s in subscribers)
    return _report(seconds, seed, faults, world, publishers, verdict, stuck)


def _cast(size: Size, world: World) -> tuple[list[Subscriber], list[Publisher]]:
    """Who takes part. Channels and names carry a random word, so that runs on one server do not mix."""
    run = secrets.token_hex(4)
    channels = [f"faults-{run}-{i:02}" for i in range(size.channels)]
    world.known = {channel: {} for channel in channels}
    joined = [[channels[(i + 7 * k) % len(channels)] for k in range(size.joined)] for i in range(size.clients)]
    subscribers = [Subscriber(f"c{i:03}-{run}", joined[i], world, slow=i % 5 == 0) for i in range(size.clients)]
    publishers = [
        (Publisher if k else HttpPublisher)(f"p{i:02}-{k}-{run}", channel, world)
        for i, channel in enumerate(channels)
        for k in range(size.producers)
    ]
    return subscribers, publishers


async def _watch(subscribers: Sequence[Subscriber]) -> None:
    while True:
        await asyncio.sleep(0.5)
        now = asyncio.get_running_loop().time()
        for subscriber in subscribers:
            subscriber.drop_if_silent(now)


async def _disturb(subscribers: Sequence[Subscriber], chance: random.Random, faults: Counter[str], end: float) -> None:
    """Now and then a few clients drop their connection, or read nothing for a while."""
    few = max(1, len(subscribers) // 20)
    slow = [s for s in subscribers if s.slow]
    while asyncio.get_running_loop().time() < end:
        await asyncio.sleep(chance.uniform(*DISTURB))
        if chance.random() < 0.5:
            chosen = chance.sample(subscribers, few)
            faults[DROPPED] += len(chosen)
            for subscriber in chosen:
                subscriber.drop()
        else:
            chosen = chance.sample(slow, min(few, len(slow)))
            faults[SLOWED] += len(chosen)
            for subscriber in chosen:
                subscriber.sleep()


class _Page(msgspec.Struct):
    epoch: str
    offset: int
    publications: list[Pub]


async def _page(http: httpx.AsyncClient, urls: Sequence[str], channel: str, after: int, limit: int) -> _Page:
    """A page of history, from whichever node answers. Raises TimeoutError."""
    async with asyncio.timeout(SETTLE):
        for url in itertools.cycle(urls):
            with contextlib.suppress(*LOST):
                reply = await http.get(f"{url}/api/channels/{channel}/messages?after={after}&limit={limit}")
                if reply.status_code == 200:
                    return msgspec.json.decode(reply.content, type=_Page)
            await asyncio.sleep(0.2)
    raise AssertionError("unreachable")


async def _history(http: httpx.AsyncClient, urls: Sequence[str], channel: str) -> History:
    messages: list[Message] = []
    while True:
        page = await _page(http, urls, channel, messages[-1].offset if messages else 0, PAGE)
        messages += [Message(pub.offset, bytes(pub.data)) for pub in page.publications]
        if not page.publications:
            return History(channel, page.epoch, page.offset, messages)


def _report(
    seconds: float,
    seed: int,
    faults: Counter[str],
    world: World,
    publishers: Sequence[Publisher],
    verdict: Verdict,
    stuck: int,
) -> Report:
    sent, acked = sum(p.published.sent for p in publishers), sum(len(p.published.acked) for p in publishers)
    broken = {name: world.tally.pop(name, 0) for name in BROKEN} | verdict.counts
    broken |= {"unacked": sent - acked, "stuck": stuck}
    times, latencies = sorted(world.ack_times), sorted(world.ack_latencies)
    standstill = max((b - a for a, b in itertools.pairwise(times)), default=seconds)
    ack = {"p50": 0.5, "p99": 0.99, "max": 1.0}
    return Report(
        seconds=seconds,
        seed=seed,
        faults=dict(faults),
        published=sent,
        acked=acked,
        deliveries=verdict.deliveries,
        counts=dict(world.tally),
        ack_ms={name: latencies[int(part * (len(latencies) - 1))] * 1000 for name, part in ack.items() if latencies},
        standstill_s=standstill,
        broken=broken,
        first_bad=verdict.first,
        errors=world.errors,
    )
