"""A node: the parts of one process, opened in order and closed in reverse."""

import asyncio
import logging
import secrets
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, nullcontext

from chat.access import Access
from chat.accounts import Accounts
from chat.channels import DELETED, KICK, Channels
from chat.directory import Directory
from chat.doors import Doors
from chat.errors import Unrecoverable
from chat.health import Health
from chat.hub import Hub
from chat.limits import Limits
from chat.pinger import Pinger
from chat.policies import NEW, POLICY, Policies
from chat.presence import Presence
from chat.protocol import History
from chat.reading import Reading
from chat.revocations import REVOKE
from chat.settings import ServerSettings
from chat.subscriptions import Subscriptions
from chat.typing import Typing
from pipeline import fanout
from pipeline.archive import PAUSE, Archiver
from pipeline.consumer import Consumer
from pipeline.fanout import FanOut
from pipeline.keys import Keys
from pipeline.lasting import lasting
from pipeline.lease import NODES_CHANGED, Leases
from pipeline.lease import Node as Member
from pipeline.ports import Parts
from pipeline.producer import Producer
from pipeline.replay import Page, Replay
from pipeline.resp import Link
from pipeline.server import RedisServer, open_redis
from pipeline.status import idle_groups
from redis_config import command_client

logger = logging.getLogger(__name__)

WORKERS = ("serve", "pipeline")  # the kinds of node that fill the archive

Join = Callable[["Node"], AbstractAsyncContextManager[Parts]]
"""Opens the outside systems of a node whose Redis side stands; app.py has it, since chat/ does not know bridge/."""


def alone(node: "Node") -> AbstractAsyncContextManager[Parts]:
    """No outside systems."""
    return nullcontext(Parts())


class Node:
    """One process of Peyk: `async with Node(settings, "serve") as node`.

    `kind`: serve and pipeline (the workers alone) play the fan-out and the sinks; a terminal the fan-out, and only
    where nobody else does; a bridge (which only brings events in) and a tool (a command that publishes or reads and
    ends) play nothing.
    """

    def __init__(self, settings: ServerSettings, kind: str, join: Join = alone) -> None:
        self.settings, self.kind, self._join = settings, kind, join
        self.keys = Keys.of(settings)
        self.limits = Limits(settings)
        self._stack = AsyncExitStack()
        self.redis_server: RedisServer

    async def __aenter__(self) -> "Node":
        async with AsyncExitStack() as stack:
            await self._open(stack)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()

    async def _open(self, stack: AsyncExitStack) -> None:
        settings = self.settings
        self.redis_server = await open_redis(settings)
        stack.push_async_callback(self.redis_server.close)
        watch = lasting(self.redis_server.watch)
        stack.push_async_callback(asyncio.wait, [watch])
        stack.callback(watch.cancel)
        address = self.redis_server.address
        self.redis = await stack.enter_async_context(command_client(address))
        self.link = Link(address)
        stack.callback(self.link.close)
        self.subscriptions = Subscriptions(self.link, self.keys, settings.user_channels)
        self.replay = Replay(self.link, self.keys)
        self.reading = Reading(self.link, self.keys)
        self.typing = Typing(self.link, self.keys, settings.join_leave_limit)
        door_link = Link(address, settings.publish_timeout)  # asked before a publish: to be heard of as soon
        stack.callback(door_link.close)
        self.policies = Policies(door_link, self.keys, settings.check_interval, settings.channel_name_length)
        self.policies.start()
        stack.push_async_callback(self.policies.close)
        self.channels = Channels(self.redis, self.link, settings, self.policies, self.subscriptions)
        self.doors = Doors(settings, self.redis, door_link, self.keys)
        await self.doors.start()
        self.accounts = Accounts(settings, self.redis, self.keys, self.doors, self.limits)
        stack.callback(self.accounts.close)
        stack.push_async_callback(self.doors.close)
        self.producer = await stack.enter_async_context(Producer(address, settings))
        self.parts = await stack.enter_async_context(self._join(self))
        self.replay.archive = self.parts.archive
        self.hub = Hub(address, settings, self.replay, self.link)
        self.pinger = Pinger(settings.ping_interval, settings.connect_timeout)
        self.directory = Directory(self.channels, self.policies, lambda: self.pinger.sessions)
        self.directory.start()
        stack.push_async_callback(self.directory.close)
        self.hub.on_control.append(self._on_control)
        self.producer.shown = self.hub.position
        self.parts.moved.append(self.hub.reopen)
        self.producer.on_refused = self._moved
        self.policies.on_change = self.hub.recheck
        self.policies.subscribed = self.hub.channels
        await self.hub.start()
        stack.push_async_callback(self.hub.close)
        self.pinger.start()
        self.doors.changed = self.pinger.shut_out
        stack.push_async_callback(self.pinger.close)
        self.health = Health(self)
        await self._play(stack)

    async def _play(self, stack: AsyncExitStack) -> None:
        """Take this node's part in the consumer groups of its kind."""
        address, settings = self.redis_server.address, self.settings
        sinks = self.parts.sinks if self.kind in WORKERS else ()
        groups = () if self.kind in ("tool", "bridge") else (fanout.GROUP, *(sink.group for sink in sinks))
        member = Member(self.kind, secrets.token_hex(4), groups)
        self.leases = Leases(self.link, settings, member)
        self.presence = Presence(self.link, self.keys, settings, member)
        if not groups:
            return
        self.presence.start()
        stack.push_async_callback(self.presence.close)
        self.leases.on_lapse, self.leases.on_dead = self.presence.lapsed, self.presence.died
        consumers = [Consumer(fanout.GROUP, FanOut(self.keys), address, settings, self.leases)]
        for sink in sinks:
            archiver = Archiver(sink, self.keys)
            consumers.append(Consumer(sink.group, archiver, address, settings, self.leases, PAUSE))
        stack.push_async_callback(self.leases.close)
        for consumer in consumers:
            consumer.start()
        stack.push_async_callback(lambda: asyncio.gather(*[consumer.close() for consumer in consumers]))
        await self.leases.start()
        for group in await idle_groups(self.link, self.keys, groups) if self.kind in WORKERS else ():
            logger.warning(
                "nobody plays the group %s, and the logs wait for it until they are full (LOG_LENGTH); "
                "turn it on again, or give it up: python app.py groups drop %s",
                *(group, group),
            )

    def _moved(self) -> None:
        """Redis is not where it was: nobody listens there any longer."""
        for reopen in self.parts.moved:
            reopen()

    def _on_control(self, payload: bytes) -> None:
        if payload == NODES_CHANGED:
            self.leases.wake()
        elif payload == REVOKE:
            self.doors.wake()
        elif payload.startswith(POLICY):
            channel = payload[len(POLICY) :].decode()
            self.policies.changed(channel)
            self.directory.changed(channel)
        elif payload.startswith(KICK.encode()):
            channel, _, user = payload[len(KICK) :].decode().partition(" ")
            self.hub.kick(channel, user)
        elif payload.startswith(DELETED.encode()):
            channel, epoch, kind = payload[len(DELETED) :].decode().split(" ")
            self.hub.deleted(channel, epoch)
            self.directory.deleted(channel, kind)

    async def allow(self, access: Access, action: str, channel: str) -> None:
        """Ask for a channel id. Raises PermissionDenied, and ConnectionLost when Redis is away."""
        access.check(action, channel, await self.policies.get(channel))

    async def readable(self, access: Access, channels: Sequence[str]) -> dict[str, float]:
        """Those of some channels (ids) whose history somebody may read, and when each was made (Unix ms)."""
        policies = await self.policies.of(channels)
        return await self.channels.began([c for c in channels if access.may("history", c, policies[c])])

    def makers(self, access: Access) -> list[tuple[str, int]]:
        """Whom a channel that `access` makes counts for: programs and admins make as many as there may be."""
        identity = access.identity
        return [] if identity.program or identity.admin else self.limits.makers(identity.counts_as, access.address)

    async def ensure(self, access: Access, channel: str) -> None:
        """A message is on its way to a channel id: if that is not there, whoever says it makes it, and has to be let.

        Where that is not counted, the append makes it. Raises UnknownChannel and LimitExceeded.
        """
        if await self.policies.get(channel) is NEW and (makers := self.makers(access)):
            await self.channels.ensure(channel, "", makers)

    async def history(self, channel: str, asked: History) -> Page:
        """A page of history as the protocol asks for it: forward from `since`, or backward with `reverse`.

        Raises UnknownChannel, and Unrecoverable when `since` is of another epoch.
        """
        limit = min(asked.limit, self.settings.page_limit) if asked.limit >= 0 else self.settings.page_limit
        size = self.settings.page_bytes
        since = asked.since
        if asked.reverse:
            page = await self.replay.before(channel, since.offset if since else None, limit, size)
        else:
            page = await self.replay.after(channel, since.offset if since else 0, limit, size)
        if since is not None and since.epoch not in ("", page.epoch):
            raise Unrecoverable(f"channel {channel} is in epoch {page.epoch} now; read its history anew")
        return page
