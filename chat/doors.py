"""The doors of one node: which credentials open them, and who was shut out since."""

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Callable

import msgspec
from redis.asyncio import Redis

from chat.auth import PROGRAM, ApiKeys, Identity, Tokens
from chat.errors import BadRequest, PermissionDenied, Unauthorized
from chat.lookalikes import chosen
from chat.models import User
from chat.revocations import Revocations
from chat.settings import ServerSettings
from pipeline.keys import SECRET, Keys
from pipeline.lasting import end, lasting
from pipeline.resp import FAILURES, Link
from redis_config import ConfigError

logger = logging.getLogger(__name__)

COOKIE = "peyk"
KNOWN = "peyk-known"  # the cookie of a browser in which somebody signed in before
ANONYMOUS = "anonymous"  # who a guest is that gives no name, over HTTP
GUEST_PREFIX = "guest-"
_REST = 0.1  # seconds between looks through all clients for who was revoked
_CLAIMED = 600  # seconds a node that missed the word has to find out that a guest's name has an account


class Doors:
    """Makes an Identity of what a client brings. `changed` is told of whom something was revoked ("": of anybody)."""

    def __init__(self, settings: ServerSettings, redis: Redis, link: Link, keys: Keys) -> None:
        self._redis, self._link, self._keys, self._settings = redis, link, keys, settings
        self.tokens = tokens_of(settings)
        self._names_given = settings.names_given  # guests must not look like who has one
        self.api_keys = ApiKeys(settings.api_key.get_secret_value())
        self.guests = settings.guests == "yes" or (settings.guests == "auto" and settings.on_loopback)
        self.secret = ""
        """Of this installation: nobody outside knows it. There once `start` has run."""
        self.revocations = Revocations(link, keys.control, settings.user_sign_outs)
        self.changed: Callable[[frozenset[str]], None] = lambda users: None
        self._interval = settings.check_interval
        self._woken = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await self._redis.set(SECRET, secrets.token_hex(32), nx=True)
        self.secret = str(await self._redis.get(SECRET))
        if not self._settings.auth_secret.get_secret_value():  # sessions of accounts are signed all the same
            self.tokens = Tokens(self.secret, self._settings.auth_keys)
        await self.revocations.load()
        self.revocations.news.clear()  # nobody is here yet
        self._task = lasting(self._watch)

    async def close(self) -> None:
        await end(self._task)

    # -- who is it

    def by_token(self, token: str, channel: str = "") -> Identity:
        """Whose it is; with `channel` (an id), one for a subscription there. Raises Unauthorized and TokenExpired."""
        identity = self.tokens.identify(token, channel)
        if self.revoked(identity):
            raise Unauthorized("this token was revoked; sign in again")
        return identity

    def by_key(self, key: str) -> Identity:
        """Raises Unauthorized."""
        return self.api_keys.identify(key)

    def nameless(self, name: str = "") -> Identity:
        """A guest who wants no name of their own. Raises Unauthorized where guests are not let in."""
        if not self.guests:
            raise Unauthorized("guests are not let in here; sign in, or bring a token or an API key")
        local = self._settings.on_loopback and not self._names_given
        return Identity(User.named(name or GUEST_PREFIX + secrets.token_hex(3)), guest=True, local=local)

    async def guest(self, name: str) -> Identity:
        """A guest by a name, which must be nobody's account and no program's. Raises Unauthorized and BadRequest."""
        identity = self.nameless(name)
        chosen(name)
        if self._names_given and not identity.user.id.startswith(GUEST_PREFIX):
            return self.nameless(GUEST_PREFIX + name)
        if identity.user.id == PROGRAM:
            raise BadRequest(f"{PROGRAM} is the name of programs that name nobody; choose another name")
        await self.check_free(identity.user)
        return identity

    async def speaker(self, identity: Identity, name: str) -> Identity:
        """`identity` as it speaks by `name`: guests and programs for anybody, whoever is known for themselves.

        What the name may do is what `check` says of the identity returned. Raises PermissionDenied, Unauthorized and
        BadRequest.
        """
        if identity.guest:
            return await self.guest(name)
        user = User.named(name)
        if not identity.program and user.id != identity.user.id:
            raise PermissionDenied(f"you are {identity.user.username}, and speak for yourself only")
        return msgspec.structs.replace(identity, user=user)

    async def check_free(self, user: User) -> None:
        """Nobody speaks by the name of an account but who signed in to it. Raises Unauthorized."""
        if await self._link.call("EXISTS", self._keys.account(user.id)):
            raise Unauthorized(f"the name {user.username} has an account; sign in, or take another name")

    # -- who is no longer let in

    def revoked(self, identity: Identity) -> bool:
        """Whether this token, or every token of its user issued until then, was revoked; or a guest's name taken."""
        return self.revocations.hold(identity)

    async def revoke(self, *, user: str = "", token: str = "") -> None:
        """Shut out a user's tokens issued until now, or one token by its id (jti); on every node. Raises BadRequest."""
        if bool(user) == bool(token):
            raise BadRequest("revoke a user, or a token by its id (jti)")
        if user:
            await self.revocations.of_user(User.named(user).id)
        else:
            await self.revocations.of_token(token)
        self.wake()

    async def sign_out(self, identity: Identity) -> None:
        """Shut out the token somebody came with, if it has an id; on every node."""
        if identity.token:
            await self.revocations.of_session(identity)
            self.wake()

    async def claim(self, user: User) -> None:
        """This name has an account now: who used it as a guest goes, on every node."""
        await self.revocations.of_guest(user.id, _CLAIMED)
        self.wake()

    def wake(self) -> None:
        """Look again now: somebody was revoked."""
        self._woken.set()

    async def _watch(self) -> None:
        revocations = self.revocations
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._interval):
                    await self._woken.wait()
            self._woken.clear()
            try:
                await revocations.load()
                await revocations.forget()
            except FAILURES as error:
                logger.info("who was revoked is not known newly: %s", error)
            if revocations.news:
                news = frozenset(revocations.news)
                revocations.news.clear()
                self.changed(news)
                await asyncio.sleep(_REST)


def tokens_of(settings: ServerSettings) -> Tokens:
    """Raises ConfigError."""
    return Tokens(settings.auth_secret.get_secret_value(), settings.auth_keys)


def check_open(settings: ServerSettings) -> None:
    """Refuse to listen to a network without any credentials to ask for. Raises ConfigError."""
    keys = ApiKeys(settings.api_key.get_secret_value())
    if tokens_of(settings).enabled or keys.enabled or settings.on_loopback:
        return
    proxies = f" behind TRUSTED_PROXIES={settings.trusted_proxies}" if settings.trusted_proxies else ""
    raise ConfigError(
        f"HTTP_HOST={settings.http_host}{proxies} can be reached from other machines: set AUTH_SECRET (openssl rand "
        "-hex 32) or AUTH_KEYS, so that people sign in with tokens, or API_KEY for programs; or listen on 127.0.0.1 "
        "without a proxy"
    )
