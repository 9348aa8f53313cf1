"""The terminal in a pipe: `send` publishes what comes in, `replay` writes what was said."""

import asyncio
import secrets
import sys
from collections.abc import AsyncIterator

from chat import commands
from chat.errors import Temporary, Unauthorized, Unavailable
from chat.models import channel_id
from chat.node import Join
from chat.opening import opened
from chat.outbox import RETRY_SECONDS
from chat.protocol import encode
from chat.requests import moment
from chat.settings import ServerSettings
from chat.source import Began, Said, Source
from chat.stdio import typed_lines, while_read, write_utf8
from chat.terminal import PAGE
from pipeline.content import cleaned, json_line
from pipeline.resp import FAILURES

_WAIT = 0.5  # seconds before a line that could not be sent is sent again


async def send(settings: ServerSettings, username: str, name: str, text: str, whole: bool, is_json: bool) -> None:
    """Publish `text`, or each line of standard input as it comes (`whole`: all of it as one message).

    Each has its own idempotency key: what is sent again because an answer was lost is stored once. Raises BadRequest,
    and after RETRY_SECONDS without success what kept it.
    """
    channel = channel_id(name)
    async with opened(settings, username, "tool") as source:
        async for said in _messages(text, whole):
            text = said if is_json else cleaned(said)
            if text:
                data = text.encode(errors="replace") if is_json else encode({"text": text})
                await _publish(source, channel, json_line(data, settings.message_limit, settings.json_depth))


async def _messages(text: str, whole: bool) -> AsyncIterator[str]:
    if text:
        yield text
    elif whole:
        yield "".join([line async for line in typed_lines()]).strip("\n")
    else:
        async for line in typed_lines():
            yield line.rstrip("\r\n")


async def _publish(source: Source, channel: str, data: bytes) -> None:
    key, loop = secrets.token_urlsafe(12), asyncio.get_running_loop()
    end = loop.time() + RETRY_SECONDS
    while True:
        try:
            await source.publish(channel, data, key)
            return
        except (Temporary, *FAILURES):
            if loop.time() > end:
                raise
        await asyncio.sleep(_WAIT)


class _Writer:
    """The listener behind `replay` of a server: each message is written once, behind those before it."""

    def __init__(self, source: Source, channel: str, at: int, since: int) -> None:
        self._source, self._channel, self._at, self._since = source, channel, at, since
        self._coming: asyncio.Queue[Said | Began | Exception] = asyncio.Queue()

    def said(self, channel: str, message: Said) -> None:
        self._coming.put_nowait(message)

    def began(self, channel: str, began: Began) -> None:
        self._coming.put_nowait(began)

    def ended(self, channel: str, code: int, reason: str) -> None:
        self._coming.put_nowait(Unavailable(f"{channel}: {reason}"))

    def connected(self, up: bool, why: str = "", final: bool = False) -> None:
        if final:
            self._coming.put_nowait(Unauthorized(why))

    async def catch_up(self) -> str:
        """Write what is in the history; the channel's epoch."""
        while True:
            past = await self._source.after(self._channel, self._at, 10 * PAGE)
            for message in past.messages:
                self._write(message)
            if not past.messages:
                return past.epoch

    async def follow(self) -> None:
        """Write what comes, until the channel or the connection ends for good. Raises PeykError."""
        epoch = await self.catch_up()
        self._coming.put_nowait(await self._source.subscribe(self._channel, (epoch, self._at)))
        while True:
            item = await self._coming.get()
            if isinstance(item, Exception):
                raise item
            if isinstance(item, Said):
                self._write(item)
            elif item.recovered:
                for message in item.messages:
                    self._write(message)
            else:
                await self.catch_up()
            if self._coming.empty():
                sys.stdout.flush()

    def _write(self, message: Said) -> None:
        if message.offset and message.offset <= self._at:
            return
        self._at = message.offset or self._at
        if message.time >= self._since:
            place = {"offset": message.offset, "time": message.time} if message.offset else {}
            info = {"user": message.user, "client": message.client}
            print(encode({**place, "data": message.data, "info": info}).decode())


async def replay(
    settings: ServerSettings, join: Join, username: str, name: str, after: int, since: str | None, follow: bool
) -> None:
    """Write a channel's history as JSON lines, and with `follow` go on with what comes. Raises UnknownChannel."""
    write_utf8()
    with while_read():
        if not settings.peyk_url:
            await commands.replay(settings, join, name, after, since, follow)
            return
        async with opened(settings, username, "tool") as source:
            writer = _Writer(source, channel_id(name), after, 0 if since is None else moment(since))
            source.listener = writer
            await (writer.follow() if follow else writer.catch_up())
