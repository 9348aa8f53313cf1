"""Work that lasts as long as its node: a fault in one turn is logged, and the next turn comes."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

logger = logging.getLogger(__name__)

_WAIT = 1.0  # seconds before the work begins again


def lasting(work: Callable[[], Awaitable[None]]) -> "asyncio.Task[None]":
    """A task that does `work`, and begins it again should it ever raise. Ends by being cancelled, or with the work.

    The work must not wait for redis-py, which may keep a cancellation to itself (8.1.0): pipeline.resp does not.
    """
    return asyncio.create_task(_last(work))


async def end(task: "asyncio.Task[None] | None") -> None:
    """Cancel such a task, if it was ever begun, and wait until it is over."""
    if task is not None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _last(work: Callable[[], Awaitable[None]]) -> None:
    while True:
        try:
            await work()
            return
        except Exception:
            logger.exception("%s failed; it begins again in %g s", getattr(work, "__qualname__", work), _WAIT)
            await asyncio.sleep(_WAIT)
