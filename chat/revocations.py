"""Who is no longer let in: of each user a time, before which nothing issued counts, and single tokens until they end.

A sign-out shuts out one token. So many of one user are remembered (USER_SIGN_OUTS); one more, and the user's time moves
to now instead. Changes are numbered, and a node reads those behind the last it has seen, never all of them again.
"""

import heapq
import time
from hashlib import blake2b

import msgspec

from chat.auth import Identity
from pipeline.keys import REVOKED, REVOKED_ORDER
from pipeline.resp import Command, Link, ReplyError

REVOKE = b"revoke"  # said on Pub/Sub `control`
_AT_ONCE = 500  # entries read or ended together

# KEYS: the entries, their order. ARGV: the entry, now, the time to move to (-1: none), when the entry ends (0: never),
# the token (empty: none), when it ends, when it was issued, how many there may be, the word and where it is said.
# What is known already changes nothing, and nobody is told.
_ADD = """
local now, before = tonumber(ARGV[2]), tonumber(ARGV[3])
local token, issued = ARGV[5], tonumber(ARGV[7])
local known = redis.call('HGET', KEYS[1], ARGV[1])
local entry = known and cjson.decode(known) or {before = -1, tokens = {}}
local count, news = 0, false
for name, at in pairs(entry.tokens) do
    if at > 0 and at < now then entry.tokens[name] = nil else count = count + 1 end
end
if token ~= '' and not entry.tokens[token] and issued > entry.before then
    news = true
    if count < tonumber(ARGV[8]) then
        entry.tokens[token] = tonumber(ARGV[6])
    else
        entry.before, entry.tokens = now, {}
    end
end
if before > entry.before then entry.before, news = before, true end
if not news then return end
entry.ends = tonumber(ARGV[4])
redis.call('HSET', KEYS[1], ARGV[1], cjson.encode(entry))
redis.call('ZADD', KEYS[2], redis.call('HINCRBY', KEYS[1], '', 1), ARGV[1])
redis.call('PUBLISH', ARGV[10], ARGV[9])"""

# Forget those of the entries ARGV[2…] that hold nothing any more at the time ARGV[1].
_FORGET = """
local now = tonumber(ARGV[1])
for i = 2, #ARGV do
    local known = redis.call('HGET', KEYS[1], ARGV[i])
    local entry = known and cjson.decode(known) or {before = -1, ends = 0, tokens = {}}
    local holds = entry.before >= 0 and (entry.ends == 0 or entry.ends >= now)
    for _, at in pairs(entry.tokens) do holds = holds or at == 0 or at >= now end
    if not holds then
        redis.call('HDEL', KEYS[1], ARGV[i])
        redis.call('ZREM', KEYS[2], ARGV[i])
    end
end"""


class _Entry(msgspec.Struct):
    """Times are in Unix s. `before` -1: none; `ends` 0: never; `tokens`: digests, and when each ends (0: never)."""

    before: float
    tokens: dict[str, float]
    ends: float


class Revocations:
    """What one node knows of them. `user` is a user id; a token is known by a digest of its id (jti)."""

    def __init__(self, link: Link, control: str, most: int) -> None:
        self._link, self._control, self._most = link, control, most
        self.news: set[str] = set()
        """Users of whom something is new ("": whoever it is), for whoever acts on it and empties it."""
        self._begin()

    def _begin(self) -> None:
        self._seen = 0  # the number of the last change
        self._before: dict[str, float] = {}
        self._tokens: set[str] = set()
        self._guests: set[str] = set()
        self._ends: list[tuple[float, str, str]] = []  # a heap: when it ends, an entry's name, the token of it

    def hold(self, identity: Identity) -> bool:
        """Whether this token, or every token of its user issued until then, was revoked; or a guest's name taken."""
        user = identity.user.id
        if identity.guest:
            return user in self._guests
        digests = (_digest(user, identity.token), _digest("", identity.token)) if identity.token else ()
        if not self._tokens.isdisjoint(digests):
            return True
        # The name of a program says nothing of who it is.
        return not identity.program and identity.issued <= self._before.get(user, -1)

    async def of_user(self, user: str, at: int = 0) -> None:
        """What was issued to a user until `at` (Unix s, 0: now) counts no longer."""
        await self._add(f"user {user}", before=at or int(time.time()))

    async def of_guest(self, user: str, lasts: int) -> None:
        """Guests by this name go; who comes later finds its account. `lasts` is in seconds."""
        now = int(time.time())
        await self._add(f"guest {user}", before=now, ends=now + lasts)

    async def of_token(self, token: str) -> None:
        """One token, whoever's it is, for ever."""
        await self._add(f"token {_digest('', token)}", before=0)

    async def of_session(self, identity: Identity) -> None:
        """The token somebody came with, until it would have run out."""
        digest = _digest(identity.user.id, identity.token)
        await self._add(f"user {identity.user.id}", digest, int(identity.expires), identity.issued)

    async def _add(
        self, entry: str, token: str = "", until: int = 0, issued: int = 0, *, before: int = -1, ends: int = 0
    ) -> None:
        arguments = (entry, int(time.time()), before, ends, token, until, issued, self._most, REVOKE, self._control)
        await self._link.call("EVAL", _ADD, 2, REVOKED, REVOKED_ORDER, *arguments)
        await self.load()

    async def load(self) -> None:
        """Read what is new, in parts."""
        while True:
            behind: Command = [
                "ZRANGEBYSCORE",
                REVOKED_ORDER,
                f"({self._seen}",
                "+inf",
                "WITHSCORES",
                "LIMIT",
                0,
                _AT_ONCE,
            ]
            top, found = await self._link.pipeline([["HGET", REVOKED, ""], behind])
            for reply in (top, found):
                if isinstance(reply, ReplyError):
                    raise reply
            if int(top or 0) < self._seen:  # Redis came back older, or empty
                self._begin()
                self.news.add("")
                continue
            names = [name.decode() for name in found[::2]]
            if not names:
                return
            for name, value in zip(names, await self._link.call("HMGET", REVOKED, *names), strict=True):
                if value is not None:
                    self._take(name, msgspec.json.decode(value, type=_Entry))
            self._seen = max(self._seen, int(found[-1]))

    def _take(self, name: str, entry: _Entry) -> None:
        kind, _, about = name.partition(" ")
        if kind == "token":
            self._tokens.add(about)
            self.news.add("")
            return
        self.news.add(about)
        if kind == "guest":
            self._guests.add(about)
            heapq.heappush(self._ends, (entry.ends, name, ""))
            return
        if entry.before >= 0:
            self._before[about] = entry.before
        for token in entry.tokens.keys() - self._tokens:
            self._tokens.add(token)
            if entry.tokens[token]:
                heapq.heappush(self._ends, (entry.tokens[token], name, token))

    async def forget(self) -> None:
        """What has ended is not kept, neither here nor in Redis."""
        now, ended = int(time.time()), set[str]()
        while self._ends and self._ends[0][0] < now and len(ended) < _AT_ONCE:
            _, name, token = heapq.heappop(self._ends)
            ended.add(name)
            if token:
                self._tokens.discard(token)
            else:
                self._guests.discard(name.partition(" ")[2])
        if ended:
            await self._link.call("EVAL", _FORGET, 2, REVOKED, REVOKED_ORDER, now, *ended)


def _digest(user: str, token: str) -> str:
    return blake2b(f"{user}\n{token}".encode(), digest_size=12).hexdigest()
