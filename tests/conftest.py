"""Fixtures: a real Redis 7 and the embedded Valkey, emptied for each test."""

import gc
import os
import signal
import sys
import tempfile
import warnings
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from chat.settings import ServerSettings
from redis_config import Address, command_client
from tests.services import PATIENT, AppProcess, RedisProcess, clean_environment, end_embedded


def pytest_configure() -> None:
    """Servers of tests are forked. A script's background job ignores Ctrl+C, and so would all that a test starts."""
    AppProcess.forks = True
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


LONG = (
    "bridge/test_rabbitmq.py", "test_app.py", "bridge/test_commands.py", "e2e/test_page.py", "e2e/test_terminals.py",
    "chat/test_accounts.py", "chat/test_slow.py", "e2e/test_page_scale.py", "chat/test_http_connection.py",
    "e2e/test_page_sending.py", "faults/test_faults.py", "bridge/test_blame.py", "bench/test_scenarios.py",
    "bridge/test_sinks.py", "chat/test_permissions.py", "bridge/test_declare.py", "e2e/test_page_reading.py",
    "e2e/test_vectors.py", "e2e/test_redis_faults.py", "chat/test_consume.py", "bridge/test_history.py",
    "e2e/test_page_moving.py", "bench/test_hostile.py", "chat/test_recovery.py", "e2e/test_nodes.py",
    "bridge/test_documents.py", "bench/test_beside.py", "chat/test_openapi.py",
)  # fmt: skip
"""Files that take long, the longest first: one that begins last would run alone at the end, on one CPU."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first; the others, and the tests of each, as they stand."""
    turns = {str(Path(__file__).parent / name): turn for turn, name in enumerate(LONG)}
    items.sort(key=lambda item: turns.get(str(item.path), len(LONG)))


def pytest_runtest_logfinish() -> None:
    """A failure ends with its own test: Python keeps its frames, whose sockets would warn within the next one."""
    if hasattr(sys, "last_value"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            for name in ("last_exc", "last_type", "last_value", "last_traceback"):
                sys.__dict__.pop(name, None)
            gc.collect()


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing outside configures a test: no variable, no `.env`, a DATA_DIR of its own."""
    for name in set(os.environ) - set(clean_environment()):
        monkeypatch.delenv(name)
    for name, value in {**PATIENT, "DATA_DIR": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setitem(ServerSettings.model_config, "env_file", None)


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """A short path: the kernel allows a socket's path 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="pk-") as name:
        yield Path(name)
        end_embedded(Path(name))


@pytest.fixture(scope="session", params=["redis", "valkey"])
def redis_process(request: pytest.FixtureRequest) -> Iterator[RedisProcess]:
    """One server of each kind for the whole run."""
    with RedisProcess(request.param) as process:
        yield process


@pytest.fixture(scope="session")
def valkey_process() -> Iterator[RedisProcess]:
    """One server, for tests that need not see both kinds."""
    with RedisProcess("valkey") as process:
        yield process


@pytest.fixture
def settings(redis_process: RedisProcess, tmp_path: Path) -> ServerSettings:
    return ServerSettings(redis_url=redis_process.url, data_dir=tmp_path, _env_file=None)


@pytest.fixture
async def redis_client(settings: ServerSettings) -> AsyncIterator[Redis]:
    """A client of the test's Redis, which is empty."""
    async with command_client(Address.parse(settings)) as client:
        await client.flushall()
        await client.config_set("maxmemory", 0)
        yield client
