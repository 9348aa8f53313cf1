"""What one client may do, and until when: its identity, and tokens for single subscriptions."""

from collections.abc import Callable

from chat import auth
from chat.auth import Identity, Policy
from chat.doors import Doors
from chat.errors import PermissionDenied, Unauthorized
from chat.limits import LOOKED_UP

GRACE = 4.0  # seconds a client has to refresh what expired


class Access:
    """The credentials of one connection. Every command asks `check`."""

    __slots__ = ("_doors", "_granted", "_owe", "address", "identity", "listens", "passing")

    def __init__(
        self, doors: Doors, identity: Identity, address: str = "", owe: Callable[[int], None] | None = None
    ) -> None:
        self._doors, self.identity = doors, identity
        self._owe = owe  # called with the number of commands that a costly one counts for besides itself
        self.address = address  # where it comes from; empty: from this machine itself
        self.listens = False  # to changes of the list of channels
        self.passing: dict[str, int] | None = None if identity.stays else {}
        """Of a guest who leaves nothing behind: the channels it is in, and how far it has read each; else None."""
        self._granted: dict[str, Identity] = {}  # channels subscribed to with a token for that, and whose it was

    def check(self, action: str, channel: str, policy: Policy) -> None:
        """Raises PermissionDenied."""
        auth.check(self.identity, action, channel, policy, channel in self._granted)

    def may(self, action: str, channel: str, policy: Policy) -> bool:
        try:
            self.check(action, channel, policy)
        except PermissionDenied:
            return False
        return True

    def check_reach(self, action: str, channel: str) -> None:
        """For what is somebody's own to do, whatever they are in the channel: is the token for it?

        Raises PermissionDenied.
        """
        auth.check_reach(self.identity, action, channel, channel in self._granted)

    def reaches(self, action: str, channel: str) -> bool:
        try:
            self.check_reach(action, channel)
        except PermissionDenied:
            return False
        return True

    def looks_up(self, count: int) -> None:
        """An answer asks Redis for so many things, each by itself: LOOKED_UP of them count as one command more."""
        if self._owe is not None:
            self._owe(count // LOOKED_UP)

    def grant(self, channel: str, token: str) -> int:
        """Open `channel` with a token for it, until `leave`; the seconds it lasts (0: for ever).

        Raises Unauthorized and TokenExpired.
        """
        self._granted[channel] = grant = self._mine(token, channel)
        return grant.ttl

    def ttl(self, channel: str) -> int:
        """Seconds that a token for this subscription lasts; 0: for ever, or there is none."""
        grant = self._granted.get(channel)
        return grant.ttl if grant is not None else 0

    def leave(self, channel: str) -> None:
        """A subscription ended, and what its token opened."""
        self._granted.pop(channel, None)
        if self.passing is not None:
            self.passing.pop(channel, None)

    def refresh(self, token: str) -> None:
        """Go on with a newer token of the same user. Raises Unauthorized and TokenExpired."""
        self.identity = self._mine(token)

    def _mine(self, token: str, channel: str = "") -> Identity:
        identity = self._doors.by_token(token, channel)
        if identity.user.id != self.identity.user.id:
            raise Unauthorized(f"this token is {identity.user.username}'s; you are {self.identity.user.username}")
        return identity

    def expired(self, now: float) -> bool:
        """Whether the connection's token is over, and the time to refresh it as well."""
        return 0 < self.identity.expires < now - GRACE

    def expired_grants(self, now: float) -> list[str]:
        """The channels whose token is over, and the time to refresh it."""
        return [channel for channel, grant in self._granted.items() if 0 < grant.expires < now - GRACE]

    def revoked(self) -> bool:
        return self._doors.revoked(self.identity)

    def revoked_grants(self) -> list[str]:
        """The channels whose token was revoked."""
        return [channel for channel, grant in self._granted.items() if self._doors.revoked(grant)]

    def over(self, now: float) -> bool:
        """Whether it is revoked, or expired for somebody who has no way to refresh it."""
        return 0 < self.identity.expires < now or self.revoked()
