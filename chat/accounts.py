"""Accounts, for people without an identity provider: a name that is theirs alone, and a password.

Who signs in is given a token like any other (chat.auth), so that no door needs to know of accounts. Guessing is slow:
for a name, and from an address. A place that is known for a name, by its address or by a mark in a cookie, is counted
by itself, so that nobody is locked out where they were before by what others guess elsewhere.
"""

import hmac
import secrets
import time
from hashlib import blake2b
from typing import NamedTuple

from redis.asyncio import Redis

from chat.auth import PROGRAM
from chat.doors import ANONYMOUS, GUEST_PREFIX, Doors
from chat.errors import BadRequest, LimitExceeded, NameTaken, PermissionDenied, TooManyRequests, Unauthorized
from chat.limits import Limits, network_of
from chat.lookalikes import chosen
from chat.models import User
from chat.passwords import Passwords, check_length
from chat.settings import ServerSettings
from pipeline.keys import ACCOUNTS, Keys

ATTEMPTS = 10  # wrong passwords for one name in ATTEMPT_SECONDS, from places unknown together and from each known one
ATTEMPT_SECONDS = 60
KNOWN_SECONDS = 180 * 86400  # that a place stays known
_PLACES = 8  # addresses known for one name; the one used longest ago goes first
_SESSION = "session"  # the place of who is signed in
_WRONG = "name or password is wrong"

# KEYS: the account, the number of all. ARGV: the most there may be (0: any number), then fields and values.
_REGISTER = """
if redis.call('HEXISTS', KEYS[1], 'password') == 1 then return -1 end
local limit = tonumber(ARGV[1])
if limit > 0 and tonumber(redis.call('GET', KEYS[2]) or 0) >= limit then return 0 end
redis.call('INCR', KEYS[2])
return redis.call('HSET', KEYS[1], unpack(ARGV, 2))"""
_REPLACE = """
if redis.call('HGET', KEYS[1], 'password') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'password', ARGV[2])
return 1"""


class Place(NamedTuple):
    """Where somebody signs in: an address (empty: this machine's terminal), and the mark in the browser's cookie."""

    address: str = ""
    mark: str = ""


HERE = Place()


class Accounts:
    """Register, sign in, change the password."""

    def __init__(self, settings: ServerSettings, redis: Redis, keys: Keys, doors: Doors, limits: Limits) -> None:
        self._redis, self._keys, self._doors, self._limits = redis, keys, doors, limits
        # Where names come with tokens, whoever registered the name of a token's holder would be them.
        self._open = settings.registration == "yes" or (settings.registration == "auto" and not settings.names_given)
        self._ttl, self._most = settings.session_ttl, settings.account_limit
        self._passwords = Passwords(settings.sign_in_queue)
        self.close = self._passwords.close

    async def register(self, username: str, password: str, place: Place = HERE) -> str:
        """Take a name that nobody has; a token for it.

        Raises NameTaken, BadRequest, PermissionDenied, LimitExceeded and TooManyRequests.
        """
        if not self._open:
            raise PermissionDenied(
                "nobody registers here; bring a token, or ask the operator to let people register (REGISTRATION=yes)"
            )
        user = chosen(username)
        if user.id in (ANONYMOUS, PROGRAM) or user.id.startswith(GUEST_PREFIX):
            raise BadRequest(f"{ANONYMOUS}, {PROGRAM} and {GUEST_PREFIX}… are guests and programs; choose another name")
        check_length(password)
        taken = NameTaken(f"the name {user.username} is taken; choose another, or sign in")
        if await self._redis.exists(self._keys.account(user.id)):
            raise taken
        self._limits.seldom("address_accounts", place.address)
        hashed = await self._passwords.hash(password)
        fields: list[str | int] = ["password", hashed, "username", user.username, "created_at", int(time.time() * 1000)]
        made = await self._redis.eval(_REGISTER, 2, self._keys.account(user.id), ACCOUNTS, self._most, *fields)
        if made < 0:
            raise taken
        if not made:
            text = f"there are {self._most} accounts, as many as may be; ask the operator to raise ACCOUNT_LIMIT"
            raise LimitExceeded(text, "accounts")
        await self._doors.claim(user)
        await self._know(user, place)
        return self._doors.tokens.issue(user.username, self._ttl)

    async def sign_in(self, username: str, password: str, place: Place = HERE) -> str:
        """A token for who knows the password. Raises Unauthorized, and TooManyRequests after too many wrong ones."""
        user = User.named(username)
        known = await self._known(user, place)
        if known:  # whoever shares an address with somebody does not use up what their devices may
            at = "devices" if self._device(user, place.mark) else known
            self._limits.seldom("address_sign_ins", f"{user.id} {at}", "you")
        else:
            self._limits.seldom("address_sign_ins", place.address)
        verified = await self._verify(user, password, known)
        now = int(time.time())  # before it is read: who sets another password later shuts this token out
        hashed, name = await self._redis.hmget(self._keys.account(user.id), ["password", "username"])
        if hashed != verified:
            raise Unauthorized(_WRONG)
        await self._know(user, place)
        return self._doors.tokens.issue(str(name or user.username), self._ttl, at=now)

    async def change_password(self, user: User, old: str, new: str) -> str:
        """Set a new password and end every session but this one's, which goes on with the token returned."""
        check_length(new)
        self._limits.seldom("address_sign_ins", f"{user.id} {_SESSION}", "you")
        verified = await self._verify(user, old, _SESSION)
        hashed = await self._passwords.hash(new, known=True)
        if not await self._redis.eval(_REPLACE, 1, self._keys.account(user.id), verified, hashed):
            raise Unauthorized(_WRONG)  # by now
        await self._doors.revoke(user=user.username)
        return self._doors.tokens.issue(user.username, self._ttl, at=int(time.time()) + 1)

    async def reset_password(self, username: str) -> str:
        """A new password for who lost theirs; it is returned, and every session of theirs ends. Raises BadRequest."""
        user = User.named(username)
        if not await self._redis.exists(self._keys.account(user.id)):
            raise BadRequest(f"nobody registered the name {user.username}")
        new = secrets.token_urlsafe(12)
        await self._redis.hset(self._keys.account(user.id), "password", await self._passwords.hash(new))
        await self._redis.delete(self._keys.attempts(user.id))
        await self._doors.revoke(user=user.username)
        return new

    # -- what a password is worth

    async def _verify(self, user: User, password: str, known: str) -> str:
        """The hash that the password was right for, which need not be the account's any more when this returns.

        `known` is the place, if it is known for that name.
        """
        self._passwords.check_room(bool(known))
        if await self._attempt(user, known, 1) > ATTEMPTS:  # before it is known: else those who ask at once all may
            raise TooManyRequests(
                f"too many wrong passwords for {user.username}; try again in a minute", "attempts", ATTEMPT_SECONDS
            )
        hashed = await self._redis.hget(self._keys.account(user.id), "password")
        # Whether there is such an account must not be told by how long the answer takes.
        if not await self._matches(str(hashed or ""), password, bool(known)) or not hashed:
            raise Unauthorized(_WRONG)
        await self._attempt(user, known, -1)
        return str(hashed)

    async def _matches(self, hashed: str, password: str, known: bool) -> bool:
        return await self._passwords.match(hashed, password, known)

    async def _attempt(self, user: User, place: str, by: int) -> int:
        """Count an attempt, or take it back; how many there are."""
        key = self._keys.attempts(user.id)
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.hincrby(key, place, by)
            pipe.expire(key, ATTEMPT_SECONDS, nx=True)
            return int((await pipe.execute())[0])

    # -- where somebody is known

    def mark(self, user: User, old: str = "") -> str:
        """What a browser keeps that `user` signed in with: `old`, if it is such a mark already."""
        if self._device(user, old):
            return old
        device = secrets.token_hex(9)
        return f"{device}.{self._sealed(user, device)}"

    def _device(self, user: User, mark: str) -> str:
        """The device of a mark that was made here for this user; else empty."""
        device, _, seal = mark.partition(".")
        return device if hmac.compare_digest(seal.encode(), self._sealed(user, device).encode()) else ""

    def _sealed(self, user: User, device: str) -> str:
        return self._digest(f"device\n{user.id}\n{device}")

    def _digest(self, text: str) -> str:
        return blake2b(text.encode(), digest_size=12, key=self._doors.secret.encode()[:64]).hexdigest()

    async def _known(self, user: User, place: Place) -> str:
        """What a place is called among those that are known for this user; empty: it is not."""
        if device := self._device(user, place.mark):
            return device
        address = self._digest(network_of(place.address))  # kept as a digest: it is nobody's business where people are
        there = await self._redis.zscore(self._keys.places(user.id), address)
        return address if place.address and there is not None else ""

    async def _know(self, user: User, place: Place) -> None:
        """Somebody signed in: the address is known for them from now on."""
        if not place.address:
            return
        key = self._keys.places(user.id)
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.zadd(key, {self._digest(network_of(place.address)): time.time()})
            pipe.zremrangebyrank(key, 0, -_PLACES - 1)
            pipe.expire(key, KNOWN_SECONDS)
            await pipe.execute()
