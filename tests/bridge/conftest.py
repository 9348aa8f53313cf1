"""Real databases and RabbitMQ, one server of each kind for the whole run, empty for each test."""

import itertools
import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import redis

from app import AppSettings
from bridge.archives import Store
from bridge.mongo import MongoArchive
from bridge.settings import database
from bridge.sql import SqlArchive
from pipeline.encode import Message
from redis_config import Address, command_client
from tests.bridge.foreign import Host, Limited
from tests.services import MongoProcess, PostgresProcess, RabbitProcess, RedisProcess

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresProcess]:
    with PostgresProcess() as process:
        yield process


@pytest.fixture(scope="session")
def mongo() -> Iterator[MongoProcess]:
    with MongoProcess() as process:
        yield process


@pytest.fixture
def postgres_url(postgres: PostgresProcess) -> str:
    """An empty database."""
    return postgres.database(f"t{next(_numbers)}")


@pytest.fixture
def mongo_url(mongo: MongoProcess) -> str:
    """An empty database."""
    return f"mongodb://127.0.0.1:{mongo.port}/t{next(_numbers)}?directConnection=true"


@pytest.fixture(params=["sqlite", "postgresql", "mongodb"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """An archive that nobody opened yet."""
    if request.param == "sqlite":
        return SqlArchive(database("", tmp_path))
    if request.param == "postgresql":
        return SqlArchive(database(request.getfixturevalue("postgres_url"), tmp_path))
    return MongoArchive(request.getfixturevalue("mongo_url"))


@pytest.fixture
async def archive(store: Store) -> AsyncIterator[Store]:
    async with store:
        yield store


@pytest.fixture(scope="session")
def rabbit() -> Iterator[RabbitProcess]:
    with RabbitProcess() as process:
        assert isinstance(process, RabbitProcess)
        yield process


@pytest.fixture
def valkey(valkey_process: RedisProcess) -> RedisProcess:
    """The run's Valkey, empty."""
    with redis.Redis(port=valkey_process.port) as client:
        client.flushall()
    return valkey_process


@pytest.fixture
def host(rabbit: RabbitProcess) -> Iterator[Host]:
    """An empty virtual host of RabbitMQ."""
    host = Host(rabbit, secrets.token_hex(4))
    yield host
    host.close()


@pytest.fixture
def limited(host: Host) -> Iterator[Host]:
    user = Limited(host)
    yield user
    user.rabbit.manage("DELETE", f"users/{user.name}")


def message(offset: int, epoch: str = "e", channel: str = "c", data: str = '{"text":"سلام"}', ms: int = 0) -> Message:
    ms = ms or 1_795_000_000_000 + offset
    return Message(channel, offset, ms, epoch, "سارا", "f00", data.encode())


def event(offset: int, id: str = "", type: str = "t", channel: str = "c") -> Message:
    return message(
        offset, channel=channel, data=f'{{"id":"{id or offset}","type":"{type}","payload":{{"n":[{offset}]}}}}'
    )


@pytest.fixture
async def bridge_settings(valkey_process: RedisProcess, tmp_path: Path) -> AppSettings:
    """Of a Redis that is empty."""
    settings = AppSettings(redis_url=valkey_process.url, data_dir=tmp_path, _env_file=None)
    async with command_client(Address.parse(settings)) as client:
        await client.flushall()
    return settings
