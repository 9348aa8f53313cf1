"""A connection to RabbitMQ that is there again whenever it can be: dropped, refused, or the broker restarted.

aiormq does not reconnect; one task here does, and runs what is done with a connection anew on each one. AMQP_URL
may name several nodes of a cluster: they are tried in turn, beginning with the one that served last.
"""

import asyncio
import contextlib
import logging
import re
from collections.abc import Awaitable, Callable, Iterator, Sequence

import aiormq
from aiormq.exceptions import AMQPError
from yarl import URL

from bridge.wire import readable
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
        self._urls = broker_urls(url, name)
        self._name = name
        self._use = use
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
                url, connection = await open_first(self._urls)
            except FAILURES as error:
                self._lost(f"no connection to RabbitMQ: {text_of(error)}")
            else:
                logger.info("%s: connected to RabbitMQ at %s:%s", self._name, url.host, url.port)
                self.state = "ok"
                wait = BACKOFF[0]
                self._urls = [url, *[other for other in self._urls if other != url]]
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
            self._lost(f"the connection to RabbitMQ ended: {text_of(cause)}")
        finally:
            closing.cancel()
            use.cancel()
            await asyncio.gather(use, return_exceptions=True)

    def _lost(self, what: str) -> None:
        if self.state != what:  # once, not with every attempt
            logger.warning("%s: %s; connecting again", self._name, what)
        self.state = what


def broker_urls(url: str, name: str = "peyk") -> list[URL]:
    """The nodes that AMQP_URL names, each with our heartbeat and a name for the management page. Raises ConfigError.

    amqp://user:password@host:5672,host:5672/vhost, or whole URLs with commas between them.
    """
    urls = []
    for whole in re.split(r"\s*,\s*(?=amqps?://)", url.strip()):
        head, at, rest = whole.rpartition("@") if "@" in whole else whole.partition("://")
        hosts, slash, path = rest.partition("/")
        urls += [_broker_url(f"{head}{at}{host.strip()}{slash}{path}", name) for host in hosts.split(",")]
    return urls


def _broker_url(url: str, name: str) -> URL:
    try:
        parsed = URL(url)
        if parsed.scheme not in ("amqp", "amqps") or not parsed.host:
            raise ValueError
        port = parsed.port
    except ValueError:
        text = "AMQP_URL must look like amqp://user:password@host:5672/vhost, or amqps://"
        raise ConfigError(f"{text}; several nodes: amqp://user:password@host:5672,host:5672/vhost") from None
    if port is None:
        parsed = parsed.with_port(5671 if parsed.scheme == "amqps" else 5672)
    return parsed.update_query({"heartbeat": str(HEARTBEAT), "name": name} | dict(parsed.query))


async def open_first(urls: Sequence[URL]) -> tuple[URL, Connection]:
    """A connection to the first node that gives one, and which it is. Raises FAILURES, naming every node's."""
    failed = []
    for url in urls:
        try:
            return url, await open_connection(url)
        except FAILURES as error:
            failed.append(f"{url.host}:{url.port}: {text_of(error)}")
    raise ConnectionError("; ".join(failed))


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


def text_of(error: BaseException | None) -> str:
    """What an error says; the broker cuts its texts at 255 bytes, which may be in the middle of a letter."""
    return readable(str(error)) or type(error).__name__
