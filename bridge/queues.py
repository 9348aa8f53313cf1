"""What stands in RabbitMQ's queues: how many messages, and the dead letters among them (pipeline.ports.Queues)."""

import hashlib
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple

from aiormq.abc import AbstractChannel, DeliveredMessage
from aiormq.exceptions import ChannelNotFoundEntity, PublishError
from pamqp.commands import Basic

from bridge.broker import FAILURES, PATIENCE, Connection, broker_urls, end_connection, open_first, text_of
from bridge.management import Management
from bridge.rabbitmq import DEATHS, FROM_EXCHANGE, FROM_KEY, FROM_QUEUE, REASON, first_way
from bridge.topology import Topology
from bridge.wire import readable
from chat.errors import Unavailable, Unroutable
from pipeline.dead import DeadLetter
from pipeline.ports import Overview, QueueState

_BROKERS = re.compile(r"x-death|x-(first|last)-death-.*|x-(delivery|acquired)-count")  # headers it writes itself


class Queues:
    """Looks with a connection of its own, opened for each question."""

    def __init__(self, url: str, topology: Topology, management_url: str = "") -> None:
        self._urls = broker_urls(url, "peyk tool")
        self._topology = topology
        self._management = Management(self._urls, management_url)

    async def states(self) -> list[QueueState]:
        """Every queue of bridge.toml and that of the dead letters. Raises Unavailable."""
        names = [*[queue.name for queue in self._topology.queue], self._topology.dead_letters.queue]
        states = []
        async with self._connected() as connection:
            for name in names:
                try:
                    channel = await connection.channel(timeout=PATIENCE)
                    frame = await channel.queue_declare(name, passive=True, timeout=PATIENCE)
                except ChannelNotFoundEntity:
                    continue  # passing, or nobody declared it yet
                unacked = await self._management.unacknowledged(name)
                states.append(QueueState(name, frame.message_count or 0, unacked, frame.consumer_count or 0))
        return states

    async def overview(self) -> Overview:
        """All queues, users and connections, as far as the management shows them."""
        return await self._management.overview()

    # -- dead letters

    async def list(self) -> list[DeadLetter]:
        """All dead letters, oldest first; they stay. Raises Unavailable."""
        async with self._connected() as connection:
            channel = await connection.channel(timeout=PATIENCE)
            return [_letter(message) async for message in self._all(channel)]

    async def retry(self, letters: Sequence[DeadLetter]) -> None:
        """Put them into the queues they came from, at the end. Raises Unavailable, and Unroutable: no such queue."""
        async with self._connected() as connection:
            channel = await connection.channel(timeout=PATIENCE)
            chosen = {letter.id for letter in letters}
            async for message in self._all(channel):
                if _id(message) in chosen:
                    await _give_back(channel, message)
                    await channel.basic_ack(message.delivery_tag or 0)

    async def drop(self, letters: Sequence[DeadLetter]) -> None:
        """Forget them. Raises Unavailable."""
        async with self._connected() as connection:
            channel = await connection.channel(timeout=PATIENCE)
            chosen = {letter.id for letter in letters}
            async for message in self._all(channel):
                if _id(message) in chosen:
                    await channel.basic_ack(message.delivery_tag or 0)

    async def _all(self, channel: AbstractChannel) -> AsyncIterator[DeliveredMessage]:
        """Each dead letter once; what is not acked is back in its place when the channel ends."""
        name = self._topology.dead_letters.queue
        frame = await channel.queue_declare(name, passive=True, timeout=PATIENCE)
        for _ in range(frame.message_count or 0):
            message = await channel.basic_get(name, timeout=PATIENCE)
            if isinstance(message.delivery, Basic.GetEmpty):
                return
            yield message

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[Connection]:
        """A connection, which ends behind what is done with it. Raises Unavailable."""
        try:
            _, connection = await open_first(self._urls)
        except FAILURES as error:
            raise Unavailable(f"no RabbitMQ ({text_of(error)}); is it up, is AMQP_URL right?") from None
        try:
            yield connection
        except FAILURES as error:
            raise Unavailable(f"RabbitMQ: {text_of(error)}") from None
        finally:
            await end_connection(connection)


def _letter(message: DeliveredMessage) -> DeadLetter:
    headers = message.header.properties.headers or {}
    count = headers.get("x-delivery-count", 0)
    attempts = count + 1 if isinstance(count, int) else 1
    origin = _origin(message)
    return DeadLetter(_id(message), origin.reason, attempts, f"queue {origin.queue}", b"", message.body)


def _id(message: DeliveredMessage) -> str:
    """Messages have no number in a queue: what one is made of names it."""
    id = readable(str(message.header.properties.message_id))
    known = f"{_origin(message).queue}\n{id}\n".encode()
    return hashlib.sha256(known + message.body).hexdigest()[:16]


class Origin(NamedTuple):
    """Where a dead letter came from, and why it is one; exchange and key are those it first came with."""

    queue: str
    exchange: str
    key: str
    reason: str


def _origin(message: DeliveredMessage) -> Origin:
    """The broker says so of what it set aside itself, we of the rest; what a producer says does not count."""
    headers = message.header.properties.headers or {}
    key = readable(message.routing_key or "")  # which it keeps on its way here
    deaths = headers.get(DEATHS)
    if isinstance(deaths, list) and deaths and isinstance(deaths[0], dict):
        queue, exchange, reason = [str(deaths[0].get(name, "")) for name in ("queue", "exchange", "reason")]
        return Origin(queue, *first_way(exchange, key, headers), f"by the broker: {reason}")  # delivery_limit, expired…
    queue, exchange, reason = [str(headers.get(name, "")) for name in (FROM_QUEUE, FROM_EXCHANGE, REASON)]
    return Origin(queue, exchange, str(headers.get(FROM_KEY, key)), reason)


async def _give_back(channel: AbstractChannel, message: DeliveredMessage) -> None:
    """To its queue, with what it came with; without what would have the broker copy or refuse it."""
    properties, origin = message.header.properties, _origin(message)
    kept = (properties.headers or {}).items()
    headers = {k: v for k, v in kept if k not in (REASON, FROM_QUEUE, "CC", "BCC") and not _BROKERS.fullmatch(k)}
    properties.headers = headers | {FROM_EXCHANGE: origin.exchange, FROM_KEY: origin.key}
    properties.user_id = None
    try:
        await channel.basic_publish(message.body, routing_key=origin.queue, properties=properties, mandatory=True)
    except PublishError:
        raise Unroutable(f"there is no queue {origin.queue!r} to give the dead letter back to") from None
