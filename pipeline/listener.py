"""The node's ear: one Pub/Sub connection, opened again whenever it is lost. It never knows what it missed."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from pipeline.lasting import end, lasting
from pipeline.resp import Connection, ConnectionLost, ReplyError, connect, pack
from redis_config import Address, ConfigError

logger = logging.getLogger(__name__)

_BACKOFF = 0.05, 1.0  # seconds: first and longest wait before connecting again
_PATIENCE = 3.0  # seconds Redis has to confirm a SUBSCRIBE


class Listener:
    """Pub/Sub subscriptions. `names()` says what must be listened to again after a loss, and so do `patterns`.

    `on_message` gets the name and the payload of each message, `on_lost` is called when a connection ended.
    """

    def __init__(
        self,
        address: Address,
        on_message: Callable[[bytes, bytes], None],
        names: Callable[[], Sequence[str]],
        on_connected: Callable[[], Awaitable[None]],
        patterns: Sequence[str] = (),
        on_lost: Callable[[], None] = lambda: None,
    ) -> None:
        self._address, self._on_message, self._names, self._on_connected = address, on_message, names, on_connected
        self._patterns, self._tell_lost = patterns, on_lost
        self._connection: Connection | None = None
        self._acks: dict[bytes, list[asyncio.Future[None]]] = {}  # SUBSCRIBEs not yet confirmed, in order
        self._refusal: ReplyError | None = None  # Redis' answer to a SUBSCRIBE of this connection
        self._lost = asyncio.Event()
        self._begun: asyncio.Future[None]
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Returns when the first connection stands. Raises ConfigError where the user of Redis may not listen."""
        self._begun = asyncio.get_running_loop().create_future()
        self._task = lasting(self._stay_connected)
        try:
            await self._begun
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        await end(self._task)
        if self._connection is not None:
            self._connection.abort()

    async def subscribe(self, names: Sequence[str]) -> None:
        """Listen to `names`; returns when Redis has confirmed each. Raises ConnectionLost.

        A connection that does not confirm in time is dropped: it may be dead, and then nobody else would notice.
        """
        connection = self._connection
        if connection is None or connection.lost:
            raise ConnectionLost("Redis Pub/Sub is not connected")
        futures: list[asyncio.Future[None]] = []
        for name in names:
            futures.append(asyncio.get_running_loop().create_future())
            self._acks.setdefault(name.encode(), []).append(futures[-1])
        connection.write(pack(["SUBSCRIBE", *names]))
        try:
            async with asyncio.timeout(_PATIENCE):
                await asyncio.gather(*futures)
        except TimeoutError:
            connection.abort()
            raise ConnectionLost(f"Redis Pub/Sub gave no reply in {_PATIENCE:g} s") from None

    def reopen(self) -> None:
        """Leave this connection for a new one: Redis may have moved."""
        if self._connection is not None:
            self._connection.abort()

    def unsubscribe(self, name: str) -> None:
        """Stop listening to `name`. A SUBSCRIBE sent later is confirmed after this, so the two cannot cross."""
        if self._connection is not None:
            self._connection.write(pack(["UNSUBSCRIBE", name]))

    def _on_push(self, reply: list[bytes] | Exception) -> None:
        if isinstance(reply, Exception):  # instead of a confirmation: nothing tells which, so none of them counts
            self._refusal = reply if isinstance(reply, ReplyError) else None
            self.reopen()
            return
        kind, name, payload = reply[0], reply[-2], reply[-1]
        if kind in (b"message", b"pmessage"):
            self._on_message(name, payload)
        elif kind == b"subscribe" and (acks := self._acks.get(name)):
            future = acks.pop(0)
            if not future.done():
                future.set_result(None)
            if not acks:
                del self._acks[name]

    def _on_lost(self) -> None:
        self._lost.set()
        self._tell_lost()
        acks, self._acks = self._acks, {}
        for futures in acks.values():
            for future in futures:
                if not future.done():
                    future.set_exception(ConnectionLost(f"Redis Pub/Sub was lost{self._why()}"))

    def _why(self) -> str:
        return f": {self._refusal}" if self._refusal is not None else ""

    def _refused(self) -> None:
        """Nothing was heard yet and Redis says that this user may not: no later try mends that."""
        if self._begun.done() or not str(self._refusal).startswith("NOPERM"):
            return
        names = " ".join(f"&{name}" for name in [*self._patterns, *self._names()])
        user = self._address.username or "default"
        text = f"the Redis user {user} may not listen to {names} ({self._refusal}); run: ACL SETUSER {user} &* +@pubsub"
        self._begun.set_exception(ConfigError(text))

    async def _stay_connected(self) -> None:
        wait = _BACKOFF[0]
        while True:
            try:
                self._lost.clear()
                self._refusal = None
                self._connection = await connect(self._address, self._on_push, self._on_lost)
                if self._patterns:  # confirmed before the names behind it are
                    self._connection.write(pack(["PSUBSCRIBE", *self._patterns]))
                await self.subscribe(self._names())
                wait = _BACKOFF[0]
                if not self._begun.done():
                    self._begun.set_result(None)
                await self._on_connected()
                await self._lost.wait()
                logger.info("Pub/Sub was lost; connecting again")
            except (ConnectionLost, ReplyError) as error:
                logger.info("Pub/Sub: %s; next try in %.2f s", error, wait)
                self._refused()
            await asyncio.sleep(wait)
            wait = min(wait * 2, _BACKOFF[1])
