"""A bare TCP connection that speaks WebSocket (RFC 6455), rightly or wrongly."""

import asyncio
import contextlib
import json
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from tests.services import PeykServer

CONT, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
NO_CODE = 1005  # a close frame without one
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
HANDSHAKE = {
    "Host": "localhost",
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": KEY,
    "Sec-WebSocket-Version": "13",
}
PATIENCE = 30.0


class Frame(NamedTuple):
    opcode: int
    payload: bytes
    fin: bool = True


def frame(
    payload: bytes = b"", opcode: int = TEXT, fin: bool = True, rsv: int = 0, mask: bytes | None = b"\1\2\3\4"
) -> bytes:
    """A client's frame, with whatever may be wrong with it."""
    size = len(payload)
    head = bytes([fin << 7 | rsv << 4 | opcode])
    flag = 0x80 if mask is not None else 0
    if size < 126:
        head += bytes([flag | size])
    elif size < 65536:
        head += bytes([flag | 126]) + struct.pack("!H", size)
    else:
        head += bytes([flag | 127]) + struct.pack("!Q", size)
    if mask is None:
        return head + payload
    key = (mask * (size // 4 + 1))[:size]
    return head + mask + (int.from_bytes(payload, "big") ^ int.from_bytes(key, "big")).to_bytes(size, "big")


class Wire:
    """A TCP connection that shook hands."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, *frames: bytes) -> None:
        self.writer.write(b"".join(frames))
        await self.writer.drain()

    async def frame(self) -> Frame:
        """The server's next frame: unmasked, no reserved bits, its length in the shortest form."""
        async with asyncio.timeout(PATIENCE):
            first, size = await self.reader.readexactly(2)
            assert not first & 0x70 and size < 128
            if size == 126:
                (size,) = struct.unpack("!H", await self.reader.readexactly(2))
                assert size > 125
            elif size == 127:
                (size,) = struct.unpack("!Q", await self.reader.readexactly(8))
                assert size > 65535
            return Frame(first & 15, await self.reader.readexactly(size), bool(first & 0x80))

    async def ask(self, *frames: bytes) -> dict[str, Any]:
        """The reply to a command that these frames carry."""
        await self.send(*frames)
        got = await self.frame()
        assert got.opcode == TEXT and got.fin
        return dict(json.loads(got.payload))

    async def alive(self) -> None:
        assert await self.ask(frame(b'{"id":99,"ping":{}}')) == {"id": 99, "ping": {}}

    async def closed(self) -> int:
        """The code of the server's close frame, which is its last: then it ends the TCP connection by itself."""
        got = await self.frame()
        assert got.opcode == CLOSE and got.fin and len(got.payload) != 1, got
        code = struct.unpack("!H", got.payload[:2])[0] if got.payload else NO_CODE
        got.payload[2:].decode()
        async with asyncio.timeout(PATIENCE):
            with contextlib.suppress(ConnectionResetError):  # it left what we still sent unread
                assert await self.reader.read() == b""
        return int(code)


@asynccontextmanager
async def shake(
    server: PeykServer, headers: dict[str, str], path: str = "/connection/websocket"
) -> AsyncIterator[tuple[int, dict[str, str], Wire]]:
    """Send a handshake: the status, the headers, and the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    fields = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    writer.write(f"GET {path} HTTP/1.1\r\n{fields}\r\n".encode())
    try:
        async with asyncio.timeout(PATIENCE):
            status, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
        answered = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        yield int(status.split()[1]), answered, Wire(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
