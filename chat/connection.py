"""A client's side of the Centrifugal protocol over a WebSocket: commands, replies, pushes, and coming back.

A lost connection comes back by itself; each channel then goes on from its position (epoch, offset), and what was being
sent is sent again under its key, so nothing is lost or doubled.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Coroutine
from typing import Any, Literal
from urllib.parse import urlsplit, urlunsplit

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage, InvalidStatus
from websockets.protocol import State

from chat import errors
from chat.errors import BadRequest, ConnectionEnded, PeykError, Temporary, Unauthorized, Unavailable
from chat.protocol import encode
from chat.source import RESUBSCRIBE, Began, Listener, Said

logger = logging.getLogger(__name__)

_BACKOFF = 0.2, 5.0  # seconds: first and longest wait before connecting again
PATIENCE = 10.0  # seconds for a reply
_BLAMED = (1002, 1003, 1007, 1008, 1009)  # close codes that complain of what was sent
_FINAL = range(3500, 4000)  # close codes after which a client does not come back by itself
_AWAY = "not connected; try again when the connection is back"


class RemoteError(PeykError):
    """What a server answered."""


class RemoteTemporary(Temporary):
    """What a server answered, and may answer differently soon."""


_KINDS: dict[int, type[PeykError]] = {
    kind.code: kind
    for kind in (
        errors.BadRequest,
        errors.Unauthorized,
        errors.TokenExpired,
        errors.PermissionDenied,
        errors.UnknownChannel,
        errors.UnknownMethod,
        errors.ChannelExists,
    )
}


def _proxy(url: str) -> Literal[True] | None:
    """Whether to ask the environment for a proxy: not on the way to this very machine."""
    return None if urlsplit(url).hostname in ("localhost", "127.0.0.1", "::1") else True


def error_of(body: dict[str, Any]) -> PeykError:
    """The error a reply tells."""
    code, message = int(body.get("code", 0)), str(body.get("message", "the server failed"))
    if code == errors.TooManyRequests.code:
        return errors.TooManyRequests(message)
    kind = RemoteTemporary if body.get("temporary") else _KINDS.get(code, RemoteError)
    error = kind(message)
    error.code = code
    return error


def addresses(url: str) -> tuple[str, str]:
    """The WebSocket and the HTTP address of a server. Raises BadRequest."""
    parts = urlsplit(url if "://" in url else f"ws://{url}")
    if parts.scheme not in ("ws", "wss", "http", "https") or not parts.netloc:
        raise BadRequest(f"{url} is no server's address; write ws://host:5000 or wss://host")
    secure = parts.scheme in ("wss", "https")
    path = parts.path if parts.path.strip("/") else "/connection/websocket"
    socket = urlunsplit(("wss" if secure else "ws", parts.netloc, path, "", ""))
    return socket, urlunsplit(("https" if secure else "http", parts.netloc, "", "", ""))


class _Push(msgspec.Struct):
    channel: str = ""
    pub: msgspec.Raw = msgspec.Raw()
    unsubscribe: dict[str, Any] | None = None


class Item(msgspec.Struct):
    """One line of a frame: a push, or the reply to a command; nothing at all is a ping."""

    id: int = 0
    push: _Push | None = None
    error: dict[str, Any] | None = None
    connect: dict[str, Any] = {}
    subscribe: msgspec.Raw = msgspec.Raw(b"{}")
    history: msgspec.Raw = msgspec.Raw(b"{}")
    presence: dict[str, dict[str, dict[str, Any]]] = {}
    rpc: dict[str, Any] = {}


class _Subscribed(msgspec.Struct):
    epoch: str
    offset: int
    recovered: bool = False
    publications: list[msgspec.Raw] = []


_items = msgspec.json.Decoder(Item)
_subscribed = msgspec.json.Decoder(_Subscribed)
Reply = Callable[[Item], None]


class Connection:
    """One client of one server, over as many connections as it takes; and the channels it subscribes to."""

    def __init__(self, url: str, username: str, token: str = "") -> None:
        self.listener: Listener
        self.username, self.where, self._token = username, url, token
        self.clients: set[str] = set()
        self._url = addresses(url)[0]
        self._socket: ClientConnection | None = None
        self._waiting: dict[int, tuple[asyncio.Future[Item], Reply | None]] = {}
        self._last = 0
        self._ping = 25.0  # seconds between the server's pings
        self.positions: dict[str, tuple[str, int]] = {}  # of the channels subscribed to: epoch, offset
        self._renaming: asyncio.Future[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._spawn(self._stay(await self._open()))

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._socket is not None:
            await self._socket.close()

    def _spawn(self, work: Coroutine[None, None, None]) -> "asyncio.Task[None]":
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # -- the connection

    async def _open(self) -> "asyncio.Task[None]":
        """Connect and say who we are; the task reads until the connection ends. Raises PeykError."""
        try:
            socket = await connect(self._url, max_size=None, ping_interval=None, open_timeout=PATIENCE, close_timeout=1)
        except InvalidStatus as error:
            raise Unavailable(f"{self.where} answers {error.response.status_code}; is it a Peyk server?") from None
        except (OSError, InvalidHandshake, InvalidMessage, TimeoutError) as error:
            raise Unavailable(f"{self.where} does not answer: {error or 'it is silent'}") from None
        self._socket = socket
        reader = self._spawn(self._read(socket))
        try:
            asked: dict[str, Any] = {"token": self._token} if self._token else {"data": {"user": self.username}}
            reply = (await self.ask(connect={"name": "terminal", **asked})).connect
        except BaseException:
            await socket.close()
            await asyncio.gather(reader, return_exceptions=True)
            raise
        self._ping = float(reply.get("ping") or 25)
        self.clients.add(str(reply.get("client", "")))
        self.username = str((reply.get("data") or {}).get("user", self.username))
        return reader

    async def _stay(self, reader: "asyncio.Task[None]") -> None:
        """Come back whenever the connection is lost, until the server says not to."""
        while True:
            await asyncio.wait([reader])
            assert self._socket is not None
            code, reason = self._socket.close_code or 1006, self._socket.close_reason or "connection lost"
            if code in _FINAL:
                self.listener.connected(False, reason, final=True)
                return
            if self._renaming is None:
                self.listener.connected(False, reason)
            logger.info("%s: connection ended (%d %s)", self.where, code, reason)
            back = await self._come_back()
            if back is None:
                return
            reader = back
            self.listener.connected(True)

    async def _come_back(self) -> "asyncio.Task[None] | None":
        wait, former = _BACKOFF[0], self.username
        while True:
            renaming, self._renaming = self._renaming, None
            if renaming is None:
                await asyncio.sleep(wait * random.uniform(0.5, 1))
                wait = min(wait * 2, _BACKOFF[1])
            else:
                former, self.username = self.username, self._name
            try:
                reader = await self._open()
                await self._resume(recover=renaming is None)
            except Unauthorized as error:
                if renaming is None:
                    self.listener.connected(False, str(error), final=True)
                    return None
                self.username = former
                renaming.set_exception(error)
            except PeykError as error:
                logger.info("%s: %s", self.where, error)
                if renaming is not None:
                    renaming.set_exception(error)
            else:
                if renaming is not None:
                    renaming.set_result(None)
                return reader

    async def _resume(self, recover: bool) -> None:
        """Go on in every channel from where it stood."""
        for channel in list(self.positions):
            try:
                await self._take_up(channel, recover)
            except Temporary:
                raise
            except PeykError as error:
                self._end(channel, error)

    async def _take_up(self, channel: str, recover: bool) -> None:
        def began(reply: Item) -> None:
            self.listener.began(channel, self.begin(channel, reply))

        epoch, offset = self.positions[channel]
        since = {"recover": True, "epoch": epoch, "offset": offset} if recover else {}
        await self.ask(began, subscribe={"channel": channel, **since})

    async def _read(self, socket: ClientConnection) -> None:
        """Take frames until the connection ends, or is silent for longer than its pings allow."""
        try:
            while True:
                async with asyncio.timeout(self._ping + PATIENCE):
                    frame = await socket.recv(decode=False)
                for line in frame.split(b"\n"):
                    await self._take(socket, line)
        except (ConnectionClosed, TimeoutError, msgspec.DecodeError) as error:
            logger.info("%s: %s", self.where, error)
        finally:
            waiting, self._waiting = self._waiting, {}
            reason = socket.close_reason or "the connection was lost"
            code = socket.close_code or 0
            kind: type[PeykError] = (
                Unauthorized if code in _FINAL else ConnectionEnded if code in _BLAMED else Unavailable
            )
            for future, _ in waiting.values():
                if not future.done():
                    future.set_exception(kind(reason))
                    future.exception()  # perhaps nobody waits for it any more
            socket.transport.abort()

    async def _take(self, socket: ClientConnection, line: bytes) -> None:
        if line.strip() == b"{}":
            await socket.send("{}")
            return
        item = _items.decode(line)
        if item.push is not None:
            self._on_push(item.push)
        elif item.id in self._waiting:
            future, then = self._waiting.pop(item.id)
            if item.error is None and then is not None:
                then(item)  # now: what is pushed next may stand in the same frame
            if not future.done():
                future.set_exception(error_of(item.error)) if item.error else future.set_result(item)

    def _on_push(self, push: _Push) -> None:
        if bytes(push.pub):
            said = Said.read(push.pub)
            if said.offset and push.channel in self.positions:
                self.positions[push.channel] = self.positions[push.channel][0], said.offset
            self.listener.said(push.channel, said)
        elif push.unsubscribe is not None:
            code, reason = int(push.unsubscribe.get("code", 0)), str(push.unsubscribe.get("reason", ""))
            if code >= RESUBSCRIBE:
                self._spawn(self._resume_one(push.channel))
            else:
                self.positions.pop(push.channel, None)
                self.listener.ended(push.channel, code, reason)

    async def _resume_one(self, channel: str) -> None:
        try:
            await self._take_up(channel, recover=True)
        except Temporary:
            pass  # the connection is lost as well: all are resumed when it is back
        except PeykError as error:
            self._end(channel, error)

    def _end(self, channel: str, error: PeykError) -> None:
        self.positions.pop(channel, None)
        self.listener.ended(channel, error.code, str(error))

    async def ask(self, then: Reply | None = None, **command: Any) -> Item:
        """Send one command; its reply. Raises what the server answers, and Unavailable without a connection."""
        if self._socket is None or self._socket.state is not State.OPEN:
            raise Unavailable(_AWAY)
        self._last += 1
        future: asyncio.Future[Item] = asyncio.get_running_loop().create_future()
        self._waiting[self._last] = future, then
        try:
            await self._socket.send(encode({"id": self._last, **command}), text=True)
            async with asyncio.timeout(PATIENCE):
                return await future
        except ConnectionClosed:
            raise Unavailable(_AWAY) from None
        except TimeoutError:
            self._socket.transport.abort()  # it is dead, though nobody said so
            raise Unavailable(f"the server gave no reply in {PATIENCE:g} s") from None

    def begin(self, channel: str, item: Item) -> Began:
        reply = _subscribed.decode(item.subscribe)
        messages = [Said.read(pub) for pub in reply.publications]
        offset = messages[-1].offset if messages else reply.offset
        self.positions[channel] = reply.epoch, offset
        return Began(reply.epoch, offset, reply.recovered, messages)

    async def rename(self, name: str) -> None:
        """Connect anew under another name. Raises Unauthorized where it is not to be had."""
        if self._token:
            raise BadRequest("your name comes with your token; start again with another")
        if self._socket is None or self._socket.state is not State.OPEN:
            raise Unavailable(_AWAY)
        self._name = name
        self._renaming = renamed = asyncio.get_running_loop().create_future()
        await self._socket.close()
        await renamed
