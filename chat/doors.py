"""The doors of one node: which credentials open them, and who was shut out since."""

import asyncio
import contextlib
import ipaddress
import logging
import secrets
import time
from collections.abc import Callable

from redis.asyncio import Redis

from chat.auth import ApiKeys, Identity, Tokens
from chat.errors import BadRequest, Unauthorized
from chat.models import User
from chat.settings import ServerSettings
from pipeline.keys import CONTROL, REVOKED
from pipeline.lasting import lasting
from pipeline.resp import FAILURES
from redis_config import ConfigError

logger = logging.getLogger(__name__)

REVOKE = b"revoke"  # said on Pub/Sub `control`
COOKIE = "peyk"


def is_loopback(host: str) -> bool:
    """Whether a server that listens on `host` can be reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class Doors:
    """Makes an Identity of what a client brings. `changed` is called when somebody was revoked."""

    def __init__(self, settings: ServerSettings, redis: Redis) -> None:
        self._redis = redis
        self.tokens = tokens_of(settings)
        self.api_keys = ApiKeys(settings.api_key.get_secret_value())
        self.guests = settings.guests == "yes" or (settings.guests == "auto" and is_loopback(settings.http_host))
        self._revoked: dict[str, float] = {}
        self.changed: Callable[[], None] = lambda: None
        self._interval = settings.check_interval
        self._woken = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await self._load()
        self._task = lasting(self._watch)

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    # -- who is it

    def by_token(self, token: str) -> Identity:
        """Raises Unauthorized and TokenExpired."""
        if not self.tokens.enabled:
            raise Unauthorized("this server takes no tokens: its AUTH_SECRET or AUTH_KEYS is not set")
        identity = self.tokens.identify(token)
        if self.revoked(identity):
            raise Unauthorized("this token was revoked; sign in again")
        return identity

    def by_key(self, key: str) -> Identity:
        """Raises Unauthorized."""
        return self.api_keys.identify(key)

    def guest(self, name: str = "") -> Identity:
        """Somebody without credentials. Raises Unauthorized where guests are not let in, and BadRequest for a name."""
        if not self.guests:
            raise Unauthorized("guests are not let in here; bring a token or an API key")
        return Identity(User.named(name or f"guest-{secrets.token_hex(3)}"), guest=True)

    # -- who is no longer let in

    def revoked(self, identity: Identity) -> bool:
        """Whether this token, or every token of its user issued until then, was revoked."""
        if identity.token and f"token {identity.token}" in self._revoked:
            return True
        return identity.issued <= self._revoked.get(f"user {identity.user.id}", -1) and not identity.guest

    async def revoke(self, *, user: str = "", token: str = "") -> None:
        """Shut out a user's tokens issued until now, or one token by its id; on every node. Raises BadRequest."""
        if bool(user) == bool(token):
            raise BadRequest("revoke a user, or a token by its id (jti)")
        entry = f"user {User.named(user).id}" if user else f"token {token}"
        await self._redis.hset(REVOKED, entry, str(int(time.time())))
        await self._redis.publish(CONTROL, REVOKE)

    def wake(self) -> None:
        """Look again now: somebody was revoked."""
        self._woken.set()

    async def _watch(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._interval):
                    await self._woken.wait()
            self._woken.clear()
            try:
                await self._load()
            except FAILURES as error:
                logger.info("who was revoked is not known newly: %s", error)

    async def _load(self) -> None:
        revoked = {str(name): float(at) for name, at in (await self._redis.hgetall(REVOKED)).items()}
        if revoked != self._revoked:
            self._revoked = revoked
            self.changed()


def tokens_of(settings: ServerSettings) -> Tokens:
    """Raises ConfigError."""
    return Tokens(settings.auth_secret.get_secret_value(), settings.auth_keys)


def check_open(settings: ServerSettings) -> None:
    """Refuse to listen to a network without any credentials to ask for. Raises ConfigError."""
    keys = ApiKeys(settings.api_key.get_secret_value())
    if tokens_of(settings).enabled or keys.enabled or is_loopback(settings.http_host):
        return
    raise ConfigError(
        f"HTTP_HOST={settings.http_host} can be reached from other machines: set AUTH_SECRET (openssl rand -hex 32) or "
        "AUTH_KEYS, so that people sign in with tokens, or API_KEY for programs; or listen on 127.0.0.1"
    )
