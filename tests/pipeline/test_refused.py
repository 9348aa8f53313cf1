"""A Redis that says it is not the one to ask: the connection is opened again, and what was asked did not happen."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from chat.errors import PeykError, Unavailable
from pipeline.listener import Listener
from pipeline.producer import Position, Producer
from pipeline.resp import ConnectionLost, Link, Refused, ReplyError, connect
from redis_config import Address, ConfigError, Settings, command_client
from tests.pipeline.proxy import Proxy
from tests.services import RedisClient, RedisProcess, until

DATA = b'{"text":"x"}'
RETURN = 30.0


@pytest.fixture(scope="module")
def other_process() -> Iterator[RedisProcess]:
    with RedisProcess("redis") as process:
        yield process


@pytest.fixture
def address(redis_process: RedisProcess) -> Address:
    return Address("127.0.0.1", redis_process.port)


@pytest.fixture
async def client(address: Address) -> AsyncIterator[RedisClient]:
    async with command_client(address) as client:
        await client.flushall()
        yield client
        await client.replicaof("NO", "ONE")


async def demote(client: RedisClient) -> None:
    await client.replicaof("127.0.0.1", "1")


async def test_a_demoted_primary_is_asked_again_on_a_new_connection(client: RedisClient, address: Address) -> None:
    link = Link(address)
    first = await link.open()
    await link.call("SET", "a", "1")
    await demote(client)
    with pytest.raises(Refused, match="read-only replica; if it stays so, set REDIS_URL to its primary"):
        await link.pipeline([["GET", "a"], ["SET", "a", "2"], ["GET", "a"]])
    assert await link.call("GET", "a") == b"1"  # it may still be read
    assert await link.open() is not first and first.lost
    await client.replicaof("NO", "ONE")
    await link.call("SET", "a", "3")
    assert await link.call("GET", "a") == b"3"
    link.close()


async def test_what_else_waits_on_that_connection_hears_that_it_is_lost(client: RedisClient, address: Address) -> None:
    connection = await connect(address)
    waiting = asyncio.create_task(connection.call("BLPOP", "q", 0, patience=None))
    await asyncio.sleep(0)
    await demote(client)
    refused = asyncio.create_task(connection.call("SET", "a", "1"))
    for task in (waiting, refused):
        with pytest.raises((ConnectionLost, ReplyError)):  # the blocked one is told UNBLOCKED first
            await task
    await until(lambda: connection.lost, what="it is closed")


async def test_a_script_on_a_replica_is_refused_the_same_way(client: RedisClient, address: Address) -> None:
    link = Link(address)
    await demote(client)
    with pytest.raises(Refused, match="read-only replica"):
        await link.call("EVAL", "return redis.call('SET', KEYS[1], '1')", 1, "a")
    link.close()


async def test_messages_wait_and_publishers_hear_why(client: RedisClient, address: Address) -> None:
    settings = Settings(redis_host=address.host, redis_port=address.port, publish_timeout=0.5, _env_file=None)
    outcomes: list[Position | PeykError] = []
    async with Producer(address, settings) as producer:
        await producer.publish("c", DATA, user="sara")
        await demote(client)
        for number in range(3):
            data = b'{"text":"%d"}' % number
            producer.append("c", data, "sara", "-", "", True, outcomes.append, patient=True)
        with pytest.raises(Unavailable, match=r"read-only replica.*nothing was stored"):
            await producer.publish("c", DATA, user="sara")
        assert outcomes == []  # the patient go on waiting
        await client.replicaof("NO", "ONE")
        await until(lambda: len(outcomes) == 3, RETURN, "the patient are stored")
        position = await producer.publish("c", DATA, user="sara")
    assert [outcome.offset for outcome in outcomes if isinstance(outcome, Position)] == [2, 3, 4]
    assert position.offset == 5 and await client.xlen("message:c") == 5


async def test_a_new_primary_behind_the_same_name_is_found(
    client: RedisClient, address: Address, other_process: RedisProcess
) -> None:
    """The old one answers on, so that only its words say that it is the wrong one."""
    new = Address("127.0.0.1", other_process.port)
    told: list[bool] = []
    async with Proxy(address) as proxy, command_client(new) as there, command_client(proxy.address) as commands:
        await there.flushall()
        settings = Settings(redis_url=f"redis://127.0.0.1:{proxy.address.port}", _env_file=None)
        link = Link(proxy.address)
        async with Producer(proxy.address, settings) as producer:
            producer.on_refused = lambda: told.append(True)
            await producer.publish("c", DATA, user="sara")
            await link.call("SET", "a", "1")
            await commands.set("b", "1")
            proxy.target = new
            await demote(client)
            await producer.publish("d", DATA, user="sara")  # within its time
            with pytest.raises(Refused):
                await link.call("SET", "a", "2")
            await link.call("SET", "a", "2")
            await commands.set("b", "2")  # it may be sent again: it was
        link.close()
        assert told
        assert (await there.get("a"), await there.get("b"), await there.xlen("message:d")) == ("2", "2", 1)


async def test_one_that_reads_its_data_back_is_asked_later() -> None:
    """LOADING answers the first PING of a connection; afterwards all is well."""
    ended: list[bool] = []
    said = [b"-LOADING Redis is loading the dataset in memory\r\n", b"+PONG\r\n"]

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1 << 16)
        writer.write(said.pop(0))
        await reader.read(1 << 16)
        writer.close()
        ended.append(True)

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        link = Link(Address("127.0.0.1", server.sockets[0].getsockname()[1]))
        with pytest.raises(Refused, match="still reads its data back"):
            await link.open()
        await link.open()
        link.close()
        await until(lambda: len(ended) == 2, what="both connections have ended")


# -- rights that are taken away


async def test_a_listener_that_may_not_listen_says_so_at_its_start(client: RedisClient, address: Address) -> None:
    await client.execute_command("ACL", "SETUSER", "app", "reset", "on", ">p", "~*", "+@all", "&other")
    listener = Listener(
        Address(address.host, address.port, username="app", password="p"),
        lambda name, payload: None,
        lambda: ["one"],
        _nothing,
        ["*_sender"],
    )
    try:
        with pytest.raises(ConfigError, match=r"user app may not listen to &\*_sender &one .*ACL SETUSER app &\*"):
            await listener.start()
    finally:
        await client.acl_deluser("app")


async def _nothing() -> None:
    pass


async def test_a_listener_whose_right_is_taken_away_comes_back_with_it(client: RedisClient, address: Address) -> None:
    await client.execute_command("ACL", "SETUSER", "app", "reset", "on", ">p", "~*", "+@all", "&*")
    heard: list[bytes] = []
    listener = Listener(
        Address(address.host, address.port, username="app", password="p"),
        lambda name, payload: heard.append(payload),
        lambda: ["one"],
        _nothing,
    )
    await listener.start()
    try:
        await client.acl_setuser("app", enabled=True, reset_channels=True, channels=["two"])
        with pytest.raises(ConnectionLost):
            await listener.subscribe(["three"])
        await client.acl_setuser("app", enabled=True, channels=["*"])
        await until(lambda: client.publish("one", "x"), RETURN, "it listens again")
        await until(lambda: heard, RETURN, "it hears")
    finally:
        await listener.close()
        await client.acl_deluser("app")
