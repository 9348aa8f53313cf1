"""The hub alone: what it hears of a busy channel, it shows together."""

import json
from collections.abc import AsyncIterator

import pytest

from chat.hub import DELETED, Hub
from chat.local import Joined, Subscription
from chat.recent import Recent
from chat.settings import ServerSettings
from pipeline.encode import Message
from pipeline.fanout import PRESENCE, Run
from pipeline.keys import Keys
from pipeline.producer import Producer
from pipeline.replay import Replay
from pipeline.resp import Link
from redis_config import Address
from tests.services import RedisClient, RedisProcess, until

KEYS = Keys("channel:", "message:", 8)
LONG = 0.02  # seconds


class Clock:
    """Time as the hub measures it: it passes only while somebody is written to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Reader:
    """A subscriber to whom it takes LONG to write, as to a thousand."""

    framed = full = False
    access = None

    def __init__(self, clock: Clock) -> None:
        self.writes: list[list[int]] = []  # the offsets of each
        self.heard: list[str] = []  # joins and leaves
        self._clock = clock

    def write(self, data: bytes) -> None:
        pushes = [json.loads(line)["push"] for line in data.split(b"\n")]
        if offsets := [push["pub"]["offset"] for push in pushes if "pub" in push]:
            self.writes.append(offsets)
            self._clock.now += LONG
        self.heard += [push["join"] for push in pushes if "join" in push]

    def unsubscribed(self, channel: str, code: int, reason: str) -> None:
        raise AssertionError(f"{channel}: {code} {reason}")

    @property
    def offsets(self) -> list[int]:
        return [offset for write in self.writes for offset in write]


class Scene:
    """A channel of five messages: the hub has shown the first, and nothing fans the others out but a test."""

    def __init__(self, hub: Hub, redis: RedisClient, messages: list[Message], reader: Reader, clock: Clock) -> None:
        self.hub, self.reader, self.clock = hub, reader, clock
        self._redis, self._messages = redis, messages

    async def fan_out(self, *offsets: int) -> None:
        """Publish these messages, each alone, in one go."""
        async with self._redis.pipeline(transaction=False) as pipe:
            for message in (m for m in self._messages if m.offset in offsets):
                run = Run(message)
                run.add(message)
                pipe.publish(KEYS.channel("c"), run.payload())
            await pipe.execute()

    async def announce(self, who: str) -> None:
        """Tell that somebody joined."""
        await self._redis.publish(
            KEYS.channel("c"), PRESENCE + b'\n{"push":{"channel":"c","join":"%b"}}' % who.encode()
        )

    async def join(self, reader: Reader) -> Subscription:
        """Subscribe, also to joins."""
        begun: list[Joined] = []
        await self.hub.subscribe(reader, "c", begun.append)
        begun[0].subscription.joins = True
        return begun[0].subscription


@pytest.fixture
async def scene(
    redis_process: RedisProcess, redis_client: RedisClient, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Scene]:
    settings = ServerSettings(redis_url=redis_process.url, check_interval=600, _env_file=None)
    address, clock = Address.parse(settings), Clock()
    monkeypatch.setattr("chat.hub.monotonic", clock)
    link = Link(address)
    replay = Replay(link, KEYS)
    hub = Hub(address, settings, replay, link)
    await hub.start()
    async with Producer(address, settings) as producer:
        await producer.publish("c", b"1", user="u")
        reader = Reader(clock)
        await hub.subscribe(reader, "c", lambda joined: None)
        for _ in range(4):
            await producer.publish("c", b"1", user="u")
    page = await replay.chunk("c", 1)
    assert page is not None
    yield Scene(hub, redis_client, page.messages, reader, clock)
    await hub.close()
    link.close()


async def test_what_follows_closely_leaves_together(scene: Scene) -> None:
    await scene.fan_out(2, 3, 4, 5)
    await until(lambda: scene.reader.offsets[-1:] == [5])
    assert scene.reader.writes == [[2], [3, 4, 5]]


async def test_a_message_that_comes_alone_does_not_wait(scene: Scene) -> None:
    await scene.fan_out(2)
    await until(lambda: scene.reader.offsets == [2])
    scene.clock.now += LONG
    await scene.fan_out(3, 4)
    await until(lambda: scene.reader.offsets[-1:] == [4])
    assert scene.reader.writes == [[2], [3], [4]], "had the third waited, the fourth would be with it"


async def test_who_comes_meanwhile_gets_each_message_once(scene: Scene) -> None:
    late = Reader(scene.clock)
    begun: list[int] = []
    await scene.fan_out(2, 3, 4, 5)
    await scene.hub.subscribe(late, "c", lambda joined: begun.append(joined.offset))
    await until(lambda: scene.reader.offsets[-1:] == [5])
    assert late.offsets == list(range(begun[0] + 1, 6))


async def test_a_hole_among_what_waits_is_filled_in_its_place(scene: Scene) -> None:
    await scene.fan_out(2, 3, 5)
    await until(lambda: scene.reader.offsets[-1:] == [5])
    assert scene.reader.offsets == [2, 3, 4, 5]


async def test_more_than_is_remembered_is_read_whole(scene: Scene) -> None:
    """Both who recovers and who was level before a hole."""
    begun: list[Joined] = []
    scene.hub._recent = Recent(200)  # bytes: fewer than three lines
    position = scene.hub.position("c")
    assert position is not None
    await scene.hub.subscribe(Reader(scene.clock), "c", begun.append, (position[0], 0))
    await scene.fan_out(5)
    await until(lambda: begun and scene.reader.offsets[-1:] == [5])
    assert scene.reader.offsets == [2, 3, 4, 5]
    shown = [json.loads(line)["push"]["pub"]["offset"] for line in begun[0].lines]
    assert shown == list(range(1, len(shown) + 1)) and shown


async def test_who_is_in_the_next_life_of_a_channel_does_not_hear_that_the_last_was_deleted(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    codes: list[int] = []
    monkeypatch.setattr(Reader, "unsubscribed", lambda self, channel, code, reason: codes.append(code))
    position = scene.hub.position("c")
    assert position is not None
    scene.hub.deleted("c", "another")
    assert codes == []
    scene.hub.deleted("c", position[0])
    assert codes == [DELETED[0]] and scene.hub.position("c") is None


async def test_who_is_filled_by_an_announcement_takes_nothing_from_the_others(scene: Scene) -> None:
    """It is told while two messages wait to be shown, and a third comes behind it."""

    class Filled(Reader):
        subscription: Subscription

        def write(self, data: bytes) -> None:
            super().write(data)
            if self.heard and not self.full:
                self.full = True
                scene.hub.filled([self.subscription])

    others, filled = [Reader(scene.clock) for _ in range(5)], Filled(scene.clock)
    for reader in (*others[:2], filled, *others[2:]):
        subscription = await scene.join(reader)
        if isinstance(reader, Filled):
            reader.subscription = subscription
    start = subscription.offset
    await scene.fan_out(*range(start + 1, 5))
    await scene.announce("omid")
    await scene.fan_out(5)
    for reader in others:
        await until(lambda: others[-1].offsets[-1:] == [5])
        assert (reader.offsets, reader.heard) == (list(range(start + 1, 6)), ["omid"])
    assert filled.offsets == list(range(start + 1, 5))
    filled.full = False
    scene.hub.drained(["c"])
    await until(lambda: filled.offsets[-1:] == [5])
    assert filled.offsets == list(range(start + 1, 6))


async def test_who_is_full_when_it_begins_is_pushed_nothing_until_it_has_room(scene: Scene) -> None:
    late = Reader(scene.clock)
    late.full = True
    start = (await scene.join(late)).offset
    await scene.fan_out(2, 3, 4, 5)
    await until(lambda: scene.reader.offsets[-1:] == [5])
    assert late.writes == []
    late.full = False
    scene.hub.drained(["c"])
    await until(lambda: late.offsets[-1:] == [5])
    assert late.offsets == list(range(start + 1, 6))


async def test_who_is_full_before_it_is_answered_hears_when_it_has_room(scene: Scene) -> None:
    late, begun = Reader(scene.clock), list[Joined]()
    late.full = True
    position = scene.hub.position("c")
    assert position is not None
    await scene.hub.subscribe(late, "c", begun.append, (position[0], 0))
    await scene.fan_out(2, 3, 4, 5)
    await until(lambda: scene.reader.offsets[-1:] == [5])
    assert begun == []
    late.full = False
    scene.hub.drained(["c"])
    await until(lambda: begun)
    assert len(begun[0].lines) + len(late.offsets) == 5
