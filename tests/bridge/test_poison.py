"""What can never be an event, as body, properties or headers: it is set aside, and its neighbours flow."""

import asyncio
import contextlib
import struct
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

import pika
import pytest
import redis

from app import join
from chat.node import Node
from tests.bridge.consuming import BACK, ONE, arrives, bridge, send
from tests.bridge.exchanges import numbers, settings_of
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


class Odd(pika.BasicProperties):  # type: ignore[misc]
    """Properties of any bytes: `fields` are (flag, bytes) in the order of the flags."""

    def __init__(self, *fields: tuple[int, bytes]) -> None:
        super().__init__()
        self.fields = fields

    def encode(self) -> list[bytes]:
        flags = sum(flag for flag, _ in self.fields)
        return [struct.pack(">H", flags), *[data for _, data in self.fields]]


def short(data: bytes) -> bytes:
    return bytes([len(data)]) + data


def headers(*entries: tuple[bytes, bytes]) -> tuple[int, bytes]:
    """A table of headers: name, and type with value."""
    table = b"".join(short(name) + value for name, value in entries)
    return HEADERS, struct.pack(">I", len(table)) + table


SHORT_STRINGS = [
    1 << 15,
    1 << 14,
    1 << 10,
    1 << 9,
    1 << 7,
    1 << 5,
    1 << 3,
    1 << 2,
]  # all but user_id and expiration, which the broker judges
HEADERS, TIMESTAMP = 1 << 13, 1 << 6
SIZES = {b"t": 1, b"b": 1, b"B": 1, b"s": 2, b"u": 2, b"I": 4, b"i": 4, b"l": 8, b"L": 8, b"f": 4, b"d": 8, b"D": 5}
SIZES |= {b"T": 8, b"V": 0}


def odd_properties() -> Iterator[Odd]:
    """Every property and every type of a header's value, with bytes nobody expects."""
    random = Random(7)
    for flag in SHORT_STRINGS:
        for data in (b"\xff" * 64, random.randbytes(255), b"\xd9" * 255, b" ", b"\x00", b""):
            yield Odd((flag, short(data)))
    for data in (b"\xff" * 8, b"\0" * 8, random.randbytes(8)):
        yield Odd((TIMESTAMP, data))
    for kind, size in SIZES.items():
        for data in (b"\xff" * size, b"\0" * size, random.randbytes(size)):
            yield Odd(headers((b"h", kind + data)))
    for kind in (b"S", b"x"):
        for data in (b"\xff\xfe", random.randbytes(3000), b""):
            yield Odd(headers((b"h", kind + struct.pack(">I", len(data)) + data)))
    yield Odd(headers((b"\xff\xfe", b"V"), (b"\xff\xfe", b"t\1"), (b"", b"V")))
    yield Odd(headers((b"peyk-user", b"t\1"), (b"peyk-key", b"V"), (b"x-death", b"l" + b"\xff" * 8)))
    yield Odd(headers((b"x-delivery-count", b"S" + struct.pack(">I", 1) + b"a"), (b"CE-type", b"V")))
    yield Odd(headers((b"h" * 255, b"A" + struct.pack(">I", 9) + b"I\xff\xff\xff\xff" + b"F\0\0\0"[:4])))


def publish_odd(host: Host, odd: list[Odd]) -> None:
    """Each of them with two bodies, and a good event behind; what the broker itself refuses ends the connection."""
    left = [(body, properties, n) for n, properties in enumerate(odd) for body in (b"poison", b'{"n":-1}', b"good")]
    while left:
        with contextlib.suppress(pika.exceptions.AMQPError), host.channel() as channel:
            channel.confirm_delivery()
            while left:
                body, properties, n = left.pop(0)
                if body == b"good":
                    channel.basic_publish("amq.direct", "k", b'{"n":%d}' % n)
                else:
                    channel.basic_publish("amq.direct", "k", body, properties)


async def test_whatever_a_message_holds_its_queue_goes_on(host: Host, valkey: RedisProcess, tmp_path: Path) -> None:
    """Each kind of property and header with odd bytes, beside a body that is an event and one that is none."""
    async with bridge(host, valkey, tmp_path):
        odd = list(odd_properties())
        sent = len(odd)
        await asyncio.to_thread(publish_odd, host, odd)

        def good() -> list[int]:
            return [n for n in numbers(valkey.url, "c") if n >= 0]

        await until(lambda: len(good()) == sent, BACK)
        assert good() == list(range(sent))
        await until(lambda: host.ready("peyk.dead") >= sent, BACK)
    assert host.ready("q") == 0  # nothing was left in hand


async def test_a_dead_letter_keeps_its_bytes_to_the_dead_letters_and_back(
    host: Host, valkey: RedisProcess, tmp_path: Path
) -> None:
    correlation = 1 << 10
    async with bridge(host, valkey, tmp_path) as node:
        with host.channel() as channel:
            channel.basic_publish("amq.direct", "k", b"poison", Odd((correlation, short(b"\xff" * 64))))
        assert node.parts.queues is not None
        queues = node.parts.queues
        for _ in range(2):
            await until(lambda: host.ready("peyk.dead") == 1, BACK)
            (letter,) = await queues.list()
            assert letter.message == b"poison" and "not JSON" in letter.reason
            await queues.retry([letter])
            await until(lambda: host.ready("peyk.dead") == 1, BACK)


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
