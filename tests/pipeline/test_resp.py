"""What a client is told of an error of Redis'."""

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from chat.errors import StorageFull, UnknownChannel
from chat.node import Node
from chat.settings import ServerSettings
from pipeline.resp import FAILURES, ConnectionLost, Link, Refused, ReplyError, unavailable
from redis_config import Address
from tests.services import RedisClient


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (ConnectionLost("gone"), "Redis does not answer; try again"),
        (Refused("the connection to Redis is closed"), "Redis does not answer; try again"),
        (RedisConnectionError("refused"), "Redis does not answer; try again"),
        (RedisTimeoutError("slow"), "Redis does not answer; try again"),
        (OSError(111, "refused"), "Redis does not answer; try again"),
        (Refused("Redis still reads its data back", "LOADING"), "Redis still reads its data back; try again"),
        (ReplyError("OOM command not allowed"), "Redis refuses this (OOM): it is full: raise its maxmemory"),
        (ReplyError("MISCONF Redis is configured to"), "Redis refuses this (MISCONF): it cannot save"),
        (ReplyError("NOPERM this user has no"), "Redis refuses this (NOPERM): its user lacks a right"),
        (ReplyError("WRONGTYPE 'secret'"), "Redis refuses this; the server's log says why"),
    ],
)
def test_an_error_says_whether_redis_is_silent_or_refuses(error: Exception, says: str) -> None:
    assert isinstance(error, FAILURES)
    told = str(unavailable(error))
    assert told.startswith(says) and "secret" not in told
    assert (unavailable(error).code, unavailable(error).status) == (100, 503)


@pytest.mark.parametrize(
    ("refuse", "allow", "word"),
    [
        (("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "SET", "maxmemory", "0"), "full: raise its maxmemory"),
        (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE"), "read-only replica"),
        (("ACL", "SETUSER", "default", "-set"), ("ACL", "SETUSER", "default", "+@all"), "lacks a right"),
    ],
)
@pytest.mark.parametrize("client", ["link", "redis", "transaction"])
async def test_what_redis_refuses_is_told_whichever_client_asked(
    client: str,
    refuse: tuple[str, ...],
    allow: tuple[str, ...],
    word: str,
    redis_client: RedisClient,
    settings: ServerSettings,
) -> None:
    await redis_client.execute_command(*refuse)
    link = Link(Address.parse(settings))
    try:
        with pytest.raises(FAILURES) as raised:
            if client == "link":
                await link.call("SET", "a", "secret")
            elif client == "redis":
                await redis_client.set("a", "secret")
            else:
                async with redis_client.pipeline(transaction=True) as pipe:
                    pipe.set("a", "secret")
                    await pipe.execute()
        told = str(unavailable(raised.value))
        assert word in told and "secret" not in told
    finally:
        link.close()
        await redis_client.execute_command(*allow)


async def test_a_redis_that_is_full_lets_a_channel_be_deleted(
    settings: ServerSettings, redis_client: RedisClient
) -> None:
    async with Node(settings, "serve") as node:
        channels = node.channels
        await channels.create("big")
        await node.producer.publish("big", b'"x"', user="sara")
        await redis_client.config_set("maxmemory", 1)
        try:
            await channels.delete("big")
            with pytest.raises(UnknownChannel):
                await channels.get("big")
            with pytest.raises(StorageFull):
                await node.producer.publish("big", b'"x"', user="sara")
        finally:
            await redis_client.config_set("maxmemory", 0)
        assert await redis_client.exists(node.keys.tombstone("big"))
        assert not await redis_client.exists(node.keys.history("big"))
