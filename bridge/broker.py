"""A connection to RabbitMQ that is there again whenever it can be: dropped, refused, or the broker restarted.

aiormq does not reconnect; one task here does, and runs what is done with a connection anew on each one.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterator
from datetime import datetime
from functools import partial
from typing import Any

import aiormq
import pamqp.decode
from aiormq.abc import AbstractChannel
from aiormq.exceptions import AMQPError, ChannelClosed, ChannelNotFoundEntity, ChannelPreconditionFailed
from yarl import URL

from bridge.delivery import UNREADABLE_HEADERS
from bridge.topology import PREDECLARED, Exchange, Queue, Topology
from pipeline.lasting import end, lasting
from redis_config import ConfigError

logger = logging.getLogger(__name__)
logging.getLogger("aiormq").setLevel(logging.CRITICAL)  # it logs a traceback for each lost connection; we a line

FAILURES = (AMQPError, OSError, TimeoutError, RuntimeError)  # RuntimeError: aiormq's word for "closed meanwhile"
BACKOFF = 0.1, 2.0  # seconds: first and longest wait before connecting again
PATIENCE = 5.0  # seconds for RabbitMQ to answer a connection or a declaration
HEARTBEAT = 5  # seconds, where AMQP_URL does not say

Use = Callable[["Connection"], Awaitable[None]]


class Connection(aiormq.Connection):
    """A silent broker is given up after (5 s + 1) × 2, which leaves time to be back within 15 s."""

    HEARTBEAT_GRACE_MULTIPLIER = 2

    async def is_blocked(self) -> bool:
        """Whether the broker takes no messages now: its memory or its disk is full."""
        try:
            async with asyncio.timeout(0):
                await self.ready()
        except TimeoutError:
            return True
        return False


class Broker:
    """One supervised connection. `use` is run with each one and cancelled when it ends. Use `start` and `close`."""

    def __init__(self, url: str, name: str, use: Use) -> None:
        self._url, self._name, self._use = broker_url(url, name), name, use
        self._task: asyncio.Task[None] | None = None
        self.state = "not connected yet"
        """"ok", or what is wrong."""

    def start(self) -> None:
        self._task = lasting(self._stay_connected)

    async def close(self) -> None:
        await end(self._task)

    async def _stay_connected(self) -> None:
        wait = BACKOFF[0]
        while True:
            try:
                connection = await open_connection(self._url)
            except FAILURES as error:
                self._lost(f"no connection to RabbitMQ at {self._url.host}:{self._url.port}: {_text(error)}")
            else:
                logger.info("%s: connected to RabbitMQ at %s:%s", self._name, self._url.host, self._url.port)
                self.state, wait = "ok", BACKOFF[0]
                try:
                    await self._use_until_it_ends(connection)
                finally:
                    await end_connection(connection)
            await asyncio.sleep(wait)
            wait = min(wait * 2, BACKOFF[1])

    async def _use_until_it_ends(self, connection: Connection) -> None:
        use = asyncio.ensure_future(self._use(connection))
        closing = connection.closing
        try:
            await asyncio.wait([use, closing], return_when=asyncio.FIRST_COMPLETED)
            cause = next((f.exception() for f in (use, closing) if f.done() and not f.cancelled()), None)
            if isinstance(cause, asyncio.CancelledError):  # aiormq's word for it
                cause = TimeoutError("it is silent")
            if cause is not None and not isinstance(cause, FAILURES):
                logger.error("%s failed", self._name, exc_info=cause)
            self._lost(f"the connection to RabbitMQ ended: {_text(cause)}")
        finally:
            closing.cancel()
            use.cancel()
            await asyncio.gather(use, return_exceptions=True)

    def _lost(self, what: str) -> None:
        if self.state != what:  # once, not with every attempt
            logger.warning("%s: %s; connecting again", self._name, what)
        self.state = what


def broker_url(url: str, name: str = "peyk") -> URL:
    """AMQP_URL with our heartbeat and a name for the management page. Raises ConfigError."""
    try:
        parsed = URL(url)
        if parsed.scheme not in ("amqp", "amqps") or not parsed.host:
            raise ValueError
    except ValueError:
        raise ConfigError("AMQP_URL must look like amqp://user:password@host:5672/vhost, or amqps://") from None
    if parsed.port is None:
        parsed = parsed.with_port(5671 if parsed.scheme == "amqps" else 5672)
    return parsed.update_query({"heartbeat": str(HEARTBEAT), "name": name} | dict(parsed.query))


async def open_connection(url: URL) -> Connection:
    """Raises FAILURES."""
    async with asyncio.timeout(PATIENCE):
        connection = Connection(url)
        await connection.connect()
        return connection


@contextlib.contextmanager
def closed_is_failure() -> Iterator[None]:
    """aiormq cancels who waits for a channel or connection that ends: an error here, unless we are cancelled indeed."""
    try:
        yield
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise ConnectionError("closed meanwhile") from None


async def end_connection(connection: Connection) -> None:
    """Close it, however it stands."""
    with contextlib.suppress(*FAILURES):
        async with asyncio.timeout(PATIENCE):
            await connection.close()


# -- what is declared


async def declare(connection: Connection, topology: Topology) -> None:
    """Make the exchanges, the dead letters' queue and every lasting queue. Raises FAILURES.

    What is there in another form is left as it is, and named in the log.
    """
    dead = topology.dead_letters
    channel = await connection.channel(publisher_confirms=False)
    await channel.exchange_declare(dead.exchange, exchange_type="fanout", durable=True, timeout=PATIENCE)
    arguments: dict[str, Any] = {
        "x-queue-type": "quorum",
        "x-delivery-limit": 1_000_000,
    }  # looking at it must not use it up
    await channel.queue_declare(dead.queue, durable=True, arguments=arguments, timeout=PATIENCE)
    await channel.queue_bind(dead.queue, dead.exchange, timeout=PATIENCE)
    await channel.close()
    for exchange in topology.exchange:
        await _declared(connection, f"exchange {exchange.name}", partial(_exchange, exchange))
    for queue in topology.queue:
        if not queue.passing:
            await _declared(connection, f"queue {queue.name}", partial(declare_queue, queue, dead.exchange))


async def _declared(connection: Connection, what: str, make: Callable[[AbstractChannel], Awaitable[None]]) -> None:
    channel = await connection.channel(publisher_confirms=False)
    try:
        await make(channel)
        await channel.close()
    except (ChannelClosed, ChannelNotFoundEntity, ChannelPreconditionFailed) as error:
        logger.error("%s is not as bridge.toml says (%s): change the file, or delete it", what, error)


async def _exchange(exchange: Exchange, channel: AbstractChannel) -> None:
    if exchange.name in PREDECLARED:
        return
    await channel.exchange_declare(
        exchange.name,
        exchange_type=exchange.type,
        durable=exchange.durable,
        passive=exchange.passive,
        timeout=PATIENCE,
    )


async def declare_queue(queue: Queue, dead_exchange: str, channel: AbstractChannel) -> None:
    """Make a queue and its bindings. Raises FAILURES."""
    arguments: dict[str, Any] = {"x-dead-letter-exchange": dead_exchange}
    if queue.is_quorum:
        arguments |= {"x-queue-type": "quorum", "x-delivery-limit": queue.delivery_limit}
    if queue.ordered and not queue.exclusive:
        arguments["x-single-active-consumer"] = True
    await channel.queue_declare(
        queue.name,
        durable=not queue.passing,
        exclusive=queue.exclusive,
        auto_delete=queue.auto_delete,
        arguments=arguments | queue.arguments,
        timeout=PATIENCE,
    )
    for bind in queue.bind:
        headers: Any = bind.headers | {"x-match": bind.match} if bind.headers else None
        await channel.queue_bind(queue.name, bind.exchange, bind.key, arguments=headers, timeout=PATIENCE)


def _text(error: BaseException | None) -> str:
    return str(error) or type(error).__name__


# -- what pamqp cannot read


def _short_string(value: bytes) -> tuple[int, str]:
    """As pamqp's, which raises on other encodings: one such property would end the connection, over and over."""
    length = value[0]
    return length + 1, value[1 : length + 1].decode("utf-8", "backslashreplace")


def _table(value: bytes) -> tuple[int, Any]:
    """As pamqp's; a table that cannot be read, such as one with names that are not UTF-8, is one that says so."""
    try:
        return pamqp.decode.field_table(value)
    except (ValueError, OverflowError, RecursionError):
        return 4 + int.from_bytes(value[:4], "big"), {UNREADABLE_HEADERS: True}


def _timestamp(value: bytes) -> tuple[int, datetime | None]:
    """As pamqp's; what is no time, such as one in microseconds, is None."""
    try:
        return pamqp.decode.timestamp(value)
    except (ValueError, OverflowError, OSError):
        return 8, None


pamqp.decode.METHODS |= {"shortstr": _short_string, "table": _table, "timestamp": _timestamp}
pamqp.decode.TABLE_MAPPING |= {b"F": _table, b"T": _timestamp}
