"""Whether messages move: Redis takes a write, Pub/Sub comes round, the logs have room, the fan-out keeps up.

A sink that lags harms no reader.
"""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from pipeline import fanout
from pipeline.keys import READY
from pipeline.resp import ConnectionLost, ReplyError, remedy_for
from pipeline.status import GroupState, delay, group_states

if TYPE_CHECKING:
    from chat.node import Node

PATIENCE = 2.0  # seconds a part has to answer
FRESH = 1.0  # seconds in which Redis is asked once, however many ask us
_KEPT = 60_000  # milliseconds the key stays that shows whether Redis takes writes
LAG = 5.0  # seconds a log entry may wait for a group


class Readiness(NamedTuple):
    """Each part as "ok" or what is wrong with it; `degraded` parts are wrong and yet messages reach their readers."""

    parts: dict[str, str]
    degraded: dict[str, str]

    @property
    def status(self) -> str:
        """ok, degraded or unavailable."""
        if any(state != "ok" for state in self.parts.values()):
            return "unavailable"
        return "degraded" if any(state != "ok" for state in self.degraded.values()) else "ok"


class Health:
    """What a node says of itself: found out at most once in FRESH seconds, for all who ask."""

    def __init__(self, node: "Node") -> None:
        self._node = node
        self._begun = 0.0
        self._look: asyncio.Task[Readiness] | None = None

    async def ready(self) -> Readiness:
        """Look at every part, for at most twice PATIENCE; or what was seen just now."""
        now = asyncio.get_running_loop().time()
        if self._look is None or (self._look.done() and now >= self._begun + FRESH):
            self._begun = now
            self._look = asyncio.create_task(_ready(self._node))
        return await asyncio.shield(self._look)


async def _ready(node: "Node") -> Readiness:
    parts = {"redis": "ok", "pubsub": "ok", "fanout": "ok"}
    keys = node.keys
    lengths = [["XLEN", keys.log(p)] for p in range(keys.partitions)]
    try:
        async with asyncio.timeout(PATIENCE):
            written, time, *held = await node.link.pipeline([["SET", READY, "", "PX", _KEPT], ["TIME"], *lengths])
            states = await group_states(node.link, keys)
    except (ConnectionLost, ReplyError, TimeoutError) as error:
        unknown = {"redis": str(error) or "no answer", "pubsub": "unknown", "fanout": "unknown"}
        return Readiness(unknown, {})
    if isinstance(written, ReplyError):
        parts["redis"] = f"takes no writes ({written}); {remedy_for(str(written).partition(' ')[0])}"
    full = [p for p, length in enumerate(held) if isinstance(length, int) and length >= node.settings.log_length]
    if full:
        parts["log"] = _full(full, states, node.settings.log_length)
    node.hub.heard.clear()
    try:
        async with asyncio.timeout(PATIENCE):
            await node.link.call("PUBLISH", keys.control, b"ready?")
            await node.hub.heard.wait()
    except (ConnectionLost, ReplyError, TimeoutError):
        parts["pubsub"] = f"a message did not come back within {PATIENCE:g} s"
    now = int(time[0]) * 1000 + int(time[1]) // 1000  # Redis' clock, which gave the entries their times
    parts["fanout"] = _lag([state for state in states if state.group == fanout.GROUP], now)
    degraded = {name: state() for name, state in node.parts.states.items()}
    sinks = {state.group for state in states} - {fanout.GROUP}
    degraded |= {sink: _lag([state for state in states if state.group == sink], now) for sink in sorted(sinks)}
    return Readiness(parts, degraded)


def _full(partitions: Sequence[int], states: Sequence[GroupState], length: int) -> str:
    """Which logs take nothing more, whom they wait for, and what to do."""
    behind = {state.group for state in states if state.partition in partitions and (state.lag or state.pending)}
    groups = ", ".join(sorted(behind)) or "a consumer group"
    remedy = f"mend what {groups} waits for, give it up (python app.py groups drop), or raise LOG_LENGTH"
    return (
        f"partitions {list(partitions)} hold {length} batches that {groups} has not taken: nothing is stored; {remedy}"
    )


def _lag(states: Sequence[GroupState], now: int) -> str:
    """How long a group lets entries wait at `now` (Unix ms): "ok" below LAG."""
    age = delay(states, now)
    if age <= LAG:
        return "ok"
    return f"messages wait since {age:.0f} s in partitions {[state.partition for state in states if state.oldest]}"
