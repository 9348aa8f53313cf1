"""The MongoDB archive: one document a message, whoever stores it how often, and one for the event in it.

Motor is used here and nowhere else: it is in maintenance only, and its successor is pymongo's own AsyncMongoClient.
"""

import contextlib
import re
import secrets
from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from motor.motor_asyncio import AsyncIOMotorClient, AsyncIOMotorCollection, AsyncIOMotorDatabase
from pymongo import ASCENDING, DESCENDING
from pymongo.errors import (
    BulkWriteError,
    ConfigurationError,
    DocumentTooLarge,
    DuplicateKeyError,
    InvalidURI,
    OperationFailure,
    PyMongoError,
)

from bridge.blame import Blame, of_mongo
from bridge.database import LONG, PATIENCE, Database
from bridge.settings import MONGO
from pipeline.archive import KnownDatabase
from pipeline.consumer import Away
from pipeline.encode import Message
from pipeline.event import event_of
from pipeline.ports import Extent, Holder
from redis_config import ConfigError

DATABASE = "event-db"  # where MONGO_URL names none
VERSION = 1
TIMEOUT = 10_000  # ms a command may take
_CONNECT = 2_000  # ms to find a server, and to connect
_DUPLICATE = 11000
_PASSWORD = re.compile(r"(//[^/@]*?):[^/@]*@")

Document = dict[str, Any]
_INDEXES: Mapping[str, Sequence[Sequence[tuple[str, int]]]] = {
    "messages": (
        [("channel", ASCENDING), ("epoch", ASCENDING), ("offset", ASCENDING)],
        [("channel", ASCENDING), ("epoch", ASCENDING), ("ms", ASCENDING), ("offset", ASCENDING)],
    ),
    "events": (
        [("event", ASCENDING), ("channel", ASCENDING), ("ms", ASCENDING)],
        [("channel", ASCENDING), ("ms", ASCENDING), ("offset", ASCENDING)],
        [("type", ASCENDING), ("ms", ASCENDING)],
    ),
}


class MongoArchive(Database):
    """Stored messages, as sink and for reading."""

    group = MONGO

    def __init__(self, url: str, known: KnownDatabase | None = None, *, creates: bool = True) -> None:
        """Raises ConfigError."""
        super().__init__(known, creates)
        self._where = _PASSWORD.sub(r"\1:***@", url)
        try:
            # Journalled: what is acked survives kill -9 of the database. Who asks tries again, so the driver need not.
            self._client: AsyncIOMotorClient[Document] = AsyncIOMotorClient(
                url,
                w="majority",
                journal=True,
                retryReads=False,
                retryWrites=False,
                serverSelectionTimeoutMS=_CONNECT,
                connectTimeoutMS=_CONNECT,
                socketTimeoutMS=TIMEOUT,
                appname="peyk",
            )
            self._database: AsyncIOMotorDatabase[Document] = self._client.get_default_database(DATABASE)
        except (InvalidURI, ConfigurationError, ValueError) as error:
            raise ConfigError(f"MONGO_URL: {error}") from None
        self._messages: AsyncIOMotorCollection[Document] = self._database["messages"]
        self._events: AsyncIOMotorCollection[Document] = self._database["events"]
        self._info: AsyncIOMotorCollection[Document] = self._database["archive"]

    @property
    def where(self) -> str:
        return self._where

    async def _disconnect(self) -> None:
        self._client.close()

    async def _look(self) -> str:
        try:
            async with self._asking():
                info = await (self._prepare() if self._creates else self._info.find_one({"_id": "archive"}))
        except Away as away:
            cause = away.__cause__
            if isinstance(cause, OperationFailure) and of_mongo(cause.code) is Blame.SETTING:
                raise ConfigError(f"MONGO_URL: {away}") from None
            raise
        if info is None:
            raise Away(f"{self.where} holds no archive")
        if info["version"] > VERSION:
            raise ConfigError(f"MONGO_URL: documents of version {info['version']}, we know {VERSION}: use a newer Peyk")
        return str(info["id"])

    async def _prepare(self) -> Document | None:
        """Create what is missing: the document with the database's own id and version, and indexes.

        Raises ConfigError if another program has collections of our names.
        """
        info = await self._info.find_one({"_id": "archive"})
        if info is None:
            there = {name for name in (*_INDEXES, "archive") if await self._database[name].find_one({}, {"_id": 1})}
            info = await self._info.find_one({"_id": "archive"})  # another node may have made it meanwhile
            if info is None and there:
                raise ConfigError(
                    f"MONGO_URL: {self.where}: it holds {' and '.join(sorted(there))}, collections of another program; "
                    "name a database of Peyk's own behind the last slash"
                )
        if info is None:
            fresh = {"$setOnInsert": {"id": secrets.token_hex(8), "version": VERSION}}
            with contextlib.suppress(DuplicateKeyError):  # another node was faster
                await self._info.update_one({"_id": "archive"}, fresh, upsert=True)
            info = await self._info.find_one({"_id": "archive"})
        if info is not None and not {"id", "version"} <= info.keys():
            raise ConfigError(f"MONGO_URL: {self.where}: its collection archive is another program's")
        for name, indexes in _INDEXES.items():
            for keys in indexes:
                await self._database[name].create_index(list(keys))
        return info

    async def store(self, messages: Sequence[Message]) -> None:
        """Store messages; one that is stored already stays as it is (`_id` is channel:epoch:offset).

        Raises Away; and what else it raises is the messages' own fault.
        """
        documents, events = [], []
        for message in messages:
            key: Document = {"_id": f"{message.channel}:{message.epoch}:{message.offset}", "channel": message.channel}
            key |= {"epoch": message.epoch, "offset": message.offset, "ms": message.ms}
            text = {"message": message.data.decode(), "user": message.user, "client": message.client}
            documents.append({**key, **text})
            if found := event_of(message):
                payload = msgspec.json.decode(found.payload)
                events.append({**key, "event": found.id, "type": found.type, "payload": payload})
        if not documents:
            return
        await self._opened()
        async with self._asking():
            info = await self._info.find_one({"_id": "archive"})
            self._check_same(info["id"] if info else None)
            if events:  # first: the message of an event that is refused is not stored either
                await _insert(self._events, events)
            await _insert(self._messages, documents)

    # -- reading

    async def first(self, channel: str, epoch: str) -> int | None:
        """The lowest offset stored of one epoch of a channel."""
        found = await self._find(self._messages, {"channel": channel, "epoch": epoch}, [("offset", ASCENDING)], 1)
        return found[0].offset if found else None

    async def after(self, channel: str, epoch: str, offset: int, limit: int) -> list[Message]:
        """Up to `limit` messages with offsets above `offset`, oldest first."""
        query = {"channel": channel, "epoch": epoch, "offset": {"$gt": offset}}
        return await self._find(self._messages, query, [("offset", ASCENDING)], limit)

    async def before(self, channel: str, epoch: str, offset: int, limit: int) -> list[Message]:
        """Up to `limit` messages with offsets below `offset`, newest first."""
        query = {"channel": channel, "epoch": epoch, "offset": {"$lt": offset}}
        return await self._find(self._messages, query, [("offset", DESCENDING)], limit)

    async def since(self, channel: str, epoch: str, ms: int) -> int | None:
        """The offset just before the first message at or after `ms` (Unix ms); None: there is none."""
        query = {"channel": channel, "epoch": epoch, "ms": {"$gte": ms}}
        found = await self._find(self._messages, query, [("ms", ASCENDING), ("offset", ASCENDING)], 1)
        return found[0].offset - 1 if found else None

    async def event(self, channel: str, id: str, began: float = 0) -> Message | None:
        """The message of a channel that carries the event; of several since `began` (Unix ms), the first."""
        found = await self._with_events({"event": id, "channel": channel, "ms": {"$gte": began}}, ASCENDING, 1)
        return found[0] if found else None

    async def holders(self, id: str, skip: int, limit: int) -> list[Holder]:
        """The channels in which there is an event with the id, the one that had it first before the others."""
        group = {"_id": "$channel", "first": {"$min": "$ms"}, "last": {"$max": "$ms"}}
        page: list[Document] = [{"$sort": {"first": 1, "_id": 1}}, {"$skip": skip}, {"$limit": limit}]
        pipeline: list[Document] = [{"$match": {"event": id}}, {"$group": group}, *page]
        rows = await self._rows(lambda: self._events.aggregate(pipeline))
        return [Holder(row["_id"], int(row["first"]), int(row["last"])) for row in rows]

    async def events(self, channel: str, type: str, limit: int) -> list[Message]:
        """The newest events, newest first; of one channel and one type, unless these are empty."""
        query = {name: value for name, value in (("channel", channel), ("type", type)) if value}
        return await self._with_events(query, DESCENDING, limit)

    async def _with_events(self, query: Document, order: int, limit: int) -> list[Message]:
        sort = [("ms", order), ("offset", order)]
        keys = [
            e["_id"] for e in await self._rows(lambda: self._events.find(query, {"_id": 1}).sort(sort).limit(limit))
        ]
        found = await self._find(self._messages, {"_id": {"$in": keys}}, [("_id", ASCENDING)], limit) if keys else []
        by_key = {f"{m.channel}:{m.epoch}:{m.offset}": m for m in found}
        return [by_key[key] for key in keys if key in by_key]

    async def extents(self) -> list[Extent]:
        """How much there is of each epoch of each channel."""
        group = {"_id": {"channel": "$channel", "epoch": "$epoch"}, "count": {"$sum": 1}}
        group |= {"first": {"$min": "$offset"}, "last": {"$max": "$offset"}}
        pipeline: list[Document] = [{"$group": group}, {"$sort": {"_id.channel": 1, "_id.epoch": 1}}]
        rows = await self._rows(lambda: self._messages.aggregate(pipeline), LONG)
        numbers = [[int(row[name]) for name in ("count", "first", "last")] for row in rows]
        return [Extent(r["_id"]["channel"], r["_id"]["epoch"], *n) for r, n in zip(rows, numbers, strict=True)]

    async def ids(self, channel: str, first: int, last: int) -> set[str]:
        """The entry ids of a channel's messages from one offset to another, of every epoch."""
        query = {"channel": channel, "offset": {"$gte": first, "$lte": last}}
        rows = await self._rows(lambda: self._messages.find(query, {"offset": 1, "ms": 1, "_id": 0}))
        return {f"{row['offset']}-{row['ms']}" for row in rows}

    async def _find(
        self, collection: "AsyncIOMotorCollection[Document]", query: Document, order: list[tuple[str, int]], limit: int
    ) -> list[Message]:
        rows = await self._rows(lambda: collection.find(query).sort(order).limit(limit))
        return [_message(row) for row in rows]

    async def _rows(self, ask: Callable[[], AsyncIterable[Document]], patience: float = PATIENCE) -> list[Document]:
        async def read() -> list[Document]:
            async with self._asking():
                return [row async for row in ask()]

        return await self._answer(read, patience)

    @asynccontextmanager
    async def _asking(self) -> AsyncIterator[None]:
        """What goes wrong with the database is Away; what is wrong with documents is raised as it is."""
        try:
            yield
        except DocumentTooLarge as error:
            raise ValueError(str(error)) from None
        except OperationFailure as error:
            if of_mongo(error.code) is Blame.MESSAGE:
                raise ValueError(_line(error)) from None
            raise Away(f"{self.where} refuses: {_line(error)}") from error
        except (PyMongoError, OSError, TimeoutError) as error:
            raise self._away(_line(error)) from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


async def _insert(collection: "AsyncIOMotorCollection[Document]", documents: list[Document]) -> None:
    """Insert what is not there yet. Raises ValueError for a document that is refused, PyMongoError."""
    try:
        await collection.insert_many(documents, ordered=False)
    except BulkWriteError as error:
        if error.details.get("writeConcernErrors"):
            raise
        refused = [e for e in error.details["writeErrors"] if e["code"] != _DUPLICATE]
        for e in refused:
            if of_mongo(e["code"]) is not Blame.MESSAGE:
                raise OperationFailure(e["errmsg"], e["code"]) from None
        if refused:
            raise ValueError(str(refused[0]["errmsg"])[:300]) from None


def _message(row: Document) -> Message:
    """BSON's 64-bit integers are a type of their own, which nothing else knows: plain ones leave the store."""
    place = row["channel"], int(row["offset"]), int(row["ms"]), row["epoch"]
    return Message(*place, row["user"], row["client"], row["message"].encode())
