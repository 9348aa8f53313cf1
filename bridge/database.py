"""What both archives are to a node: a database that opens by itself, and is looked at anew after every failure.

One that is known to be away is not waited for by who reads: they hear so at once, while one of them looks whether it is
back. A sink waits, because what it holds has nowhere else to go.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import Any, Self, TypeVar

from pipeline.archive import KnownDatabase
from pipeline.consumer import Away
from redis_config import ConfigError

PATIENCE = 3.0  # seconds an answer may take that somebody waits for
LONG = 60.0  # the same for the questions of a tool
_REST = 1.0  # seconds a database that was away is left alone by who reads
_GLANCE = 0.5  # seconds one who reads then waits to learn whether it is back
_SLICES = 8  # between these the loop looks at its sockets: this process may have stood still, not the database

Answer = TypeVar("Answer")


class Database(ABC):
    """Use `async with`, or `open` and `aclose`; without either it opens when it is asked for something."""

    def __init__(self, known: KnownDatabase | None, creates: bool) -> None:
        """`creates`: whether tables and indexes that are missing are made; who only reads does not."""
        self._known, self._creates = known, creates
        self._id = ""  # the database's own; empty while it is to be looked at first
        self._why = ""  # why it was away when it was last asked; empty: it was not
        self._ask_at = 0.0  # by the loop's clock: until then it is left alone
        self._opening: asyncio.Task[bool] | None = None
        self._questions: set[asyncio.Task[Any]] = set()

    @property
    @abstractmethod
    def where(self) -> str:
        """The database for people, without its password."""

    @abstractmethod
    async def _look(self) -> str:
        """The database's own id, made with what else is missing if `_creates`. Raises Away and ConfigError."""

    @abstractmethod
    async def _disconnect(self) -> None:
        """Let go of every connection."""

    async def aclose(self) -> None:
        """Let go of every connection, and of who still waits for an answer."""
        tasks = [*self._questions, *([self._opening] if self._opening is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._disconnect()

    async def open(self) -> bool:
        """Look whether the database is there and is ours. True: it is used for the first time.

        Raises Away, WrongDatabase (a kind of it), and ConfigError for what waiting does not mend.
        """
        if self._known is not None and not self._creates:
            await self._known.id()
        id = await self._look()
        first = await self._known.check(id, self.where) if self._known is not None else False
        self._id = id
        self._why = ""
        return first

    async def __aenter__(self) -> Self:
        try:
            await self.open()
        except BaseException:
            await self.aclose()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    async def _opened(self) -> None:
        """Open again what was away. What is wrong with the database is never the fault of a message."""
        if not self._id:
            try:
                await asyncio.shield(self._reopening())
            except ConfigError as error:
                raise Away(str(error)) from error

    def _reopening(self) -> "asyncio.Task[bool]":
        """The look at the database that is under way, the same for all who wait for it."""
        if self._opening is None or self._opening.done():
            self._opening = asyncio.create_task(self.open())
            self._opening.add_done_callback(_retrieve)
        return self._opening

    async def _answer(self, ask: Callable[[], Awaitable[Answer]], patience: float = PATIENCE) -> Answer:
        """What the opened database answers, at once Away while it is known to be away. Raises Away."""
        if self._why:
            await self._glance()

        async def question() -> Answer:
            await self._opened()
            return await ask()

        task = asyncio.create_task(question())
        self._questions.add(task)
        task.add_done_callback(self._questions.discard)
        task.add_done_callback(_retrieve)
        if not await _comes(task, patience):
            raise self._away(f"no answer within {patience:g} s")
        return task.result()

    async def _glance(self) -> None:
        """Look, one who asks for all, whether the database is back. Raises Away."""
        loop = asyncio.get_running_loop()
        why = self._why
        if loop.time() < self._ask_at:
            raise Away(why)
        self._ask_at = loop.time() + _REST
        opening = self._reopening()
        if not await _comes(opening, _GLANCE):
            raise Away(why)
        if (error := opening.exception()) is not None:
            raise Away(str(error)) from error

    def _away(self, why: str) -> Away:
        """Look at the database anew before anything else is asked of it: who knows what is there when it comes back."""
        self._id = ""
        self._why = f"{self.where} does not answer: {why}"
        self._ask_at = asyncio.get_running_loop().time() + _REST
        return Away(self._why)

    def _check_same(self, id: str | None) -> None:
        """Raises Away if the database, of this id now, is not the one that was opened."""
        if id != self._id:
            self._id = ""
            raise Away(f"{self.where} is another database than it was")


async def _comes(task: "asyncio.Task[Any]", patience: float) -> bool:
    """Whether the task ends within `patience` seconds; it goes on in any case."""
    for _ in range(_SLICES):
        await asyncio.wait([task], timeout=patience / _SLICES)
        if task.done():
            return True
    return False


def _retrieve(task: "asyncio.Task[Any]") -> None:
    """Perhaps nobody waits for it any more."""
    if not task.cancelled():
        task.exception()
