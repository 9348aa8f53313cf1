"""Whether messages move: Redis answers, Pub/Sub comes round, the fan-out keeps up. A sink that lags harms no reader."""

import asyncio
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from pipeline import fanout
from pipeline.resp import ConnectionLost, ReplyError
from pipeline.status import GroupState, group_states

if TYPE_CHECKING:
    from chat.node import Node

PATIENCE = 2.0  # seconds a part has to answer
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


async def ready(node: "Node") -> Readiness:
    """Look at every part, for at most twice PATIENCE."""
    parts = {"redis": "ok", "pubsub": "ok", "fanout": "ok"}
    try:
        async with asyncio.timeout(PATIENCE):
            await node.link.call("PING")
            states = await group_states(node.link, node.keys)
    except (ConnectionLost, ReplyError, TimeoutError) as error:
        unknown = {"redis": str(error) or "no answer", "pubsub": "unknown", "fanout": "unknown"}
        return Readiness(unknown, {})
    node.hub.heard.clear()
    try:
        async with asyncio.timeout(PATIENCE):
            await node.link.call("PUBLISH", node.keys.control, b"ready?")
            await node.hub.heard.wait()
    except (ConnectionLost, ReplyError, TimeoutError):
        parts["pubsub"] = f"a message did not come back within {PATIENCE:g} s"
    parts["fanout"] = _lag([state for state in states if state.group == fanout.GROUP])
    degraded = {name: state() for name, state in node.parts.states.items()}
    sinks = {state.group for state in states} - {fanout.GROUP}
    degraded |= {sink: _lag([state for state in states if state.group == sink]) for sink in sorted(sinks)}
    return Readiness(parts, degraded)


def _lag(states: Sequence[GroupState]) -> str:
    """How long a group lets entries wait: "ok" below LAG."""
    waiting = [state for state in states if state.oldest]
    age = time.time() - min((state.oldest for state in waiting), default=0) / 1000
    if not waiting or age <= LAG:
        return "ok"
    return f"messages wait since {age:.0f} s in partitions {[state.partition for state in waiting]}"
