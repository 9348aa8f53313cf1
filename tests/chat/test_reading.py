"""Read positions: kept for a user, never moving back, never beyond the channel."""

from collections.abc import AsyncIterator

import pytest

from chat.reading import Reading
from chat.settings import ServerSettings
from pipeline.keys import Keys
from pipeline.resp import Link, ReplyError
from redis_config import Address
from tests.services import RedisClient


@pytest.fixture
async def reading(settings: ServerSettings, redis_client: RedisClient) -> AsyncIterator[Reading]:
    for channel, offset in (("a", 10), ("فارسی", 3)):
        await redis_client.hset(f"channel:{channel}", mapping={"id": channel, "epoch": "e", "offset": offset})
        await redis_client.sadd("user:sara:channels", channel)
    link = Link(Address.parse(settings))
    yield Reading(link, Keys.of(settings))
    link.close()


async def test_unread_is_top_minus_read(reading: Reading, redis_client: RedisClient) -> None:
    assert await reading.unread("sara", ["a", "فارسی", "none"]) == {"a": (0, 10), "فارسی": (0, 3)}
    await reading.read("sara", "a", 7)
    assert await reading.unread("sara", ["فارسی", "a"]) == {"فارسی": (0, 3), "a": (7, 10)}
    assert await reading.unread("babak", ["a"]) == {"a": (0, 10)}
    assert await reading.unread("sara", []) == {}
    assert await redis_client.hgetall("user:sara:read") == {"a": "7"}


async def test_a_position_never_moves_back_nor_beyond_the_top(reading: Reading) -> None:
    for offset, stands in ((7, 7), (5, 7), (0, 7), (-1, 7), (11, 10), (2**53, 10)):
        await reading.read("sara", "a", offset)
        assert await reading.unread("sara", ["a"]) == {"a": (stands, 10)}, offset


async def test_a_channel_made_anew_is_unread(reading: Reading, redis_client: RedisClient) -> None:
    await reading.read("sara", "a", 10)
    await redis_client.hset("channel:a", "offset", 2)
    assert await reading.unread("sara", ["a"]) == {"a": (0, 2)}
    await reading.read("sara", "a", 1)
    assert await reading.unread("sara", ["a"]) == {"a": (1, 2)}


async def test_of_a_channel_that_is_not_nothing_is_kept(reading: Reading, redis_client: RedisClient) -> None:
    await reading.read("sara", "none", 5)
    assert await redis_client.exists("user:sara:read") == 0


async def test_of_a_channel_that_one_does_not_belong_to_nothing_is_kept(
    reading: Reading, redis_client: RedisClient
) -> None:
    await reading.read("babak", "a", 5)
    assert await redis_client.exists("user:babak:read") == 0


async def test_errors_of_redis_are_raised(reading: Reading, redis_client: RedisClient) -> None:
    await redis_client.set("user:sara:read", "a string")
    with pytest.raises(ReplyError, match="WRONGTYPE"):
        await reading.unread("sara", ["a"])


async def say(redis_client: RedisClient, *users: str) -> None:
    """Messages of these people in a channel `talk`, behind what it holds."""
    for user in users:
        offset = await redis_client.hincrby("channel:talk", "offset", 1)
        await redis_client.xadd("message:talk", {"user": user, "client": "-", "data": "{}"}, id=f"{offset}-1")


async def test_ones_own_messages_are_read(reading: Reading, redis_client: RedisClient) -> None:
    """However many, in whichever spelling of the name, up to the first of another."""
    await redis_client.sadd("user:sara:channels", "talk")
    await say(redis_client, *["Sara"] * 120)
    assert await reading.unread("sara", ["talk"]) == {"talk": (120, 120)}
    assert await redis_client.hgetall("user:sara:read") == {"talk": "120"}
    await say(redis_client, "babak", "sara")
    assert await reading.unread("sara", ["a", "talk"]) == {"a": (0, 10), "talk": (120, 122)}
    await reading.read("sara", "talk", 121)
    assert await reading.unread("sara", ["talk"]) == {"talk": (122, 122)}
    assert await reading.unread("babak", ["talk"]) == {"talk": (0, 122)}


async def test_what_is_no_longer_there_is_nobodys(reading: Reading, redis_client: RedisClient) -> None:
    await say(redis_client, "sara", "babak", "sara")
    await redis_client.xtrim("message:talk", maxlen=1, approximate=False)
    assert await reading.unread("sara", ["talk"]) == {"talk": (0, 3)}
