"""The hub: this node's subscribers per channel, and the one repair that keeps them whole.

The hub listens on Pub/Sub for each channel somebody here reads, knows how far it has shown it (epoch, offset), and
writes what comes next to every *live* subscription. Whoever is behind — just recovering, too slow, or everybody
after a hole — is *reading*: caught up from the stream by one loop per channel, and live again when level.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable
from time import monotonic

from chat.access import Access
from chat.auth import Policy
from chat.errors import PeykError, UnknownChannel
from chat.local import Answer, LocalChannel, Receiver, Subscription
from chat.recent import Recent
from chat.settings import ServerSettings
from pipeline.encode import push
from pipeline.fanout import PRESENCE, UNPOSITIONED
from pipeline.keys import Keys
from pipeline.lasting import lasting
from pipeline.listener import Listener
from pipeline.positions import AT_ONCE, Standing, renew_epoch, standings
from pipeline.replay import Page, Replay, dense, unseen
from pipeline.resp import ConnectionLost, Link, ReplyError
from redis_config import Address

logger = logging.getLogger(__name__)

INSUFFICIENT = 2500, "insufficient state"  # unsubscribe codes of the Centrifugal protocol
DELETED = 2000, "channel deleted"
NOT_PERMITTED = 2001, "not permitted"
KICKED = 2002, "kicked"
_LONGEST_REST = 0.005  # seconds of a channel
_TIMERS = 0.0005  # seconds: the loop's timers count milliseconds; what is shorter is no rest
_BACKOFF = 0.05, 1.0  # seconds: first and longest wait before connecting again


class Hub:
    """All channels of this node."""

    def __init__(self, address: Address, settings: ServerSettings, replay: Replay, link: Link) -> None:
        self._settings = settings
        self._keys = Keys.of(settings)
        self._control = self._keys.control.encode()
        self._replay, self._link = replay, link
        self._channels: dict[str, LocalChannel] = {}
        self.channels = self._channels.keys  # the ids of those somebody here reads
        self._recent = Recent()
        self._listener = Listener(address, self._on_message, self._names, self._compare_all)
        self._tasks: set[asyncio.Task[None]] = set()
        self.on_control: list[Callable[[bytes], None]] = []
        self.heard = asyncio.Event()  # set by every Pub/Sub message on `control`

    async def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        await self._listener.start()
        self._checks = lasting(self._check_regularly)

    async def close(self) -> None:
        tasks = [self._checks, *self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for channel in self._channels.values():
            channel.opened.cancel()
        await self._listener.close()

    def reopen(self) -> None:
        """Listen on a new connection: Redis is not where it was."""
        self._listener.reopen()

    def _spawn(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # -- who listens

    async def subscribe(
        self,
        receiver: Receiver,
        channel: str,
        answer: Answer,
        since: tuple[str, int] | None = None,
        *,
        limited: bool = True,
    ) -> None:
        """Subscribe `receiver`; `answer` is called once, in the very moment from which it is pushed to.

        `since` (epoch, offset) asks for everything after that position; an empty epoch means the channel's own. If
        that is not to be had in whole (another epoch, ahead of the truth, trimmed, or if `limited` more than
        recovery_limit), the answer says `recovered` False and the current position. Raises UnknownChannel, and
        ConnectionLost when Redis is away.
        """
        while True:
            local = self._channels.get(channel) or self._open(channel)
            await asyncio.shield(local.opened)
            if since is not None and not since[0]:
                since = local.epoch, since[1]
            recoverable = since is not None and await self._can_recover(local, since, limited)
            if self._channels.get(channel) is local:
                break
        if since is None or not recoverable:
            local.begin(Subscription(receiver, local, local.offset, answer), recovered=False)
            return
        subscription = Subscription(receiver, local, since[1], answer)
        if subscription.offset == local.offset == local.target:
            local.begin(subscription, recovered=True)
        else:
            local.add_reader(subscription, since[1])
            self._catch_up(local)

    def unsubscribe(self, subscription: Subscription) -> None:
        """The receiver left. The last one of a channel ends the node's interest in it."""
        local = subscription.channel
        local.live.discard(subscription)
        local.readers.discard(subscription)
        local.framed = None
        self._close_if_empty(local)

    def filled(self, subscriptions: list[Subscription]) -> None:
        """Their receiver is full: they read from here on, each from where its channel stands now."""
        for subscription in subscriptions:
            if subscription in subscription.channel.live:
                subscription.channel.add_reader(subscription, subscription.channel.offset)

    def drained(self, channels: Iterable[str]) -> None:
        """A receiver in these channels has room again, or is gone: catch up, also who has not begun."""
        for local in filter(None, map(self._channels.get, channels)):
            if local.readers:
                local.level()
                self._catch_up(local)

    def deleted(self, channel: str, epoch: str) -> None:
        """This life of the channel ended on purpose: tell its subscribers, who do not come back by themselves."""
        local = self._channels.get(channel)
        if local is not None and local.epoch in ("", epoch):
            self._end(local, DELETED)

    def recheck(self, channel: str, policy: Policy) -> None:
        """A channel's policy changed: who may no longer read it is unsubscribed."""
        self._expel_those(channel, NOT_PERMITTED, lambda access: not access.may("subscribe", channel, policy))

    def kick(self, channel: str, user: str) -> None:
        """End the subscriptions of a user id."""
        self._expel_those(channel, KICKED, lambda access: access.identity.user.id == user)

    def _expel_those(self, channel: str, code: tuple[int, str], whom: Callable[[Access], bool]) -> None:
        if (local := self._channels.get(channel)) is not None:
            for subscription in [*local.live, *local.readers]:
                access = subscription.receiver.access
                if access is not None and whom(access):
                    self.expel(subscription, code)

    def expel(self, subscription: Subscription, code: tuple[int, str]) -> None:
        """End a subscription, and tell the receiver, who did not ask for it."""
        self.unsubscribe(subscription)
        subscription.receiver.unsubscribed(subscription.channel.id, *code)

    def position(self, channel: str) -> tuple[str, int] | None:
        """The epoch and offset shown so far of a channel that somebody here reads."""
        return (local.epoch, local.offset) if (local := self._channels.get(channel)) and local.epoch else None

    def _end(self, local: LocalChannel, code: tuple[int, str]) -> None:
        """The channel is no more: nobody stays subscribed."""
        self._drop(local, [*local.live, *local.readers], code)
        for subscription in [*local.live]:  # had waited to hear where they begin
            self.expel(subscription, code)
        self._close_if_empty(local)

    async def _can_recover(self, local: LocalChannel, since: tuple[str, int], limited: bool) -> bool:
        epoch, offset = since
        if epoch == local.epoch and offset > local.offset:
            # Ahead of this node; whether ahead of the truth as well, only the hash can say.
            position = await self._replay.position(local.id)
            if position == (epoch, max(offset, position[1] if position else 0)):
                local.target = max(local.target, position[1])
                self._catch_up(local)
        if epoch != local.epoch or offset > max(local.offset, local.target):
            return False
        return not limited or max(local.offset, local.target) - offset <= self._settings.recovery_limit

    # -- what arrives

    def _on_message(self, name: bytes, payload: bytes) -> None:
        if name == self._control:
            self.heard.set()
            for callback in self.on_control:
                callback(payload)
            return
        local = self._channels.get(self._keys.channel_of(name))
        if local is None:
            return
        local.heard.append(payload)
        if len(local.heard) == 1:
            rest = local.rests_until - monotonic()
            if rest < _TIMERS:
                self._show(local)
            else:
                self._loop.call_later(rest, self._show, local)

    def _show(self, local: LocalChannel) -> None:
        """Show what was heard of a channel, in one frame; then it rests for half as long as that took.

        To write to a thousand subscribers takes this process 7 ms, for one message as for ten, and nothing else comes
        any further meanwhile. The rest lets those that follow each other closely catch up, and leave together: 2.2
        times the deliveries (S1M), and half the delay. A message that comes alone never waits.
        """
        heard, local.heard = local.heard, []
        bodies: list[bytes] = []
        for payload in heard:
            head, _, body = payload.partition(b"\n")
            if head == PRESENCE:
                self._broadcast(local, bodies)  # first: who is filled by the announcement reads on from behind them
                bodies = []
                local.announce(body)
            elif body := self._next(local, head, body):
                bodies.append(body)
        self._broadcast(local, bodies)

    def _broadcast(self, local: LocalChannel, bodies: list[bytes]) -> None:
        if bodies:
            begun = monotonic()
            local.broadcast(b"\n".join(bodies))
            ended = monotonic()
            local.rests_until = ended + min((ended - begun) / 2, _LONGEST_REST)

    def _next(self, local: LocalChannel, head: bytes, body: bytes) -> bytes:
        """What of a dense run from the fan-out is to be shown: what is known is dropped; before a hole, catch up."""
        if head == UNPOSITIONED:
            return body
        epoch, first, last, ms = head.split(b" ")
        end = int(last)
        if epoch.decode() != local.epoch:
            if local.epoch:
                self._spawn(self._check_positions([local]))
            else:
                local.early = epoch.decode(), end
            return b""
        if local.target > local.offset:  # catching up already: only further now
            local.target = max(local.target, end)
            return b""
        known = unseen(local.offset, int(first), end)
        if known is None:
            logger.info("channel %s: hole after %d, catching up to %d", local.id, local.offset, end)
            local.target = end
            self._catch_up(local)
            return b""
        if end <= local.offset:
            return b""
        local.offset = local.target = end
        local.ms = int(ms)
        if local.id in self._recent:  # clients come back to it just now
            self._recent.add(local.id, local.epoch, int(first), body.split(b"\n"))
        return body if not known else b"\n".join(body.split(b"\n")[known:])

    # -- the one repair

    def _catch_up(self, local: LocalChannel) -> None:
        if local.task is None:
            local.task = self._spawn(self._catch_up_loop(local))

    async def _catch_up_loop(self, local: LocalChannel) -> None:
        """Read from the lowest position among all who are behind, and give each what it lacks, until all are level."""
        wait = _BACKOFF[0]
        try:
            while (low := local.lowest()) is not None and self._channels.get(local.id) is local:
                if lines := self._recent.between(local.id, local.epoch, low, local.offset):
                    local.serve(low + 1, lines, local.ms, self._settings.high_water)
                    await asyncio.sleep(0)  # others have their turn
                    continue
                shown = local.offset
                try:
                    page = await self._replay.chunk(local.id, low)
                except (ConnectionLost, ReplyError) as error:
                    logger.info("channel %s: cannot read history: %s", local.id, error)
                    await asyncio.sleep(wait)
                    wait = min(wait * 2, _BACKOFF[1])
                    continue
                if page is None or page.epoch != local.epoch or page.top < shown:
                    await self._check_positions([local])
                else:
                    self._advance(local, low, page)
        finally:
            local.task = None

    def _advance(self, local: LocalChannel, low: int, page: Page) -> None:
        """Take a page read from above `low`."""
        messages = dense(page.messages, page.messages[0].offset - 1, 1) if page.messages else []
        if messages and messages[0].offset == low + 1:
            first, lines = messages[0].offset, [push(message) for message in messages]
            self._recent.add(local.id, local.epoch, first, lines)
            local.serve(first, lines, messages[-1].ms, self._settings.high_water)
        elif messages:
            self._trimmed(local, messages[0].offset - 1)
        elif page.top > low:
            self._trimmed(local, page.top)
        else:
            local.target = local.offset
            local.level()

    def _trimmed(self, local: LocalChannel, offset: int) -> None:
        """Everything up to `offset` is gone from the stream: whoever still needed it is told."""
        logger.warning("channel %s: messages up to %d are no longer in the stream", local.id, offset)
        lost = [s for s in local.readers if s.offset < offset]
        if local.offset < offset:
            lost += local.live
            local.offset, local.target = offset, max(local.target, offset)
        self._drop(local, lost, INSUFFICIENT)

    def _reset(self, local: LocalChannel, epoch: str, top: int) -> None:
        """The channel began a new epoch: positions in the old one mean nothing now."""
        logger.warning("channel %s: new epoch %s at %d", local.id, epoch, top)
        local.epoch, local.offset, local.ms, local.target = epoch, top, 0, top
        self._recent.forget(local.id)
        self._drop(local, [*local.live, *local.readers], INSUFFICIENT)

    def _drop(self, local: LocalChannel, subscriptions: list[Subscription], code: tuple[int, str]) -> None:
        """End subscriptions; those that still wait to hear where they begin begin at the current position."""
        for subscription in subscriptions:
            if subscription.answer is not None:
                local.begin(subscription, recovered=False)
            else:
                local.live.discard(subscription)
                local.readers.discard(subscription)
                subscription.receiver.unsubscribed(local.id, *code)
        local.framed = None
        self._close_if_empty(local)

    # -- positions

    async def _check_regularly(self) -> None:
        while True:
            await asyncio.sleep(self._settings.check_interval)
            self._recent.clear()
            for local in [c for c in self._channels.values() if not c.live and not c.readers]:
                if local.opened.done():  # whoever waited for it went away
                    self._close_if_empty(local)
            await self._compare_all()

    async def _check_positions(self, channels: list[LocalChannel]) -> None:
        """Compare positions with Redis: the way to notice a lost last message, a new epoch, a channel that is gone."""
        try:
            for start in range(0, len(channels), AT_ONCE):  # others have their turn in between
                some = [(c, c.epoch, c.offset, c.ms) for c in channels[start : start + AT_ONCE] if c.epoch]
                found = await standings(self._link, self._keys, [(c.id, offset) for c, _, offset, _ in some])
                for (local, epoch, offset, ms), standing in zip(some, found, strict=True):
                    if self._channels.get(local.id) is local and local.epoch == epoch:
                        await self._compare(local, offset, ms, standing)
        except (ConnectionLost, ReplyError) as error:
            logger.info("positions not compared: %s", error)

    async def _compare(self, local: LocalChannel, offset: int, ms: int, there: Standing) -> None:
        """Take how a channel stands in Redis, which was asked when `offset`, of time `ms`, was shown here."""
        if not there.epoch:
            self._end(local, DELETED if there.deleted else INSUFFICIENT)
        elif there.epoch != local.epoch:
            self._reset(local, there.epoch, there.offset)
        elif there.offset < offset or (ms and there.ms and there.ms != ms):
            logger.warning("channel %s: Redis came back older than %d; a new epoch begins", local.id, offset)
            await renew_epoch(self._link, self._keys, local.id, local.epoch)
            await self._check_positions([local])
        elif there.offset > local.offset:
            local.target = max(local.target, there.offset)
            self._catch_up(local)
        elif local.offset == offset and not local.ms:
            local.ms = there.ms

    # -- Pub/Sub

    def _open(self, channel: str) -> LocalChannel:
        local = self._channels[channel] = LocalChannel(channel, self._loop.create_future())
        self._spawn(self._opening(local))
        return local

    async def _opening(self, local: LocalChannel) -> None:
        """Listen first, then read where the channel stands: what comes between is in one of the two."""
        try:
            await self._listener.subscribe([self._keys.pubsub(local.id)])
            position = await self._replay.position(local.id)
            if position is None:
                raise UnknownChannel.named(local.id)
            local.epoch, local.offset = position
            local.target = local.offset
            if local.early[0] == local.epoch and local.early[1] > local.offset:
                local.target = local.early[1]
                self._catch_up(local)
            local.opened.set_result(None)
        except (ConnectionLost, ReplyError, PeykError) as error:
            self._close_if_empty(local)
            if not local.opened.done():
                local.opened.set_exception(error)

    def _close_if_empty(self, local: LocalChannel) -> None:
        if not local.live and not local.readers and self._channels.get(local.id) is local:
            del self._channels[local.id]
            self._listener.unsubscribe(self._keys.pubsub(local.id))

    def _names(self) -> list[str]:
        return [self._keys.control, *map(self._keys.pubsub, self._channels)]

    async def _compare_all(self) -> None:
        await self._check_positions(list(self._channels.values()))
