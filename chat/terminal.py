"""The line terminal: a person at a keyboard, straight on Redis, no server needed."""

import asyncio
import getpass
import secrets
import sys
import threading
import unicodedata
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any

import msgspec

from chat.access import Access
from chat.auth import Identity
from chat.errors import BadRequest, PeykError, Unauthorized
from chat.hub import DELETED
from chat.local import Joined, Subscription
from chat.models import User, channel_id
from chat.node import Node
from chat.protocol import encode
from chat.settings import ServerSettings
from pipeline.content import UNREADABLE, json_line
from pipeline.encode import push
from pipeline.resp import FAILURES

NAME, VERSION = "Peyk پیک", "1.0"
RESUBSCRIBE = 2500  # unsubscribe codes from here on mean: subscribe again
HISTORY = 20  # messages shown on joining
HELP = "/join <channel>  /leave  /channels  /send <text>  /quit  — plain text sends"


class _Publication(msgspec.Struct):
    data: Any
    time: int = 0
    info: dict[str, str] = {}


class _Push(msgspec.Struct):
    pub: _Publication


class _Line(msgspec.Struct):
    push: _Push


_decode = msgspec.json.Decoder(_Line).decode
_DAMAGED = {"text": "(a message that cannot be read)"}


def harmless(text: str) -> str:
    """`text` without what could move the cursor, run the terminal or turn the line around."""
    return "".join(
        c if c == " " or unicodedata.category(c)[0] not in "CZ" or c in "\u200c\u200d" else " " for c in text
    )


def shown(pub: _Publication) -> str:
    """A message as one line: `[10:00] sara: hello`."""
    text = pub.data.get("text") if isinstance(pub.data, dict) else None
    if not isinstance(text, str):
        text = encode(pub.data).decode()
    try:
        clock = datetime.fromtimestamp(pub.time / 1000).strftime("%H:%M") if pub.time else "--:--"
    except (ValueError, OverflowError, OSError):
        clock = "--:--"
    return f"[{clock}] {pub.info.get('user', '?')}: {text}"


class Terminal:
    """One person's screen: a subscriber of the hub who prints."""

    framed = full = False  # the screen is fast enough

    def __init__(self, node: Node, user: User, show: Callable[[str], None], identity: Identity | None = None) -> None:
        self._node, self._user = node, user
        self._show: Callable[[str], None] = lambda line: show(harmless(line))
        self.access = Access(node.doors, identity or Identity(user))
        self._client = secrets.token_hex(16)
        self._subscription: Subscription | None = None
        self._task: asyncio.Task[None] | None = None
        self.channel = ""
        self.running = True

    # -- what the hub tells

    def write(self, data: bytes) -> None:
        for line in data.split(b"\n"):
            try:
                pub = _decode(line).push.pub
            except UNREADABLE:  # not written by Peyk
                pub = _Publication(_DAMAGED)
            self._show(shown(pub))

    def unsubscribed(self, channel: str, code: int, reason: str) -> None:
        self._subscription = None
        self._node.presence.remove(channel, self._client)
        self.channel = ""
        if code < RESUBSCRIBE:
            hint = f"; /join {channel} to make it anew" if code == DELETED[0] else ""
            self._show(f"* {channel}: {reason}{hint}")
        else:
            self._show(f"* {channel}: some messages are no longer in the history")
            self._task = asyncio.create_task(self.enter(f"/join {channel}"))

    def _joined(self, joined: Joined) -> None:
        self._subscription = joined.subscription
        self._node.presence.add(joined.subscription.channel.id, self._client, self._user.username)
        for line in joined.lines:
            self.write(line)

    # -- what the person says

    async def enter(self, line: str) -> None:
        """One line typed: a command, or text to send."""
        word, _, rest = line.strip().partition(" ")
        commands: dict[str, Callable[[str], Awaitable[None]]] = {
            "/join": self.join,
            "/leave": self.leave,
            "/channels": self.channels,
            "/send": self.send,
            "/quit": self.quit,
        }
        try:
            if word in commands:
                await commands[word](rest.strip())
            elif word.startswith("/"):
                raise BadRequest(f"there is no command {word}; there are {HELP}")
            elif word:
                await self.send(line.strip())
        except PeykError as error:
            self._show(f"! {error}")
        except FAILURES as error:
            self._show(f"! Redis does not answer, try again: {error}")

    async def join(self, name: str) -> None:
        """Create the channel if it is missing, subscribe, show what was said last, and go on live."""
        if not name:
            raise BadRequest("/join <channel>: which one?")
        if channel_id(name) == self.channel:
            raise BadRequest(f"you are in {name} already")
        await self._node.allow(self.access, "subscribe", channel_id(name))
        channel = await self._node.channels.ensure(name, self._user.id)
        self._stop()
        page = await self._node.replay.before(channel.id, None, HISTORY, self._node.settings.page_bytes)
        await self._node.subscriptions.add(self._user, channel.id)
        self.channel = channel.id
        self._show(f"* joined {channel.name}")
        for message in reversed(page.messages):
            self.write(push(message))
        since = page.epoch, page.messages[0].offset if page.messages else page.top
        await self._node.hub.subscribe(self, channel.id, self._joined, since)

    async def leave(self, _: str) -> None:
        channel = self._current()
        self._stop()
        self.channel = ""
        await self._node.subscriptions.remove(self._user.id, channel)
        self._show(f"* left {channel}")

    async def channels(self, _: str) -> None:
        mine = set(await self._node.subscriptions.channels(self._user.id))
        for channel in await self._node.visible(self.access):
            mark = "»" if channel.id == self.channel else "+" if channel.id in mine else " "
            self._show(f"{mark} {channel.name}  {channel.description}".rstrip())

    async def send(self, text: str) -> None:
        channel = self._current()
        await self._node.allow(self.access, "publish", channel)
        data = json_line(encode({"text": text}), self._node.settings.message_limit)
        await self._node.producer.publish(channel, data, user=self._user.username, client=self._client)

    async def quit(self, _: str) -> None:
        self.running = False

    def _current(self) -> str:
        if not self.channel:
            raise BadRequest("you are in no channel; /join <channel> first")
        return self.channel

    def _stop(self) -> None:
        if self._subscription is not None:
            self._node.hub.unsubscribe(self._subscription)
            self._node.presence.remove(self._subscription.channel.id, self._client)
            self._subscription = None


def typed_lines() -> "asyncio.Queue[str | None]":
    """Lines of standard input as they are typed; None at its end. Read in a thread that does not hold up the exit."""
    loop, lines = asyncio.get_running_loop(), asyncio.Queue[str | None]()

    def read() -> None:
        for line in sys.stdin:
            loop.call_soon_threadsafe(lines.put_nowait, line)
        loop.call_soon_threadsafe(lines.put_nowait, None)

    threading.Thread(target=read, daemon=True).start()
    return lines


async def identify(node: Node, user: User) -> Identity:
    """Who has an account says its password. Raises Unauthorized."""
    try:
        await node.doors.check_free(user)
    except Unauthorized:
        if not sys.stdin.isatty():
            raise
        password = await asyncio.to_thread(getpass.getpass, f"{user.username}'s password: ")
        return node.doors.by_token(await node.accounts.sign_in(user.username, password))
    return Identity(user)


async def chat(settings: ServerSettings, username: str, channel: str) -> None:
    """Chat until /quit or the end of input."""

    def show(line: str) -> None:
        print(line, flush=True)

    user = User.named(username)
    async with Node(settings, "terminal") as node:
        show(f"{NAME} {VERSION} — {user.username} — {node.redis_server.describe()}")
        show(HELP)
        terminal = Terminal(node, user, show, await identify(node, user))
        await terminal.enter(f"/join {channel}")
        lines = typed_lines()
        while terminal.running and (line := await lines.get()) is not None:
            await terminal.enter(line)
