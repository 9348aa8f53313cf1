"""What bridge.toml names, made in RabbitMQ or found there. What is there in another form is left as it is.

Each thing has a channel of its own, which the broker closes when it refuses: nothing else is harmed by that.
"""

import contextlib
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from aiormq.abc import AbstractChannel
from aiormq.exceptions import AMQPError, ChannelAccessRefused, ChannelNotFoundEntity, ChannelPreconditionFailed

from bridge.broker import FAILURES, PATIENCE, Connection, closed_is_failure, text_of
from bridge.topology import PREDECLARED, DeadLetters, Exchange, Queue, Topology

REFUSED = (ChannelAccessRefused, ChannelNotFoundEntity, ChannelPreconditionFailed)
UNCOUNTED = 1_000_000
"""The x-delivery-limit of our queues: none, in effect. The broker counts what waited for Redis or for an archive while
nodes came and went as well as what failed, and RabbitMQ 4, told nothing, sets it aside after 20 times."""


async def declare(connection: Connection, topology: Topology) -> dict[str, str]:
    """Make the exchanges, the dead letters' queue and every lasting queue; what could not be made, by its name here,
    and why and what to do. Raises FAILURES if the connection ends."""
    dead = topology.dead_letters
    steps: list[tuple[str, bool, Callable[[AbstractChannel], Awaitable[None]]]] = [
        (f"exchange {dead.exchange}", dead.passive, partial(_dead_exchange, dead)),
        (f"queue {dead.queue}", dead.passive, partial(_dead_queue, dead)),
    ]
    for exchange in topology.exchange:
        steps.append((f"exchange {exchange.name}", exchange.passive, partial(_exchange, exchange)))
    for queue in topology.queue:
        if not queue.passing:
            steps.append((f"queue {queue.name}", queue.passive, partial(declare_queue, queue, dead.exchange)))
    troubles = {}
    for what, passive, make in steps:
        if trouble := await _tried(connection, what, passive, make):
            troubles[what] = trouble
    bound = await _tried(connection, f"queue {dead.queue}", dead.passive, partial(_bind_dead, dead))
    if bound and not dead.passive:  # else its owner has bound it, or has not
        troubles.setdefault(f"queue {dead.queue}", bound)
    return troubles


async def _tried(
    connection: Connection, what: str, passive: bool, make: Callable[[AbstractChannel], Awaitable[None]]
) -> str:
    """What keeps `make` from being done; empty: nothing does."""
    channel = await connection.channel(publisher_confirms=False, timeout=PATIENCE)
    try:
        await make(channel)
        await channel.close()
    except REFUSED as error:
        return remedy(what, passive, error)
    return ""


async def is_there(connection: Connection, exchange: str) -> bool:
    """Whether there is an exchange of that name."""
    with contextlib.suppress(*FAILURES), closed_is_failure():
        channel = await connection.channel(publisher_confirms=False, timeout=PATIENCE)
        await channel.exchange_declare(exchange, passive=True, timeout=PATIENCE)
        await channel.close()
        return True
    return False


def remedy(what: str, passive: bool, error: AMQPError) -> str:
    """Why RabbitMQ refused something, and what can be done about it."""
    said = text_of(error)
    take = "say passive = true in bridge.toml to take it as it is"
    if isinstance(error, ChannelNotFoundEntity):
        if passive:
            return f"{what} is not there yet: who owns it makes it, or Peyk does without passive = true ({said})"
        return f"{what} needs something that is not there ({said})"
    if isinstance(error, ChannelAccessRefused):
        if passive:
            return f"{what} is not for this user: rabbitmqctl set_permissions gives the right to it ({said})"
        return f"{what} may not be made by this user: if it is there, {take}; else rabbitmqctl set_permissions ({said})"
    return (
        f"{what} is there in another form than bridge.toml says: {take}, give ours another name, or delete it ({said})"
    )


async def _dead_exchange(dead: DeadLetters, channel: AbstractChannel) -> None:
    await channel.exchange_declare(
        dead.exchange, exchange_type="fanout", durable=True, passive=dead.passive, timeout=PATIENCE
    )


async def _dead_queue(dead: DeadLetters, channel: AbstractChannel) -> None:
    arguments: dict[str, Any] = {"x-queue-type": "quorum", "x-delivery-limit": UNCOUNTED}
    await channel.queue_declare(
        dead.queue,
        durable=True,
        passive=dead.passive,
        arguments=None if dead.passive else arguments,
        timeout=PATIENCE,
    )


async def _bind_dead(dead: DeadLetters, channel: AbstractChannel) -> None:
    """Also where the queue is another than ours: it takes dead letters all the same."""
    await channel.queue_bind(dead.queue, dead.exchange, timeout=PATIENCE)


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
    """Make a queue and its bindings; a passive one only has to be there. Raises FAILURES."""
    if queue.passive:
        await channel.queue_declare(queue.name, passive=True, timeout=PATIENCE)
    else:
        await channel.queue_declare(
            queue.name,
            durable=not queue.passing,
            exclusive=queue.exclusive,
            auto_delete=queue.auto_delete,
            arguments=arguments_of(queue, dead_exchange),
            timeout=PATIENCE,
        )
    for bind in queue.bind:
        headers: Any = bind.headers | {"x-match": bind.match} if bind.headers else None
        await channel.queue_bind(queue.name, bind.exchange, bind.key, arguments=headers, timeout=PATIENCE)


def arguments_of(queue: Queue, dead_exchange: str) -> dict[str, Any]:
    """The arguments a queue of bridge.toml is declared with."""
    arguments: dict[str, Any] = {"x-dead-letter-exchange": dead_exchange}
    if queue.is_quorum:
        arguments |= {"x-queue-type": "quorum", "x-delivery-limit": UNCOUNTED}
    if queue.ordered and not queue.exclusive:
        arguments["x-single-active-consumer"] = True
    return arguments | queue.arguments
