"""Memberships: bounded for a user, and what ends with them."""

from collections.abc import AsyncIterator

import pytest

from chat import channels
from chat.errors import LimitExceeded, UnknownChannel
from chat.local import Joined
from chat.models import User
from chat.node import Node
from chat.settings import ServerSettings
from tests.services import RedisClient

SARA, BABAK = User.named("Sara"), User.named("babak")


@pytest.fixture
async def node(settings: ServerSettings, redis_client: RedisClient) -> AsyncIterator[Node]:
    async with Node(settings.model_copy(update={"user_channels": 2}), "tool") as node:
        for channel in ("a", "b", "c"):
            await node.channels.create(channel)
            for number in range(3):
                await node.producer.publish(channel, b"%d" % number, user="x")
        yield node


async def kept(redis_client: RedisClient, user: User) -> set[str]:
    return {str(key) for key in await redis_client.keys(f"user:{user.id}*")}


async def test_a_user_belongs_to_so_many_channels(node: Node, redis_client: RedisClient) -> None:
    assert [await node.subscriptions.add(SARA, channel) for channel in ("a", "b", "a")] == [True, True, False]
    with pytest.raises(LimitExceeded, match="leave one first"):
        await node.subscriptions.add(SARA, "c")
    assert await node.subscriptions.subscribers("c") == []
    assert await node.subscriptions.remove(SARA.id, "a") and not await node.subscriptions.remove(SARA.id, "a")
    assert await node.subscriptions.add(SARA, "c")
    assert await node.subscriptions.channels(SARA.id) == ["b", "c"]
    assert await node.subscriptions.names(["sara", "nobody"]) == {"sara": "Sara", "nobody": "nobody"}


async def test_what_was_read_ends_with_the_membership(node: Node, redis_client: RedisClient) -> None:
    for channel in ("a", "b"):
        await node.subscriptions.add(SARA, channel)
        await node.reading.read(SARA.id, channel, 2)
    await node.subscriptions.remove(SARA.id, "a")
    assert await redis_client.hgetall("user:sara:read") == {"b": "2"}
    assert await node.reading.unread(SARA.id, ["a", "b"]) == {"a": (0, 3), "b": (2, 3)}
    await node.subscriptions.remove(SARA.id, "b")
    assert await kept(redis_client, SARA) == {"user:sara"}


async def test_everything_ends_with_the_channel_for_who_is_in_it_and_who_was(
    node: Node, redis_client: RedisClient
) -> None:
    for user in (SARA, BABAK):
        await node.subscriptions.add(user, "a")
        await node.reading.read(user.id, "a", 3)
    await node.subscriptions.add(BABAK, "b")
    await node.subscriptions.remove(SARA.id, "a")
    await node.channels.delete("a")
    assert await kept(redis_client, SARA) == {"user:sara"}
    assert await kept(redis_client, BABAK) == {"user:babak", "user:babak:channels"}
    assert await node.subscriptions.channels(BABAK.id) == ["b"]
    assert await redis_client.keys("*:a") == []
    assert [str(key) for key in await redis_client.keys("*:a:*")] == ["channel:a:deleted"]  # for an hour


async def test_who_belongs_to_the_channel_that_was_made_anew_stays(node: Node) -> None:
    """Somebody may come while those of the channel before are still being sent away."""
    await node.subscriptions.add(SARA, "a")
    await node.reading.read(SARA.id, "a", 2)
    await node.subscriptions.end("a", [SARA.id])
    assert await node.subscriptions.has(SARA.id, "a")
    assert await node.reading.unread(SARA.id, ["a"]) == {"a": (2, 3)}


async def test_a_deleted_channel_of_many_is_left_by_all(node: Node, redis_client: RedisClient) -> None:
    users = [f"user-{number}" for number in range(1203)]
    async with redis_client.pipeline() as pipe:
        for user in users:
            pipe.sadd("channel:a:subscribers", user)
            pipe.sadd(f"user:{user}:channels", "a")
        await pipe.execute()
    await node.channels.delete("a")
    assert await redis_client.keys("user:*") == []


async def test_a_channel_gives_so_many_roles(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channels, "ROLE_LIMIT", 2)
    for name in ("one", "two"):
        await node.channels.give_role("a", User.named(name), "member")
    with pytest.raises(LimitExceeded, match="take one away first"):
        await node.channels.give_role("a", SARA, "banned")
    await node.channels.give_role("a", User.named("one"), "banned")  # instead of the other
    await node.channels.give_role("a", User.named("two"), "")
    await node.channels.give_role("a", SARA, "banned")
    assert await node.channels.roles("a") == {"one": "banned", "sara": "banned"}


async def test_a_channel_is_listened_to_while_somebody_reads_it(node: Node) -> None:
    class Reader:
        access = None
        framed = full = False

        def write(self, data: bytes) -> None: ...
        def unsubscribed(self, channel: str, code: int, reason: str) -> None: ...

    joined: list[Joined] = []
    await node.hub.subscribe(Reader(), "a", joined.append)
    await node.hub.subscribe(Reader(), "a", joined.append)
    with pytest.raises(UnknownChannel):
        await node.hub.subscribe(Reader(), "asked-for", joined.append)
    for left in joined:
        assert list(node.hub.channels()) == ["a"]
        node.hub.unsubscribe(left.subscription)
    assert len(joined) == 2 and not node.hub.channels()
