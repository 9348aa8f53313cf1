"""A bridge that consumes one queue, and what is sent to it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from app import join
from chat.node import Node
from tests.bridge.exchanges import numbers, settings_of
from tests.bridge.foreign import Host
from tests.services import RedisProcess, until

BACK = 180.0  # seconds everything has to come back
ONE = '[[queue]]\nname = "q"\nchannel = "c"\n[[queue.bind]]\nexchange = "amq.direct"\nkey = "k"\n'


@contextlib.asynccontextmanager
async def bridge(host: Host, valkey: RedisProcess, directory: Path, text: str = ONE) -> AsyncIterator[Node]:
    """A bridge that consumes the queue q into the channel c."""
    async with Node(settings_of(host, valkey.url, directory, text), "bridge", join) as node:
        await until(lambda: host.consumers("q") == 1, BACK)
        yield node


async def send(host: Host, *bodies: object, id: str = "") -> None:
    await asyncio.to_thread(host.send, "amq.direct", [(id, body) for body in bodies], "k")


async def arrives(valkey: RedisProcess, *expected: int, within: float = BACK) -> None:
    """The channel holds these numbers, in this order."""
    await until(lambda: len(numbers(valkey.url, "c")) >= len(expected), within)
    assert numbers(valkey.url, "c") == list(expected)
