"""So many in a turn of the event loop: answers that come at once do not stand in others' way together."""

import asyncio
from collections import deque

AT_ONCE = 2  # of those who ask


class Turns:
    """Given in the order they are asked for."""

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._given = 0  # in this turn

    async def take(self) -> None:
        """Go on in a turn with few others: what follows, up to the next await, is what all the rest waits for."""
        loop = asyncio.get_running_loop()
        if self._given < AT_ONCE:
            if not self._given:
                loop.call_soon(self._begin)
            self._given += 1
        else:
            turn = loop.create_future()
            self._waiting.append(turn)
            await turn

    def _begin(self) -> None:
        """The next turn: for those who wait first."""
        self._given = 0
        while self._waiting and self._given < AT_ONCE:
            turn = self._waiting.popleft()
            if not turn.done():  # who gave up takes nobody's
                turn.set_result(None)
                self._given += 1
        if self._given:
            asyncio.get_running_loop().call_soon(self._begin)
