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
from tests.faults.clients import LOST, HttpPublisher, Pub, Publisher, Subscriber, World
from tests.faults.injector import Injector, Installation
from tests.services import until as wait_for

SETTLE = 60.0  # seconds until every client must have reached the top, once the faults are over
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
    chance, loop = random.Random(seed), asyncio.get_running_loop()
    name = secrets.token_hex(4)
    channels = [f"faults-{name}-{i:02}" for i in range(size.channels)]
    world = World(urls, random.Random(chance.random()), known={channel: {} for channel in channels})
    faults: Counter[str] = Counter()
    injector = Injector(installation, random.Random(chance.random()), faults) if installation else None
    subscribers = [
        Subscriber(
            f"c{i:03}-{name}", [channels[(i + 7 * k) % len(channels)] for k in range(size.joined)], world, i % 5 == 0
        )
        for i in range(size.clients)
    ]
    publishers = [
        (Publisher if k else HttpPublisher)(f"p{i:02}-{k}-{name}", channel, world)
        for i, channel in enumerate(channels)
        for k in range(size.producers)
    ]
    background = [asyncio.create_task(s.run()) for s in subscribers]
    background.append(asyncio.create_task(_watch(subscribers)))
    try:
        await wait_for(
            lambda: all(s.reached(c, 0) for s in subscribers for c in s.channels), SETTLE, "all are subscribed"
        )
        end = loop.time() + seconds
        interval = len(publishers) / size.rate
        working = [asyncio.create_task(p.run(interval, end)) for p in publishers]
        background += working
        async with asyncio.TaskGroup() as disturbing:
            disturbing.create_task(_disturb(subscribers, chance, faults, end))
            if injector is not None:
                disturbing.create_task(injector.run(end))
        await asyncio.wait(working, timeout=SETTLE)
        tops = dict(zip(channels, await asyncio.gather(*(_top(urls, c) for c in channels)), strict=True))
        await _all_reach(subscribers, tops)
        await asyncio.sleep(QUIET)
    finally:
        for task in background:
            task.cancel()
        ended = await asyncio.gather(*background, return_exceptions=True)
    for failure in ended:
        if isinstance(failure, Exception):
            raise failure
    histories = [await _history(urls, channel) for channel in channels]
    verdict = check(world.received, histories, [p.published for p in publishers])
    stuck = sum(not s.reached(c, tops[c]) for s in subscribers for c in s.channels)
    return _report(seconds, seed, faults, world, publishers, verdict, stuck)


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


async def _all_reach(subscribers: Sequence[Subscriber], tops: dict[str, int]) -> None:
    """Wait until every client has reached its channels' tops. Who does not in time is counted as stuck, and lost."""
    with contextlib.suppress(TimeoutError):
        await wait_for(lambda: all(s.reached(c, tops[c]) for s in subscribers for c in s.channels), SETTLE)


async def _get(urls: Sequence[str], channel: str, after: int, limit: int) -> Any:
    """A page of history, from whichever node answers."""
    async with asyncio.timeout(SETTLE), httpx.AsyncClient(timeout=10, trust_env=False) as client:
        for i in range(1_000_000):
            try:
                url = f"{urls[i % len(urls)]}/api/channels/{channel}/messages?after={after}&limit={limit}"
                reply = await client.get(url)
                if reply.status_code == 200:
                    return msgspec.json.decode(reply.content, type=_Page)
            except LOST:
                pass
            await asyncio.sleep(0.2)


class _Page(msgspec.Struct):
    epoch: str
    offset: int
    publications: list[Pub]


async def _top(urls: Sequence[str], channel: str) -> int:
    page: _Page = await _get(urls, channel, 0, 0)
    return page.offset


async def _history(urls: Sequence[str], channel: str) -> History:
    messages: list[Message] = []
    while True:
        page: _Page = await _get(urls, channel, messages[-1].offset if messages else 0, PAGE)
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
