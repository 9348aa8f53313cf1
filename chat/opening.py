"""How a terminal is opened: by which source, as whom, and with which face."""

import asyncio
import getpass
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

from chat import lines
from chat.auth import Identity
from chat.direct import Direct
from chat.errors import Unauthorized
from chat.lookalikes import chosen
from chat.models import User
from chat.node import Join, Node, alone
from chat.remote import Remote, sign_in
from chat.settings import ServerSettings
from chat.source import Source
from chat.words import Words, language_of


class Look(NamedTuple):
    """How a terminal begins and what it looks like."""

    channel: str = "general"
    language: str = ""
    theme: str = "peyk"
    plain: bool = False


@asynccontextmanager
async def opened(settings: ServerSettings, username: str, kind: str, join: Join = alone) -> AsyncIterator[Source]:
    """The other side: the server at PEYK_URL, or a node of our own (of a `kind`: terminal, tool) on Redis."""
    user = User.named(username)
    if settings.peyk_url:
        remote = await _connected(settings.peyk_url, user.username, settings.peyk_token.get_secret_value())
        try:
            yield remote
        finally:
            await remote.close()
        return
    chosen(username)
    async with Node(settings, kind, join) as node:
        direct = Direct(node, user, await identify(node, user))
        direct.start()
        try:
            yield direct
        finally:
            await direct.close()


async def identify(node: Node, user: User) -> Identity:
    """Who has an account says its password. Raises Unauthorized."""
    try:
        await node.doors.check_free(user)
    except Unauthorized:
        if not sys.stdin.isatty():
            raise
        return node.doors.by_token(await node.accounts.sign_in(user.username, await _password(user.username)))
    return Identity(user)


async def _connected(url: str, username: str, token: str) -> Remote:
    """A client of a server; who is refused as a guest says a password. Raises Unauthorized and Unavailable."""
    remote = Remote(url, username, token)
    try:
        await remote.start()
    except Unauthorized:
        if token or not sys.stdin.isatty():
            raise
        token = await asyncio.to_thread(sign_in, url, username, await _password(username))
        remote = Remote(url, username, token)
        await remote.start()
    return remote


async def _password(username: str) -> str:
    return await asyncio.to_thread(getpass.getpass, f"{username}'s password: ")


async def chat(settings: ServerSettings, join: Join, username: str, look: Look) -> int:
    """Chat: on a screen where there is one, else line by line. Returns the exit code."""
    words = Words(look.language or language_of())
    async with opened(settings, username, "terminal", join) as source:
        screen = all(stream.isatty() for stream in (sys.stdin, sys.stdout, sys.stderr)) and os.environ.get(
            "TERM", ""
        ) not in ("", "dumb")
        if look.plain or not screen:
            return await lines.chat(source, look.channel, words)
        from chat.screen import run_screen  # only a screen pays for Textual's import

        for name in ("COLUMNS", "LINES"):  # if somebody exported them, Textual would not see a window resized
            os.environ.pop(name, None)

        return await run_screen(source, look.channel, words, look.theme)
