"""What may be said about the outside systems, in the environment or `.env`."""

from pathlib import Path
from urllib.parse import urlsplit

from pydantic import Field, field_validator
from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from redis_config import Settings

SQL, MONGO = "sql", "mongo"  # the sinks, by the names of their consumer groups
_POSTGRESQL = ("postgresql", "postgres")


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
        if mode := address.query.get("sslmode"):  # libpq's word; asyncpg takes the same values under its own
            address = address.difference_update_query(["sslmode"]).update_query_dict({"ssl": str(mode)})
        return address
    if scheme == "sqlite" and address.database and address.database != ":memory:":
        return address.set(drivername="sqlite+aiosqlite")
    raise ValueError(
        "must look like postgresql://user:password@host:5432/database or sqlite:///path/to/file; "
        f"this one begins with {url.partition(':')[0][:20]!r}"
    )


class BridgeSettings(Settings):
    """Each has its default and its unit here and nowhere else."""

    archive: bool = Field(True, description="whether messages are archived in the SQL database")
    database_url: str = Field(
        "", description="postgresql:// or sqlite:///path URL of the archive; empty: `peyk.sqlite` in DATA_DIR"
    )
    mongo_url: str = Field(
        "", description="mongodb:// URL: messages are archived there too, in database `event-db` if it names none"
    )

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
