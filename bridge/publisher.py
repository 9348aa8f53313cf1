"""Into RabbitMQ: persistent, mandatory, confirmed. Many publishes wait for their confirms at once."""

import asyncio
import contextlib
import logging
import re
from collections.abc import Sequence

from aiormq.channel import Channel
from aiormq.exceptions import ChannelInvalidStateError, DeliveryError, PublishError
from pamqp.commands import Basic

from bridge.broker import FAILURES, PATIENCE, Broker, Connection, closed_is_failure
from bridge.declare import declare, is_there
from bridge.delivery import USER_HEADER
from bridge.topology import NAME_BYTES, Gateway, Topology
from chat.errors import OutcomeUnknown, Unavailable, Unroutable
from pipeline.event import Event
from pipeline.gateway import raise_failed

logger = logging.getLogger(__name__)

UNCONFIRMED = 10_000  # messages that may wait for their confirm; beyond it publishing is refused
AWAY = "RabbitMQ is away, nothing was accepted; try again"
_FRAME_BYTES = 128 * 1024  # of a frame, where the broker does not say


class Publisher:
    """A connection of its own: when the broker takes no more messages it stops reading from who publishes, acks too.

    Use `async with`; it connects in the background.
    """

    def __init__(self, url: str, topology: Topology) -> None:
        self._topology = topology
        self._broker = Broker(url, "peyk publisher", self._use)
        self._connection: Connection | None = None
        self._channel: Channel | None = None
        self._waiting: dict[str, asyncio.Future[None]] = {}  # message ids that are not confirmed yet
        self._troubles: dict[str, str] = {}  # what of bridge.toml could not be made, and why
        self.ready = asyncio.Event()

    async def __aenter__(self) -> "Publisher":
        self._broker.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._broker.close()

    @property
    def state(self) -> str:
        """ "ok", or what is wrong."""
        return self._broker.state if self.ready.is_set() or self._broker.state != "ok" else "not ready yet"

    @property
    def frame_bytes(self) -> int:
        """The largest frame the broker takes."""
        return (self._connection and self._connection.connection_tune.frame_max) or _FRAME_BYTES

    async def _use(self, connection: Connection) -> None:
        await self._declare(connection)
        channel = await connection.channel(timeout=PATIENCE)
        assert isinstance(channel, Channel)
        self._connection, self._channel = connection, channel
        self.ready.set()
        try:
            await asyncio.wait([channel.closing])
        finally:
            self._channel = None
            self.ready.clear()

    async def declare(self) -> None:
        """Make what is missing of bridge.toml's exchanges and queues."""
        if self._connection is not None:
            with contextlib.suppress(*FAILURES), closed_is_failure():
                await self._declare(self._connection)

    async def _declare(self, connection: Connection) -> None:
        troubles = await declare(connection, self._topology)
        for what, trouble in troubles.items():
            if self._troubles.get(what) != trouble:  # once, not with every attempt
                logger.error("%s", trouble)
        self._troubles = troubles

    async def publish(self, exchange: str, key: str, body: bytes, properties: Basic.Properties) -> None:
        """Return when the broker has taken it. `properties.message_id` must be there.

        Raises Unavailable (nothing accepted), Unroutable, OutcomeUnknown.
        """
        id = str(properties.message_id)
        while id in self._waiting:  # a return names its message by this id only
            await asyncio.wait([self._waiting[id]])
        if len(self._waiting) >= UNCONFIRMED:
            raise Unavailable(f"{UNCONFIRMED} messages wait for RabbitMQ already, nothing was accepted; try again")
        waiting = self._waiting[id] = asyncio.get_running_loop().create_future()
        try:
            await self._publish(exchange, key, body, properties)
        finally:
            del self._waiting[id]
            waiting.set_result(None)

    async def _publish(self, exchange: str, key: str, body: bytes, properties: Basic.Properties) -> None:
        channel = self._channel
        if channel is None or self._connection is None:
            raise Unavailable(AWAY)
        trouble = self._troubles.get(f"exchange {exchange}")
        if trouble and not await is_there(self._connection, exchange):  # else the broker would end the channel
            raise Unavailable(trouble)
        if await self._connection.is_blocked():
            raise Unavailable("RabbitMQ has no room (its memory or disk alarm), nothing was accepted; try again later")
        try:
            with closed_is_failure():
                async with asyncio.timeout(PATIENCE):
                    await channel.basic_publish(
                        body, exchange=exchange, routing_key=key, properties=properties, mandatory=True, wait=False
                    )
        except PublishError:
            text = f"no queue takes messages from {exchange!r} with the key {key!r}; bind one to it in bridge.toml"
            raise Unroutable(text) from None
        except ChannelInvalidStateError:
            raise Unavailable(AWAY) from None
        except DeliveryError:
            raise OutcomeUnknown("RabbitMQ refused it for one of its queues; retry with the same id") from None
        except Exception as error:  # whatever ended the channel
            logger.info("not confirmed: %r", error)
            raise OutcomeUnknown("RabbitMQ did not confirm it; retry with the same id") from None


class RabbitGateway:
    """Events to the exchange that bridge.toml names for the gateway (pipeline.ports.Gateway)."""

    def __init__(self, publisher: Publisher, gateway: Gateway) -> None:
        self._publisher, self._gateway = publisher, gateway

    async def publish(self, events: Sequence[Event]) -> None:
        """Return when every event is confirmed. Raises Unavailable, Unroutable and OutcomeUnknown, naming the ids."""
        outcomes = await asyncio.gather(*[self._publish(event) for event in events], return_exceptions=True)
        raise_failed(events, outcomes)

    async def _publish(self, event: Event) -> None:
        names = {"type": event.type, "channel": event.channel, "user": event.user}
        key = re.sub(r"\{(\w+)\}", lambda place: names[place[1]], self._gateway.key)
        if len(key.encode()) > NAME_BYTES:
            raise Unroutable(f"the routing key has {len(key.encode())} bytes; RabbitMQ takes {NAME_BYTES}")
        headers = {"type": event.type, "channel": event.channel, USER_HEADER: event.user}
        properties = Basic.Properties(
            content_type="application/json",
            delivery_mode=2,
            message_id=event.id,
            message_type=event.type,
            headers=dict(headers),
        )
        await self._publisher.publish(self._gateway.exchange, key, body_of(event), properties)


def body_of(event: Event) -> bytes:
    """What is queued: an event as POST /api/events takes it."""
    return b'{"channel":"%s",%s' % (event.channel.encode(), event.data()[1:])
