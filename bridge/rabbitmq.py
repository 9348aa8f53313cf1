"""Out of RabbitMQ: what comes from a queue is appended to the streams, in its order, and acked once it is there.

Many messages are in hand at once (prefetch); the producer makes batches of them, and one ack covers all that is stored.
What can never be accepted goes to the dead letters with the reason; what cannot be accepted now waits, unacked.
"""

import asyncio
import contextlib
import copy
import logging
import secrets
from collections import deque
from collections.abc import Mapping
from functools import partial
from typing import Any, Protocol

import pamqp.encode
from aiormq.abc import AbstractChannel, DeliveredMessage
from aiormq.exceptions import ChannelAccessRefused, ChannelLockedResource
from pamqp.commands import Basic

from bridge.broker import BACKOFF, FAILURES, PATIENCE, Broker, Connection, closed_is_failure, text_of
from bridge.declare import REFUSED, declare, declare_queue, remedy
from bridge.delivery import Delivery, Limits, Reader
from bridge.publisher import Publisher
from bridge.topology import Queue, Topology
from bridge.wire import readable
from chat.errors import BadRequest, OutcomeUnknown, PeykError, Temporary
from pipeline.ports import Measures
from pipeline.producer import Done, Position

logger = logging.getLogger(__name__)

REASON, FROM_QUEUE = "peyk-reason", "peyk-queue"  # headers of a dead letter
FROM_EXCHANGE, FROM_KEY = "peyk-exchange", "peyk-key"  # and of one that was given back
DEATHS = "x-death"  # the header of one the broker set aside itself: how, the last time first
_LEFT_OUT = "", "CC", "BCC", DEATHS
_REASON_BYTES = 500
_OTHERS = 14 * 256  # bytes that a message's other properties may take: all share one frame with the headers
_TRIES = 3  # times a dead letter is published as it is, before it goes without what it came with
DELIVERIES = "x-delivery-count"  # the header of a quorum queue that says how often a message came before
STOP_TIMEOUT = 2.0  # seconds for what is in hand to be stored or set aside when the node ends
_LOCKED = 3.0  # seconds between tries for a queue that is another node's
_TAKEN = "exclusive use"  # how RabbitMQ says that a queue has a consumer which wants it alone, or any where we do


class Append(Protocol):
    """The producer's append (pipeline.producer.Producer.append)."""

    def __call__(
        self, channel: str, data: bytes, user: str, client: str, key: str, store: bool, done: Done, patient: bool
    ) -> None: ...


class InHand:
    """One delivery that is not acked: whether it may be, and how many of the messages in it are not settled yet."""

    __slots__ = ("done", "failed", "left", "message")

    def __init__(self, message: DeliveredMessage) -> None:
        self.message = message
        self.done = False
        self.left = 1
        self.failed: PeykError | None = None


class Life:
    """One channel's deliveries of one queue, oldest first."""

    def __init__(self) -> None:
        self.in_hand: deque[InHand] = deque()
        self.rejected: asyncio.Queue[tuple[InHand, str]] = asyncio.Queue()
        self.moved = asyncio.Event()
        self.named = False

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
                self.trouble = ""  # exclusive, and another node's: until that one ends
                wait = _LOCKED
            except ChannelAccessRefused as error:
                if self._queue.passive and _TAKEN in text_of(error):
                    self._say_taken()
                    wait = _LOCKED
                else:
                    self._say(remedy(f"queue {self._queue.name}", self._queue.passive, error))
            except REFUSED as error:
                self._say(remedy(f"queue {self._queue.name}", self._queue.passive, error))
            except FAILURES as error:
                self._say(f"queue {self._queue.name}: {text_of(error)}; consuming again")
            except Exception as error:  # ours, and still no reason to stop here for ever
                logger.exception("queue %s", self._queue.name)
                self.trouble = f"queue {self._queue.name}: {error!r}"
            if connection.is_closed or self._stop.is_set():
                return
            await asyncio.sleep(wait)
            wait = min(wait * 2, BACKOFF[1])

    def _say(self, trouble: str) -> None:
        if self.trouble != trouble:  # once, not with every attempt
            logger.warning("%s", trouble)
        self.trouble = trouble

    def _say_taken(self) -> None:
        """An ordered queue has one consumer at a time. If that is another node of ours, all is well."""
        if self.trouble:
            text = (
                "queue %s has a consumer already, and is taken when that one ends; with ordered = false both share it"
            )
            logger.warning(text, self._queue.name)
        self.trouble = ""

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
            alone = self._queue.passive and self._queue.ordered  # our own have x-single-active-consumer for that
            consumer = await channel.basic_consume(self._queue.name, deliver, exclusive=alone, timeout=PATIENCE)
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
        self._name_what_comes_back(life, message)
        try:
            found = self._reader.process_message(delivery_of(message, self._queue.name))
        except BadRequest as error:
            life.rejected.put_nowait((item, str(error)))
            return
        except Exception as error:  # ours, and still no reason to stop here for ever
            logger.exception("queue %s: a message was not understood", self._queue.name)
            life.rejected.put_nowait((item, repr(error)))
            return
        item.left = len(found)
        self._appending += len(found)
        self._settled.clear()
        done = partial(self._stored, life, item)
        for one in found:
            self._append(one.channel, one.data, one.user, "-", one.key, self._queue.store, done, True)

    def _name_what_comes_back(self, life: Life, message: DeliveredMessage) -> None:
        """The first message of a life that came very often: if it is what ends the node, somebody must know of it."""
        count = (message.header.properties.headers or {}).get(DELIVERIES, 0)
        if life.named or not isinstance(count, int) or count < self._queue.delivery_limit:
            return
        life.named = True
        text = "queue %s: message %s came %d times, never acked: it waited for Redis or the log, or it ends the node"
        logger.warning(text, self._queue.name, readable(message.header.properties.message_id or ""), count + 1)

    def _stored(self, life: Life, item: InHand, outcome: Position | PeykError) -> None:
        """One message of a delivery is stored, or never will be: then the whole delivery is set aside."""
        self._appending -= 1
        if not self._appending:
            self._settled.set()
        item.left -= 1
        if isinstance(outcome, Position):
            self.counts["duplicate" if outcome.duplicate else "stored"] += 1
        else:
            item.failed = item.failed or outcome
        if item.left:
            return
        if item.failed is None:
            life.done(item)
        elif not (self._stop.is_set() and isinstance(item.failed, Temporary)):  # a producer that ends: it comes again
            life.rejected.put_nowait((item, str(item.failed)))

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
            name, id = self._queue.name, readable(item.message.header.properties.message_id or "")
            logger.error("queue %s: set aside message %s: %s", name, id, reason)
            await self._bury(item.message, reason)
            self.counts["rejected"] += 1
            life.done(item)
            life.rejected.task_done()

    async def _bury(self, message: DeliveredMessage, reason: str) -> None:
        """Publish a dead letter until the broker has it; if it refuses what the message came with, without that."""
        unknown = 0
        while True:
            await self._publisher.ready.wait()
            room = self._publisher.frame_bytes - _OTHERS
            properties = dead_letter(message, self._queue.name, reason, room, bare=unknown >= _TRIES)
            try:
                await self._publisher.publish(self._dead_exchange, message.routing_key or "", message.body, properties)
                return
            except PeykError as error:
                unknown += isinstance(error, OutcomeUnknown)
                logger.warning("queue %s: the dead letters are out of reach: %s", self._queue.name, error)
                await asyncio.sleep(BACKOFF[1])
                await self._publisher.declare()


def delivery_of(message: DeliveredMessage, queue: str) -> Delivery:
    properties = message.header.properties
    headers = properties.headers or {}
    exchange, key = first_way(readable(message.exchange or ""), readable(message.routing_key or ""), headers)
    named = (properties.message_id, properties.app_id)
    kinds = (properties.message_type, properties.content_type, properties.content_encoding)
    message_id, app_id = [readable(text or "") for text in named]
    return Delivery(
        message.body, queue, exchange, key, message_id, app_id, headers, *[readable(text or "") for text in kinds]
    )


def first_way(exchange: str, key: str, headers: Mapping[str, object]) -> tuple[str, str]:
    """The exchange and routing key a message first came with, which what is given back says in its headers.

    They count only for what came straight into its queue, so a producer cannot name a key that he may not publish with,
    unless he may publish into whichever queue he likes.
    """
    if exchange == "" and FROM_KEY in headers:
        return str(headers.get(FROM_EXCHANGE, "")), str(headers[FROM_KEY])
    return exchange, key


def dead_letter(
    message: DeliveredMessage, queue: str, reason: str, room: int = 120 * 1024, bare: bool = False
) -> Basic.Properties:
    """The properties of a message that is set aside: its own, and why and from where, in `room` bytes of headers.

    Without those that would have the broker refuse it, copy it or throw it away, or that say the broker set it aside;
    `bare`: without any of its own.
    """
    old = Basic.Properties() if bare else message.header.properties
    delivery = delivery_of(message, queue)
    kept = {name: value for name, value in (old.headers or {}).items() if name not in _LEFT_OUT}
    ours = {REASON: reason.encode("utf-8", "replace")[:_REASON_BYTES].decode(errors="ignore"), FROM_QUEUE: queue}
    ours |= {FROM_EXCHANGE: delivery.exchange, FROM_KEY: delivery.routing_key}
    properties = copy.copy(old)  # not made anew: what came may be more than the library makes
    properties.delivery_mode = 2
    properties.user_id = None
    properties.expiration = None
    properties.cluster_id = ""
    properties.headers = _sendable(kept, ours, room)
    for name in Basic.Properties.attributes():
        with contextlib.suppress(Exception):
            properties.encode_property(name, getattr(properties, name))
            continue
        setattr(properties, name, None)  # it has no form in AMQP
    properties.message_id = properties.message_id or secrets.token_urlsafe(12)
    return properties


def _sendable(kept: Mapping[str, Any], ours: Mapping[str, Any], room: int) -> dict[str, Any]:
    """All headers, what has no form in AMQP as text; ours alone if they are more than a message may have."""
    for form in (lambda value: value, str):
        with contextlib.suppress(Exception):  # whatever they hold
            headers = {name: form(value) for name, value in kept.items()} | dict(ours)
            if len(pamqp.encode.field_table(headers)) <= room:
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
