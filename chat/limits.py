"""How much a client, a user and an address may ask of this node. The clock is passed in; nothing here waits.

A client beyond its rate is answered 111 and read no further until it may go on: what it sends waits in its own
kernel, not here, and costs its neighbours nothing. Closing it at once would not protect them as well, since it would
come back with a handshake, which is dearer than a command. One that goes on and on is closed all the same.

What is large counts as several commands: one more for each `command_bytes` of a body or of an answer.
"""

import ipaddress
import math
import time
from collections.abc import Callable
from functools import lru_cache

from chat.errors import LimitExceeded, TooManyRequests
from chat.settings import ServerSettings

PATIENCE = 10  # times `rate_burst` seconds of nothing but refusals after which a client is closed
_PAUSE = 2.0  # seconds without a refusal that end such a run, at least
_LONGEST = 2.0  # seconds a refusal is held back
_PERIODS = {"address_sign_ins": 60.0, "address_accounts": 3600.0}  # seconds in which the number may be used up
LOOKED_UP = 20  # things that an answer asks Redis for one by one, and that are worth a command
_KEPT = 1024  # callers that are remembered before the idle ones among them are forgotten


class TokenBucket:
    """`rate` tokens a second, `burst` at most. One number says all: when the bucket will be full again.

    The generic cell rate algorithm (ITU-T I.371, annex A): it decides as a count of tokens would.
    """

    __slots__ = ("_burst", "_full_at", "_slack", "interval")

    def __init__(self, rate: float, burst: int) -> None:
        self.interval, self._burst = 1 / rate, burst
        self._slack = (burst - 0.75) * self.interval  # a quarter of a token is for rounding
        self._full_at = -math.inf

    def take(self, now: float, count: int = 1) -> float:
        """Take `count` tokens: 0.0. If there are not as many, the seconds until there are.

        A full bucket gives more than it holds as well, and goes into debt.
        """
        full_at = max(self._full_at, now)
        slack = self._slack - (min(count, self._burst) - 1) * self.interval
        if full_at - now > slack:
            return full_at - now - slack
        self._full_at = full_at + count * self.interval
        return 0.0

    def owe(self, now: float, count: int) -> None:
        """Take `count` tokens, whether there are as many or not: what is known only when it was done."""
        self._full_at = max(self._full_at, now) + count * self.interval

    def is_full(self, now: float) -> bool:
        return self._full_at <= now


class Caller:
    """A user or an address: its connections, and the buckets they share."""

    __slots__ = ("_refused_until", "commands", "connections", "messages")

    def __init__(self, commands: TokenBucket | None, messages: TokenBucket | None) -> None:
        self.commands, self.messages = commands, messages
        self.connections = 0
        self._refused_until = -math.inf  # when it may hear the next refusal

    def is_idle(self, now: float) -> bool:
        """Whether forgetting it changes nothing."""
        return not self.connections and all(b is None or b.is_full(now) for b in (self.commands, self.messages))

    def refuse(self, now: float) -> float:
        """Seconds until it is to be refused once more, or be looked at again.

        That comes no faster than the rate, however many connections ask: to refuse costs as much as to serve.
        """
        if self.commands is None:
            return 0.0
        at = min(max(self._refused_until, now), now + _LONGEST)
        self._refused_until = at + self.commands.interval
        return at - now


class Pace:
    """The rates of one client, and of the user it turns out to be. A message is a command too."""

    __slots__ = ("_commands", "_last", "_messages", "_since", "_user", "_window")

    def __init__(self, commands: TokenBucket | None, messages: TokenBucket | None, window: float) -> None:
        self._commands: tuple[TokenBucket, ...] = ()
        self._messages: tuple[TokenBucket, ...] = ()
        self._add(commands, messages)
        self._user: Caller | None = None
        self._window = window  # seconds; rate_burst
        self._since = self._last = -math.inf

    def join(self, user: Caller) -> None:
        """From now on its user's rates count as well."""
        self._user = user
        self._add(user.commands, user.messages)

    def _add(self, commands: TokenBucket | None, messages: TokenBucket | None) -> None:
        if commands is not None:
            self._commands, self._messages = (*self._commands, commands), (*self._messages, commands)
        if messages is not None:
            self._messages = (*self._messages, messages)

    def take(self, now: float, message: bool) -> float:
        """0.0: go on. Else the seconds to wait; what was asked is refused."""
        for bucket in self._messages if message else self._commands:
            if wait := bucket.take(now):
                return wait if self._user is None else max(wait, self._user.refuse(now))
        return 0.0

    def owe(self, now: float, count: int) -> None:
        """What the client asked for was worth so many commands more."""
        for bucket in self._commands:
            bucket.owe(now, count)

    def goes_on(self, now: float) -> bool:
        """It was refused again: whether that has gone on for too long."""
        if now - self._last > max(self._window, _PAUSE):
            self._since = now
        self._last = now
        return now - self._since > PATIENCE * self._window


class Limits:
    """What this node counts. Addresses and users have one table: no user id has an @."""

    def __init__(self, settings: ServerSettings, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._settings, self._burst = settings, settings.rate_burst
        self._callers: dict[str, Caller] = {}
        self._prune_at = self._prune_seldom_at = _KEPT
        self._seldom: dict[tuple[str, str], TokenBucket] = {}
        self._own = settings.limit("command_rate"), settings.limit("publish_rate")
        self._shared = settings.limit("user_command_rate"), settings.limit("user_publish_rate")
        self._per_address = settings.limit("address_connections")
        self._per_user = settings.limit("user_connections")
        self._subscriptions = settings.subscription_limit
        self._command_bytes = settings.command_bytes
        self._new_channels = settings.limit("user_new_channels"), settings.limit("address_new_channels")

    def __len__(self) -> int:
        return len(self._callers)

    # -- a WebSocket client

    def pace(self) -> Pace | None:
        """The rates of a new client; None: it has none."""
        if not any((*self._own, *self._shared)):
            return None
        return Pace(self._bucket(self._own[0]), self._bucket(self._own[1]), self._burst)

    def connect(self, user: str, pace: Pace | None, address: str = "") -> None:
        """A client is this user; "": a guest, who shares the rates of the address. Raises LimitExceeded."""
        caller = self._caller(user or network_of(address))
        if user:
            if self._per_user and caller.connections >= self._per_user:
                text = f"a user has at most {self._per_user} connected clients; close another one first"
                raise LimitExceeded(text, "user_connections")
            caller.connections += 1
        if pace is not None:
            pace.join(caller)

    def disconnect(self, user: str) -> None:
        if user:
            self._callers[user].connections -= 1

    def check_subscriptions(self, count: int) -> None:
        """A client that has `count` subscriptions wants another. Raises LimitExceeded."""
        if 0 < self._subscriptions <= count:
            text = f"a client has at most {count} subscriptions; unsubscribe from another channel first"
            raise LimitExceeded(text, "subscriptions")

    def makers(self, user: str, address: str) -> list[tuple[str, int]]:
        """Whom a new channel counts for, and how many each may make in an hour; where there is no limit, nobody."""
        found = zip((user, network_of(address) if address else ""), self._new_channels, strict=True)
        return [(who, limit) for who, limit in found if who and limit]

    # -- an address, and HTTP

    def enter(self, address: str) -> None:
        """A connection begins, or a proxy's request. Raises TooManyRequests."""
        caller = self._caller(network_of(address))
        if self._per_address and address and caller.connections >= self._per_address:
            text = f"one address has at most {self._per_address} connections at a time; close some, then try again"
            raise TooManyRequests(text, "address_connections", 10)
        caller.connections += 1

    def stay(self, address: str) -> None:
        """A proxy's request that was let in goes on as a socket, which counts until it leaves too."""
        self._caller(network_of(address)).connections += 1

    def leave(self, address: str) -> None:
        self._callers[network_of(address)].connections -= 1

    def request(self, address: str) -> None:
        """An HTTP request is a command of its address, and so is a handshake. Raises TooManyRequests."""
        self._spend(self._caller(network_of(address)).commands, "requests")

    def extra(self, size: int) -> int:
        """How many commands more a body or an answer of `size` bytes is worth; most are worth none."""
        return size // self._command_bytes if size > self._command_bytes else 0

    def owe(self, address: str, count: int) -> None:
        """What this address asked for was worth so many commands more: what follows waits until they are paid."""
        bucket = self._caller(network_of(address)).commands
        if bucket is not None:
            bucket.owe(self.clock(), count)

    def refuse(self, address: str) -> float:
        """Seconds until a request of this address that is beyond its rate is to be refused."""
        return self._caller(network_of(address)).refuse(self.clock())

    def message(self, address: str, user: str = "", count: int = 1) -> None:
        """`count` messages over HTTP, of a user if it is known who. Raises TooManyRequests."""
        self._spend(self._caller(user or network_of(address)).messages, "messages", count)

    def seldom(self, name: str, caller: str, who: str = "your address") -> None:
        """Once more what a setting allows so many times in a long while, to an address or a user. "": nobody counts.

        Raises TooManyRequests.
        """
        limit = self._settings.limit(name)
        if not limit or not caller:
            return
        now, key = self.clock(), (name, network_of(caller) if who == "your address" else caller)
        if key not in self._seldom:
            if len(self._seldom) >= self._prune_seldom_at:
                self._seldom = {key: bucket for key, bucket in self._seldom.items() if not bucket.is_full(now)}
                self._prune_seldom_at = max(_KEPT, 2 * len(self._seldom))
            self._seldom[key] = TokenBucket(limit / _PERIODS[name], limit)
        if wait := self._seldom[key].take(now):
            what = {"address_sign_ins": "sign-ins", "address_accounts": "new accounts"}[name]
            raise TooManyRequests(f"too many {what} from {who}; try again in {math.ceil(wait)} s", name, wait)

    def _spend(self, bucket: TokenBucket | None, what: str, count: int = 1) -> None:
        if bucket is not None and (wait := bucket.take(self.clock(), count)):
            raise TooManyRequests.slower(what, wait)

    def _bucket(self, rate: int) -> TokenBucket | None:
        return TokenBucket(rate, max(1, int(rate * self._burst))) if rate else None

    def _caller(self, key: str) -> Caller:
        caller = self._callers.get(key)
        if caller is None:
            if len(self._callers) >= self._prune_at:
                now = self.clock()
                self._callers = {key: caller for key, caller in self._callers.items() if not caller.is_idle(now)}
                self._prune_at = max(_KEPT, 2 * len(self._callers))
            caller = self._callers[key] = Caller(self._bucket(self._shared[0]), self._bucket(self._shared[1]))
        return caller


@lru_cache(maxsize=1024)
def network_of(address: str) -> str:
    """What counts as one address: an IPv4 address, or an IPv6 network of 64 bits, which is what one line is given."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return f"@{address[:64]}"
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is None:
            return f"@{ipaddress.ip_network((ip, 64), strict=False)}"
        ip = ip.ipv4_mapped
    return f"@{ip}"
