"""The source of a terminal that sits straight on Redis, through a node of its own: no server needed."""

import asyncio
import logging
import secrets
from collections.abc import Coroutine, Sequence

from chat.access import Access
from chat.auth import Identity
from chat.errors import PeykError, UnknownChannel
from chat.local import Joined, Subscription
from chat.lookalikes import chosen
from chat.models import Channel, User, channel_id
from chat.node import Node
from chat.private import asks_of, decline_private, open_private
from chat.source import LISTED, RESUBSCRIBE, Began, Listener, Past, Place, Said
from pipeline.encode import Message, publication, publication_of, push_prefix
from pipeline.replay import Page
from pipeline.resp import FAILURES

logger = logging.getLogger(__name__)

_PULSE = 2.0  # seconds between looks whether Redis is there
_BACKOFF = 0.2, 5.0  # seconds: first and longest wait before subscribing again


class Direct:
    """A subscriber of the node's hub. Use `start` and `close`."""

    framed = full = False  # a terminal is fast enough

    def __init__(self, node: Node, user: User, identity: Identity | None = None) -> None:
        self._node, self._user = node, user
        self.access = Access(node.doors, identity or Identity(user))
        self.listener: Listener
        self.username, self.where = user.username, node.redis_server.describe()
        self._client = secrets.token_hex(16)
        self.clients = {self._client}
        self._subscriptions: dict[str, Subscription] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._up = True

    def start(self) -> None:
        """Watch whether Redis is there."""
        self._spawn(self._pulse())

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for channel in list(self._subscriptions):
            self._stop(channel)

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _pulse(self) -> None:
        """Tell when Redis goes and comes back."""
        while True:
            await asyncio.sleep(_PULSE)
            try:
                await self._node.link.call("PING")
            except FAILURES as error:
                if self._up:
                    self._up = False
                    self.listener.connected(False, str(error))
            else:
                if not self._up:
                    self._up = True
                    self.listener.connected(True)

    # -- what the hub tells

    def write(self, data: bytes) -> None:
        for line in data.split(b"\n"):
            channel = line.partition(b'"channel":"')[2].partition(b'"')[0].decode(errors="replace")
            if line.startswith(push_prefix(channel)):  # else somebody joined or left
                self.listener.said(channel, Said.read(publication_of(channel, line)))

    def unsubscribed(self, channel: str, code: int, reason: str) -> None:
        self._subscriptions.pop(channel, None)
        self._node.presence.remove(channel, self._client)
        if code < RESUBSCRIBE:
            self.listener.ended(channel, code, reason)
        else:
            self._spawn(self._subscribe_again(channel))

    async def _subscribe_again(self, channel: str) -> None:
        wait = _BACKOFF[0]
        while True:
            try:
                self.listener.began(channel, await self._listen_anyhow(channel))
                return
            except FAILURES as error:
                logger.info("channel %s: not subscribed again: %s", channel, error)
            except PeykError as error:
                self._end(channel, error)
                return
            await asyncio.sleep(wait)
            wait = min(wait * 2, _BACKOFF[1])

    async def _listen_anyhow(self, channel: str) -> Began:
        try:
            return await self._listen(channel, None)
        except UnknownChannel:  # lost with its Redis
            await self._node.channels.ensure(channel, self._user.id)
            return await self._listen(channel, None)

    async def _listen(self, channel: str, since: tuple[str, int] | None) -> Began:
        """Subscribe at the hub; from the answer on messages come by `write`."""
        done: asyncio.Future[Began] = asyncio.get_running_loop().create_future()

        def answer(joined: Joined) -> None:
            if done.cancelled():
                self._node.hub.unsubscribe(joined.subscription)
                return
            self._subscriptions[channel] = joined.subscription
            self._node.presence.add(channel, self._client, self._user.username)
            missed = [Said.read(publication_of(channel, line)) for line in joined.lines]
            done.set_result(Began(joined.epoch, joined.offset, joined.recovered, missed))

        await self._node.hub.subscribe(self, channel, answer, since)
        return await done

    def _stop(self, channel: str) -> None:
        if (subscription := self._subscriptions.pop(channel, None)) is not None:
            self._node.hub.unsubscribe(subscription)
            self._node.presence.remove(channel, self._client)

    def _end(self, channel: str, error: PeykError) -> None:
        """It may not be heard any more."""
        self._stop(channel)
        self.listener.ended(channel, error.code, str(error))

    # -- what is asked of it

    async def channels(self, ids: Sequence[str] = ()) -> list[Channel]:
        directory = self._node.directory
        page = await directory.page(self.access, limit=LISTED)
        return page.channels + (await directory.named(self.access, ids)).channels

    async def mine(self) -> list[str]:
        return await self._node.subscriptions.channels(self._user.id)

    async def subscribe(self, name: str, since: tuple[str, int] | None = None) -> Began:
        channel = channel_id(name)
        await self._node.allow(self.access, "subscribe", channel)
        await self._node.channels.ensure(name, self._user.id)
        await self._node.subscriptions.add(self._user, channel)
        self._stop(channel)
        return await self._listen(channel, since)

    async def leave(self, channel: str) -> None:
        await self._node.subscriptions.remove(self._user.id, channel)
        self._stop(channel)

    async def before(self, channel: str, offset: int | None, limit: int) -> Past:
        await self._node.allow(self.access, "history", channel)
        page = await self._node.replay.before(channel, offset, limit, self._node.settings.page_bytes)
        return _past(page, page.messages[::-1])

    async def after(self, channel: str, offset: int, limit: int) -> Past:
        await self._node.allow(self.access, "history", channel)
        page = await self._node.replay.after(channel, offset, limit, self._node.settings.page_bytes)
        return _past(page, page.messages)

    async def publish(self, channel: str, data: bytes, key: str) -> Place:
        await self._node.allow(self.access, "publish", channel)
        producer = self._node.producer
        position = await producer.publish(channel, data, user=self._user.username, client=self._client, key=key)
        return Place(position.offset, position.ms)

    async def present(self, channel: str) -> list[str]:
        await self._node.allow(self.access, "presence", channel)
        return sorted({info.user for info in (await self._node.presence.clients(channel)).values()})

    async def describe(self, channel: str, description: str) -> None:
        await self._node.allow(self.access, "manage", channel)
        await self._node.channels.update(channel, description)

    async def private(self, name: str) -> Channel:
        return await open_private(self._node, self.access, name, anybody=True)

    async def asks(self) -> list[str]:
        return [ask.user for ask in await asks_of(self._node, self.access)]

    async def decline(self, name: str) -> None:
        await decline_private(self._node, self.access, name)

    async def unread(self, channels: Sequence[str]) -> dict[str, tuple[int, int]]:
        return await self._node.reading.unread(self._user.id, channels)

    async def read(self, channel: str, offset: int) -> None:
        await self._node.reading.read(self._user.id, channel, offset)

    async def rename(self, name: str) -> None:
        """Raises Unauthorized where the name is an account's: start again with --user to sign in."""
        user = chosen(name)
        await self._node.doors.check_free(user)
        access = Access(self._node.doors, Identity(user))
        for channel in list(self._subscriptions):
            try:
                await self._node.allow(access, "subscribe", channel)
                await self._node.subscriptions.add(user, channel)
            except PeykError as error:
                self._end(channel, error)
        self._user, self.username, self.access = user, user.username, access
        for channel in self._subscriptions:
            self._node.presence.remove(channel, self._client)
            self._node.presence.add(channel, self._client, user.username)


def _past(page: Page, messages: Sequence[Message]) -> Past:
    return Past(page.epoch, page.top, [Said.read(publication(message)) for message in messages])
