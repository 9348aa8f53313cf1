"""What can never be an event, as body, properties or headers: it is set aside, and its neighbours flow."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pika
import pytest
import redis

from app import join
from chat.node import Node
from tests.bridge.consuming import BACK, ONE, arrives, bridge, send
from tests.bridge.exchanges import settings_of
from tests.bridge.foreign import Host
from tests.services import RedisProcess, until

POISON: list[tuple[bytes, str]] = [
    (b"hello", "not JSON"),
    (b'{"n":', "not JSON"),
    (b'{"n":NaN}', "not JSON"),
    ('{"n":"سلام"}'.encode("utf-16"), "not JSON"),
    ('{"n":"salut é"}'.encode("latin-1"), "JSON"),
    (b'{"n":"\\u0000"}', "U+0000"),
    (b'{"n":18446744073709551616}', "64 bits"),
    (b'{"n":"' + b"x" * 70_000 + b'"}', "65536 bytes"),
    (b'{"type":"t","channel":"","payload":1}', "no channel"),
    (b'{"type":"t","channel":"missing","payload":1}', "no channel missing"),
]


async def test_the_poison_matrix(host: Host, valkey: RedisProcess, tmp_path: Path) -> None:
    """Each ends among the dead letters with its reason, and its neighbours flow, in order."""
    text = ONE.replace('channel = "c"\n', 'channel = "{body.channel}"\n')
    settings = settings_of(host, valkey.url, tmp_path, text).model_copy(update={"create_channels": False})
    with redis.Redis(port=valkey.port) as client:
        client.hset("channel:c", mapping={"id": "c", "name": "c", "epoch": "e", "offset": 0})
    bodies: list[object] = []
    for n, (body, _) in enumerate(POISON):
        bodies += [{"channel": "c", "n": n}, _with_channel(body)]
    async with Node(settings, "bridge", join):
        await until(lambda: host.consumers("q") == 1, BACK)
        await send(host, *bodies, {"channel": "c", "n": len(POISON)})
        await arrives(valkey, *range(len(POISON) + 1))
        await until(lambda: host.ready("peyk.dead") == len(POISON))
        await until(lambda: host.ready("q") == 0)
    letters = host.take("peyk.dead")
    for (body, why), (dead, headers) in zip(POISON, letters, strict=True):
        assert dead == _with_channel(body) and why in headers["peyk-reason"] and headers["peyk-queue"] == "q"


def _with_channel(body: bytes) -> bytes:
    return body.replace(b'{"n"', b'{"channel":"c","n"')


async def test_properties_in_another_encoding_do_not_end_the_connection(
    host: Host, valkey: RedisProcess, tmp_path: Path
) -> None:
    class Damaged(pika.BasicProperties):  # type: ignore[misc]
        def encode(self) -> list[bytes]:
            return [b"".join(super().encode()).replace(b"zzzz", b"\xff\xfe\xfdz")]

    async with bridge(host, valkey, tmp_path):
        with host.channel() as channel:
            channel.confirm_delivery()
            channel.basic_publish("amq.direct", "k", b'{"n":0}', Damaged(message_id="zzzz"))
            channel.basic_publish("amq.direct", "k", b'{"n":9}', Damaged(headers={"zzzz": 1}, user_id="guest"))
            channel.basic_publish("amq.direct", "k", b'{"n":1}')
        await arrives(valkey, 0, 1)
        await until(lambda: host.ready("peyk.dead") == 1)
    ((_, headers),) = host.take("peyk.dead")
    assert "not UTF-8" in headers["peyk-reason"]


@pytest.mark.parametrize("time", [1_795_000_000_000_000, 2**64 - 1])
async def test_a_time_that_is_none_does_not_end_the_connection(
    time: int, host: Host, valkey: RedisProcess, tmp_path: Path
) -> None:
    """One in microseconds, or before 1970: as property and as header, of an event and of a dead letter."""

    class Late(pika.BasicProperties):  # type: ignore[misc]
        def encode(self) -> list[bytes]:
            return [b"".join(super().encode()).replace((77).to_bytes(8, "big"), time.to_bytes(8, "big"))]

    async with bridge(host, valkey, tmp_path) as node:
        with host.channel() as channel:
            channel.confirm_delivery()
            for n, body in enumerate([b'{"n":0}', b'{"n":1}', b"poison", b'{"n":2}']):
                times = {"a": datetime.fromtimestamp(77, UTC), "b": {"c": [datetime.fromtimestamp(77, UTC)]}}
                properties = Late(timestamp=77) if n else Late(headers=times)
                channel.basic_publish("amq.direct", "k", body, properties)
        await arrives(valkey, 0, 1, 2)
        await until(lambda: host.ready("peyk.dead") == 1)
        assert node.parts.queues is not None
        (letter,) = await node.parts.queues.list()
        assert letter.message == b"poison" and "not JSON" in letter.reason


async def test_headers_nested_without_end_do_not_end_the_connection(
    host: Host, valkey: RedisProcess, tmp_path: Path
) -> None:
    deep: dict[str, Any] = {}
    for _ in range(400):
        deep = {"a": deep}
    async with bridge(host, valkey, tmp_path):
        await asyncio.to_thread(host.send, "amq.direct", [("", {"n": 0}), ("", b"poison"), ("", {"n": 1})], "k", deep)
        await arrives(valkey, 0, 1)
        await until(lambda: host.ready("peyk.dead") == 1)


async def test_headers_that_fill_their_frame_do_not_keep_a_message_in_its_queue(
    host: Host, valkey: RedisProcess, tmp_path: Path
) -> None:
    """With the reason beside them they are more than the broker takes."""
    full = {f"h{n}": "x" * 30_000 for n in range(4)} | {"z": "y" * (131_072 - 4 * 30_008 - 200)}
    async with bridge(host, valkey, tmp_path):
        for headers in ({"z": "y" * 100_000}, full):
            await asyncio.to_thread(host.send, "amq.direct", [("", b"poison")], "k", headers)
        await send(host, {"n": 0})
        await arrives(valkey, 0)
        await until(lambda: host.ready("peyk.dead") == 2)
    (_, half), (_, few) = host.take("peyk.dead")
    assert "not JSON" in half["peyk-reason"] and half["z"]
    assert "not JSON" in few["peyk-reason"] and "z" not in few
