"""What a queue's consumer does with its messages, on fakes: nothing is acked before it is stored, or set aside."""

import asyncio
import json
from typing import Any

import pytest
from aiormq.abc import DeliveredMessage
from pamqp.commands import Basic
from pamqp.header import ContentHeader

from bridge.delivery import Limits
from bridge.queues import _give_back
from bridge.rabbitmq import Life, QueueConsumer, dead_letter, delivery_of
from bridge.topology import Queue
from chat.errors import PeykError, Unavailable, UnknownChannel
from pipeline.event import key_of
from pipeline.producer import Done, Position
from tests.services import until

STORED = Position(1, 2, "e")


class Fakes:
    """A producer, a channel and the way to the dead letters, which remember what they are given."""

    def __init__(self, queue: Queue | None = None) -> None:
        self.appended: list[tuple[Any, ...]] = []
        self.done: list[Done] = []
        self.acked: list[int] = []
        self.dead: list[tuple[bytes, str]] = []
        self.ready = asyncio.Event()
        self.error: PeykError | None = None
        self.cancelled = ""
        self.frame_bytes = 128 * 1024
        self.life = Life()
        queue = queue or Queue(name="q", channel="c")
        self.consumer = QueueConsumer(queue, "dlx", self.append, self, Limits())  # type: ignore[arg-type]
        consumer, life, channel = self.consumer, self.life, self
        self.tasks = [
            asyncio.create_task(consumer._ack(channel, life)),  # type: ignore[arg-type]
            asyncio.create_task(consumer._set_aside(life)),
        ]

    def append(self, *args: Any) -> None:
        *rest, done, patient = args
        assert patient
        self.appended.append(tuple(rest))
        self.done.append(done)

    async def basic_ack(self, tag: int, multiple: bool, wait: bool = True) -> None:
        assert multiple
        self.acked.append(tag)

    async def basic_cancel(self, tag: str, **_: float) -> None:
        self.cancelled = tag

    async def declare(self) -> None:
        self.error = None

    async def publish(self, exchange: str, key: str, body: bytes, properties: Basic.Properties) -> None:
        if self.error is not None:
            raise self.error
        assert exchange == "dlx" and properties.headers is not None
        self.dead.append((body, str(properties.headers["peyk-reason"])))

    async def deliver(self, *bodies: object) -> None:
        for body in bodies:
            tag = len(self.life.in_hand) + 1
            await self.consumer._deliver(self.life, message(body, tag))

    async def turn(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)


def message(body: object, tag: int = 1, exchange: str = "x", key: str = "k", **properties: Any) -> DeliveredMessage:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    header = ContentHeader(properties=Basic.Properties(**properties), body_size=len(data))
    frame = Basic.Deliver(consumer_tag="t", delivery_tag=tag, redelivered=False, exchange=exchange, routing_key=key)
    return DeliveredMessage(frame, header, data, None)  # type: ignore[arg-type]


class Taker:
    """A channel that remembers what is published: exchange, key, user id, headers."""

    def __init__(self) -> None:
        self.taken: list[tuple[Any, ...]] = []

    async def basic_publish(
        self, body: bytes, *, routing_key: str, properties: Basic.Properties, mandatory: bool, exchange: str = ""
    ) -> None:
        assert mandatory
        self.taken.append((exchange, routing_key, properties.user_id, properties.headers))


@pytest.fixture
async def fakes() -> Any:
    fakes = Fakes()
    yield fakes
    for task in fakes.tasks:
        task.cancel()


async def test_nothing_is_acked_before_it_is_stored(fakes: Fakes) -> None:
    await fakes.deliver({"n": 0}, {"n": 1}, {"n": 2})
    await fakes.turn()
    assert fakes.acked == [] and [json.loads(a[1])["payload"] for a in fakes.appended] == [{"n": n} for n in range(3)]
    fakes.done[1](STORED)
    fakes.done[2](STORED)
    await fakes.turn()
    assert fakes.acked == []  # the first is not stored, and an ack covers all before it
    fakes.done[0](STORED)
    await fakes.turn()
    assert fakes.acked == [3]
    assert fakes.consumer.counts == {"stored": 3, "duplicate": 0, "rejected": 0}


async def test_poison_is_acked_once_it_is_set_aside(fakes: Fakes) -> None:
    await fakes.deliver({"n": 0}, b"poison", {"n": 1})
    for done in fakes.done:
        done(STORED)
    await fakes.turn()
    assert fakes.acked == [1] and fakes.dead == []  # the dead letters are out of reach
    fakes.ready.set()
    await until(lambda: fakes.acked == [1, 3])
    ((body, reason),) = fakes.dead
    assert body == b"poison" and reason.startswith("not JSON")


async def test_what_the_stream_refuses_is_set_aside(fakes: Fakes) -> None:
    fakes.ready.set()
    await fakes.deliver({"n": 0})
    fakes.done[0](UnknownChannel.named("c"))
    await until(lambda: fakes.acked == [1])
    assert fakes.dead == [(b'{"n": 0}', "there is no channel c; create it first")]


async def test_a_dead_letter_is_tried_until_it_is_taken(fakes: Fakes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bridge.rabbitmq.BACKOFF", (0.01, 0.01))
    fakes.ready.set()
    fakes.error = Unavailable("away")
    await fakes.deliver(b"poison")
    await until(lambda: fakes.acked == [1])
    assert len(fakes.dead) == 1


async def test_a_node_that_ends_acks_what_it_has_set_aside(fakes: Fakes) -> None:
    """Else it would come again, and be among the dead letters twice."""
    await fakes.deliver({"n": 0}, b"poison")
    ending = asyncio.create_task(fakes.consumer._finish(fakes, "tag", fakes.life))  # type: ignore[arg-type]
    await until(lambda: fakes.cancelled == "tag")
    fakes.done[0](STORED)
    await fakes.turn()
    assert not ending.done() and fakes.acked == [1]
    fakes.ready.set()
    await ending
    assert fakes.acked == [1, 2] and len(fakes.dead) == 1


async def test_a_node_that_ends_sets_aside_what_can_never_be_stored_and_nothing_else(fakes: Fakes) -> None:
    """Unacked, what is stored behind it would come again."""
    fakes.ready.set()
    await fakes.deliver({"n": 0}, {"n": 1}, {"n": 2})
    fakes.consumer.stop()
    ending = asyncio.create_task(fakes.consumer._finish(fakes, "tag", fakes.life))  # type: ignore[arg-type]
    await until(lambda: fakes.cancelled == "tag")
    fakes.done[0](UnknownChannel.named("c"))
    fakes.done[1](STORED)
    fakes.done[2](Unavailable("the producer ends"))
    await ending
    assert fakes.acked[-1] == 2 and [body for body, _ in fakes.dead] == [b'{"n": 0}']


async def test_a_fault_of_ours_is_set_aside_too(fakes: Fakes, monkeypatch: pytest.MonkeyPatch) -> None:
    fakes.ready.set()
    monkeypatch.setattr(fakes.consumer._reader, "process_message", lambda delivery: 1 / 0)
    await fakes.deliver({"n": 0})
    await until(lambda: fakes.acked == [1])
    assert "ZeroDivisionError" in fakes.dead[0][1]


async def test_what_is_shown_only_and_what_has_an_id() -> None:
    fakes = Fakes(Queue(name="q", channel="c", store=False))
    await fakes.consumer._deliver(fakes.life, message({"n": 0}, message_id="m1", app_id="shop"))
    ((channel, _, user, client, key, store),) = fakes.appended
    assert (channel, user, client, key, store) == ("c", "shop", "-", key_of("m1"), False)
    for task in fakes.tasks:
        task.cancel()


@pytest.mark.parametrize("exchange", ["logs", ""])
async def test_what_is_given_back_has_its_first_key_and_nothing_that_the_broker_would_refuse_or_copy(
    exchange: str,
) -> None:
    """Of the broker's own, what its header says; headers like ours only where it had been given back before."""
    death: Any = {"queue": "q", "exchange": exchange, "reason": "delivery_limit"}
    ours = {"peyk-queue": "other", "peyk-reason": "?", "peyk-key": "a.b", "peyk-exchange": "first"}
    brokers: dict[str, Any] = {"x-death": [death], "x-first-death-queue": "else", "x-last-death-reason": "?"}
    brokers |= {"x-delivery-count": 3, "x-acquired-count": 4}
    kept = {"x-region": "eu", "x-deathly": True}
    letter = message(1, headers={**brokers, **kept, "CC": ["z"], **ours}, user_id="u")
    channel = Taker()
    await _give_back(channel, letter)  # type: ignore[arg-type]
    first = ("logs", "k") if exchange else ("first", "a.b")
    headers = dict(zip(("peyk-exchange", "peyk-key"), first, strict=True))
    assert channel.taken == [("", "q", None, kept | headers)]
    assert delivery_of(message(1, exchange="", key="q", headers=headers), "q")[2:4] == first


async def test_a_batch_is_acked_once_all_of_it_is_stored_and_set_aside_whole(fakes: Fakes) -> None:
    fakes.ready.set()
    kind = "application/cloudevents-batch+json"
    body = [{"specversion": "1.0", "id": id, "source": "s", "type": "t"} for id in ("a", "b")]
    for tag in (1, 2):
        await fakes.consumer._deliver(fakes.life, message(body, tag, content_type=kind))
    assert [args[4] for args in fakes.appended] == [key_of("a"), key_of("b")] * 2
    fakes.done[0](STORED)
    fakes.done[2](STORED)
    fakes.done[3](UnknownChannel.named("c"))
    await until(lambda: len(fakes.dead) == 1)
    assert fakes.acked == []  # of the first, one is not stored
    fakes.done[1](STORED)
    await until(lambda: fakes.acked == [2])


def test_a_dead_letter_keeps_bytes_that_are_no_text_and_loses_what_has_no_form() -> None:
    odd = b"\xff\xfe".decode("utf-8", "surrogateescape")
    letter = message(b"x", exchange=odd, key=odd * 100, correlation_id=odd * 32, reply_to="r")
    letter.header.properties.cluster_id = "c"
    letter.header.properties.timestamp = "none"  # type: ignore[assignment]
    properties = dead_letter(letter, "q", "because " + odd)
    assert properties.correlation_id == odd * 32 and properties.reply_to == "r" and properties.timestamp is None
    assert ContentHeader(properties=properties, body_size=1).marshal()
    assert properties.headers is not None and properties.headers["peyk-key"] == r"\xff\xfe" * 100
    assert dead_letter(letter, "q", "because", bare=True).correlation_id is None


def test_the_headers_of_a_dead_letter_fit_into_the_brokers_frames() -> None:
    letter = message(b"x", headers={"a": "x" * 3000})
    (half, few) = [dead_letter(letter, "q", "because", room).headers for room in (4000, 1000)]
    assert half is not None and few is not None and "a" in half and "a" not in few and few["peyk-queue"] == "q"


def test_a_dead_letter_has_what_it_had_and_why() -> None:
    headers: Any = {"a": 1, "CC": ["x"], "": True, "x-death": [{"queue": "forged"}], "peyk-key": "forged"}
    more: Any = {"user_id": "u", "expiration": "1", "correlation_id": "c"}
    properties = dead_letter(message(b"x", message_id="m", headers=headers, **more), "q", "because")
    said = {"peyk-reason": "because", "peyk-queue": "q", "peyk-exchange": "x", "peyk-key": "k"}
    assert properties.headers == {"a": 1, **said}
    assert (properties.message_id, properties.correlation_id, properties.delivery_mode) == ("m", "c", 2)
    assert properties.user_id is None and properties.expiration is None and not properties.cluster_id
    assert dead_letter(message(b"x"), "q", "x" * 1000).message_id
