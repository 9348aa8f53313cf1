"""What only MongoDB has: what it can never take, which database it is, and a password that is not shown."""

from contextlib import aclosing

import pytest
from motor.motor_asyncio import AsyncIOMotorCollection
from pymongo.errors import BulkWriteError

from bridge.mongo import DATABASE, MongoArchive
from pipeline.consumer import Away
from redis_config import ConfigError
from tests.bridge.conftest import event, message
from tests.services import MongoProcess, free_port

DEEP = "[" * 250 + "]" * 250
POISON = {
    "2^64": message(2, data='{"id":"x","type":"t","payload":18446744073709551616}'),
    "a key with U+0000": message(2, data='{"id":"x","type":"t","payload":{"a\\u0000b":1}}'),
    "over 16 MB": message(2, data=f'"{"x" * 17_000_000}"'),
    "an event over 16 MB": message(2, data=f'{{"id":"x","type":"t","payload":"{"x" * 17_000_000}"}}'),
    "bad UTF-8": message(2)._replace(data=b'"\xff"'),
    "an offset beyond 64 bits": message(2**63),
    "nested too deep": message(2, data=f'{{"id":"x","type":"t","payload":{DEEP}}}'),
}


@pytest.mark.parametrize("poison", POISON)
async def test_what_it_can_never_take_is_the_messages_fault(poison: str, mongo_url: str) -> None:
    async with MongoArchive(mongo_url) as archive:
        with pytest.raises(Exception) as raised:
            await archive.store([event(1), POISON[poison], event(3)])
        assert not isinstance(raised.value, Away | OSError)
        await archive.store([event(1), event(3)])
        assert [m.offset for m in await archive.after("c", "e", 0, 9)] == [1, 3]
        assert len(await archive.events("", "", 9)) == 2


async def test_a_server_that_is_not_ready_is_no_fault_of_a_message(
    mongo_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write error says so of what came after the primary had stepped down; ours is alone and never does."""
    refused: list[dict[str, str | int]] = [{"index": 0, "code": 11000, "errmsg": "duplicate"}]

    async def insert_many(*args: object, **more: object) -> None:
        raise BulkWriteError({"writeErrors": refused, "writeConcernErrors": []})

    async with MongoArchive(mongo_url) as archive:
        monkeypatch.setattr(AsyncIOMotorCollection, "insert_many", insert_many)
        await archive.store([message(1)])
        for code in (189, 10107, 91, 11600, 11602, 13435, 13436, 14031, 13, 999_999):
            later = {"index": 2, "code": code, "errmsg": "not now"}
            refused[1:] = [{"index": 1, "code": 121, "errmsg": "poison"}, later]
            with pytest.raises(Away, match="not now"):
                await archive.store([message(1), message(2), message(3)])
        refused.pop()
        with pytest.raises(ValueError, match="poison"):
            await archive.store([message(1), message(2)])


async def test_keys_with_dots_and_dollars_are_taken(mongo_url: str) -> None:
    odd = message(1, data='{"id":"x","type":"t","payload":{"$a":{"b.c":1,"":2}}}')
    async with MongoArchive(mongo_url) as archive:
        await archive.store([odd])
        assert await archive.event("c", "x") == odd


async def test_the_database_is_what_the_url_names(mongo: MongoProcess) -> None:
    for path, name in (("/?directConnection=true", DATABASE), ("", "event-db"), ("/other", "other")):
        async with aclosing(MongoArchive(f"mongodb://127.0.0.1:{mongo.port}{path}")) as archive:
            assert archive._database.name == name


async def test_an_archive_of_a_newer_peyk_is_refused(mongo_url: str) -> None:
    async with MongoArchive(mongo_url) as archive:
        await archive._info.update_one({}, {"$inc": {"version": 1}})
    async with aclosing(MongoArchive(mongo_url)) as archive:
        with pytest.raises(ConfigError, match=r"MONGO_URL: .*use a newer Peyk"):
            await archive.open()
        with pytest.raises(Away, match="newer Peyk"):
            await archive.store([message(1)])


async def test_another_database_behind_the_same_url(mongo_url: str) -> None:
    async with MongoArchive(mongo_url) as archive:
        await archive.store([message(1)])
        await archive._client.drop_database(archive._database.name)
        with pytest.raises(Away, match="another database"):
            await archive.store([message(2)])


async def test_urls_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match="MONGO_URL"):
        MongoArchive("mongodb://127.0.0.1:99999/x")
    async with aclosing(MongoArchive(f"mongodb://u:secret@127.0.0.1:{free_port()}/x")) as archive:
        assert "secret" not in archive.where and "u:***@" in archive.where
        with pytest.raises(Away, match="does not answer"):
            await archive.open()


async def test_a_wrong_password_is_named(mongo: MongoProcess) -> None:
    async with aclosing(MongoArchive(f"mongodb://u:secret@127.0.0.1:{mongo.port}/x?directConnection=true")) as archive:
        with pytest.raises(ConfigError, match=r"MONGO_URL: .*[Aa]uth"):
            await archive.open()
