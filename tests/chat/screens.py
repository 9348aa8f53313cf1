"""Screens for tests: the real application on a real Redis, without a terminal."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from textual.pilot import Pilot

from chat import marks
from chat.direct import Direct
from chat.models import User
from chat.node import Node
from chat.screen import Screen
from chat.settings import ServerSettings
from chat.source import Source
from chat.words import Words
from redis_config import Address, command_client
from tests.services import RedisProcess, until


@pytest.fixture
async def node(valkey_process: RedisProcess) -> AsyncIterator[Node]:
    """A terminal's node, on a Redis that is empty."""
    settings = ServerSettings(redis_url=valkey_process.url, _env_file=None)
    async with command_client(Address.parse(settings)) as client:
        await client.flushall()
    async with Node(settings, "terminal") as node:
        yield node


@pytest.fixture(autouse=True)
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was read elsewhere is looked up sooner."""
    monkeypatch.setattr(marks, "LOOK_SECONDS", 0.5)


class Seen:
    """One person at one screen."""

    def __init__(self, app: Screen, pilot: Pilot[None]) -> None:
        self.app, self.pilot = app, pilot

    def rows(self) -> list[str]:
        return [strip.text for strip in self.app.screen._compositor.render_strips()]

    def text(self) -> str:
        return "\n".join(self.rows())

    def background(self, x: int, y: int) -> str:
        """The colour of a place."""
        strip = self.app.screen._compositor.render_strips()[y]
        style = next(iter(strip.crop(x, x + 1))).style
        assert style is not None and style.bgcolor is not None
        return style.bgcolor.get_truecolor().hex

    def log(self) -> list[str]:
        """The rows of the message log, without what is empty."""
        left = self.app.log_view.region.x
        rows = self.rows()[self.app.log_view.region.y : self.app.log_view.region.bottom]
        return [row[left:].strip() for row in rows if row[left:].strip()]

    async def sees(self, text: str) -> None:
        await until(lambda: text in self.text(), 10, f"{text!r} on\n{self.text()}")

    async def sees_no_more(self, text: str) -> None:
        await until(lambda: text not in self.text(), 10, f"{text!r} gone from\n{self.text()}")

    async def enter(self, text: str) -> None:
        """Type a text and press Enter."""
        self.app.composer.put(text)
        await self.pilot.press("enter")

    async def press(self, *keys: str) -> None:
        await self.pilot.press(*keys)


@asynccontextmanager
async def on_screen(
    source: Source, channel: str = "general", language: str = "en", size: tuple[int, int] = (100, 30)
) -> AsyncIterator[Seen]:
    """A screen in front of a source."""
    app = Screen(source, channel, Words(language))
    async with app.run_test(size=size) as pilot:
        seen = Seen(app, pilot)
        await until(lambda: app.terminal.current is not None or app.terminal.home.entries[1:], 60, "it begins")
        await pilot.pause()
        yield seen
    await app.terminal.close()


@asynccontextmanager
async def screen_of(node: Node, user: str, channel: str = "general", **more: object) -> AsyncIterator[Seen]:
    """A screen straight on Redis."""
    direct = Direct(node, User.named(user))
    direct.start()
    async with on_screen(direct, channel, **more) as seen:  # type: ignore[arg-type]
        yield seen
    await direct.close()


async def fill(node: Node, channel: str, count: int, user: str = "babak", text: str = "message {}") -> None:
    """Say many things at once."""
    await node.channels.ensure(channel, "")
    lines = [json.dumps({"text": text.format(i)}).encode() for i in range(1, count + 1)]
    for line in lines:
        node.producer.append(channel, line, user, "-", "", True, lambda outcome: None)
    await node.producer.publish(channel, b'{"text":"the last"}', user=user)
