"""What other languages' clients, MQTT devices and CloudEvents' SDKs publish, through a real broker into the stream."""

import asyncio
import gzip
import json
from pathlib import Path
from typing import Any

import pika
import redis

from tests.bridge.consuming import BACK, bridge
from tests.bridge.foreign import Host
from tests.services import RedisProcess, until

CLOUD = {"specversion": "1.0", "id": "c1", "source": "/shop", "type": "order.created"}
LONG = "x" * 255
SENT: list[tuple[dict[str, Any], bytes, dict[str, Any]]] = [
    ({"message_id": "m1"}, b'\xef\xbb\xbf{"n":1}', {"id": "m1", "type": "k", "payload": {"n": 1}}),
    (
        {"message_id": LONG, "content_encoding": "gzip"},
        gzip.compress(b'{"n":2}'),
        {"id": LONG, "type": "k", "payload": {"n": 2}},
    ),
    (
        {"message_id": "m3", "type": "order.created"},
        b'{"n":3}',
        {"id": "m3", "type": "order.created", "payload": {"n": 3}},
    ),
    ({"content_type": "text/plain"}, "سلام".encode(), {"text": "سلام"}),
    ({}, b'{"text":"hi"}', {"text": "hi"}),
    (
        {"content_type": "application/cloudevents+json"},
        json.dumps(CLOUD | {"data": 5}).encode(),
        {"id": "c1", "type": "order.created", "payload": 5, "source": "/shop"},
    ),
    (
        {"headers": {f"cloudEvents:{name}": value for name, value in (CLOUD | {"id": "c2"}).items()}},
        b"6",
        {"id": "c2", "type": "order.created", "payload": 6, "source": "/shop"},
    ),
]


def stored(valkey: RedisProcess) -> list[dict[str, Any]]:
    with redis.Redis(port=valkey.port, decode_responses=True) as client:
        return [json.loads(entry["data"]) for _, entry in client.xrange("message:c")]


def publish(host: Host) -> None:
    with host.channel() as channel:
        channel.confirm_delivery()
        for _ in range(2):  # all that has an id is known the second time
            for properties, body, _ in SENT:
                channel.basic_publish("amq.direct", "k", body, pika.BasicProperties(delivery_mode=2, **properties))
        batch = json.dumps([CLOUD | {"id": f"b{n}", "data": n} for n in range(3)]).encode()
        kind = pika.BasicProperties(content_type="application/cloudevents-batch+json")
        channel.basic_publish("amq.direct", "k", batch, kind)


async def test_each_is_what_it_says(host: Host, valkey: RedisProcess, tmp_path: Path) -> None:
    async with bridge(host, valkey, tmp_path):
        await asyncio.to_thread(publish, host)
        expected = [said for _, _, said in SENT]
        again = [said for said in expected if "text" in said]  # at least once, without an id
        batch = [{"id": f"b{n}", "type": "order.created", "payload": n, "source": "/shop"} for n in range(3)]
        await until(lambda: len(stored(valkey)) >= len(expected + again + batch), BACK)
        assert stored(valkey) == expected + again + batch
        assert host.ready("peyk.dead") == 0
