"""Accounts, for people without an identity provider: a name that is theirs alone, and a password.

Who signs in is given a token like any other (chat.auth), so that no door needs to know of accounts.
"""

import asyncio
import secrets
import time
import unicodedata

from argon2 import PasswordHasher
from argon2.exceptions import VerificationError
from redis.asyncio import Redis

from chat.auth import PROGRAM
from chat.doors import ANONYMOUS, GUEST_PREFIX, Doors
from chat.errors import BadRequest, NameTaken, PermissionDenied, TooManyRequests, Unauthorized
from chat.models import User
from chat.settings import ServerSettings
from pipeline.keys import Keys

PASSWORD_LIMITS = 8, 256  # characters
ATTEMPTS = 10  # wrong passwords for one name in ATTEMPT_SECONDS
ATTEMPT_SECONDS = 60
_WRONG = "name or password is wrong"
_REPLACE = """
if redis.call('HGET', KEYS[1], 'password') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'password', ARGV[2])
return 1"""
_AT_ONCE = 2  # passwords hashed at a time: each costs 20 MB and some 30 ms of a core


class Accounts:
    """Register, sign in, change the password."""

    def __init__(self, settings: ServerSettings, redis: Redis, keys: Keys, doors: Doors) -> None:
        self._redis, self._keys, self._doors = redis, keys, doors
        # Where names come with tokens, whoever registered the name of a token's holder would be them.
        self._open = settings.registration == "yes" or (settings.registration == "auto" and not settings.names_given)
        self._ttl = settings.session_ttl
        # OWASP's first choice of parameters for argon2id.
        self._hasher = PasswordHasher(time_cost=2, memory_cost=19456, parallelism=1)
        self._nobody = self._hasher.hash("nobody has this password")
        self._room = asyncio.Semaphore(_AT_ONCE)

    async def register(self, username: str, password: str) -> str:
        """Take a name that nobody has; a token for it. Raises NameTaken, BadRequest and PermissionDenied."""
        if not self._open:
            raise PermissionDenied(
                "nobody registers here; bring a token, or ask the operator to let people register (REGISTRATION=yes)"
            )
        user = User.named(username)
        if user.id in (ANONYMOUS, PROGRAM) or user.id.startswith(GUEST_PREFIX):
            raise BadRequest(f"{ANONYMOUS}, {PROGRAM} and {GUEST_PREFIX}… are guests and programs; choose another name")
        hashed = await self._hash(password)
        key = self._keys.account(user.id)
        if not await self._redis.hsetnx(key, "password", hashed):
            raise NameTaken(f"the name {user.username} is taken; choose another, or sign in")
        await self._redis.hset(key, mapping={"username": user.username, "created_at": int(time.time() * 1000)})
        await self._doors.claim(user)
        return self._doors.tokens.issue(user.username, self._ttl)

    async def sign_in(self, username: str, password: str) -> str:
        """A token for who knows the password. Raises Unauthorized, and TooManyRequests after too many wrong ones."""
        user = User.named(username)
        verified = await self._verify(user, password)
        now = int(time.time())  # before it is read: who sets another password later shuts this token out
        known, name = await self._redis.hmget(self._keys.account(user.id), ["password", "username"])
        if known != verified:
            raise Unauthorized(_WRONG)
        return self._doors.tokens.issue(str(name or user.username), self._ttl, at=now)

    async def change_password(self, user: User, old: str, new: str) -> str:
        """Set a new password and end every session but this one's, which goes on with the token returned."""
        verified, hashed = await self._verify(user, old), await self._hash(new)
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
        await self._redis.hset(self._keys.account(user.id), "password", await self._hash(new))
        await self._redis.delete(self._keys.attempts(user.id))
        await self._doors.revoke(user=user.username)
        return new

    async def _verify(self, user: User, password: str) -> str:
        """The hash that the password was right for, which need not be the account's any more when this returns."""
        if await self._attempt(user, 1) > ATTEMPTS:  # before it is known: else those who ask at once all may
            raise TooManyRequests(
                f"too many wrong passwords for {user.username}; try again in a minute", "attempts", ATTEMPT_SECONDS
            )
        known = await self._redis.hget(self._keys.account(user.id), "password")
        # Whether there is such an account must not be told by how long the answer takes.
        if not await self._matches(str(known or self._nobody), password) or not known:
            raise Unauthorized(_WRONG)
        await self._attempt(user, -1)
        return str(known)

    async def _attempt(self, user: User, by: int) -> int:
        """Count an attempt, or take it back; how many there are."""
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.incrby(self._keys.attempts(user.id), by)
            pipe.expire(self._keys.attempts(user.id), ATTEMPT_SECONDS, nx=True)
            return int((await pipe.execute())[0])

    async def _hash(self, password: str) -> str:
        low, high = PASSWORD_LIMITS
        if not low <= len(password) <= high:
            raise BadRequest(f"a password has {low} to {high} characters")
        async with self._room:
            return await asyncio.to_thread(self._hasher.hash, _normal(password))

    async def _matches(self, hashed: str, password: str) -> bool:
        if len(password) > PASSWORD_LIMITS[1]:
            return False
        async with self._room:
            try:
                return await asyncio.to_thread(self._hasher.verify, hashed, _normal(password))
            except VerificationError:
                return False


def _normal(password: str) -> str:
    """One form of what different keyboards type as the same letters (RFC 8265)."""
    return unicodedata.normalize("NFC", password)
