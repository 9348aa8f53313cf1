"""Whether messages move: Redis answers, Pub/Sub comes round, the fan-out keeps up."""

import asyncio
import time
from typing import TYPE_CHECKING

from pipeline import fanout
from pipeline.keys import CONTROL
from pipeline.resp import ConnectionLost, ReplyError
from pipeline.status import group_states

if TYPE_CHECKING:
    from chat.node import Node

PATIENCE = 2.0  # seconds a part has to answer
FANOUT_AGE = 5.0  # seconds a log entry may wait for the fan-out


async def ready(node: "Node") -> dict[str, str]:
    """Each part as "ok" or what is wrong with it."""
    parts = {"redis": "ok", "pubsub": "ok", "fanout": "ok"}
    try:
        async with asyncio.timeout(PATIENCE):
            await node.link.call("PING")
            states = await group_states(node.link, node.keys)
    except (ConnectionLost, ReplyError, TimeoutError) as error:
        return {"redis": str(error) or "no answer", "pubsub": "unknown", "fanout": "unknown"}
    node.hub.heard.clear()
    try:
        async with asyncio.timeout(PATIENCE):
            await node.link.call("PUBLISH", CONTROL, b"ready?")
            await node.hub.heard.wait()
    except (ConnectionLost, ReplyError, TimeoutError):
        parts["pubsub"] = f"a message did not come back within {PATIENCE:g} s"
    waiting = [s for s in states if s.group == fanout.GROUP and s.oldest]
    if waiting:
        age = time.time() - min(s.oldest for s in waiting) / 1000
        if age > FANOUT_AGE:
            parts["fanout"] = f"messages wait since {age:.0f} s in partitions {[s.partition for s in waiting]}"
    return parts
