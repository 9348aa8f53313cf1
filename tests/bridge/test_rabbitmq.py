"""A real RabbitMQ, a foreign publisher, and whatever can go wrong between them and the streams."""

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pika
import pytest
import redis
from aiormq.abc import AbstractChannel
from pydantic import SecretStr

from app import AppSettings, join
from bridge.broker import Connection, broker_urls
from bridge.management import address_of
from chat import commands
from chat.node import Node
from pipeline.ports import Queues
from redis_config import Address, ConfigError
from tests.bridge import exchanges
from tests.bridge.consuming import BACK, ONE, arrives, bridge, send
from tests.bridge.exchanges import drop_connections, numbers, settings_of
from tests.bridge.foreign import Host
from tests.pipeline.proxy import Proxy
from tests.services import ROOT, RedisProcess, free_port, until

SHORT = 1000  # events through each exchange; `python -m tests.faults.rabbit` sends 10,000


@pytest.fixture
def databases(postgres_url: str, mongo_url: str) -> exchanges.Databases:
    return {"DATABASE_URL": postgres_url, "MONGO_URL": mongo_url}


async def test_four_exchanges(host: Host, valkey: RedisProcess, databases: exchanges.Databases, tmp_path: Path) -> None:
    await exchanges.four_exchanges(host, valkey, databases, tmp_path, SHORT)


async def test_each_event_delivered_three_times_is_there_once(
    host: Host, valkey: RedisProcess, databases: exchanges.Databases, tmp_path: Path
) -> None:
    await exchanges.redelivered(host, valkey, databases, tmp_path, SHORT)


async def test_our_bridge_is_killed_again_and_again(
    host: Host, valkey: RedisProcess, databases: exchanges.Databases, tmp_path: Path
) -> None:
    await exchanges.killed(host, valkey, databases, tmp_path, seconds=4, every=1)


# -- what goes wrong


async def test_a_dropped_connection_is_there_again(host: Host, valkey: RedisProcess, tmp_path: Path) -> None:
    async with bridge(host, valkey, tmp_path):
        for n in range(2):
            await send(host, {"n": n})
            await arrives(valkey, *range(n + 1))
            await until(lambda: host.ready("q") == 0)
            await drop_connections(host)
            await until(lambda: host.consumers("q") == 1, BACK)


async def test_a_queue_that_is_deleted_is_made_anew(host: Host, valkey: RedisProcess, tmp_path: Path) -> None:
    """That cancels the consumer, too."""
    async with bridge(host, valkey, tmp_path):
        with host.channel() as channel:
            channel.queue_delete("q")
        await until(lambda: host.consumers("q") == 1, BACK)
        await send(host, {"n": 0})
        await arrives(valkey, 0)


async def test_a_closed_channel_is_opened_again(
    host: Host, valkey: RedisProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An ack of what was acked has the broker close the channel, not the connection."""
    channels: list[AbstractChannel] = []
    opened = Connection.channel

    async def remembered(self: Connection, *args: Any, **more: Any) -> AbstractChannel:
        channels.append(await opened(self, *args, **more))
        return channels[-1]

    monkeypatch.setattr(Connection, "channel", remembered)
    async with bridge(host, valkey, tmp_path):
        (consuming,) = [channel for channel in channels if getattr(channel, "consumers", None)]
        await consuming.basic_ack(10**6)
        await until(lambda: consuming.is_closed, BACK)
        await send(host, {"n": 0})
        await arrives(valkey, 0)
        assert not consuming.connection.is_closed


async def test_a_broker_that_is_killed_is_awaited(host: Host, valkey: RedisProcess, tmp_path: Path) -> None:
    """By a bridge that had a connection, and by one that starts meanwhile."""
    (tmp_path / "b").mkdir()
    async with bridge(host, valkey, tmp_path) as node:
        await send(host, {"n": 0})
        await arrives(valkey, 0)
        await until(lambda: host.keeps("q", "peyk.dead"))
        host.rabbit.kill()
        await until(lambda: "no connection" in node.parts.states["rabbitmq"](), BACK)
        async with Node(settings_of(host, valkey.url, tmp_path / "b", ONE), "bridge", join) as other:
            await until(lambda: "no connection" in other.parts.states["rabbitmq"](), BACK)
            await asyncio.to_thread(host.rabbit.start)
            states = node.parts.states["rabbitmq"], other.parts.states["rabbitmq"]
            await until(lambda: [state() for state in states] == ["ok", "ok"], BACK)
            await send(host, {"n": 1})
            await arrives(valkey, 0, 1)


async def test_while_redis_is_away_events_stay_in_their_queue(host: Host, tmp_path: Path) -> None:
    with RedisProcess("valkey") as valkey:
        async with bridge(host, valkey, tmp_path, ONE.replace("[[queue.bind]]", "prefetch = 10\n[[queue.bind]]")):
            valkey.kill()
            await asyncio.to_thread(host.send, "amq.direct", [(f"m{n}", {"n": n}) for n in range(30)], "k")
            await until(lambda: host.ready("q") == 20)  # ten are in hand, and not acked
            await drop_connections(host)  # nor taken anew: what is in hand must be settled first
            await until(lambda: host.ready("q") == 30 and host.consumers("q") == 0)
            valkey.start()
            await arrives(valkey, *range(30))
            await until(lambda: host.ready("q") == 0)


async def test_two_bridges_keep_the_order(host: Host, valkey: RedisProcess, tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    other = Node(settings_of(host, valkey.url, tmp_path / "b", ONE), "bridge", join)
    async with bridge(host, valkey, tmp_path), other:
        await until(lambda: len(host.rabbit.manage("GET", f"consumers/{host.name}")) == 2, BACK)
        sending = asyncio.to_thread(host.send, "amq.direct", [(f"m{n}", {"n": n}) for n in range(1000)], "k")
        task = asyncio.create_task(sending)
        await until(lambda: len(numbers(valkey.url, "c")) > 50, BACK)
        await drop_connections(host)  # the other takes over, and they come back
        await task
        await arrives(valkey, *range(1000))


# -- dead letters and queues, as a person sees them


async def test_dead_letters_are_listed_retried_and_dropped(host: Host, valkey: RedisProcess, tmp_path: Path) -> None:
    text = ONE.replace('channel = "c"\n', "")
    async with bridge(host, valkey, tmp_path, text) as node:
        await send(host, b"one", b"two", {"channel": "no such name!"})
        await until(lambda: host.ready("peyk.dead") == 3)
        queues = node.parts.queues
        assert queues is not None
        letters = await queues.list()
        assert [letter.message for letter in letters] == [b"one", b"two", b'{"channel": "no such name!"}']
        assert "not JSON" in letters[0].reason and letters[0].log == "queue q"
        await until(lambda: host.ready("peyk.dead") == 3)  # they are back
        await queues.drop(letters[:1])
        await until(lambda: host.ready("peyk.dead") == 2)
    async with bridge(host, valkey, tmp_path, text.replace('name = "q"\n', 'name = "q"\nchannel = "c"\n')) as node:
        await queues.retry([letter for letter in letters if letter.message.startswith(b"{")])
        await until(lambda: host.ready("peyk.dead") == 1)
        with redis.Redis(port=valkey.port) as client:
            await until(lambda: client.xlen("message:c") == 1)
        assert [letter.message for letter in await queues.list()] == [b"two"]


async def test_a_dead_letter_that_is_retried_is_the_event_it_was(
    host: Host, valkey: RedisProcess, tmp_path: Path
) -> None:
    """The key that says where it goes is not the one it is given back with; ours and the broker's, once and twice."""
    text, body = (ROOT / "bridge.example.toml").read_text(), {"disk": "full"}
    settings = settings_of(host, valkey.url, tmp_path, text).model_copy(update={"create_channels": False})
    forged = {
        "peyk-key": "office.warning",
        "peyk-exchange": "other",
        "peyk-queue": "peyk.events",
        "peyk-reason": "none",
    }
    with redis.Redis(port=valkey.port, decode_responses=True) as client:

        def make(channel: str) -> None:
            client.hset(f"channel:{channel}", mapping={"id": channel, "name": channel, "epoch": "e", "offset": 0})

        async def retried(node: Node, *reasons: str) -> None:
            await until(lambda: host.ready("peyk.dead") == len(reasons), BACK)
            assert node.parts.queues is not None
            letters = await node.parts.queues.list()
            assert [letter.log for letter in letters] == ["queue logs.important"] * len(reasons)
            assert [letter.reason for letter in letters] == list(reasons)
            await node.parts.queues.retry(letters)

        make("log-live")  # that of the queue logs.all
        async with Node(settings, "bridge", join) as node:
            await until(lambda: host.consumers("logs.important") == 1, BACK)
            await asyncio.to_thread(host.send, "logs", [("m1", body)], "shop.error", forged)
            for _ in range(2):
                await retried(node, "there is no channel log-shop; create it first")
            await until(lambda: host.ready("peyk.dead") == 1, BACK)
        with host.channel() as channel:
            properties = pika.BasicProperties(expiration="1", message_id="m2", headers=forged)
            channel.basic_publish("logs", "shop.error", b'{"disk":"full"}', properties)
        await until(lambda: host.ready("peyk.dead") == 2, BACK)
        make("log-shop")
        async with Node(settings, "bridge", join) as node:
            await retried(node, "there is no channel log-shop; create it first", "by the broker: expired")
            await until(lambda: client.xlen("message:log-shop") == 2, BACK)
        said = [json.loads(entry["data"]) for _, entry in client.xrange("message:log-shop")]
    assert said == [{"id": id, "type": "error", "payload": body} for id in ("m1", "m2")]


async def test_status_shows_queues(
    host: Host, valkey: RedisProcess, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = settings_of(host, valkey.url, tmp_path, ONE)
    settings = settings.model_copy(update={"amqp_management_url": host.rabbit.management_url})
    async with Node(settings, "tool", join) as node:
        queues = node.parts.queues
        assert queues is not None and await queues.states() == []
        async with bridge(host, valkey, tmp_path):
            await send(host, b"poison")
            await until(lambda: host.ready("peyk.dead") == 1)
            await until(lambda: _shown(queues, [("q", 0, 0, 1), ("peyk.dead", 1, 0, 0)]), BACK)
            with host.channel() as channel:
                channel.queue_declare("their\x1b[31mqueue", auto_delete=True)

            async def connected() -> bool:
                overview = await queues.overview()
                names = {one.name for one in overview.connections if one.vhost == host.name}
                return names >= {"peyk consumer", "peyk publisher"} and len(overview.queues) == 3

            await until(connected, BACK)
            await commands.status(settings, join)
        shown = capsys.readouterr().out
        assert re.search(r"^'their\\x1b\[31mqueue' +0 +0 +0$", shown, re.MULTILINE), shown
        assert re.search(rf"^peyk consumer +guest +127\.0\.0\.1:\d+ +{host.name} +1 +running$", shown, re.MULTILINE), (
            shown
        )
        assert re.search(r"^guest +administrator$", shown, re.MULTILINE), shown
        away = settings.model_copy(update={"amqp_management_url": f"http://127.0.0.1:{free_port()}"})
        await commands.status(away, join)
        assert "rabbitmq-plugins enable rabbitmq_management" in capsys.readouterr().out


async def test_status_says_which_tag_its_user_lacks(
    host: Host, limited: Host, valkey: RedisProcess, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = settings_of(limited, valkey.url, tmp_path, ONE)
    settings = settings.model_copy(update={"amqp_management_url": host.rabbit.management_url})
    await commands.status(settings, join)
    assert f"rabbitmqctl set_user_tags {host.name} administrator" in capsys.readouterr().out


async def test_the_next_node_is_tried(host: Host, valkey: RedisProcess, tmp_path: Path) -> None:
    """One is away from the beginning, one goes while we are connected."""
    async with Proxy(Address("127.0.0.1", host.rabbit.port)) as proxy:
        nodes = [f"127.0.0.1:{port}" for port in (free_port(), proxy.address.port, host.rabbit.port)]
        text = ONE.replace('name = "q"\n', 'name = "q"\nordered = false\n')
        settings = settings_of(host, valkey.url, tmp_path, text)
        url = SecretStr(f"amqp://guest:guest@{','.join(nodes)}/{host.name}?heartbeat=30")
        async with Node(settings.model_copy(update={"amqp_url": url}), "bridge", join) as node:
            await until(lambda: host.consumers("q") == 1, BACK)
            proxy.refuse = True
            proxy.cut()
            await send(host, {"n": 0})
            await arrives(valkey, 0)
            await until(lambda: node.parts.states["rabbitmq"]() == "ok", BACK)


async def test_each_node_that_is_away_is_named(valkey: RedisProcess, host: Host, tmp_path: Path) -> None:
    ports = free_port(), free_port()
    url = SecretStr(",".join(f"amqp://guest:guest@127.0.0.1:{port}/" for port in ports))
    settings = settings_of(host, valkey.url, tmp_path, ONE).model_copy(update={"amqp_url": url})
    async with Node(settings, "bridge", join) as node:
        await until(lambda: all(str(port) in node.parts.states["rabbitmq"]() for port in ports), BACK)


def test_the_nodes_of_a_cluster() -> None:
    for text in (
        "amqp://u:p%2C@a,b:5,[::1]/v?x=1",
        "amqp://u:p%2C@a/v?x=1, amqp://u:p%2C@b:5/v?x=1,amqp://u:p%2C@[::1]/v?x=1",
    ):
        urls = broker_urls(text)
        assert [(url.host, url.port) for url in urls] == [("a", 5672), ("b", 5), ("::1", 5672)]
        assert {(url.user, url.password, url.path, url.query["x"]) for url in urls} == {("u", "p,", "/v", "1")}
    assert [(url.host, url.port) for url in broker_urls("amqps://a, b")] == [("a", 5671), ("b", 5671)]
    for text in ("amqp://a,", "amqp://u:p@,b/v", "amqp://a:x,b"):
        with pytest.raises(ConfigError, match="several nodes"):
            broker_urls(text)


async def _shown(queues: Queues, expected: list[tuple[str, int, int | None, int]]) -> bool:
    return [tuple(state) for state in await queues.states()] == expected


async def test_a_queue_of_another_form_is_named(
    host: Host, valkey: RedisProcess, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with host.channel() as channel:
        channel.queue_declare("q", durable=False)
    text = ONE + '[[queue]]\nname = "other"\nchannel = "c"\n'
    async with Node(settings_of(host, valkey.url, tmp_path, text), "bridge", join):
        await until(lambda: host.consumers("other") == 1, BACK)  # its neighbour does not wait
    assert any("queue q is there in another form" in record.message for record in caplog.records)


async def test_exclusive_and_passing_queues(host: Host, valkey: RedisProcess, tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    text = ONE.replace('name = "q"\n', 'name = "q"\nexclusive = true\nstore = false\n')
    text += '[[queue]]\nname = "p"\nauto_delete = true\nchannel = "c"\n'
    settings = settings_of(host, valkey.url, tmp_path, text)
    async with exchanges.subscriber(valkey.url, {}, "c") as client:
        shown: list[object] = []
        client._take = lambda channel, publication: shown.append(publication["data"]["payload"])  # type: ignore[method-assign]
        async with Node(settings, "bridge", join):
            await until(lambda: host.ready("p") == 0 and [q for q in _queues(host) if q == "q"], BACK)
            async with Node(settings_of(host, valkey.url, tmp_path / "b", text), "bridge", join):
                await until(lambda: host.consumers("p") == 2, BACK)
                await send(host, {"n": 1})
                await until(lambda: shown == [{"n": 1}], BACK)
        assert numbers(valkey.url, "c") == []
    await until(lambda: _queues(host) == ["peyk.dead"], BACK)


def _queues(host: Host) -> list[str]:
    return sorted(queue["name"] for queue in host.rabbit.manage("GET", f"queues/{host.name}"))


@pytest.mark.parametrize(
    ("url", "asked"),
    [
        ("amqp://u:p@h/v", "http://h:15672"),
        ("amqps://u:p@h/v", "https://h:15671"),  # the password goes there as well
        ("amqps://u:p@[::1]:7/v", "https://[::1]:15671"),
    ],
)
def test_the_management_plugin_is_asked_as_safely_as_the_broker(url: str, asked: str) -> None:
    assert address_of(*broker_urls(url)) == asked


def test_settings_that_do_not_work_are_named(tmp_path: Path) -> None:
    for url in ("rabbit", "http://x", "amqp://"):
        with pytest.raises(ConfigError, match="AMQP_URL must look like amqp://"):
            broker_urls(url)
    assert [url.port for url in broker_urls("amqp://u:p@h/v") + broker_urls("amqps://h")] == [5672, 5671]
    settings = AppSettings(amqp_url=SecretStr("amqp://u:hidden@h"), _env_file=None)
    assert "hidden" not in repr(settings)
