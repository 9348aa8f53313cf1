"""What is somebody else's in RabbitMQ, or there in another form: it is taken as it is, and harms nobody beside it."""

import asyncio
from pathlib import Path
from typing import Any

import pika
import pytest
import redis

from app import join
from bridge.declare import arguments_of
from bridge.topology import Queue
from chat.node import Node
from tests.bridge.consuming import BACK, ONE, arrives, bridge, send
from tests.bridge.exchanges import numbers, settings_of
from tests.bridge.foreign import Host
from tests.services import RedisProcess, until

OTHER = '[[queue]]\nname = "other"\nchannel = "d"\n'
PASSIVE = ONE.replace('name = "q"\n', 'name = "q"\npassive = true\n')
DEAD = "[dead_letters]\npassive = true\n"


def said(caplog: pytest.LogCaptureFixture, *words: str) -> bool:
    return any(all(word in record.message for word in words) for record in caplog.records)


async def test_a_queue_that_a_script_declared_is_taken_as_it_is(
    host: Host, valkey: RedisProcess, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """First without `passive`: the log says what to do, the neighbour goes on; then as the log says."""
    with host.channel() as channel:
        channel.queue_declare("q", durable=True)
        channel.queue_bind("q", "amq.direct", "k")
    async with Node(settings_of(host, valkey.url, tmp_path, ONE + OTHER), "bridge", join) as node:
        await until(lambda: host.consumers("other") == 1, BACK)
        await until(lambda: said(caplog, "queue q ", "passive = true", "PRECONDITION_FAILED"), BACK)
        await until(lambda: "passive = true" in node.parts.states["rabbitmq"](), BACK)
    async with bridge(host, valkey, tmp_path, PASSIVE + OTHER) as node:
        await send(host, {"n": 0}, b"poison", {"n": 1})
        await arrives(valkey, 0, 1)
        await until(lambda: host.ready("peyk.dead") == 1, BACK)
        await until(lambda: node.parts.states["rabbitmq"]() == "ok", BACK)


async def test_dead_letters_of_another_form_are_taken_and_named(
    host: Host, valkey: RedisProcess, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with host.channel() as channel:
        channel.queue_declare("peyk.dead", durable=True)
    async with bridge(host, valkey, tmp_path):
        await until(lambda: said(caplog, "queue peyk.dead ", "passive = true"), BACK)
        await send(host, b"poison", {"n": 0})
        await arrives(valkey, 0)
        await until(lambda: host.ready("peyk.dead") == 1, BACK)
    caplog.clear()
    async with bridge(host, valkey, tmp_path, DEAD + ONE):
        await send(host, b"poison", {"n": 1})
        await arrives(valkey, 0, 1)
        await until(lambda: host.ready("peyk.dead") == 2, BACK)
    assert not said(caplog, "peyk.dead ", "passive")


async def test_a_user_who_may_configure_nothing_consumes_what_is_there(
    host: Host, limited: Host, valkey: RedisProcess, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with host.channel() as channel:
        channel.queue_declare("q", durable=True)
    text = PASSIVE + OTHER
    async with bridge(limited, valkey, tmp_path, text):  # its neighbour and the dead letters are missing
        await until(lambda: said(caplog, "queue other ", "passive = true", "set_permissions"), BACK)
        await until(lambda: said(caplog, "exchange peyk.dead ", "passive = true"), BACK)
        await send(host, {"n": 0})
        await arrives(valkey, 0)
        with host.channel() as channel:  # the administrator does as the log says
            channel.queue_declare("other", durable=True)
            channel.exchange_declare("peyk.dead", "fanout", durable=True)
            channel.queue_declare("peyk.dead", durable=True)
            channel.queue_bind("peyk.dead", "peyk.dead")
    text = DEAD + PASSIVE + OTHER.replace('"other"\n', '"other"\npassive = true\n')
    async with bridge(limited, valkey, tmp_path, text):
        await until(lambda: host.consumers("other") == 1, BACK)
        await send(host, b"poison", {"n": 1})
        await arrives(valkey, 0, 1)
        await until(lambda: host.ready("peyk.dead") == 1, BACK)


async def test_a_passive_queue_is_awaited_and_keeps_its_order_on_several_nodes(
    host: Host, valkey: RedisProcess, tmp_path: Path
) -> None:
    """One node at a time consumes; whoever owns the queue may make it later."""
    (tmp_path / "b").mkdir()
    text = PASSIVE.partition("[[queue.bind]]")[0]
    one = Node(settings_of(host, valkey.url, tmp_path, text), "bridge", join)
    other = Node(settings_of(host, valkey.url, tmp_path / "b", text), "bridge", join)
    async with one as node, other:
        await until(lambda: "is not there yet" in node.parts.states["rabbitmq"](), BACK)
        with host.channel() as channel:
            channel.queue_declare("q", durable=True)
            channel.queue_bind("q", "amq.direct", "k")
        await until(lambda: host.consumers("q") == 1, BACK)
        sending = asyncio.to_thread(host.send, "amq.direct", [(f"m{n}", {"n": n}) for n in range(300)], "k")
        await sending
        await arrives(valkey, *range(300))
        assert host.consumers("q") == 1


async def test_what_waited_while_nodes_came_and_went_is_no_dead_letter(
    host: Host, valkey: RedisProcess, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    text = ONE.replace('name = "q"\n', 'name = "q"\ndelivery_limit = 5\nordered = false\n')
    async with bridge(host, valkey, tmp_path, text):
        pass  # the queue is there
    await send(host, *[{"n": n} for n in range(10)])
    for _ in range(25):  # as a node does that ends with all of them in hand; RabbitMQ 4 counts to 20 by itself
        with host.channel() as channel:
            await until(lambda channel=channel: channel.basic_get("q")[0] is not None, BACK)  # type: ignore[misc]
            for _ in range(9):
                channel.basic_get("q")
    async with bridge(host, valkey, tmp_path, text):
        await until(lambda: sorted(numbers(valkey.url, "c")) == list(range(10)), BACK)
        assert host.ready("peyk.dead") == 0
    assert said(caplog, "queue q: message", "never acked")


async def test_names_are_not_only_ascii(host: Host, valkey: RedisProcess, tmp_path: Path) -> None:
    long = "q" * 200
    text = '[[exchange]]\nname = "رویداد|۱"\ntype = "fanout"\n'
    for name in ("صف {سفارش}", long):
        text += f'[[queue]]\nname = "{name}"\nchannel = "c"\n[[queue.bind]]\nexchange = "رویداد|۱"\n'
    async with Node(settings_of(host, valkey.url, tmp_path, text), "bridge", join):
        await until(lambda: host.consumers("صف {سفارش}") == host.consumers(long) == 1, BACK)
        await asyncio.to_thread(host.send, "رویداد|۱", [("m", {"n": 0})])
        await arrives(valkey, 0)


async def test_a_script_that_declares_one_of_ours_with_its_arguments_gets_it(
    host: Host, valkey: RedisProcess, tmp_path: Path
) -> None:
    async with bridge(host, valkey, tmp_path):
        with host.channel() as channel:
            channel.queue_declare("q", durable=True, arguments=arguments_of(Queue(name="q"), "peyk.dead"))
            channel.queue_declare("q", passive=True)
            with pytest.raises(pika.exceptions.ChannelClosedByBroker):
                channel.queue_declare("q", durable=True)


@pytest.mark.parametrize("arguments", [{}, {"x-single-active-consumer": True}], ids=["consumed", "single"])
async def test_a_passive_queue_with_another_consumer_is_shared_as_the_log_says(
    arguments: dict[str, Any], host: Host, valkey: RedisProcess, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with host.channel() as channel:
        channel.queue_declare("q", durable=True, arguments=arguments)
        channel.queue_bind("q", "amq.direct", "k")
        if not arguments:
            channel.basic_consume("q", lambda *delivered: None)
        text = PASSIVE.partition("[[queue.bind]]")[0]
        async with Node(settings_of(host, valkey.url, tmp_path, text), "bridge", join):
            await until(lambda: said(caplog, "queue q ", "ordered = false"), BACK)
        before = host.consumers("q")
        async with Node(settings_of(host, valkey.url, tmp_path, text + "ordered = false\n"), "bridge", join):
            await until(lambda: host.consumers("q") == before + 1, BACK)


@pytest.mark.parametrize("argument", ['x-queue-type = "nonsense"', 'x-queue-type = "stream"', "x-max-priority = 1000"])
async def test_arguments_that_the_broker_refuses_stop_no_other_queue(
    argument: str, host: Host, valkey: RedisProcess, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    text = ONE.replace('name = "q"\n', f'name = "q"\nkind = "classic"\narguments = {{ {argument} }}\n') + OTHER
    async with Node(settings_of(host, valkey.url, tmp_path, text), "bridge", join) as node:
        await until(lambda: host.consumers("other") == 1, BACK)
        await until(lambda: "queue q" in node.parts.states["rabbitmq"](), BACK)
        await asyncio.to_thread(host.send, "", [("m", {"n": 0})], "other")
        with redis.Redis(port=valkey.port) as client:
            await until(lambda: client.xlen("message:d") == 1, BACK)
    assert said(caplog, "queue q ", "PRECONDITION_FAILED")
