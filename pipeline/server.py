"""The Redis in use: found or started, and looked at before it is trusted with messages.

Looked for in this order: what REDIS_URL or REDIS_HOST/PORT/DB/PASSWORD say; the embedded server whose socket or data
is in DATA_DIR; localhost:6379; else an embedded Valkey is started.
"""

import asyncio
import logging

from pipeline.embedded import START_TIMEOUT, Embedded, answers
from pipeline.keys import PARTITIONS, Keys
from pipeline.resp import Connection, ConnectionLost, Refused, ReplyError, connect
from pipeline.rights import missing
from redis_config import Address, ConfigError, Settings

logger = logging.getLogger(__name__)

_LOADING = 0.1  # seconds between looks at a server that reads its data back
_WATCH = 1.0  # seconds between looks at the embedded server
_FULL = "OOM"  # how Redis refuses a write when its memory is full


class RedisServer:
    """The Redis in use. `close` lets go of an embedded one, which the last user stops."""

    def __init__(self, address: Address, embedded: Embedded | None = None) -> None:
        self.address = address
        self._embedded = embedded

    @property
    def embedded(self) -> bool:
        return self._embedded is not None

    def describe(self) -> str:
        """One line for people: which Redis, and where."""
        return f"{'embedded Valkey' if self.embedded else 'Redis'} at {self.address}"

    async def watch(self) -> None:
        """Start an embedded server again whenever it dies, and sync its data every second. Runs until cancelled."""
        while self._embedded is not None:
            await asyncio.sleep(_WATCH)
            try:
                await self._embedded.start()
                await self._embedded.sync()
            except ConfigError as error:
                logger.error("%s", error)

    async def close(self) -> None:
        if self._embedded is not None:
            await self._embedded.leave()


async def open_redis(settings: Settings) -> RedisServer:
    """Find, or start, the Redis to use, and check that it can be trusted with messages. Raises ConfigError."""
    server = await find(settings)
    try:
        await check(server.address, settings)
    except BaseException:
        await server.close()
        raise
    return server


async def find(settings: Settings) -> RedisServer:
    """Find, or start, the Redis to use. Raises ConfigError."""
    named = {name for name in settings.model_fields_set if name.startswith("redis_")}
    address = Address.parse(settings)
    if named:
        return RedisServer(address)
    embedded = Embedded(settings.data_dir)
    if not embedded.has_data() and await answers(address):
        return RedisServer(address)
    await embedded.join()
    return RedisServer(embedded.address, embedded)


async def check(address: Address, settings: Settings) -> None:
    """Refuse a server that could lose messages, does not let us do what we must, or was set up otherwise.

    Raises ConfigError.
    """
    connection = await opened(address, settings)
    try:
        await _check_kind(connection)
        await _check_rights(address, settings)
        await _check_partitions(connection, settings)
    except ReplyError as error:
        raise _refusal(str(error), settings) from None
    except Refused as error:
        raise ConfigError(f"{error} ({address})") from None
    except ConnectionLost as error:
        raise ConfigError(f"no Redis at {address} ({error}); start it, or set REDIS_HOST and REDIS_PORT") from None
    finally:
        connection.abort()


async def opened(address: Address, settings: Settings) -> Connection:
    """A connection to a server that has read its data back, for which START_TIMEOUT is waited. Raises ConfigError."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + START_TIMEOUT
    while True:
        try:
            return await connect(address)
        except ReplyError as error:
            raise _refusal(str(error), settings) from None
        except Refused as error:
            if error.word != "LOADING" or loop.time() > deadline:
                raise ConfigError(f"{error} ({address})") from None
        except ConnectionLost as error:
            raise ConfigError(f"{error}; start it, or set REDIS_URL, or REDIS_HOST and REDIS_PORT") from None
        await asyncio.sleep(_LOADING)


def _refusal(error: str, settings: Settings) -> ConfigError:
    """What to do about an error of Redis' that is no fault of one command."""
    setting = "REDIS_URL" if "@" in settings.redis_url else "REDIS_PASSWORD"
    if "without any password configured" in error:
        text = f"Redis has no password, but {setting} gives one; take it out there, or set requirepass in Redis"
    elif error.startswith("WRONGPASS"):
        text = f"Redis does not know the user and password of {setting}; set REDIS_PASSWORD or REDIS_URL right"
    elif error.startswith("NOAUTH"):
        text = "Redis wants a password; set REDIS_PASSWORD, or redis://user:password@host in REDIS_URL"
    elif "DB index" in error or "invalid DB" in error:
        text = "Redis has no database of that number; set REDIS_DB, or the one in REDIS_URL, below `databases` of Redis"
    elif error.startswith("NOPERM"):
        text = "the Redis user has too few rights; see docs/operating.md for those it needs (ACL SETUSER)"
    elif error.startswith("MISCONF"):
        text = "Redis takes no writes, since it could not save; see its log and its disk"
    else:
        text = "set REDIS_PASSWORD, REDIS_DB or REDIS_URL right"
    return ConfigError(f"Redis refuses us ({error}): {text}")


async def _check_kind(connection: Connection) -> None:
    """No cluster, no eviction; and what a crash would cost is said."""
    try:
        lines = (await connection.call("INFO")).decode(errors="replace").splitlines()
    except ReplyError as error:
        logger.warning("Redis does not say how it is set up (%s); see to maxmemory-policy and appendonly there", error)
        return
    info = dict(line.split(":", 1) for line in lines if ":" in line)
    if info.get("cluster_enabled") == "1":
        raise ConfigError("Redis is a cluster, which Peyk does not speak yet; use a Redis that is none")
    policy = info.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        raise ConfigError(
            f"Redis would drop messages when memory is short (maxmemory-policy {policy}); "
            "run: redis-cli CONFIG SET maxmemory-policy noeviction"
        )
    if info.get("aof_enabled") == "0":
        logger.warning(
            "Redis has no append-only file: what it took since its last snapshot is lost when it crashes, though "
            "publishers were told ok; turn it on: redis-cli CONFIG SET appendonly yes, and in redis.conf"
        )


async def _check_partitions(connection: Connection, settings: Settings) -> None:
    stored = await connection.call("GET", PARTITIONS)
    if stored is None:
        await connection.call("SET", PARTITIONS, settings.partitions, "NX")
        stored = await connection.call("GET", PARTITIONS)
    if int(stored) != settings.partitions:
        raise ConfigError(
            f"this Redis was set up with {int(stored)} partitions, PARTITIONS says {settings.partitions}; "
            f"set PARTITIONS={int(stored)}, or use another REDIS_DB"
        )


async def _check_rights(address: Address, settings: Settings) -> None:
    connection = await connect(address)
    try:
        rules = await missing(connection, Keys.of(settings))
    except ReplyError as error:
        if not str(error).startswith(_FULL):
            raise
        logger.warning("Redis is full (%s): nothing can be published until there is room; raise maxmemory", error)
        return
    finally:
        connection.abort()
    if rules:
        user = address.username or "default"
        raise ConfigError(
            f"the Redis user {user} may not do all that Peyk needs; run: ACL SETUSER {user} {' '.join(rules)}"
        )
