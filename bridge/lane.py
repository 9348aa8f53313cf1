"""Work of one kind, done beside the rest: so many pieces at a time, so many more in line, none for ever."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

logger = logging.getLogger(__name__)


class Lane:
    """A kind of work. A slow one holds up only its own lane."""

    def __init__(self, name: str, at_once: int, in_line: int, patience: float, limit: float) -> None:
        """`patience` is in seconds what a piece waits in line, `limit` what it may take."""
        self._name, self._room, self._full = name, asyncio.Semaphore(at_once), at_once + in_line
        self._patience, self._limit = patience, limit
        self._tasks: set[asyncio.Task[None]] = set()
        self.left = 0  # pieces that were not begun, because of those before them

    def do(self, work: Callable[[], Awaitable[object]]) -> None:
        """Do `work` as soon as there is room; what it raises is logged."""
        if len(self._tasks) >= self._full:
            self.left += 1
            return
        task = asyncio.create_task(self._do(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _do(self, work: Callable[[], Awaitable[object]]) -> None:
        try:
            async with asyncio.timeout(self._patience):
                await self._room.acquire()
        except TimeoutError:
            self.left += 1
            return
        try:
            async with asyncio.timeout(self._limit):
                await work()
        except Exception:
            logger.exception("%s failed", self._name)
        finally:
            self._room.release()

    async def close(self) -> None:
        """Stop what is under way."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
