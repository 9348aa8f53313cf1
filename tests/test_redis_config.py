"""How settings are read, where Redis is, and clients of it."""

import asyncio
import codecs
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from pydantic import ValidationError

from app import AppSettings
from redis_config import Address, ConfigError, Settings, blocking_client, command_client, meant
from tests.services import (
    ROOT,
    RedisClient,
    RedisProcess,
    clean_environment,
    run_app,
    until,
)


@pytest.fixture
async def client(redis_process: RedisProcess) -> AsyncIterator[RedisClient]:
    async with command_client(Address(port=redis_process.port)) as client:
        await client.flushall()
        yield client


def given(**values: object) -> Settings:
    return Settings(_env_file=None, **values)  # type: ignore[arg-type]


# -- addresses


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://h", Address("h")),
        ("redis://:s%40crt@h:7000/3", Address("h", 7000, "", 3, "", "s@crt")),
        ("rediss://u:p@h:7000", Address("h", 7000, "", 0, "u", "p", True)),
        ("unix:///run/r.sock", Address(path="/run/r.sock")),
    ],
)
def test_a_url_says_it_all(url: str, expected: Address) -> None:
    assert Address.parse(given(redis_url=url)) == expected


def test_host_port_db_and_password() -> None:
    settings = given(redis_host="h", redis_port=7, redis_db=2, redis_password="p")
    assert Address.parse(settings) == Address("h", 7, "", 2, "", "p")


@pytest.mark.parametrize("url", ["http://h", "redis://", "redis://h:x", "redis://h/db", "h:6379"])
def test_a_malformed_url_names_the_setting(url: str) -> None:
    with pytest.raises(ConfigError, match="REDIS_URL must look like"):
        Address.parse(given(redis_url=url))


def test_the_password_is_never_shown() -> None:
    address = Address.parse(given(redis_url="redis://u:sesame@h:7/1"))
    assert "sesame" not in f"{address} {address!r}"
    assert str(address) == "h:7/1"


async def test_a_blocking_client_waits_longer_than_any_timeout(redis_process: RedisProcess) -> None:
    address = Address(port=redis_process.port)
    reader: RedisClient = blocking_client(address)
    async with reader, command_client(address) as writer:
        assert reader.connection_pool.connection_kwargs["socket_timeout"] is None
        waiting = asyncio.create_task(reader.blpop(["q"], timeout=0))
        await until(lambda: _blocked(writer), what="the reader blocks")
        await writer.rpush("q", "x")
        assert list(await waiting) == ["q", "x"]


async def _blocked(client: RedisClient) -> bool:
    return int((await client.info("clients"))["blocked_clients"]) > 0


async def test_more_commands_at_once_than_connections(client: RedisClient) -> None:
    assert await asyncio.gather(*(client.sadd("many", i) for i in range(500))) == [1] * 500
    assert int((await client.info("clients"))["connected_clients"]) < 100


def test_a_setting_of_the_wrong_kind_is_named() -> None:
    done = run_app("status", REDIS_PORT="six")
    assert done.returncode == 1 and "REDIS_PORT" in done.stderr and "Traceback" not in done.stderr


# -- what a URL says


@pytest.mark.parametrize(
    ("url", "db"),
    [
        ("redis://h?db=5", 5),
        ("redis://h/?db=5", 5),
        ("redis://h/5?db=5", 5),
        ("redis://h/5", 5),
        ("redis://h", 2),
        ("redis://h/", 2),
        ("unix:///run/r.sock?db=5", 5),
        ("unix:///run/r.sock", 2),
    ],
)
def test_the_database_is_the_urls_or_that_of_the_setting(url: str, db: int) -> None:
    assert Address.parse(given(redis_url=url, redis_db=2)).db == db


def test_what_a_url_leaves_out_the_settings_say() -> None:
    assert Address.parse(given(redis_url="redis://h", redis_password="p")) == Address("h", password="p")
    assert Address.parse(given(redis_url="redis://u:q@h", redis_password="p")) == Address(
        "h", username="u", password="q"
    )


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("redis://h?protocol=3", "no parameter 'protocol'"),
        ("redis://h/1?db=2", "the databases 1 and 2"),
        ("redis://h?db=x", "must look like"),
        ("redis://h?db=-1", "must look like"),
        ("rediss://h?ssl_cert_reqs=none", "no parameter 'ssl_cert_reqs'"),
        ("unix:///run/r.sock?password=p", "no parameter 'password'"),
        ("redis://:pass#word@h", "must look like"),
    ],
)
def test_what_a_url_may_not_say_is_named(url: str, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        Address.parse(given(redis_url=url))


# -- the environment


def test_kubernetes_port_is_not_looked_at_beside_a_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_PORT", "tcp://10.0.0.1:6379")
    monkeypatch.setenv("REDIS_URL", "redis://h:7/1")
    assert Address.parse(Settings(_env_file=None)) == Address("h", 7, "", 1)
    monkeypatch.setenv("REDIS_URL", "")
    with pytest.raises(ValidationError, match="what Kubernetes sets for a service"):
        Settings(_env_file=None)


def test_an_empty_value_is_as_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text("REDIS_HOST=from-file\nREDIS_DB=\n")
    for name in (
        "REDIS_URL",
        "REDIS_HOST",
        "REDIS_PORT",
        "AUTH_KEYS",
        "BRIDGE_FILE",
        "DATA_DIR",
        "HTTP_PORT",
        "ARCHIVE",
    ):
        monkeypatch.setenv(name, "")
    monkeypatch.delenv("PUBLISH_TIMEOUT")
    monkeypatch.setenv("REDIS_PASSWORD", "\n")
    settings = AppSettings(_env_file=str(file))
    assert Address.parse(settings) == Address("from-file")
    assert settings.model_fields_set == {"redis_host"}
    monkeypatch.setenv("RPC_CHANNEL", "")  # the table says what that means
    assert AppSettings(_env_file=None).rpc_channel == ""


def test_a_newline_at_the_end_of_a_secret_is_no_part_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REDIS_PASSWORD", "AUTH_SECRET", "API_KEY", "PEYK_TOKEN", "REDIS_URL"):
        monkeypatch.setenv(name, "redis://h\r\n")
    monkeypatch.setenv("AMQP_URL", "amqp://h\n")
    settings = AppSettings(_env_file=None)
    assert settings.redis_password == settings.redis_url == "redis://h"
    secret = (settings.auth_secret, settings.api_key, settings.peyk_token)
    assert {one.get_secret_value() for one in secret} == {"redis://h"}
    assert settings.amqp_url.get_secret_value() == "amqp://h"


# -- the file


@pytest.mark.parametrize(
    "data",
    [
        "REDIS_HOST=سرور\r\nREDIS_DB=3\r\n".encode(),
        codecs.BOM_UTF8 + "REDIS_HOST=سرور\nREDIS_DB=3".encode(),
        "REDIS_HOST=سرور\r\nREDIS_DB=3\r\n".encode("utf-16"),
        codecs.BOM_UTF16_BE + "export REDIS_HOST='سرور'\nREDIS_DB=3".encode("utf-16-be"),
    ],
)
def test_a_file_in_any_of_its_encodings(data: bytes, tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_bytes(data)
    assert Address.parse(Settings(_env_file=str(file))) == Address("سرور", db=3)


@pytest.mark.parametrize(
    ("data", "named"),
    [
        ("REDIS_HOST=é".encode("latin-1"), "neither UTF-8 nor UTF-16"),
        ("REDIS_HOST=h".encode("utf-16-le"), "neither UTF-8 nor UTF-16"),
        (codecs.BOM_UTF16_LE + b"odd", "neither UTF-8 nor UTF-16"),
        (b"REDIS_DB=1\n=h\n", "line 2: write NAME=value"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(data: bytes, named: str, tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_bytes(data)
    with pytest.raises(ConfigError, match=named) as caught:
        Settings(_env_file=str(file))
    assert "\n" not in str(caught.value) and str(file) in str(caught.value)


# -- names that were meant otherwise

NAMES = AppSettings.names()


@pytest.mark.parametrize(
    ("name", "right"),
    [
        ("REDIS_ULR", "REDIS_URL"),
        ("redis_ulr", "REDIS_URL"),
        ("AUTHSECRET", "AUTH_SECRET"),
        ("HTTP_PROT", "HTTP_PORT"),
        ("HTTP-PORT", "HTTP_PORT"),
        ("REDIS_PASWORD", "REDIS_PASSWORD"),
        ("ALLOWED_ORIGIN", "ALLOWED_ORIGINS"),
        ("DATABSE_URL", "DATABASE_URL"),
        ("API_KEYS", "API_KEY"),
        ("MONGO_URI", "MONGO_URL"),
        ("LARAVEL_REDIS_CHANEL", "LARAVEL_REDIS_CHANNEL"),
    ],
)
def test_a_name_that_is_nearly_one_is_told(name: str, right: str) -> None:
    assert meant({name: "x"}, NAMES) == {name: right}


@pytest.mark.parametrize(
    "name",
    [
        *("PEYK_PORT", "PEYK_SERVICE_HOST", "PEYK_SERVICE_PORT_HTTP", "PEYK_PORT_5000_TCP", "PEYK_PORT_5000_TCP_ADDR"),
        *("REDIS_PORT_6379_TCP", "REDIS_SERVICE_HOST", "REDIS_SERVICE_PORT", "HTTP_SERVICE_HOST", "HTTP_PORT_80_TCP"),
        *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "http_proxy", "HTTPS_PORT", "PORT", "HOST", "HOME"),
        *("APP_KEY", "APP_URL", "DB_URL", "MAIL_HOST", "MAIL_PORT", "REDIS_CLIENT", "REDIS_PREFIX", "REDIS_TLS_URL"),
        *(
            "PGPORT",
            "PGHOST",
            "MONGO_INITDB_ROOT_PASSWORD",
            "POSTGRES_PASSWORD",
            "XDG_DATA_DIRS",
            "LANG",
            "PATH",
            "USER",
        ),
    ],
)
def test_other_programs_names_are_theirs(name: str) -> None:
    assert meant({name: "x"}, NAMES) == {}


def test_a_service_nearly_named_as_ours_is_one() -> None:
    assert meant({"HTTPS_PORT": "tcp://10.0.0.1:80", "HTP_PORT": "tcp://10.0.0.1:80"}, NAMES) == {}
    assert meant({"HTP_PORT": "80"}, NAMES) == {"HTP_PORT": "HTTP_PORT"}


def test_the_file_stops_the_start_and_the_environment_is_warned_of(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("SOMEBODY_ELSES=1\nAUTHSECRET=x\n")
    env = clean_environment({"HTTP_PROT": "1", "DATA_DIR": str(tmp_path)})
    command = [sys.executable, str(ROOT / "app.py"), "token", "sara"]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == "peyk: .env: AUTHSECRET is no setting; AUTH_SECRET is meant, or remove the line\n"
    (tmp_path / ".env").write_text(f"SOMEBODY_ELSES=1\nAUTH_SECRET={'x' * 32}\n")
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "HTTP_PROT in the environment" in done.stderr and "is HTTP_PORT meant?" in done.stderr
