"""What one client subscribes to: how a subscription begins, and every way it ends."""

import asyncio
import logging
from functools import partial
from typing import TYPE_CHECKING

from chat import protocol
from chat.errors import AlreadySubscribed, BadRequest, PeykError, UnknownChannel, Unrecoverable
from chat.hub import NOT_PERMITTED
from chat.local import Joined, Subscription
from chat.models import NAME_LIMIT, User, channel_id
from chat.protocol import Command
from pipeline.encode import publication_of
from pipeline.resp import FAILURES

if TYPE_CHECKING:
    from chat.node import Node
    from chat.session import Session

logger = logging.getLogger(__name__)

Attempt = asyncio.Future[None]  # a subscription that has not begun; done when its subscribe is answered


class Subscriber:
    """The subscriptions of one session, by channel id.

    The commands about one channel take effect in their order: what follows a subscribe or an unsubscribe waits until
    that is done (`under_way`). Channels do not wait for each other.
    """

    __slots__ = ("_channels", "_leaving", "_node", "_session")

    def __init__(self, node: "Node", session: "Session") -> None:
        self._node, self._session = node, session
        self._channels: dict[str, Subscription | Attempt] = {}
        self._leaving: dict[str, asyncio.Future[bool]] | None = None  # memberships that are being taken away

    def __len__(self) -> int:
        return len(self._channels)

    def subscriptions(self) -> list[Subscription]:
        """Those that have begun."""
        return [s for s in self._channels.values() if isinstance(s, Subscription)]

    def channels(self) -> list[str]:
        """All, also those that have not begun."""
        return list(self._channels)

    def under_way(self, command: Command) -> "asyncio.Future[None] | asyncio.Future[bool] | None":
        """What must be done before a command about the same channel is looked at; None: nothing."""
        presence = command.presence or command.presence_stats
        about = command.subscribe or command.unsubscribe or presence or command.history or command.sub_refresh
        if about is None:
            return None
        if self._leaving and about.channel in self._leaving:
            return self._leaving[about.channel]
        begun = self._channels.get(about.channel)
        return begun if isinstance(begun, asyncio.Future) else None

    def close(self) -> None:
        """The connection ended."""
        for channel in list(self._channels):
            self.stop(channel)

    def stop(self, channel: str) -> None:
        """End one, if there is one."""
        subscription = self._channels.get(channel)
        if isinstance(subscription, Subscription):
            self._node.hub.unsubscribe(subscription)
        self.forget(channel)

    def recheck(self) -> None:
        """The client came with another token: what it does not allow ends."""
        for subscription in self.subscriptions():
            channel = subscription.channel.id
            policy = self._node.policies.known(channel)
            if policy is not None and not self._session.access.may("subscribe", channel, policy):
                self._node.hub.expel(subscription, NOT_PERMITTED)

    def forget(self, channel: str) -> None:
        """The hub knows no longer of it."""
        if (ended := self._channels.pop(channel, None)) is not None:
            self._session.access.leave(channel)
            self._node.presence.remove(channel, self._session.client)
            if isinstance(ended, asyncio.Future):
                ended.set_result(None)

    def subscribe(self, command_id: int, subscribe: protocol.Subscribe, user: User) -> None:
        channel = channel_id(subscribe.channel)
        if channel != subscribe.channel:
            # Pushes carry the id, and are encoded once for everybody.
            raise BadRequest(f"the id of this channel is {channel}; subscribe to that")
        if channel in self._channels:
            raise AlreadySubscribed(f"subscribed to {channel} already")
        self._node.limits.check_subscriptions(len(self._channels))
        if subscribe.token:
            self._session.access.grant(channel, subscribe.token)
        self._channels[channel] = attempt = asyncio.get_running_loop().create_future()
        self._session.spawn(command_id, self._join(command_id, channel, attempt, subscribe, user))

    async def _join(
        self, command_id: int, channel: str, attempt: Attempt, subscribe: protocol.Subscribe, user: User
    ) -> None:
        since = (subscribe.epoch, subscribe.offset) if subscribe.recover else None
        answer = partial(self._joined, command_id, attempt, subscribe)
        hub, new = self._node.hub, False
        try:
            await self._node.allow(self._session.access, "subscribe", channel)
            self._check_wanted(channel, attempt)
            if self._session.access.passing is None and not subscribe.recover:  # who recovers belongs already
                new = await self._belong(user, channel)
                self._check_wanted(channel, attempt)
            try:
                await hub.subscribe(self._session, channel, answer, since)
            except UnknownChannel:
                owner = "" if subscribe.token else self._session.access.identity.owns_as  # that makes a member, no more
                await self._node.channels.ensure(channel, owner, self._node.makers(self._session.access))
                await hub.subscribe(self._session, channel, answer, since)
        except BaseException as error:
            if self._channels.get(channel) is attempt:
                self.forget(channel)
            if new and isinstance(error, PeykError) and channel not in self._channels:
                await self._node.subscriptions.remove(user.id, channel)
            raise

    def _check_wanted(self, channel: str, attempt: Attempt) -> None:
        """Raises BadRequest if the client has left meanwhile."""
        if self._channels.get(channel) is not attempt:
            raise BadRequest("unsubscribed before it began")

    async def _belong(self, user: User, channel: str) -> bool:
        """Put the user on the channel's list; whether it is new there. Raises LimitExceeded."""
        try:
            return await self._node.subscriptions.add(user, channel)
        except FAILURES as error:  # what is open here is shown all the same
            logger.warning("client %s: %s is not on the list of %s: %s", self._session.client, user.id, channel, error)
            return False

    def _joined(self, command_id: int, attempt: Attempt, subscribe: protocol.Subscribe, joined: Joined) -> None:
        """The hub's answer: from this very moment on the subscription is pushed to."""
        channel = subscribe.channel
        policy = self._node.policies.known(channel)
        expelled = policy is not None and not self._session.access.may("subscribe", channel, policy)  # meanwhile
        rejected = subscribe.recover and subscribe.reject_unrecovered and not joined.recovered
        left = self._channels.get(channel) is not attempt  # and may have come again
        if self._session.closed or left or rejected or expelled:
            if not left:
                self.forget(channel)
            self._node.hub.unsubscribe(joined.subscription)
            error = Unrecoverable("the position cannot be recovered; subscribe anew and read history")
            gone = BadRequest("unsubscribed before it began")
            self._session.reply(protocol.error_reply(command_id, gone if left or expelled else error))
            return
        self._channels[channel] = joined.subscription
        joined.subscription.joins = subscribe.join_leave
        if (passing := self._session.access.passing) is not None:
            passing[channel] = 0
        if self._session.user is not None:
            identity = self._session.access.identity
            self._node.presence.add(channel, self._session.client, identity.user.username, identity.info)
        pubs = [publication_of(channel, line) for line in joined.lines]
        recovered = joined.recovered if subscribe.recover else None
        ttl = self._session.access.ttl(channel)
        self._session.reply(protocol.subscribe_reply(command_id, joined.epoch, joined.offset, recovered, pubs, ttl))
        self._session.flush()
        attempt.set_result(None)

    def refresh(self, asked: protocol.SubRefresh) -> int:
        """Go on with a newer token for a subscription; the seconds it lasts. Raises BadRequest and Unauthorized."""
        if asked.channel not in self._channels:
            raise BadRequest(f"you are not subscribed to {asked.channel[:NAME_LIMIT]}; subscribe with this token")
        return self._session.access.grant(asked.channel, asked.token)

    def unsubscribe(self, command_id: int, unsubscribe: protocol.Unsubscribe, user: User) -> None:
        """End the subscription, and the membership where the client's token is for that. Raises PermissionDenied."""
        channel = channel_id(unsubscribe.channel)
        access = self._session.access
        belongs = access.reaches("subscribe", channel)  # asked before its own token is let go
        if channel not in self._channels:
            access.check_reach("subscribe", channel)
        self.stop(channel)
        if not belongs:
            self._session.reply(protocol.reply(command_id, "unsubscribe", {}))
            return
        # It goes on though the client is gone: who unsubscribes and closes has left.
        leaving = asyncio.ensure_future(self._node.subscriptions.remove(user.id, channel))
        self._leaving = self._leaving or {}
        self._leaving[channel] = leaving
        leaving.add_done_callback(partial(self._left, channel))
        self._session.spawn(command_id, self._leave(command_id, leaving))

    def _left(self, channel: str, leaving: "asyncio.Future[bool]") -> None:
        if self._leaving is not None and self._leaving.get(channel) is leaving:
            del self._leaving[channel]
        if not leaving.cancelled() and (error := leaving.exception()) is not None:
            logger.info("client %s: did not leave %s: %s", self._session.client, channel, error)

    async def _leave(self, command_id: int, leaving: "asyncio.Future[bool]") -> None:
        await asyncio.shield(leaving)
        self._session.reply(protocol.reply(command_id, "unsubscribe", {}))
