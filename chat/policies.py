"""Each channel's policy, as this node knows it: read when it is first asked for, and again when it was changed.

Deciding costs the hot path a look into a dictionary. A change is told on Pub/Sub `control`; that a word was missed is
found out at the next check, within CHECK_INTERVAL seconds. Checked are the channels somebody here is subscribed to,
and those that were asked for since the last check; what nobody asks for any more is forgotten. A channel that is not
there is never remembered: who asks for ever new names pays for each, once.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from chat.auth import PAIR, PAIR_PREFIX, Policy
from chat.errors import BadRequest
from pipeline.keys import Keys
from pipeline.lasting import end, lasting
from pipeline.resp import Command, ConnectionLost, Link, ReplyError

logger = logging.getLogger(__name__)

POLICY = b"policy "  # said on `control`, before the channel's id
KEPT = 100_000  # policies; the one read longest ago goes first
_AT_ONCE = 500
NEW = Policy(made=False)
"""The policy of a channel that is not there: everybody may make it."""
NEW_PAIR = Policy(PAIR, made=False)
"""That of a channel of two that is not there."""


class Policies:
    """`on_change(channel, policy)` is called for a policy that is not what it was."""

    def __init__(self, link: Link, keys: Keys, interval: float, name_length: int) -> None:
        self._link, self._keys, self._interval, self._name_length = link, keys, interval, name_length
        self._known: dict[str, Policy] = {}  # asked for since the last check
        self._rested: dict[str, Policy] = {}  # before
        self.subscribed: Callable[[], Iterable[str]] = lambda: ()
        """The channels somebody here is subscribed to."""
        self._changed: set[str] = set()
        self._woken = asyncio.Event()
        self._all_at = 0.0  # when all are read again
        self._task: asyncio.Task[None] | None = None
        self.on_change: Callable[[str, Policy], None] = lambda channel, policy: None

    def start(self) -> None:
        self._task = lasting(self._watch)

    async def close(self) -> None:
        await end(self._task)

    def __len__(self) -> int:
        return len(self._known) + len(self._rested)

    def known(self, channel: str) -> Policy | None:
        """The policy of a channel id, if this node has read it."""
        policy = self._known.get(channel)
        if policy is None and (policy := self._rested.pop(channel, None)) is not None:
            self._known[channel] = policy
        return policy

    async def get(self, channel: str) -> Policy:
        """The policy of a channel id; of one that is not there, NEW or NEW_PAIR.

        Raises ConnectionLost, and BadRequest for a name longer than CHANNEL_NAME_LENGTH.
        """
        policy = self.known(channel)
        if policy is None:
            if len(channel) > self._name_length:
                text = f"a channel name has at most {self._name_length} characters here; choose a shorter one"
                raise BadRequest.beyond("name_length", text)
            (policy,) = await self.read([channel])
        return policy

    async def of(self, channels: Sequence[str]) -> dict[str, Policy]:
        """Those of many channels at once."""
        found = {channel: policy for channel in channels if (policy := self.known(channel)) is not None}
        unknown = [channel for channel in channels if channel not in found]
        return found | dict(zip(unknown, await self.read(unknown), strict=True))

    def changed(self, channel: str) -> None:
        """Somebody changed this policy: read it again, soon."""
        self._changed.add(channel)
        self._woken.set()

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        self._all_at = loop.time() + self._interval
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(self._all_at):
                    await self._woken.wait()
            self._woken.clear()
            channels = [c for c in self._changed if c in self._known or c in self._rested]
            self._changed.clear()
            if loop.time() >= self._all_at:
                self._all_at = loop.time() + self._interval
                channels = self._begin_check()
            try:
                await self.read(channels)
            except (ConnectionLost, ReplyError) as error:
                logger.info("policies not read: %s", error)

    def _begin_check(self) -> list[str]:
        """Forget what nobody asked for since the last check; the channels whose policies are to be read again."""
        for channel in self.subscribed():
            self.known(channel)
        self._rested, self._known = self._known, {}
        return list(self._rested)

    async def read(self, channels: Sequence[str]) -> list[Policy]:
        """Read policies (again)."""
        found: list[Policy] = []
        for start in range(0, len(channels), _AT_ONCE):
            part = channels[start : start + _AT_ONCE]
            policies = await self._fetch(part)
            found += policies
            for channel, policy in zip(part, policies, strict=True):
                self._keep(channel, policy)
        while len(self._known) > KEPT:
            del self._known[next(iter(self._known))]
        return found

    def _keep(self, channel: str, policy: Policy) -> None:
        kept = self._rested if channel in self._rested else self._known
        old = kept.pop(channel, None)
        if policy is not NEW and policy is not NEW_PAIR:
            kept[channel] = policy
        if old is not None and old != policy:
            self.on_change(channel, policy)

    async def _fetch(self, channels: Sequence[str]) -> list[Policy]:
        commands: list[Command] = []
        for channel in channels:
            commands.append(["HMGET", self._keys.channel(channel), "epoch", "kind", "owner"])
            commands.append(["HGETALL", self._keys.roles(channel)])
        replies = await self._link.pipeline(commands)
        for reply in replies:
            if isinstance(reply, ReplyError):
                raise reply
        return list(map(_policy, channels, replies[::2], replies[1::2]))


def _policy(channel: str, fields: Sequence[bytes | None], roles: Sequence[Any]) -> Policy:
    if fields[0] is None:
        return NEW_PAIR if channel.startswith(PAIR_PREFIX) else NEW
    kind, owner = [(value or b"").decode() for value in fields[1:]]
    texts = [value.decode() for value in roles]
    return Policy(kind or "public", owner, dict(zip(texts[::2], texts[1::2], strict=True)), True)
