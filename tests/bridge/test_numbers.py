"""Whole numbers of 64 bits are the same behind every queue, store and cache."""

import asyncpg
import pytest

from bridge.archives import Store
from bridge.cache import packed, unpacked
from bridge.delivery import Delivery, Reader
from bridge.mongo import MongoArchive
from bridge.sql import SqlArchive
from bridge.topology import Queue
from chat.errors import BadRequest
from tests.bridge.conftest import message

NUMBERS = "[9007199254740993,-9223372036854775808,9223372036854775807,0.1,1e22]"


async def test_a_store_keeps_every_digit(archive: Store, request: pytest.FixtureRequest) -> None:
    said = message(1, data=f'{{"id":"x","type":"t","payload":{NUMBERS}}}')
    await archive.store([said])
    assert [said] == await archive.events("c", "t", 9) == await archive.after("c", "e", 0, 9)
    assert unpacked(packed(said)) == said
    if isinstance(archive, MongoArchive):
        (stored,) = [document async for document in archive._events.find({})]
        assert [int(number) for number in stored["payload"][:3]] == [2**53 + 1, -(2**63), 2**63 - 1]
    elif isinstance(archive, SqlArchive) and archive.url.drivername.startswith("postgresql"):
        connection = await asyncpg.connect(request.getfixturevalue("postgres_url"))
        assert await connection.fetchval("SELECT payload->>0 FROM events") == "9007199254740993"
        await connection.close()


@pytest.mark.parametrize("body", ['{"type":"t","channel":"c","payload":%s}', '{"channel":"c","n":%s}'])
def test_a_queue_takes_exact_numbers_and_no_others(body: str) -> None:
    reader = Reader(Queue(name="q"))
    (incoming,) = reader.process_message(Delivery((body % NUMBERS).encode(), "q", "", "k"))
    assert NUMBERS.encode() in incoming.data
    with pytest.raises(BadRequest, match=r"the number 12345678901234567\.89"):
        reader.process_message(Delivery((body % "12345678901234567.89").encode(), "q", "", "k"))
