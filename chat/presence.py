"""Presence: who is in a channel right now, on whichever node.

A hash a channel holds its clients. What keeps a client there is its *node's* lease, not one of its own: when a node
dies, another takes its clients out. A node that was taken for dead by mistake, or whose Redis came back older, puts
everything right from what it knows. Joins and leaves are told to those who asked for them, in channels that are not
too full for it: with n clients, n of them coming together would be n² pushes.
"""

import asyncio
import logging
from collections.abc import Iterable

import msgspec

from chat.errors import UnknownChannel
from pipeline.fanout import PRESENCE
from pipeline.keys import NODES, Keys
from pipeline.lasting import end, lasting
from pipeline.lease import Node
from pipeline.resp import Command, ConnectionLost, Link, ReplyError
from redis_config import Settings

logger = logging.getLogger(__name__)

_BACKOFF = 0.05, 1.0  # seconds: first and longest wait before telling Redis again
_PAUSE = 0.05  # seconds in which what changes is gathered, behind a first change that is told at once
_AT_ONCE = 500  # clients in one script call

# KEYS: the channel's presence, the channels this node has clients in.
# ARGV: channel, Pub/Sub name, node, header and limit for telling, whether the node stays in the channel,
#       whether its other clients left, then client and info ("": left) for each.
_CHANGE = """
local channel, node = ARGV[1], ARGV[3]
local lines, named = {}, {}
local function tell(what, info)
  lines[#lines + 1] = '{"push":{"channel":"' .. channel .. '","' .. what .. '":{"info":' .. info .. '}}}'
end
local function leave(client, known)
  if known and string.sub(known, 1, #node + 1) == node .. ' ' then
    redis.call('HDEL', KEYS[1], client)
    tell('leave', string.sub(known, #node + 2))
  end
end
local leaving = {}
for i = 8, #ARGV, 2 do
  named[ARGV[i]] = true
  if ARGV[i + 1] == '' then
    leaving[#leaving + 1] = ARGV[i]
  elseif redis.call('HSET', KEYS[1], ARGV[i], node .. ' ' .. ARGV[i + 1]) == 1 then
    tell('join', ARGV[i + 1])
  end
end
if #leaving > 0 then
  local known = redis.call('HMGET', KEYS[1], unpack(leaving))
  for i, client in ipairs(leaving) do leave(client, known[i]) end
end
if ARGV[7] == '1' then
  local all = redis.call('HGETALL', KEYS[1])
  for i = 1, #all, 2 do
    if not named[all[i]] then leave(all[i], all[i + 1]) end
  end
end
redis.call(ARGV[6] == '1' and 'SADD' or 'SREM', KEYS[2], channel)
if #lines > 0 and redis.call('HLEN', KEYS[1]) <= tonumber(ARGV[5]) then
  redis.call('PUBLISH', ARGV[2], ARGV[4] .. '\\n' .. table.concat(lines, '\\n'))
end"""


class ClientInfo(msgspec.Struct):
    """One client as others see it. `conn_info` is what its token says of it: any JSON."""

    user: str
    client: str
    conn_info: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(ClientInfo).decode


class Presence:
    """This node's clients as everybody's, and everybody's as Redis knows them."""

    def __init__(self, link: Link, keys: Keys, settings: Settings, node: Node) -> None:
        self._link, self._keys, self._node = link, keys, node.id
        self._limit = settings.join_leave_limit
        self._here: dict[str, dict[str, bytes]] = {}  # channel → client → info: the truth about this node
        self._changed: dict[str, dict[str, bytes]] = {}  # what Redis does not know yet; b"": left
        self._dead: set[str] = set()
        self._lapsed = False
        self._woken = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = lasting(self._run)

    async def close(self) -> None:
        """Take this node's clients out: each leaves now, not when the lease is over."""
        await end(self._task)
        self._here.clear()
        try:
            await self._sweep(self._node)
        except (ConnectionLost, ReplyError) as error:
            logger.info("clients not taken out of presence, the lease will do it: %s", error)

    # -- what happens on this node

    def add(self, channel: str, client: str, user: str, info: bytes = b"") -> None:
        """A client subscribed. `info` is one line of JSON, or nothing."""
        self._set(channel, client, _encode(ClientInfo(user, client, msgspec.Raw(info) if info else msgspec.UNSET)))

    def remove(self, channel: str, client: str) -> None:
        """A client unsubscribed or went away."""
        if client in self._here.get(channel, ()):
            self._set(channel, client, b"")

    def lapsed(self) -> None:
        """This node's lease was over for a while: others may have taken its clients out."""
        self._lapsed = True
        self._woken.set()

    def died(self, nodes: Iterable[str]) -> None:
        """These nodes (their `nodes` members) are dead for long enough: take their clients out."""
        self._dead.update(nodes)
        self._woken.set()

    def _set(self, channel: str, client: str, info: bytes) -> None:
        here = self._here.setdefault(channel, {})
        if info:
            here[client] = info
        else:
            del here[client]
            if not here:
                del self._here[channel]
        self._changed.setdefault(channel, {})[client] = info
        self._woken.set()

    # -- what is asked

    async def clients(self, channel: str) -> dict[str, ClientInfo]:
        """Everybody in the channel, by client id. Raises UnknownChannel."""
        exists, values = await self._link.pipeline(
            [["EXISTS", self._keys.channel(channel)], ["HVALS", self._keys.presence(channel)]]
        )
        for reply in (exists, values):
            if isinstance(reply, ReplyError):
                raise reply
        if not exists:
            raise UnknownChannel.named(channel)
        # Redis knows of this node's own clients a moment later; who has just subscribed is here all the same.
        own = f"{self._node} ".encode()
        infos = [value.partition(b" ")[2] for value in values if not value.startswith(own)]
        infos += self._here.get(channel, {}).values()
        return {info.client: info for info in map(_decode, infos)}

    # -- telling Redis

    async def _run(self) -> None:
        wait = _BACKOFF[0]
        while True:
            await self._woken.wait()
            self._woken.clear()
            try:
                await self._tell()
                wait = _BACKOFF[0]
                await asyncio.sleep(_PAUSE)
            except (ConnectionLost, ReplyError) as error:
                logger.info("presence not told: %s; next try in %.2f s", error, wait)
                self._woken.set()
                await asyncio.sleep(wait)
                wait = min(wait * 2, _BACKOFF[1])

    async def _tell(self) -> None:
        """Bring Redis up to date. What fails is still to be told."""
        changed, self._changed = self._changed, {}
        try:
            await self._send([c for channel, clients in changed.items() for c in self._commands(channel, clients)])
        except (ConnectionLost, ReplyError):
            for channel, clients in changed.items():
                self._changed[channel] = clients | self._changed.get(channel, {})
            raise
        if self._lapsed:
            await self._sweep(self._node)
            self._lapsed = False
        while self._dead:
            member = next(iter(self._dead))
            logger.info("node %s is dead: its clients leave", member)
            await self._sweep(member.split(":")[1])
            await self._link.call("ZREM", NODES, member)
            self._dead.discard(member)

    async def _sweep(self, node: str) -> None:
        """Make presence what this node knows of `node`: of another, that it has no clients."""
        here = self._here if node == self._node else {}
        known = await self._link.call("SMEMBERS", self._keys.present_at(node))
        commands: list[Command] = []
        for channel in {name.decode() for name in known} | set(here):
            commands += self._commands(channel, here.get(channel, {}), node, whole=True)
        await self._send(commands)

    def _commands(
        self, channel: str, clients: dict[str, bytes], node: str = "", whole: bool = False
    ) -> Iterable[Command]:
        """Script calls that change `clients` of a channel; `whole`: and every other client of `node` left."""
        node = node or self._node
        stays = node == self._node and channel in self._here
        keys = [self._keys.presence(channel), self._keys.present_at(node)]
        head: list[str | bytes | int] = [channel, self._keys.pubsub(channel), node, PRESENCE, self._limit, int(stays)]
        items = list(clients.items())
        step = len(items) + 1 if whole else _AT_ONCE
        for start in range(0, max(1, len(items)), step):
            pairs = [value for item in items[start : start + step] for value in item]
            yield ["EVAL", _CHANGE, len(keys), *keys, *head, int(whole), *pairs]

    async def _send(self, commands: list[Command]) -> None:
        for reply in await self._link.pipeline(commands) if commands else ():
            if isinstance(reply, ReplyError):
                raise reply
