"""POST /api/events with a RabbitMQ behind it: 202 means the broker has it, and else nothing was taken."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx2 as httpx
import pytest
import redis

from redis_config import Address
from tests.bridge.foreign import Host
from tests.pipeline.proxy import Proxy
from tests.services import PeykServer, RedisProcess, free_port, until

EVENT = {"type": "order.created", "channel": "orders", "payload": {"n": 1}}


@pytest.fixture
def server(host: Host, valkey: RedisProcess) -> Iterator[PeykServer]:
    with PeykServer({"REDIS_URL": valkey.url, "AMQP_URL": host.url}) as server:
        yield server


@pytest.fixture
async def http(server: PeykServer) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=server.url, timeout=180, trust_env=False) as client:
        await until(lambda: joined(client))
        yield client


async def joined(http: httpx.AsyncClient) -> bool:
    return "rabbitmq" in (await http.get("/ready")).text and (await http.get("/ready")).json()["status"] == "ok"


def stored(valkey: RedisProcess, channel: str = "orders") -> list[dict[str, object]]:
    with redis.Redis(port=valkey.port, decode_responses=True) as client:
        return [{"user": e["user"], **json.loads(e["data"])} for _, e in client.xrange(f"message:{channel}")]


async def test_an_event_is_queued_and_comes_into_its_stream_once(http: httpx.AsyncClient, valkey: RedisProcess) -> None:
    for _ in range(3):
        reply = await http.post("/api/events", json={**EVENT, "id": "e1", "user": "sara"})
        assert (reply.status_code, reply.json()) == (202, {"id": "e1", "status": "queued"})
    reply = await http.post("/api/events", json=EVENT)
    await until(lambda: len(stored(valkey)) == 2)
    first, second = stored(valkey)
    assert first == {"user": "sara", "id": "e1", "type": "order.created", "payload": {"n": 1}}
    assert second["id"] == reply.json()["id"] and second["user"] == "anonymous"


async def test_many_publishers_share_the_confirms(host: Host, valkey: RedisProcess, tmp_path: Path) -> None:
    """While no confirm comes through, all that was posted leaves: confirms do not go one by one."""
    with host.channel() as channel:
        channel.queue_declare("taken", durable=True)
        channel.queue_bind("taken", "amq.topic", "#")
    (tmp_path / "bridge.toml").write_text('[gateway]\nexchange = "amq.topic"\n')
    async with Proxy(Address("127.0.0.1", host.rabbit.port)) as proxy:
        url = f"amqp://guest:guest@127.0.0.1:{proxy.address.port}/{host.name}?heartbeat=60"
        env = {"REDIS_URL": valkey.url, "AMQP_URL": url, "BRIDGE_FILE": str(tmp_path / "bridge.toml")}
        server = PeykServer(env)
        try:
            await asyncio.to_thread(server.start)
            async with httpx.AsyncClient(base_url=server.url, timeout=180, trust_env=False) as http:
                await until(lambda: joined(http))
                proxy.flowing.clear()
                batch = [{**EVENT, "id": f"batch-{n}"} for n in range(200)]
                bodies = [batch, *[{**EVENT, "id": f"one-{n}"} for n in range(50)]]
                posts = [asyncio.create_task(http.post("/api/events", json=body)) for body in bodies]
                await until(lambda: host.ready("taken") == 250)
                assert not any(post.done() and post.result().status_code == 202 for post in posts)
                proxy.flowing.set()
                statuses = {reply.status_code for reply in await asyncio.gather(*posts)}
                assert statuses <= {202, 504}  # who waited for more than 5 s does not know
                reply = await http.post("/api/events", json=batch)
                assert reply.status_code == 202 and len(reply.json()) == 200
        finally:
            await asyncio.to_thread(server.close)


async def test_a_batch_beside_others_is_queued_whole_and_in_order(
    http: httpx.AsyncClient, valkey: RedisProcess
) -> None:
    batch = [{**EVENT, "id": f"batch-{n}", "payload": n} for n in range(1000)]
    replies = await asyncio.gather(
        http.post("/api/events", json=batch), *[http.post("/api/events", json=EVENT) for _ in range(50)]
    )
    assert {reply.status_code for reply in replies} == {202}
    assert [queued["id"] for queued in replies[0].json()] == [f"batch-{n}" for n in range(1000)]
    await until(lambda: len(stored(valkey)) == 1050)
    assert [event["payload"] for event in stored(valkey) if str(event["id"]).startswith("batch-")] == list(range(1000))


async def test_an_event_that_no_queue_takes(http: httpx.AsyncClient, host: Host) -> None:
    with host.channel() as channel:
        channel.queue_unbind("peyk.events", "peyk.events", "#")
    reply = await http.post("/api/events", json=EVENT)
    assert reply.status_code == 422 and "bind one to it in bridge.toml" in reply.json()["error"]["message"]
    reply = await http.post("/api/events", json=[{**EVENT, "id": "same"}, {**EVENT, "id": "same"}])
    assert reply.status_code == 422


async def test_a_gateway_key_that_is_too_long(host: Host, valkey: RedisProcess, tmp_path: Path) -> None:
    (tmp_path / "bridge.toml").write_text(
        '[gateway]\nexchange = "amq.topic"\nkey = "{channel}.{type}"\n[[queue]]\nname = "q"\n'
        '[[queue.bind]]\nexchange = "amq.topic"\nkey = "orders.#"\n'
    )
    env = {"REDIS_URL": valkey.url, "AMQP_URL": host.url, "BRIDGE_FILE": str(tmp_path / "bridge.toml")}
    with PeykServer(env) as server:
        async with httpx.AsyncClient(base_url=server.url, trust_env=False) as http:
            await until(lambda: joined(http))
            assert (await http.post("/api/events", json=EVENT)).status_code == 202
            reply = await http.post("/api/events", json={**EVENT, "channel": "ش" * 64, "type": "t" * 128})
            assert reply.status_code == 422 and "257 bytes" in reply.json()["error"]["message"]
            await until(lambda: len(stored(valkey)) == 1)


async def test_while_the_broker_has_no_room_nothing_is_accepted(http: httpx.AsyncClient, host: Host) -> None:
    host.rabbit.control("set_disk_free_limit", "100000GB")
    try:
        await until(lambda: answers(http, 503))
        reply = await http.post("/api/events", json=EVENT)
        assert "no room" in reply.json()["error"]["message"]
    finally:
        host.rabbit.control("set_disk_free_limit", "50MB")
    await until(lambda: answers(http, 202))


async def answers(http: httpx.AsyncClient, status: int) -> bool:
    return (await http.post("/api/events", json=EVENT)).status_code == status


async def test_while_the_broker_is_away_nothing_is_accepted(valkey: RedisProcess) -> None:
    env = {"REDIS_URL": valkey.url, "AMQP_URL": f"amqp://guest:guest@127.0.0.1:{free_port()}/"}
    with PeykServer(env) as server:
        async with httpx.AsyncClient(base_url=server.url, trust_env=False) as http:
            reply = await http.post("/api/events", json=EVENT)
            assert reply.status_code == 503 and "nothing was accepted" in reply.json()["error"]["message"]
            ready = (await http.get("/ready")).json()
            assert ready["status"] == "degraded" and "no connection" in ready["parts"]["gateway"]
            assert stored(valkey) == []
