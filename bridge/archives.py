"""The databases a node archives in, as its settings say, and both as one to read from."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from bridge.settings import MONGO, SQL, BridgeSettings, database
from bridge.sql import SqlArchive
from pipeline.archive import KnownDatabase, WrongDatabase
from pipeline.consumer import Away
from pipeline.encode import Message
from pipeline.files import private_directory, private_file
from pipeline.keys import Keys
from pipeline.ports import Holder
from pipeline.resp import Link
from redis_config import ConfigError

logger = logging.getLogger(__name__)

PATIENCE = 6.0  # seconds a start waits for a database; it goes on without one that is away
if TYPE_CHECKING:
    from bridge.mongo import MongoArchive

Store: TypeAlias = "SqlArchive | MongoArchive"
Found = TypeVar("Found")


class Archives:
    """What is archived, read from the first database that answers: SQL, then MongoDB."""

    def __init__(self, stores: Sequence[Store], sinks: Sequence[Store] = (), fresh: Sequence[Store] = ()) -> None:
        """`sinks` are those of the stores that this node may fill; `fresh` were never used before."""
        self.stores, self.sinks, self.fresh = stores, sinks, fresh

    async def first(self, channel: str, epoch: str) -> int | None:
        return await self._ask(lambda store: store.first(channel, epoch))

    async def after(self, channel: str, epoch: str, offset: int, limit: int) -> list[Message]:
        return await self._ask(lambda store: store.after(channel, epoch, offset, limit))

    async def before(self, channel: str, epoch: str, offset: int, limit: int) -> list[Message]:
        return await self._ask(lambda store: store.before(channel, epoch, offset, limit))

    async def since(self, channel: str, epoch: str, ms: int) -> int | None:
        return await self._ask(lambda store: store.since(channel, epoch, ms))

    async def event(self, channel: str, id: str, began: float = 0) -> Message | None:
        """The first message of a channel since `began` that carries an event, from whichever database has it."""
        away: Away | None = None
        for store in self.stores:
            try:
                if message := await store.event(channel, id, began):
                    return message
            except Away as error:
                away = error
        if away is not None:  # where it may be
            raise away
        return None

    async def holders(self, id: str, skip: int, limit: int) -> tuple[list[Holder], Away | None]:
        """The channels with an event of that id, by all databases together; and what is wrong with one of these.

        A page with fewer than `limit` is the last.
        """
        away: Away | None = None
        found: dict[str, Holder] = {}
        for store in self.stores:
            try:
                for holder in await store.holders(id, skip, limit):
                    known = found.get(holder.channel, holder)
                    first, last = min(known.first, holder.first), max(known.last, holder.last)
                    found[holder.channel] = Holder(holder.channel, first, last)
            except Away as error:
                away = error
        return sorted(found.values(), key=lambda holder: (holder.first, holder.channel)), away

    async def events(self, channel: str, type: str, limit: int) -> list[Message]:
        return await self._ask(lambda store: store.events(channel, type, limit))

    async def _ask(self, question: Callable[[Store], Awaitable[Found]]) -> Found:
        away = Away("nothing is archived; ARCHIVE=1 or MONGO_URL turns it on")
        for store in self.stores:
            try:
                return await question(store)
            except Away as error:
                away = error
        raise away


def off(settings: BridgeSettings) -> dict[str, str]:
    """The sinks that are off, and the setting that would turn each on."""
    hints = {} if settings.archive else {SQL: "ARCHIVE=1"}
    return hints if settings.mongo_url else hints | {MONGO: "MONGO_URL"}


def make_directory(settings: BridgeSettings) -> None:
    """Where the SQLite file is that nobody named; and that others cannot read the file, whoever named it.

    Raises ConfigError.
    """
    with contextlib.suppress(OSError):  # the file says what is wrong
        if not settings.database_url:
            private_directory(settings.data_dir)
        file = Path(database(settings.database_url, settings.data_dir).database or "")
        if settings.database_url.startswith("sqlite") and file.is_file():
            private_file(file)


@asynccontextmanager
async def open_archives(settings: BridgeSettings, link: Link, keys: Keys, fills: bool) -> AsyncIterator[Archives]:
    """The archives that are on; for who only reads, those that anything was archived in.

    With `fills` their databases are prepared and looked at now; else when first asked. A database that is away is
    waited for later. Raises ConfigError for one that was named and cannot be used; only the SQLite file that nobody
    named is left alone then, with an error in the log.
    """
    if fills and SQL not in off(settings):
        make_directory(settings)
    async with AsyncExitStack() as stack:
        stores: list[Store] = []
        for group in (SQL, MONGO):
            known = KnownDatabase(link, keys, group, adopts=fills)
            if group not in off(settings) and (fills or await known.is_known()):
                stores.append(store := _store(settings, group, known, fills))
                stack.push_async_callback(store.aclose)
        named = {SQL: bool(settings.database_url), MONGO: True}
        fresh: list[Store] = []
        sinks = [store for store in stores if fills and await _can_fill(store, named[store.group], fresh)]
        yield Archives(stores, sinks, fresh)


def _store(settings: BridgeSettings, group: str, known: KnownDatabase, creates: bool) -> Store:
    if group == SQL:
        return SqlArchive(database(settings.database_url, settings.data_dir), known, creates=creates)
    from bridge.mongo import MongoArchive  # here: it takes a quarter of a second

    return MongoArchive(settings.mongo_url, known, creates=creates)


async def _can_fill(store: Store, named: bool, fresh: list[Store]) -> bool:
    setting = "MONGO_URL" if store.group == MONGO else "DATABASE_URL"
    try:
        async with asyncio.timeout(PATIENCE):
            if await store.open():
                fresh.append(store)
    except WrongDatabase as error:
        if named:
            raise ConfigError(f"{setting}: {error}") from None
        logger.error("this node does not archive: %s", error)
        return False
    except (Away, TimeoutError) as error:
        logger.warning("%s: %s; messages wait in the log until it is back", store.group, error or "no answer")
    return True
