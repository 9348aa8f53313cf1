"""What one client may do, and until when: its identity, and tokens for single subscriptions."""

import time

from chat import auth
from chat.auth import Identity, Policy
from chat.doors import Doors
from chat.errors import PermissionDenied, Unauthorized

GRACE = 4.0  # seconds a client has to refresh what expired


class Access:
    """The credentials of one connection. Every command asks `check`."""

    __slots__ = ("_doors", "_granted", "identity")

    def __init__(self, doors: Doors, identity: Identity) -> None:
        self._doors, self.identity = doors, identity
        self._granted: dict[str, int] = {}  # channels opened by a subscription token, until when (Unix s, 0: for ever)

    def check(self, action: str, channel: str, policy: Policy) -> None:
        """Raises PermissionDenied."""
        if channel not in self._granted or policy.roles.get(self.identity.user.id) == "banned":
            auth.check(self.identity, action, channel, policy)

    def may(self, action: str, channel: str, policy: Policy) -> bool:
        try:
            self.check(action, channel, policy)
        except PermissionDenied:
            return False
        return True

    def grant(self, channel: str, token: str) -> int:
        """Open `channel` with a token for it; the seconds it lasts (0: for ever). Raises Unauthorized."""
        claims = self._doors.tokens.verify(token)
        if claims.channel != channel or claims.sub != self.identity.user.username:
            raise Unauthorized(f"this token is not for {self.identity.user.username} in {channel}")
        self._granted[channel] = int(claims.exp)
        return self.ttl(channel)

    def ttl(self, channel: str) -> int:
        """Seconds that a token for this subscription lasts; 0: for ever, or there is none."""
        expires = self._granted.get(channel, 0)
        return max(1, expires - int(time.time())) if expires else 0

    def leave(self, channel: str) -> None:
        """A subscription ended, and what its token opened."""
        self._granted.pop(channel, None)

    def refresh(self, token: str) -> None:
        """Go on with a newer token of the same user. Raises Unauthorized and TokenExpired."""
        identity = self._doors.by_token(token)
        if identity.user.id != self.identity.user.id:
            raise Unauthorized(f"this token is {identity.user.username}'s; you are {self.identity.user.username}")
        self.identity = identity

    def expired(self, now: float) -> bool:
        """Whether the connection's token is over, and the time to refresh it as well."""
        return bool(self.identity.expires) and now > self.identity.expires + GRACE

    def expired_grants(self, now: float) -> list[str]:
        """The channels whose token is over, and the time to refresh it."""
        return [channel for channel, expires in self._granted.items() if expires and now > expires + GRACE]

    def revoked(self) -> bool:
        return self._doors.revoked(self.identity)
