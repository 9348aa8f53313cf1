"""A small WebSocket client on a bare transport: thousands fit into one test, and it reads only while told to."""

import asyncio
import json
import socket
import struct
from functools import lru_cache
from typing import Any, cast

from tests.services import until

Seen = dict[str, list[tuple[int, Any]]]
"""What came, by channel: offsets and data in the order of their arrival."""

ABNORMAL = 1006  # the code of a connection that ended without a close frame (RFC 6455, section 7.1.5)
_TEXT, _CLOSE = 1, 8
_HANDSHAKE = (
    b"GET /connection/websocket HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


@lru_cache(maxsize=256)
def decode(body: bytes) -> tuple[Any, ...]:
    """The lines of a frame. What is broadcast is the same bytes for everybody, so it is decoded once."""
    return tuple(json.loads(line) for line in body.split(b"\n"))


def frame(body: bytes, opcode: int = _TEXT) -> bytes:
    """A client's frame: masked, with a key of zeros."""
    if len(body) < 126:
        return bytes((0x80 | opcode, 0x80 | len(body))) + bytes(4) + body
    return bytes((0x80 | opcode, 0xFE)) + struct.pack("!H", len(body)) + bytes(4) + body


class Client(asyncio.Protocol):
    """One connection. `seen` and `positions` may be an earlier connection's, to go on where it stopped."""

    def __init__(self, seen: Seen | None = None, positions: dict[str, tuple[str, int]] | None = None) -> None:
        self.seen: Seen = {} if seen is None else seen
        self.positions = {} if positions is None else positions
        self.unsubscribed: list[tuple[str, int]] = []  # channel and code
        self.ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()  # the close code
        self.transport: asyncio.Transport
        self._greeted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._buffer = bytearray()
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._subscribing: dict[int, str] = {}
        self._last = 0

    @classmethod
    async def open(cls, port: int, user: str = "", before: "Client | None" = None, buffer: int = 0) -> "Client":
        """Connect and say who we are. `before`: go on from there; `buffer`: bytes the kernel takes in unread."""
        loop, end = asyncio.get_running_loop(), socket.socket()
        end.setblocking(False)
        if buffer:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        await loop.sock_connect(end, ("127.0.0.1", port))
        known = (before.seen, before.positions) if before else ()
        _, client = await loop.create_connection(lambda: cls(*known), sock=end)
        await client._greeted
        await client.ask(connect={"data": {"user": user}})
        return client

    async def ask(self, **command: Any) -> dict[str, Any]:
        """Send one command; its reply. Raises ConnectionError when the connection ends first."""
        return await self.send(**command)

    def send(self, **command: Any) -> "asyncio.Future[dict[str, Any]]":
        """As ask, sent at once."""
        return self.send_together(command)[0]

    def send_together(self, *commands: dict[str, Any]) -> "list[asyncio.Future[dict[str, Any]]]":
        """Send several commands in one frame."""
        lines, futures = [], []
        for command in commands:
            self._last += 1
            futures.append(asyncio.get_running_loop().create_future())
            self._waiting[self._last] = futures[-1]
            if "subscribe" in command:
                self._subscribing[self._last] = command["subscribe"]["channel"]
            if self.ended.done():
                self._fail(futures[-1])
            lines.append(json.dumps({"id": self._last, **command}))
        self.transport.write(frame("\n".join(lines).encode()))
        return futures

    async def subscribe(self, *channels: str) -> None:
        """Subscribe; where a position is known already, recover from it. Raises AssertionError if it is lost."""
        for channel in channels:
            known = self.positions.get(channel)
            more = {"recover": True, "epoch": known[0], "offset": known[1]} if known else {}
            answer = await self.ask(subscribe={"channel": channel, **more})
            assert "subscribe" in answer, answer
            reply = answer["subscribe"]
            assert not known or reply["recovered"], (channel, known, reply["offset"])

    async def publish(self, channel: str, data: Any, key: str = "") -> dict[str, Any]:
        """Publish through the rpc that takes a key; its reply."""
        return await self.ask(rpc={"method": "publish", "data": {"channel": channel, "data": data, "key": key}})

    def offsets(self, channel: str) -> list[int]:
        return [offset for offset, _ in self.seen.get(channel, ())]

    async def reach(self, channel: str, offset: int, timeout: float) -> None:  # noqa: ASYNC109
        """Wait until it stands at `offset` in a channel, `timeout` seconds at most."""
        await until(lambda: self.positions[channel][1] >= offset, timeout, f"{channel} reaches {offset}")

    def abort(self) -> None:
        """End the connection without a word."""
        self.transport.abort()

    # -- the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.write(_HANDSHAKE)

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        if not self._greeted.done():
            if (end := buffer.find(b"\r\n\r\n")) < 0:
                return
            assert buffer.startswith(b"HTTP/1.1 101 "), bytes(buffer)
            self._greeted.set_result(None)
            del buffer[: end + 4]
        while (bounds := self._bounds()) is not None:
            start, stop = bounds
            opcode, body = buffer[0] & 15, bytes(buffer[start:stop])
            del buffer[:stop]
            self._on_frame(opcode, body)

    def _bounds(self) -> tuple[int, int] | None:
        """Where the body of the first frame begins and ends; None: it is not all here."""
        have = len(self._buffer)
        if have < 2:
            return None
        size, start = self._buffer[1], 2
        if size == 126:
            size, start = int.from_bytes(self._buffer[2:4], "big"), 4
        elif size == 127:
            size, start = int.from_bytes(self._buffer[2:10], "big"), 10
        return (start, start + size) if have >= start + size and have >= start else None

    def _on_frame(self, opcode: int, body: bytes) -> None:
        if opcode == _TEXT:
            for item in decode(body):
                self._on_item(item)
        elif opcode == _CLOSE:
            self._end(int.from_bytes(body[:2], "big"))
            self.transport.write(frame(body, _CLOSE))
            self.transport.close()

    def _on_item(self, item: dict[str, Any]) -> None:
        if not item:
            self.transport.write(frame(b"{}"))
        elif "id" in item:
            if "subscribe" in item:
                self._joined(item["id"], item["subscribe"])
            self._waiting.pop(item["id"]).set_result(item)
        elif "pub" in item["push"]:
            self._take(item["push"]["channel"], item["push"]["pub"])
        elif "unsubscribe" in item["push"]:
            self.unsubscribed.append((item["push"]["channel"], item["push"]["unsubscribe"]["code"]))

    def _joined(self, number: int, reply: dict[str, Any]) -> None:
        channel = self._subscribing.pop(number)
        self.positions[channel] = reply["epoch"], reply["offset"]
        for publication in reply["publications"]:
            self._take(channel, publication)

    def _take(self, channel: str, publication: dict[str, Any]) -> None:
        offset = publication["offset"]
        self.seen.setdefault(channel, []).append((offset, publication["data"]))
        self.positions[channel] = self.positions[channel][0], offset

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(ABNORMAL)

    def _end(self, code: int) -> None:
        if not self.ended.done():
            self.ended.set_result(code)
        self._fail(self._greeted)
        for future in self._waiting.values():
            self._fail(future)
        self._waiting.clear()

    def _fail(self, future: "asyncio.Future[Any]") -> None:
        if not future.done():
            future.set_exception(ConnectionError(f"the connection ended: {self.ended.result()}"))
            future.exception()  # perhaps nobody waits for it
