"""What may be set and how it is read, where Redis is, and clients of it.

A setting comes from the environment or a file `.env`. One that is given and does not work is an error that names it.
An empty value is as none, and a newline at its end is no part of it.
"""

import codecs
import io
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from dotenv import dotenv_values
from dotenv.parser import parse_stream
from pydantic import AliasChoices, Field, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)
from redis.asyncio import BlockingConnectionPool, Connection, Redis, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ReadOnlyError

_CONNECTIONS = 50  # of one client; who finds all busy waits (redis-py's own pool refuses the 101st command)
_SERVICE_LINK = re.compile("(tcp|udp|sctp)://")
_URL_SHAPE = "REDIS_URL must look like redis://[user:password@]host:6379/0 or unix:///path"
_URL_PARAMETERS = ("db",)


class ConfigError(Exception):
    """Peyk cannot start like this; the message names the setting and says what to do."""


class Settings(BaseSettings):
    """What may be said about Redis, in the environment or `.env`."""

    # Any byte is a letter to latin-1: `.env` is read again by `read_file`, which says what is wrong with it.
    model_config = SettingsConfigDict(env_file=".env", env_file_encoding="latin-1", extra="ignore", allow_inf_nan=False)
    keeps_empty: ClassVar[frozenset[str]] = frozenset()
    """Names whose empty value means something."""

    redis_url: str = Field(
        "",
        description="redis://, rediss:// or unix:// URL, instead of the two below; "
        "what it leaves out, REDIS_DB and REDIS_PASSWORD say",
    )
    redis_host: str = Field("localhost", description="Redis server")
    redis_port: int = Field(6379, ge=1, le=65535, description="its port")
    redis_db: int = Field(0, ge=0, description="its database number")
    redis_password: str = Field("", description="its password, if it wants one")
    channel_prefix: str = Field("channel:", description="before a channel's id: its hash and its Pub/Sub name")
    message_prefix: str = Field("message:", description="before a channel's id: its stream")
    data_dir: Path = Field(
        Path(__file__).parent / "data", description="directory of the embedded Valkey and the SQLite archive"
    )
    partitions: int = Field(8, ge=1, le=1024, description="logs the work is divided into; fixed at first use")
    history_length: int = Field(10_000, ge=1, description="messages a channel's stream keeps (about)")
    log_length: int = Field(100_000, ge=1, description="batches a partition's log holds; then publishing is refused")
    create_channels: bool = Field(True, description="whether the first join or publish makes a channel")
    channel_limit: int = Field(100_000, ge=0, description="channels there may be, whoever makes them (0: no limit)")
    publish_timeout: float = Field(1.75, gt=0, description="seconds until a publisher hears that Redis is silent")
    retry_window: float = Field(10.0, gt=0, le=25, description="seconds a batch without a reply is sent again")
    idempotency_ttl: int = Field(300, ge=1, le=366 * 86400, description="seconds an idempotency key is remembered")
    poison_attempts: int = Field(5, ge=1, description="times a message is handled alone before it is a dead letter")
    presence_ttl: float = Field(30.0, gt=0, description="seconds until a dead node's clients have left")
    join_leave_limit: int = Field(
        200, ge=0, description="clients of a channel up to which joins, leaves and typing are told"
    )
    lease_ttl: float = Field(
        4.0, gt=0, description="seconds until a dead node's partitions are taken over; the same everywhere"
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """What is given in code, then the environment, then `.env`. Raises ConfigError."""
        assert isinstance(env_settings, EnvSettingsSource) and isinstance(dotenv_settings, DotEnvSettingsSource)
        file = dotenv_settings.env_file
        named = read_file(Path(file)) if isinstance(file, str | Path) else {}
        env_settings.env_vars = cls._given(env_settings.env_vars)
        dotenv_settings.env_vars = cls._given({name.lower(): value for name, value in named.items()})
        return init_settings, env_settings, dotenv_settings

    @classmethod
    def _given(cls, values: Mapping[str, str | None]) -> dict[str, str | None]:
        """Without the newline that a file of a secret ends with, and without what is empty."""
        stripped = {name: value.rstrip("\r\n") for name, value in values.items() if value is not None}
        return {name: value for name, value in stripped.items() if value.strip() or name in cls.keeps_empty}

    @model_validator(mode="before")
    @classmethod
    def _url_says_where(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Beside REDIS_URL nobody looks at REDIS_HOST and REDIS_PORT, which Kubernetes sets for a service `redis`."""
        if not values.get("redis_url"):
            return values
        return {name: value for name, value in values.items() if name not in ("redis_host", "redis_port")}

    @field_validator("*", mode="before")
    @classmethod
    def _is_no_service_link(cls, value: object) -> object:
        if isinstance(value, str) and _SERVICE_LINK.match(value):
            raise ValueError(
                f"{value[:40]} looks like what Kubernetes sets for a service of that name; "
                "set REDIS_URL for Redis, or `enableServiceLinks: false` for the pod"
            )
        return value

    @classmethod
    def names(cls) -> set[str]:
        """Every name that may be set."""
        found = set()
        for name, field in cls.model_fields.items():
            choices = field.validation_alias
            others = choices.choices if isinstance(choices, AliasChoices) else ()
            found |= {name.upper(), *(str(other).upper() for other in others)}
        return found


def read_file(path: Path) -> dict[str, str | None]:
    """What a file of settings says: UTF-8, or UTF-16 with its byte order mark. Raises ConfigError."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}); mend that, or remove it") from None
    marked = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = data.decode("utf-16" if marked else "utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise ConfigError(f"{path} is neither UTF-8 nor UTF-16 with a byte order mark; save it as UTF-8")
    for line in parse_stream(io.StringIO(text)):
        if line.error:
            raise ConfigError(f"{path}, line {line.original.line}: write NAME=value, quotes in pairs")
    return dotenv_values(stream=io.StringIO(text))


# -- names that were meant otherwise

_CLOSE = 1, 2  # letters a short and a long name may differ by from the one that was meant
_LONG = 12  # letters of a long name
_OTHERS = {"APP_KEY", "HTTPS_HOST", "HTTPS_PORT"}  # other programs' names
_KUBERNETES = re.compile(r".+_SERVICE_(HOST|PORT(_\w+)?)|.+_PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?")


def meant(names: Mapping[str, str | None], known: Iterable[str]) -> dict[str, str]:
    """The names that are no setting but nearly one, each with the setting that was meant."""
    settings = {name.upper() for name in known}
    found = {}
    for name, value in names.items():
        upper = name.upper()
        if upper in settings or upper in _OTHERS or _KUBERNETES.fullmatch(upper):
            continue
        if upper.endswith("_PORT") and _SERVICE_LINK.match(value or ""):
            continue
        near = min(settings, key=lambda setting: (_distance(upper, setting), setting))
        if _distance(upper, near) <= _CLOSE[len(upper) >= _LONG]:
            found[name] = near
    return found


def _distance(a: str, b: str) -> int:
    """How many letters differ: left out, too many, wrong, or two that changed places."""
    if abs(len(a) - len(b)) > max(_CLOSE):
        return max(len(a), len(b))
    rows = [list(range(len(b) + 1))]
    for i, letter in enumerate(a, 1):
        row = [i]
        for j, other in enumerate(b, 1):
            cost = min(rows[-1][j] + 1, row[-1] + 1, rows[-1][j - 1] + (letter != other))
            if i > 1 and j > 1 and letter == b[j - 2] and a[i - 2] == other:
                cost = min(cost, rows[-2][j - 2] + 1)
            row.append(cost)
        rows.append(row)
    return rows[-1][-1]


def check_names(settings: type[Settings], file: object = ".env") -> list[str]:
    """Lines about names in the environment that were meant otherwise. Raises ConfigError for one in `.env`."""
    known = settings.names()
    for name, right in meant(read_file(Path(file)) if isinstance(file, str | Path) else {}, known).items():
        raise ConfigError(f"{file}: {name} is no setting; {right} is meant, or remove the line")
    wrong = meant(os.environ, known).items()
    return [f"{name} in the environment is no setting, so nobody reads it; is {right} meant?" for name, right in wrong]


# -- where Redis is


@dataclass(frozen=True, slots=True)
class Address:
    """One Redis server. `path` is a unix socket; str() never shows the password."""

    host: str = "localhost"
    port: int = 6379
    path: str = ""
    db: int = 0
    username: str = ""
    password: str = ""
    tls: bool = False

    @classmethod
    def parse(cls, settings: Settings) -> "Address":
        """From REDIS_URL, else from REDIS_HOST, PORT, DB and PASSWORD. Raises ConfigError."""
        password = settings.redis_password
        if not settings.redis_url:
            return cls(settings.redis_host, settings.redis_port, "", settings.redis_db, "", password)
        try:
            url = urlsplit(settings.redis_url)
            port = 6379 if url.port is None else url.port
        except ValueError:
            raise ConfigError(_URL_SHAPE) from None
        unix = url.scheme == "unix"
        if url.fragment or (not unix and (url.scheme not in ("redis", "rediss") or not url.hostname)):
            raise ConfigError(_URL_SHAPE)
        db = _database(url, settings.redis_db)
        user = unquote(url.username or "")
        password = password if url.password is None else unquote(url.password)
        if unix:
            return cls(path=unquote(url.path), db=db, username=user, password=password)
        return cls(url.hostname or "", port, "", db, user, password, url.scheme == "rediss")

    def __str__(self) -> str:
        where = f"unix:{self.path}" if self.path else f"{self.host}:{self.port}"
        return where + (f"/{self.db}" if self.db else "")

    def __repr__(self) -> str:
        return f"Address({self})"


def _database(url: SplitResult, default: int) -> int:
    """The database that REDIS_URL names, behind its host or as `?db=`. Raises ConfigError."""
    named = [] if url.scheme == "unix" else [url.path.strip("/")]
    for name, value in parse_qsl(url.query, keep_blank_values=True):
        if name not in _URL_PARAMETERS:
            known = ", ".join(_URL_PARAMETERS)
            raise ConfigError(f"REDIS_URL has no parameter {name[:80]!r}; there is {known} (redis://host:6379/?db=5)")
        named.append(value)
    numbers = {text for text in named if text}
    if any(not (text.isascii() and text.isdigit()) for text in numbers):
        raise ConfigError(f"{_URL_SHAPE}; the database is a number")
    databases = {int(text) for text in numbers}
    if len(databases) > 1:
        raise ConfigError(f"REDIS_URL names the databases {' and '.join(map(str, sorted(databases)))}; name one")
    return databases.pop() if databases else default


def command_client(address: Address) -> Redis:
    """A client for commands that may be repeated; the hot path has its own connections (pipeline.resp)."""
    return client(address, socket_timeout=5.0)


def blocking_client(address: Address) -> Redis:
    """A client for commands that block: it waits as long as Redis does."""
    return client(address, socket_timeout=None)


def client(address: Address, socket_timeout: float | None, retries: int = 1) -> Redis:
    """A client whose connection is opened again once, the name resolved anew, where a replica answered."""
    where = {"path": address.path} if address.path else {"host": address.host, "port": address.port}
    tcp = SSLConnection if address.tls else Connection
    pool = BlockingConnectionPool(
        connection_class=UnixDomainSocketConnection if address.path else tcp,
        max_connections=_CONNECTIONS,
        timeout=None,
        **where,
        db=address.db,
        username=address.username or None,
        password=address.password or None,
        decode_responses=True,
        socket_connect_timeout=2.0,
        socket_timeout=socket_timeout,
        retry=Retry(NoBackoff(), retries),
        retry_on_error=[ReadOnlyError] if retries else [],
    )
    return Redis.from_pool(pool)
