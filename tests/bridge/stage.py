"""A Redis, a PostgreSQL, a MongoDB and servers that archive in both: what tests of the whole way stand on."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

import asyncpg
import httpx2 as httpx
import pymongo
from redis.asyncio import Redis

from tests.services import MongoProcess, PeykServer, PostgresProcess, RedisClient, RedisProcess, until

SINKS = ("sql", "mongo")
RETURN = 30.0  # seconds everything has to come back


class Stage:
    """The servers, and what each of them holds."""

    def __init__(self, env: Mapping[str, str] = {}) -> None:
        self.redis, self.postgres, self.mongo = RedisProcess("valkey"), PostgresProcess(), MongoProcess()
        self._env, self._stack = env, contextlib.ExitStack()
        self.server: PeykServer

    def __enter__(self) -> "Stage":
        with contextlib.ExitStack() as stack:
            for process in (self.redis, self.postgres, self.mongo):
                stack.enter_context(process)
            self.server = stack.enter_context(PeykServer(self.environment))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    @property
    def environment(self) -> dict[str, str]:
        urls = {"REDIS_URL": self.redis.url, "DATABASE_URL": self.postgres.url, "MONGO_URL": self.mongo.url}
        return {**urls, "LEASE_TTL": "2", **self._env}

    @property
    def direct(self) -> RedisClient:
        return Redis(port=self.redis.port, decode_responses=True)

    @contextlib.asynccontextmanager
    async def http(self) -> AsyncIterator[httpx.AsyncClient]:
        async with httpx.AsyncClient(base_url=self.server.url, timeout=180, trust_env=False) as client:
            yield client

    async def in_stream(self, channel: str) -> list[int]:
        async with self.direct as redis:
            return [int(entry.split("-")[0]) for entry, _ in await redis.xrange(f"message:{channel}")]

    async def in_sql(self, channel: str, table: str = "stream") -> list[int]:
        return await in_sql(self.postgres.url, channel, table)

    async def in_mongo(self, channel: str, collection: str = "messages") -> list[int]:
        return await in_mongo(self.mongo.url, channel, collection)

    async def level(self, channel: str) -> list[int]:
        """Wait until every sink has acked everything, then all hold the same, once: which offsets."""
        await until(self.acked, RETURN, "the sinks have acked everything")
        offsets = await self.in_stream(channel)
        assert await self.in_sql(channel) == offsets
        assert await self.in_mongo(channel) == offsets
        return offsets

    async def acked(self) -> bool:
        async with self.direct as redis:
            return not any([await pending(redis, sink) for sink in SINKS])

    async def letters(self, group: str) -> list[dict[str, str]]:
        async with self.direct as redis:
            return [fields for _, fields in await redis.xrange(f"dead:{group}")]


async def in_sql(url: str, channel: str, table: str) -> list[int]:
    """The offsets a table of a PostgreSQL holds."""
    connection = await asyncpg.connect(url)
    try:
        query = f'SELECT "offset" FROM {table} WHERE channel_id = $1 ORDER BY "offset"'
        return [row[0] for row in await connection.fetch(query, channel)]
    finally:
        await connection.close()


async def in_mongo(url: str, channel: str, collection: str) -> list[int]:
    """The offsets a collection of a MongoDB holds."""

    def read() -> list[int]:
        with pymongo.MongoClient[dict[str, Any]](url) as client:
            found = client.get_default_database("event-db")[collection].find({"channel": channel})
            return sorted(document["offset"] for document in found)

    return await asyncio.to_thread(read)


async def pending(redis: RedisClient, group: str) -> int:
    """What a group has not acked, read or not, over all logs."""
    count = 0
    for p in range(8):
        if await redis.exists(f"log:{p}"):
            for state in await redis.xinfo_groups(f"log:{p}"):
                if state["name"] == group:
                    count += state["pending"] + int(state["lag"] or 0)
    return count


def event(number: int) -> dict[str, Any]:
    """The body of a message that carries an event."""
    return {"data": {"id": f"e{number}", "type": "test", "payload": {"n": number}}}


def lines(text: str) -> Iterator[int]:
    """The offsets in lines of publications."""
    for line in text.splitlines():
        yield json.loads(line)["offset"]
