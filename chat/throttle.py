"""What happens to a client beyond its rate: it is refused, and not read for a while. See chat/limits.py for why."""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from chat.errors import TooManyRequests
from chat.limits import Limits, Pace
from chat.metrics import count

if TYPE_CHECKING:
    from chat.session import Socket

FLOOD = 3503, "too many requests"
LONGEST_HOLD = 1.0  # seconds a client is not read before it may try again
_EARLY = 0.002  # seconds the loop's timers, which know milliseconds, may be early


class Throttle:
    """The pace of one client, applied to its socket."""

    __slots__ = ("_go_on", "_limits", "_owed", "_socket", "held", "pace")

    def __init__(self, pace: Pace, limits: Limits, socket: "Socket", go_on: Callable[[], None]) -> None:
        self.pace, self._limits, self._socket, self._go_on = pace, limits, socket, go_on
        self.held = False  # it is not read; `go_on` is called when it may be
        self._owed = 0.0  # seconds, for what was read already when it was held: frames that are no commands

    @classmethod
    def of(cls, limits: Limits, socket: "Socket", go_on: Callable[[], None]) -> "Throttle | None":
        """A new client's; None where there are no rates."""
        pace = limits.pace()
        return None if pace is None else cls(pace, limits, socket, go_on)

    def refuse(self, message: bool = False) -> TooManyRequests | None:
        """One more command, or message: None if it may be done. Else its error; the client is held, or closed."""
        if not (wait := self.pace.take(now := self._limits.clock(), message)):
            return None
        if self.pace.goes_on(now):
            count("flood")
            self._socket.close(*FLOOD)
        elif self.held:
            self._owed += wait
        else:
            self.held = True
            self._socket.pause_reading()
            self._hold(wait)
        return TooManyRequests.slower("messages" if message else "commands", wait)

    def weigh(self, size: int) -> None:
        """The client was answered with so many bytes."""
        if extra := self._limits.extra(size):
            self.owe(extra)

    def owe(self, count: int) -> None:
        """What it was answered was worth so many commands more."""
        self.pace.owe(self._limits.clock(), count)

    def _hold(self, wait: float) -> None:
        asyncio.get_running_loop().call_later(min(wait, LONGEST_HOLD) + _EARLY, self._let_go)

    def _let_go(self) -> None:
        owed, self._owed = self._owed, 0.0
        if owed:
            self._hold(owed)
        else:
            self.held = False
            self._go_on()
