"""Each channel's policy, as this node knows it: read when it is first asked for, and again when it was changed.

Deciding costs the hot path a look into a dictionary. A change is told on Pub/Sub `control`; that a word was missed is
found out at the next check, within CHECK_INTERVAL seconds.
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
_KEPT = 100_000  # policies; the one read longest ago goes first
_AT_ONCE = 500


class Policies:
    """`on_change(channel, policy)` is called for a policy that is not what it was."""

    def __init__(self, link: Link, keys: Keys, interval: float, name_length: int) -> None:
        self._link, self._keys, self._interval, self._name_length = link, keys, interval, name_length
        self._known: dict[str, Policy] = {}
        self._changed: set[str] = set()
        self._woken = asyncio.Event()
        self._all_at = 0.0  # when all are read again
        self._task: asyncio.Task[None] | None = None
        self.on_change: Callable[[str, Policy], None] = lambda channel, policy: None

    def start(self) -> None:
        self._task = lasting(self._watch)

    async def close(self) -> None:
        await end(self._task)

    def known(self, channel: str) -> Policy | None:
        """The policy of a channel id, if this node has read it."""
        return self._known.get(channel)

    async def get(self, channel: str) -> Policy:
        """The policy of a channel id; of one that does not exist, that of a new channel.

        Raises ConnectionLost, and BadRequest for a name longer than CHANNEL_NAME_LENGTH.
        """
        if channel not in self._known:
            if len(channel) > self._name_length:
                text = f"a channel name has at most {self._name_length} characters here; choose a shorter one"
                raise BadRequest.beyond("name_length", text)
            await self.read([channel])
        return self._known[channel]

    async def of(self, channels: Sequence[str]) -> dict[str, Policy]:
        """Those of many channels at once."""
        await self.read([channel for channel in channels if channel not in self._known])
        return {channel: self._known[channel] for channel in channels}

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
            channels = [channel for channel in self._changed if channel in self._known]
            self._changed.clear()
            if loop.time() >= self._all_at:
                self._all_at, channels = loop.time() + self._interval, list(self._known)
            try:
                await self.read(channels)
            except (ConnectionLost, ReplyError) as error:
                logger.info("policies not read: %s", error)

    async def read(self, channels: Sequence[str]) -> None:
        """Read policies (again)."""
        for start in range(0, len(channels), _AT_ONCE):
            part = channels[start : start + _AT_ONCE]
            for channel, policy in zip(part, await self._fetch(part), strict=True):
                old = self._known.get(channel)
                self._known[channel] = policy
                if old is not None and old != policy:
                    self.on_change(channel, policy)
        while len(self._known) > _KEPT:
            del self._known[next(iter(self._known))]

    async def _fetch(self, channels: Sequence[str]) -> Iterable[Policy]:
        commands: list[Command] = []
        for channel in channels:
            commands.append(["HMGET", self._keys.channel(channel), "kind", "owner", "id"])
            commands.append(["HGETALL", self._keys.roles(channel)])
        replies = await self._link.pipeline(commands)
        for reply in replies:
            if isinstance(reply, ReplyError):
                raise reply
        return map(_policy, channels, replies[::2], replies[1::2])


def _policy(channel: str, fields: Sequence[bytes | None], roles: Sequence[Any]) -> Policy:
    kind, owner, id = [(value or b"").decode() for value in fields]
    texts = [value.decode() for value in roles]
    kind = kind or (PAIR if channel.startswith(PAIR_PREFIX) else "public")  # also one that is not there
    return Policy(kind, owner, dict(zip(texts[::2], texts[1::2], strict=True)), bool(id))
