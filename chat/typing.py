"""Who is writing: told to those who hear joins and leaves, kept nowhere, and not too often."""

import asyncio

from chat.models import User
from chat.protocol import encode
from pipeline.fanout import PRESENCE
from pipeline.keys import Keys
from pipeline.resp import Link

INTERVAL = 2.0  # seconds in which somebody is told of once a channel
_KEPT = 1024  # who wrote lately, before those who stopped are forgotten

# KEYS: the channel's presence. ARGV: most clients that are told, the Pub/Sub name, the run.
_TELL = "if redis.call('HLEN', KEYS[1]) <= tonumber(ARGV[1]) then redis.call('PUBLISH', ARGV[2], ARGV[3]) end"


class Typing:
    """One node's word that somebody writes. In a channel of more than `limit` clients nobody is told: n² pushes."""

    def __init__(self, link: Link, keys: Keys, limit: int) -> None:
        self._link, self._keys, self._limit = link, keys, limit
        self._told: dict[tuple[str, str], float] = {}  # (channel, user) → when
        self._prune_at = _KEPT

    async def tell(self, user: User, channel: str) -> None:
        """`user` is writing in the channel `channel` (an id). Within INTERVAL of the last time nothing is said."""
        now, who = asyncio.get_running_loop().time(), (channel, user.id)
        if now - self._told.get(who, -INTERVAL) < INTERVAL:
            return
        if len(self._told) >= self._prune_at:
            self._told = {who: at for who, at in self._told.items() if now - at < INTERVAL}
            self._prune_at = max(
                _KEPT, 2 * len(self._told)
            )  # to look through all for each new one would be their square
        self._told[who] = now
        pub = {"data": {"typing": True}, "info": {"user": user.username}}
        line = encode({"push": {"channel": channel, "pub": pub}})
        run = PRESENCE + b"\n" + line
        await self._link.call(
            "EVAL", _TELL, 1, self._keys.presence(channel), self._limit, self._keys.pubsub(channel), run
        )
