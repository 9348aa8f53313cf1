"""A raw Redis connection for the hot path: commands out in one write, replies back to callbacks, nothing retried.

redis-py costs 50 µs of client CPU a command and retries on its own; an append that is retried behind our back
appends twice. Here a command is sent at most once, and whoever sent it hears either its reply or ConnectionLost.
"""

import asyncio
import ssl
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, cast

import hiredis
from redis.exceptions import (
    AuthenticationError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)

from chat.errors import StorageFull, Temporary, Unavailable
from redis_config import Address

Command = Sequence[bytes | str | int]
Callback = Callable[[Any], None]
"""Called once with the reply: bytes, int, list or None as Redis sent it, a ReplyError, or ConnectionLost."""


def pack(command: Command) -> bytes:
    """A command in the protocol's bytes."""
    packed: bytes = hiredis.pack_command(tuple(command))  # type: ignore[arg-type]  # the stub says: a tuple of one
    return packed


ReplyError = hiredis.ReplyError
_CONNECT_TIMEOUT = 2.0  # seconds
_REPLY_TIMEOUT = 5.0  # seconds; a blocking command says its own
_SLICES = 4


class ConnectionLost(ConnectionError):
    """The connection ended before the reply came: the command may or may not have run."""


class Refused(ConnectionLost):
    """The command did not run: the server behind this connection is not, or not yet, the one to ask.

    `word` is how Redis begins such an answer. The connection is closed, and the next one resolves the name anew.
    """

    def __init__(self, message: str, word: str = "") -> None:
        super().__init__(message)
        self.word = word


_CLUSTER = "is a cluster, which Peyk does not speak yet; use a Redis that is none (cluster-enabled no)"
_REFUSALS = {
    "READONLY": "is a read-only replica; if it stays so, set REDIS_URL to its primary",
    "MASTERDOWN": "is a replica whose primary is away; if it stays so, set REDIS_URL to the primary",
    "LOADING": "still reads its data back",
    **dict.fromkeys(("MOVED", "ASK", "CLUSTERDOWN", "CROSSSLOT"), _CLUSTER),
}
"""What Redis says of itself, not of the command, by the first word of its answer."""

_REMEDIES = {
    "OOM": "it is full: raise its maxmemory, or lower HISTORY_LENGTH",
    "MISCONF": "it cannot save: see its log and its disk",
    "NOPERM": "its user lacks a right: see docs/operating.md",
    "NOAUTH": "it wants a password: set REDIS_PASSWORD",
    "READONLY": f"it {_REFUSALS['READONLY']}",
}
_WORDS: dict[type[Exception], str] = {
    OutOfMemoryError: "OOM",
    NoPermissionError: "NOPERM",
    AuthenticationError: "NOAUTH",
    ReadOnlyError: "READONLY",
}
"""redis-py leaves out the first word of what it has a class for."""


FAILURES = (ReplyError, RedisError, OSError)
"""What a command to Redis may raise: its error replies, redis-py's errors, and lost connections."""


def remedy_for(word: str) -> str:
    """What to do about a command that Redis refused, by the first word of its answer."""
    return _REMEDIES.get(word, "see its log")


def unavailable(error: BaseException) -> Temporary:
    """What a client is told of one of FAILURES: that Redis is silent, or why it refuses.

    Never the answer as it is, which may quote the command and what others wrote.
    """
    if isinstance(error, Refused) and error.word:
        return Unavailable(f"{error}; try again")
    if not isinstance(error, ReplyError | ResponseError | AuthenticationError):
        return Unavailable("Redis does not answer; try again")
    quoted = str(error).rpartition("of pipeline caused error: ")[2]
    word = next((word for kind, word in _WORDS.items() if isinstance(error, kind)), quoted.partition(" ")[0])
    if word not in _REMEDIES:
        return Unavailable("Redis refuses this; the server's log says why")
    kind = StorageFull if word == "OOM" else Unavailable
    return kind(f"Redis refuses this ({word}): {remedy_for(word)}; then try again")


class Connection(asyncio.Protocol):
    """One connection to Redis, RESP2. Replies come in the order of the commands."""

    def __init__(self, on_push: Callback | None = None, on_lost: Callable[[], None] | None = None) -> None:
        self._reader = hiredis.Reader(replyError=self._error)
        self._waiting: deque[Callback] = deque()
        self._on_push = on_push
        self._on_lost = on_lost
        self._transport: asyncio.Transport
        self.lost = False
        self.refusal = ""
        """Why this server is not the one to ask, once it said so."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by descent

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        gets = self._reader.gets
        while (reply := gets()) is not False:
            if self._waiting:
                self._waiting.popleft()(reply)
            elif self._on_push is not None:
                self._on_push(reply)

    def _error(self, text: str) -> Exception:
        """What an error answer is to whoever sent the command. A server that is not to be asked is asked no more."""
        word = text.partition(" ")[0]
        if word not in _REFUSALS:
            return ReplyError(text)
        self.refusal = f"Redis {_REFUSALS[word]}"
        if not self.lost:
            self.lost = True
            asyncio.get_running_loop().call_soon(self._transport.abort)
        return Refused(self.refusal, word)

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = True
        waiting, self._waiting = self._waiting, deque()
        for callback in waiting:
            callback(ConnectionLost(str(error or "Redis closed the connection")))
        if self._on_lost is not None:
            self._on_lost()

    def send(self, callback: Callback, command: Command) -> None:
        """Send one command; `callback` gets its reply."""
        self.write(pack(command), (callback,))

    def write(self, packed: bytes, callbacks: Sequence[Callback] = ()) -> None:
        """Send packed commands in one write, one callback for each."""
        if self.lost:
            for callback in callbacks:
                callback(Refused("the connection to Redis is closed"))
            return
        self._waiting.extend(callbacks)
        self._transport.write(packed)

    async def pipeline(self, commands: Sequence[Command], patience: float | None = _REPLY_TIMEOUT) -> list[Any]:
        """Send commands in one write and wait for all replies; an error reply stands in the list as ReplyError.

        Raises ConnectionLost, also after `patience` seconds: the connection is then dropped, since nobody could
        tell its later replies apart.
        """
        done: asyncio.Future[ConnectionLost | None] = asyncio.get_running_loop().create_future()
        replies: list[Any] = []

        def collect(reply: Any) -> None:
            replies.append(reply)
            if isinstance(reply, ConnectionLost):
                if not done.done():
                    done.set_result(reply)
            elif len(replies) == len(commands) and not done.done():
                done.set_result(None)

        self.write(b"".join(map(pack, commands)), [collect] * len(commands))
        if patience is None:
            await done
        elif not await _comes(done, patience):
            self.abort()
            raise ConnectionLost(f"Redis gave no reply in {patience:g} s")
        if (lost := done.result()) is not None:
            raise lost
        return replies

    async def call(self, *command: bytes | str | int, patience: float | None = _REPLY_TIMEOUT) -> Any:
        """Send one command and return its reply. Raises ReplyError and ConnectionLost."""
        (reply,) = await self.pipeline([command], patience)
        if isinstance(reply, ReplyError):
            raise reply
        return reply

    def abort(self) -> None:
        """Drop the connection now; what still waits hears ConnectionLost."""
        self._transport.abort()


async def _comes(done: asyncio.Future[Any], patience: float) -> bool:
    """Wait for `done`, at most `patience` seconds; whether it came.

    In slices, between which the loop looks at its sockets: when this process itself stood still, the reply may be here
    already and only not read (uvloop runs timers first), and that is not Redis' silence.
    """
    for _ in range(_SLICES):
        await asyncio.wait([done], timeout=patience / _SLICES)
        if done.done():
            return True
    return False


async def connect(
    address: Address, on_push: Callback | None = None, on_lost: Callable[[], None] | None = None
) -> Connection:
    """Open, authenticate and select. Raises ConnectionLost or ReplyError; tries once.

    `on_push` gets what no command waits for: the messages of Pub/Sub. `on_lost` is called when the connection ends.
    """
    loop = asyncio.get_running_loop()

    def make() -> Connection:
        return Connection(on_push, on_lost)

    try:
        async with asyncio.timeout(_CONNECT_TIMEOUT):
            if address.path:
                _, connection = await loop.create_unix_connection(make, address.path)
            else:
                context = ssl.create_default_context() if address.tls else None
                _, connection = await loop.create_connection(make, address.host, address.port, ssl=context)
    except (OSError, TimeoutError) as error:
        raise ConnectionLost(f"no Redis at {address}: {error or 'timed out'}") from error
    hello: list[Command] = []
    if address.username or address.password:
        user = [address.username] if address.username else []
        hello.append(["AUTH", *user, address.password])
    if address.db:
        hello.append(["SELECT", address.db])
    try:
        for reply in await connection.pipeline([*hello, ["PING"]], _CONNECT_TIMEOUT):
            if isinstance(reply, ReplyError):
                raise reply
    except BaseException:  # cancelled as well: nobody else knows of this connection yet
        connection.abort()
        raise
    return connection


class Link:
    """A connection that is opened when it is needed and again after it was lost. Nothing is sent twice.

    Whoever asks hears an answer or ConnectionLost within `patience` seconds, the opening included.
    """

    def __init__(self, address: Address, patience: float = _REPLY_TIMEOUT) -> None:
        self._address, self._patience = address, patience
        self._connection: Connection | None = None
        self._opening: asyncio.Task[Connection] | None = None  # all who ask meanwhile wait for the same one
        self._closed = False

    async def open(self) -> Connection:
        """The connection, opened if there is none. Raises ConnectionLost."""
        if self._closed:
            raise ConnectionLost("this node is stopping")
        if self._connection is not None and not self._connection.lost:
            return self._connection
        if self._opening is None:
            self._opening = asyncio.create_task(connect(self._address))
            self._opening.add_done_callback(self._opened)
        try:
            async with asyncio.timeout(self._patience):
                return await asyncio.shield(self._opening)
        except TimeoutError:
            raise ConnectionLost(f"no connection to Redis in {self._patience:g} s") from None
        except asyncio.CancelledError:
            if self._closed:
                raise ConnectionLost("this node is stopping") from None
            raise

    def _opened(self, opening: asyncio.Task[Connection]) -> None:
        self._opening = None
        if not opening.cancelled() and opening.exception() is None:
            self._connection = opening.result()
            if self._closed:
                self._connection.abort()

    async def call(self, *command: bytes | str | int) -> Any:
        """As Connection.call."""
        (reply,) = await self.pipeline([command])
        if isinstance(reply, ReplyError):
            raise reply
        return reply

    async def pipeline(self, commands: Sequence[Command]) -> list[Any]:
        """As Connection.pipeline."""
        end = asyncio.get_running_loop().time() + self._patience
        connection = await self.open()
        return await connection.pipeline(commands, max(end - asyncio.get_running_loop().time(), 0.01))

    def reopen(self) -> None:
        """Leave this connection for a new one: Redis may have moved."""
        if self._connection is not None:
            self._connection.abort()

    def close(self) -> None:
        """Drop the connection; what is asked later hears ConnectionLost."""
        self._closed = True
        if self._opening is not None:
            self._opening.cancel()
        if self._connection is not None:
            self._connection.abort()
