"""Out of RabbitMQ: what comes from a queue is appended to the streams, in its order, and acked once it is there.

Many messages are in hand at once (prefetch); the producer makes batches of them, and one ack covers all that is stored.
What can never be accepted goes to the dead letters with the reason; what cannot be accepted now waits, unacked.
"""

import asyncio
import contextlib
import logging
import secrets
from collections import deque
from collections.abc import Mapping
from functools import partial
from typing import Any, Protocol

import pamqp.encode
from aiormq.abc import AbstractChannel, DeliveredMessage
from aiormq.exceptions import ChannelLockedResource
from pamqp.commands import Basic

from bridge.broker import BACKOFF, FAILURES, PATIENCE, Broker, Connection, closed_is_failure, declare, declare_queue
from bridge.delivery import Delivery, Limits, Reader
from bridge.publisher import Publisher
from bridge.topology import Queue, Topology
from chat.errors import BadRequest, PeykError, Temporary
from pipeline.ports import Measures
from pipeline.producer import Done, Position

logger = logging.getLogger(__name__)

REASON, FROM_QUEUE = "peyk-reason", "peyk-queue"  # headers of a dead letter
FROM_EXCHANGE, FROM_KEY = "peyk-exchange", "peyk-key"  # and of one that was given back
DEATHS = "x-death"  # the header of one the broker set aside itself: how, the last time first
_LEFT_OUT = "", "CC", "BCC", DEATHS
_REASON_BYTES = 500
HEADER_BYTES = 120 * 1024  # all properties of a message share one frame: RabbitMQ's has 128 KiB
STOP_TIMEOUT = 2.0  # seconds for what is in hand to be stored or set aside when the node ends
_LOCKED = 3.0  # seconds between tries for a queue that is another node's


class Append(Protocol):
    """The producer's append (pipeline.producer.Producer.append)."""

    def __call__(
        self, channel: str, data: bytes, user: str, client: str, key: str, store: bool, done: Done, patient: bool
    ) -> None: ...


class InHand:
    """One message that was delivered and is not acked: whether it may be."""

    __slots__ = ("done", "message")

    def __init__(self, message: DeliveredMessage) -> None:
        self.message, self.done = message, False


class Life:
    """One channel's deliveries of one queue, oldest first."""

    def __init__(self) -> None:
        self.in_hand: deque[InHand] = deque()
        self.rejected: asyncio.Queue[tuple[InHand, str]] = asyncio.Queue()
        self.moved = asyncio.Event()

    def take_done(self) -> int:
        """The delivery tag up to which all may be acked; they are no longer in hand. 0: none."""
        tag = 0
        while self.in_hand and self.in_hand[0].done:
            tag = self.in_hand.popleft().message.delivery_tag or 0
        return tag

    def done(self, item: InHand) -> None:
        item.done = True
        if item is self.in_hand[0]:
            self.moved.set()


class QueueConsumer:
    """One queue of bridge.toml, on this node."""

    def __init__(self, queue: Queue, dead_exchange: str, append: Append, publisher: Publisher, limits: Limits) -> None:
        self._queue, self._dead_exchange = queue, dead_exchange
        self._append, self._publisher = append, publisher
        self._reader = Reader(queue, limits)
        self._appending = 0  # messages the producer has and has not settled
        self._settled = asyncio.Event()
        self._settled.set()
        self._stop = asyncio.Event()
        self.trouble = f"queue {queue.name} is not consumed yet"
        """What keeps this node from consuming; empty: nothing."""
        self.counts = dict.fromkeys(("stored", "duplicate", "rejected"), 0)

    async def run(self, connection: Connection) -> None:
        """Consume for as long as the connection lives; a channel or a queue that goes is made anew."""
        wait = BACKOFF[0]
        while not self._stop.is_set():
            try:
                with closed_is_failure():
                    await self._live(connection)
                wait = BACKOFF[0]
            except ChannelLockedResource:
                self.trouble, wait = "", _LOCKED  # exclusive, and another node's: until that one ends
            except FAILURES as error:
                self.trouble = f"queue {self._queue.name}: {str(error) or type(error).__name__}"
                logger.warning("%s; consuming again", self.trouble)
            if connection.is_closed or self._stop.is_set():
                return
            await asyncio.sleep(wait)
            wait = min(wait * 2, BACKOFF[1])

    def stop(self) -> None:
        """Take no more, ack what is being stored, and end."""
        self._stop.set()

    async def _live(self, connection: Connection) -> None:
        """One life of a channel. What was appended before it began has been settled: nothing piles up while Redis
        is away, whatever the broker does."""
        await self._settled.wait()
        channel = await connection.channel(publisher_confirms=False, timeout=PATIENCE)
        cancelled = asyncio.get_running_loop().create_future()
        channel.on_consumer_cancel_callbacks.add(lambda frame: None if cancelled.done() else cancelled.set_result(None))
        life = Life()
        tasks: list[asyncio.Future[object]] = [channel.closing, cancelled, asyncio.create_task(self._stop.wait())]
        try:
            await declare_queue(self._queue, self._dead_exchange, channel)
            await channel.basic_qos(prefetch_count=self._queue.prefetch, timeout=PATIENCE)
            tasks += [asyncio.create_task(self._ack(channel, life)), asyncio.create_task(self._set_aside(life))]
            deliver = partial(self._deliver, life)
            consumer = await channel.basic_consume(self._queue.name, deliver, timeout=PATIENCE)
            self.trouble = ""
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if cancelled in done:
                logger.warning("queue %s: the broker ended the consumption; consuming again", self._queue.name)
            elif self._stop.is_set():
                await self._finish(channel, consumer.consumer_tag or "", life)
            else:
                for task in done:
                    task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if not channel.is_closed and not connection.is_closed:
                await channel.close()

    async def _finish(self, channel: AbstractChannel, tag: str, life: Life) -> None:
        """What would not be acked now would come again: stored twice if it has no id, set aside twice if it is bad."""
        await channel.basic_cancel(tag, timeout=PATIENCE)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_TIMEOUT):
                await self._settled.wait()
                await life.rejected.join()
        if last := life.take_done():
            await channel.basic_ack(last, multiple=True)

    async def _deliver(self, life: Life, message: DeliveredMessage) -> None:
        """One message came. aiormq begins a task for each, in order; there is no await here, so order stays."""
        item = InHand(message)
        life.in_hand.append(item)
        try:
            incoming = self._reader.process_message(delivery_of(message, self._queue.name))
        except BadRequest as error:
            life.rejected.put_nowait((item, str(error)))
            return
        except Exception as error:  # ours, and still no reason to stop here for ever
            logger.exception("queue %s: a message was not understood", self._queue.name)
            life.rejected.put_nowait((item, repr(error)))
            return
        event = incoming.event
        self._appending += 1
        self._settled.clear()
        done = partial(self._stored, life, item)
        self._append(event.channel, incoming.data, event.user, "-", incoming.key, self._queue.store, done, True)

    def _stored(self, life: Life, item: InHand, outcome: Position | PeykError) -> None:
        self._appending -= 1
        if not self._appending:
            self._settled.set()
        if isinstance(outcome, Position):
            self.counts["duplicate" if outcome.duplicate else "stored"] += 1
            life.done(item)
        elif not (self._stop.is_set() and isinstance(outcome, Temporary)):  # a producer that ends: it comes again
            life.rejected.put_nowait((item, str(outcome)))

    async def _ack(self, channel: AbstractChannel, life: Life) -> None:
        while True:
            await life.moved.wait()
            life.moved.clear()
            if tag := life.take_done():
                await channel.basic_ack(tag, multiple=True, wait=False)

    async def _set_aside(self, life: Life) -> None:
        """Give what can never be accepted to the dead letters; it is acked when they have it."""
        while True:
            item, reason = await life.rejected.get()
            name, body = self._queue.name, item.message.body
            logger.error("queue %s: set aside message %s: %s", name, item.message.header.properties.message_id, reason)
            properties = dead_letter(item.message, name, reason)
            while True:
                await self._publisher.ready.wait()
                try:
                    await self._publisher.publish(self._dead_exchange, item.message.routing_key or "", body, properties)
                    break
                except PeykError as error:
                    logger.warning("queue %s: the dead letters are out of reach: %s", name, error)
                    await asyncio.sleep(BACKOFF[1])
                    await self._publisher.declare()
            self.counts["rejected"] += 1
            life.done(item)
            life.rejected.task_done()


def delivery_of(message: DeliveredMessage, queue: str) -> Delivery:
    properties = message.header.properties
    headers = properties.headers or {}
    exchange, key = first_way(message.exchange or "", message.routing_key or "", headers)
    return Delivery(message.body, queue, exchange, key, properties.message_id or "", properties.app_id or "", headers)


def first_way(exchange: str, key: str, headers: Mapping[str, object]) -> tuple[str, str]:
    """The exchange and routing key a message first came with, which what is given back says in its headers.

    They count only for what came straight into its queue, so a producer cannot name a key that he may not publish with,
    unless he may publish into whichever queue he likes.
    """
    if exchange == "" and FROM_KEY in headers:
        return str(headers.get(FROM_EXCHANGE, "")), str(headers[FROM_KEY])
    return exchange, key


def dead_letter(message: DeliveredMessage, queue: str, reason: str) -> Basic.Properties:
    """The properties of a message that is set aside: its own, and why and from where.

    Without those that would have the broker refuse it, copy it or throw it away, or that say the broker set it aside.
    """
    old, delivery = message.header.properties, delivery_of(message, queue)
    kept = {name: value for name, value in (old.headers or {}).items() if name not in _LEFT_OUT}
    ours = {REASON: reason.encode()[:_REASON_BYTES].decode(errors="ignore"), FROM_QUEUE: queue}
    ours |= {FROM_EXCHANGE: delivery.exchange, FROM_KEY: delivery.routing_key}
    fields = {name: getattr(old, name) for name in Basic.Properties.attributes()}
    fields |= {"delivery_mode": 2, "user_id": None, "expiration": None}
    fields["message_id"] = old.message_id or secrets.token_urlsafe(12)
    return Basic.Properties(**fields | {"headers": _sendable(kept, ours)})


def _sendable(kept: Mapping[str, Any], ours: Mapping[str, Any]) -> dict[str, Any]:
    """All headers, what has no form in AMQP as text; ours alone if they are more than a message may have."""
    with contextlib.suppress(RecursionError):
        for form in (lambda value: value, str):
            with contextlib.suppress(TypeError, ValueError, OverflowError):
                headers = {name: form(value) for name, value in kept.items()} | dict(ours)
                if len(pamqp.encode.field_table(headers)) <= HEADER_BYTES:
                    return headers
    return dict(ours)


class RabbitMQ:
    """Everything of this node that consumes. Use `async with`; it connects in the background."""

    def __init__(self, url: str, topology: Topology, append: Append, publisher: Publisher, limits: Limits) -> None:
        self._topology = topology
        dead = topology.dead_letters.exchange
        self.consumers = [QueueConsumer(queue, dead, append, publisher, limits) for queue in topology.queue]
        self._broker = Broker(url, "peyk consumer", self._use)
        self._consuming: list[asyncio.Task[None]] = []

    def measures(self) -> Measures:
        """What became of the messages, for /metrics."""
        meanings = {
            "stored": "Messages from RabbitMQ that became events.",
            "duplicate": "Messages from RabbitMQ whose id was known.",
            "rejected": "Messages from RabbitMQ that were set aside.",
        }
        counts = {name: sum(consumer.counts[name] for consumer in self.consumers) for name in meanings}
        return {f"rabbitmq_{name}_total": (meaning, counts[name]) for name, meaning in meanings.items()}

    async def __aenter__(self) -> "RabbitMQ":
        self._broker.start()
        return self

    @property
    def state(self) -> str:
        """ "ok", or what is wrong."""
        if self._broker.state != "ok":
            return self._broker.state
        return "; ".join(consumer.trouble for consumer in self.consumers if consumer.trouble) or "ok"

    async def _use(self, connection: Connection) -> None:
        await declare(connection, self._topology)
        self._consuming = [asyncio.create_task(consumer.run(connection)) for consumer in self.consumers]
        try:
            await asyncio.gather(*self._consuming)
            await asyncio.wait([connection.closing])
        finally:
            for task in self._consuming:
                task.cancel()
            await asyncio.gather(*self._consuming, return_exceptions=True)

    async def __aexit__(self, *exc: object) -> None:
        for consumer in self.consumers:
            consumer.stop()
        if self._consuming:
            await asyncio.wait(self._consuming, timeout=STOP_TIMEOUT + 1)
        await self._broker.close()
