"""A session, without a connection: what must hold whatever the turn of the loop in which a client goes."""

import asyncio
import json
from typing import Any

import pytest

from chat.models import User
from chat.node import Node
from chat.protocol import Command
from chat.session import Session
from chat.settings import ServerSettings
from chat.subscriber import Subscriber
from tests.services import until

MINA = User.named("mina")


class Sink:
    """A socket that takes everything and tells nothing."""

    def write(self, data: bytes) -> None: ...
    def close(self, code: int, reason: str) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...


async def connected(node: Node) -> Session:
    session = Session(node, Sink())
    session.receive(json.dumps({"id": 1, "connect": {"data": {"user": "mina"}}}).encode())
    await until(lambda: session.user is not None)
    return session


def lines(channel: str, *names: str) -> bytes:
    commands = [{"id": number, name: {"channel": channel}} for number, name in enumerate(names, 2)]
    return "\n".join(map(json.dumps, commands)).encode()


@pytest.mark.parametrize("names", [("subscribe", "unsubscribe"), ("subscribe", "unsubscribe") * 2])
async def test_who_goes_while_its_unsubscribe_is_postponed_has_left(
    settings: ServerSettings, monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...]
) -> None:
    """Even in the turn in which the last command is taken, before anything waits for what is under way."""
    under_way = Subscriber.under_way
    postponed = []

    async with Node(settings, "tool") as node:
        session = await connected(node)

        def close_at_the_last(subscriber: Subscriber, command: Command) -> Any:
            before = under_way(subscriber, command)
            if command.id == len(names) + 1:
                postponed.append(before)
                asyncio.get_running_loop().call_soon(session.close)
            return before

        monkeypatch.setattr(Subscriber, "under_way", close_at_the_last)
        session.receive(lines("parting", *names))
        await until(lambda: session.closed)  # and then asked over the same connection as what was under way
        await until(lambda: left(node, "parting"))
        assert len(postponed) == 1 and postponed[0] is not None


async def test_who_goes_while_its_unsubscribe_waits_behind_another_has_left(settings: ServerSettings) -> None:
    async with Node(settings, "tool") as node:
        session = await connected(node)
        session.receive(lines("waiting", "subscribe"))
        await until(lambda: session.subscriber.subscriptions())
        session.receive(lines("waiting", "history", "unsubscribe"))
        session.close()
        await until(lambda: left(node, "waiting"))


@pytest.mark.parametrize("waits", [False, True], ids=["at once", "behind another"])
@pytest.mark.parametrize("settle", [0, 1, 2], ids=["begun by none", "by one turn", "by two"])
async def test_how_far_it_was_read_counts_though_the_page_goes_as_it_says_so(
    settings: ServerSettings, waits: bool, settle: int
) -> None:
    async with Node(settings, "tool") as node:
        for number in range(3):
            await node.producer.publish("book", b"%d" % number, user="x")
        session = await connected(node)
        session.receive(lines("book", "subscribe"))
        await until(lambda: session.subscriber.subscriptions())
        read = json.dumps({"id": 9, "rpc": {"method": "read", "data": {"channel": "book", "offset": 2}}}).encode()
        session.receive(lines("book", "history") + b"\n" + read if waits else read)
        for _ in range(settle):
            await asyncio.sleep(0)
        session.close()
        await until(lambda: was_read(node, "book", 2))


async def was_read(node: Node, channel: str, offset: int) -> bool:
    return (await node.reading.unread(MINA.id, [channel]))[channel][0] == offset


@pytest.mark.parametrize("name", ["history", "presence", "presence_stats", "subscribe"])
async def test_what_was_asked_in_the_moment_of_going_is_called_off_in_silence(
    settings: ServerSettings, name: str
) -> None:
    """A coroutine that was never begun would be warned of, and warnings are errors here."""
    async with Node(settings, "tool") as node:
        session = await connected(node)
        session.receive(lines("asked", name))
        session.close()
        await asyncio.sleep(0)
        assert session.closed


async def left(node: Node, channel: str) -> bool:
    return not await node.subscriptions.has(MINA.id, channel)
