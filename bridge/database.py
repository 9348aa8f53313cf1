"""What both archives are to a node: a database that opens by itself, and is looked at anew after every failure."""

from abc import ABC, abstractmethod
from typing import Self

from pipeline.archive import KnownDatabase
from pipeline.consumer import Away
from redis_config import ConfigError


class Database(ABC):
    """Use `async with`, or `open` and `aclose`; without either it opens when it is asked for something."""

    def __init__(self, known: KnownDatabase | None, creates: bool) -> None:
        """`creates`: whether tables and indexes that are missing are made; who only reads does not."""
        self._known, self._creates = known, creates
        self._id = ""  # the database's own; empty while it is to be looked at first

    @property
    @abstractmethod
    def where(self) -> str:
        """The database for people, without its password."""

    @abstractmethod
    async def _look(self) -> str:
        """The database's own id, made with what else is missing if `_creates`. Raises Away and ConfigError."""

    @abstractmethod
    async def aclose(self) -> None:
        """Let go of every connection."""

    async def open(self) -> bool:
        """Look whether the database is there and is ours. True: it is used for the first time.

        Raises Away, WrongDatabase (a kind of it), and ConfigError for what waiting does not mend.
        """
        if self._known is not None and not self._creates:
            await self._known.id()
        id = await self._look()
        first = await self._known.check(id, self.where) if self._known is not None else False
        self._id = id
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
                await self.open()
            except ConfigError as error:
                raise Away(str(error)) from error

    def _away(self, why: str) -> Away:
        """Look at the database anew before anything else is asked of it: who knows what is there when it comes back."""
        self._id = ""
        return Away(f"{self.where} does not answer: {why}")

    def _check_same(self, id: str | None) -> None:
        """Raises Away if the database, of this id now, is not the one that was opened."""
        if id != self._id:
            self._id = ""
            raise Away(f"{self.where} is another database than it was")
