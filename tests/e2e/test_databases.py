"""Two servers in two databases of one Redis: nothing of one is seen by the other."""

from collections.abc import Iterator

import pytest
import redis

from tests.clients import Client
from tests.services import PeykServer, RedisProcess, until


@pytest.fixture
def servers(valkey_process: RedisProcess) -> Iterator[list[PeykServer]]:
    url = f"redis://127.0.0.1:{valkey_process.port}"
    with redis.Redis(port=valkey_process.port) as client:
        client.flushall()  # it is the whole run's
    with PeykServer({"REDIS_URL": url}) as plain, PeykServer({"REDIS_URL": url, "REDIS_DB": "5"}) as other:
        yield [plain, other]


async def test_servers_in_two_databases_are_apart(servers: list[PeykServer]) -> None:
    clients = [await Client.open(server.port, "sara") for server in servers]
    for client in clients:
        await client.subscribe("general")
    for turn in range(3):
        for number, client in enumerate(clients):
            await client.publish("general", {"text": f"{number}-{turn}"})
    for number, client in enumerate(clients):
        await client.reach("general", 3, 30)
        assert client.seen["general"] == [(turn + 1, {"text": f"{number}-{turn}"}) for turn in range(3)]
    await clients[0].ask(rpc={"method": "channels.delete", "data": {"id": "general"}})
    await until(lambda: clients[0].unsubscribed, 30, "the channel is gone in its database")
    await clients[1].publish("general", {"text": "still"})
    await clients[1].reach("general", 4, 30)
    assert not clients[1].unsubscribed
    for client in clients:
        client.abort()
