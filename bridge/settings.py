"""What may be said about the outside systems, in the environment or `.env`."""

import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import AliasChoices, Field, SecretStr, field_validator
from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from chat.errors import BadRequest
from chat.models import channel_id
from redis_config import Settings

SQL, MONGO = "sql", "mongo"  # the sinks, by the names of their consumer groups
_POSTGRESQL = ("postgresql", "postgres")
_PARAMETERS = {  # of libpq, that a postgresql:// URL may have: what is allowed, and in words
    "sslmode": (
        "disable|allow|prefer|require|verify-ca|verify-full",
        "disable, allow, prefer, require, verify-ca or verify-full",
    ),
    "application_name": (r"(?s).+", "a name"),
    "connect_timeout": ("[1-9][0-9]{0,3}", "1 to 9999 seconds"),
}


def database(url: str, data_dir: Path) -> URL:
    """SQLAlchemy's address of DATABASE_URL, with the driver that goes with it. Raises ValueError."""
    if not url:
        return URL.create("sqlite+aiosqlite", database=str(data_dir.absolute() / "peyk.sqlite"))
    scheme = url.partition(":")[0].lower()
    try:
        address = make_url(url)
    except (ArgumentError, ValueError):
        scheme = ""
    if scheme in _POSTGRESQL and address.database:
        address = address.set(drivername="postgresql+asyncpg")
        return address.set(query=_parameters(address.query))
    if scheme == "sqlite" and address.database and address.database != ":memory:":
        return address.set(drivername="sqlite+aiosqlite")
    raise ValueError(
        "must look like postgresql://user:password@host:5432/database or sqlite:///path/to/file; "
        f"this one begins with {url.partition(':')[0][:20]!r}"
    )


def _parameters(query: Mapping[str, str | tuple[str, ...]]) -> dict[str, str]:
    """libpq's; `sslmode` under asyncpg's name, the others are taken off in bridge.sql. Raises ValueError."""
    given = {name: value if isinstance(value, str) else value[-1] for name, value in query.items()}
    for name, value in given.items():
        if name not in _PARAMETERS:
            raise ValueError(f"has no parameter {name!r}; there are {', '.join(_PARAMETERS)}")
        if not re.fullmatch(_PARAMETERS[name][0], value):
            raise ValueError(f"{name} is {_PARAMETERS[name][1]}, not {value!r}")
    return {"ssl" if name == "sslmode" else name: value for name, value in given.items()}


class BridgeSettings(Settings):
    """Each has its default and its unit here and nowhere else."""

    keeps_empty = frozenset({"rpc_channel", "laravel_redis_channel", "rpc_answers"})

    archive: bool = Field(True, description="whether messages are archived in the SQL database")
    database_url: str = Field(
        "", description="postgresql:// or sqlite:///path URL of the archive; empty: `peyk.sqlite` in DATA_DIR"
    )
    mongo_url: str = Field(
        "", description="mongodb:// URL: messages are archived there too, in database `event-db` if it names none"
    )
    amqp_url: SecretStr = Field(
        SecretStr(""),
        description="RabbitMQ, amqp://user:password@host:5672/vhost or amqps://; more nodes of a cluster behind commas",
    )
    bridge_file: Path | None = Field(
        None, description="exchanges, queues and where events go; else bridge.toml beside app.py if it is there"
    )
    amqp_management_url: str = Field(
        "",
        description="RabbitMQ's management, for `status`; else port 15672 of AMQP_URL's hosts (amqps: 15671, https)",
    )
    cache_ttl: int = Field(300, ge=0, description="seconds an event stays in the cache (0: no cache)")
    cache_absent_ttl: float = Field(2.0, gt=0, le=60, description="seconds the cache remembers that there is no event")
    cache_timeout: float = Field(0.25, gt=0, description="seconds the cache may take before the databases are asked")
    cache_bytes: int = Field(16 * 1024, ge=0, description="largest event in the cache, bytes")
    cache_size: int = Field(64 * 1024 * 1024, ge=0, description="bytes one node's events take in the cache, at most")
    rpc_channel: str = Field(
        "laravel_database_general",
        validation_alias=AliasChoices("rpc_channel", "laravel_redis_channel"),
        description="Pub/Sub name of calls to other services, also LARAVEL_REDIS_CHANNEL (empty: no calls)",
    )
    rpc_listen: str = Field("*_sender", description="Pub/Sub pattern of the requests this server answers")
    rpc_answers: str = Field("*", description="patterns of the actions it answers, separated by commas (empty: none)")
    rpc_pending: int = Field(
        1000, ge=1, description="calls of a node that may await their answer, and requests that may stand in line"
    )
    rpc_at_once: int = Field(16, ge=1, description="requests of one action a node works on at a time")
    rpc_events: str = Field(
        "", description="chat channel that shows what other services say unasked, as events (empty: none does)"
    )
    rpc_bytes: int = Field(256 * 1024, ge=1024, description="largest request or reply, bytes of JSON")

    @field_validator("database_url")
    @classmethod
    def _is_database(cls, value: str) -> str:
        database(value, Path())
        return value

    @field_validator("mongo_url")
    @classmethod
    def _is_mongo(cls, value: str) -> str:
        if value and (urlsplit(value).scheme not in ("mongodb", "mongodb+srv") or not urlsplit(value).netloc):
            raise ValueError("must look like mongodb://user:password@host:27017/database")
        return value

    @field_validator("rpc_channel")
    @classmethod
    def _is_no_request_channel(cls, value: str) -> str:
        if value.endswith("_sender"):
            raise ValueError(f"name the channel of the replies: {value.removesuffix('_sender')}")
        return value

    @field_validator("rpc_listen")
    @classmethod
    def _are_request_channels(cls, value: str) -> str:
        if not value.endswith("_sender"):
            raise ValueError("must end with _sender, as requests do")
        return value

    @field_validator("rpc_events")
    @classmethod
    def _is_channel(cls, value: str) -> str:
        try:
            return channel_id(value) if value else ""
        except BadRequest as error:
            raise ValueError(f"names a chat channel: {error}") from None

    @property
    def answered(self) -> list[str]:
        """The patterns of RPC_ANSWERS."""
        return [pattern.strip() for pattern in self.rpc_answers.split(",") if pattern.strip()]
