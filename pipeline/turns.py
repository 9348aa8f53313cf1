"""Work that many tasks have ready at once is spread over turns of the event loop: all else is served between them."""

import asyncio
from collections import deque

AT_ONCE = 2  # tasks that go on in one turn


class Turns:
    """Tasks go on in the order in which they asked."""

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._given = 0  # in this turn

    async def take(self) -> None:
        """Wait for a turn in which fewer than AT_ONCE others go on; what it does up to its next await is in it."""
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
        """A turn begins: the tasks that waited longest go on."""
        self._given = 0
        while self._waiting and self._given < AT_ONCE:
            turn = self._waiting.popleft()
            if not turn.done():  # a task that was cancelled takes nobody's turn
                turn.set_result(None)
                self._given += 1
        if self._given:
            asyncio.get_running_loop().call_soon(self._begin)
