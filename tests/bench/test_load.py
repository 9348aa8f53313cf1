"""load.c against a server that cuts frames everywhere, drops, doubles, swaps, delays, refuses and hangs up."""

import asyncio
import base64
import hashlib
import json
import os
import re
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from bench.load import build

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
CONTINUATION, TEXT, PING, PONG = 0, 1, 9, 10
SUBSCRIBERS = 3


def frame(payload: bytes, opcode: int = TEXT, final: bool = True) -> bytes:
    size = len(payload)
    head = bytes([opcode | (0x80 if final else 0)])
    if size < 126:
        return head + bytes([size]) + payload
    if size < 65536:
        return head + b"\x7e" + struct.pack("!H", size) + payload
    return head + b"\x7f" + struct.pack("!Q", size) + payload


async def read_frame(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    first, second = await reader.readexactly(2)
    assert second & 0x80, "a client masks"
    size = second & 0x7F
    if size == 126:
        (size,) = struct.unpack("!H", await reader.readexactly(2))
    key = await reader.readexactly(4)
    payload = await reader.readexactly(size)
    return first & 15, bytes(byte ^ key[i & 3] for i, byte in enumerate(payload))


class Server:
    """Broadcasts what is published. `shape` says which messages, of number n, leave in its place."""

    path = b"GET /connection/websocket "
    first = b""  # what it says unasked

    def __init__(self, shape: Callable[[int], list[int]] = lambda n: [n]) -> None:
        self.shape = shape
        self.lines: list[bytes] = []
        self.subscribers: list[asyncio.StreamWriter] = []
        self.pongs = self.answered_pings = self.clients = 0
        self.greeting = b'{"id":1,"connect":{}}'
        self.port = 0

    async def serve_client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            request = await reader.readuntil(b"\r\n\r\n")
            key = re.search(rb"Sec-WebSocket-Key: (\S+)", request)
            assert key and request.startswith(self.path)
            accept = base64.b64encode(hashlib.sha1(key[1] + GUID).digest())
            # In two pieces, the first frame on the heels of the second.
            writer.write(b"HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Acc")
            await asyncio.sleep(0)
            writer.write(
                b"ept: " + accept + b"\r\n\r\n" + frame(b"hello", PING) + (frame(self.first) if self.first else b"")
            )
            while True:
                await self.on_frame(*await read_frame(reader), writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def on_frame(self, opcode: int, payload: bytes, writer: asyncio.StreamWriter) -> None:
        if opcode == PONG:
            assert payload in (b"hello", b"between")
            self.pongs += 1
        elif payload == b"{}":
            self.answered_pings += 1
        else:
            command = json.loads(payload)
            if "connect" in command:
                writer.write(frame(self.greeting))
            elif "subscribe" in command:
                self.subscribers.append(writer)
                writer.write(frame(b"{}\n" + b'{"id":2,"subscribe":{}}'))
            else:
                writer.write(frame(b'{"id":3,"publish":{}}'))
                await self.on_publish(command["publish"])

    async def on_publish(self, publish: dict[str, Any]) -> None:
        pub = {"offset": len(self.lines) + 1, "time": 0, "data": publish["data"], "info": {"user": "p0"}}
        push = {"push": {"channel": publish["channel"], "pub": pub}}
        self.lines.append(json.dumps(push, separators=(",", ":")).encode())
        for number in self.shape(len(self.lines) - 1):
            for writer in self.subscribers:
                await SHAPES[number % len(SHAPES)](self.lines[number], writer)


async def in_fragments(line: bytes, writer: asyncio.StreamWriter) -> None:
    """One message in four fragments, the last empty, a ping inside, byte by byte."""
    mark = line.index(b"~") + 3
    parts = [frame(line[:4], TEXT, False), frame(line[4:mark], CONTINUATION, False), frame(b"between", PING)]
    for byte in b"".join([*parts, frame(line[mark:], CONTINUATION, False), frame(b"", CONTINUATION)]):
        writer.write(bytes([byte]))
        await asyncio.sleep(0)


async def in_a_crowd(line: bytes, writer: asyncio.StreamWriter) -> None:
    """Between other lines in one frame of more than 64 KiB, with a ping of the protocol."""
    other = b'{"push":{"channel":"c0","join":{"info":"' + b"x" * 40_000 + b'"}}}'
    writer.write(frame(b"\n".join([other, b"{}", line, other])))


async def in_two_writes(line: bytes, writer: asyncio.StreamWriter) -> None:
    """A plain frame that is cut in its head."""
    data = frame(line)
    writer.write(data[:3])
    await asyncio.sleep(0.001)
    writer.write(data[3:])


SHAPES: tuple[Callable[[bytes, asyncio.StreamWriter], Awaitable[None]], ...] = in_fragments, in_a_crowd, in_two_writes


@asynccontextmanager
async def listening(server: Server) -> AsyncIterator[Server]:
    listener = await asyncio.start_server(server.serve_client, "127.0.0.1", 0)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()


async def load(server: Server, *options: str) -> tuple[int, dict[str, Any]]:
    """Its exit code and report (empty where it could not run)."""
    process = await asyncio.create_subprocess_exec(
        build(), "-p", str(server.port), "-n", str(SUBSCRIBERS), *options, stdout=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(180):
            output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return process.returncode, json.loads(output) if output else {}


def broken(report: dict[str, Any]) -> dict[str, int]:
    """The promises that were broken, and how often."""
    names = ("lost", "duplicated", "out_of_order", "offset_breaks", "misrouted", "malformed", "errors", "disconnects")
    return {name: report[name] for name in names if report[name]}


async def test_an_honest_server_is_found_honest() -> None:
    async with listening(Server()) as server:
        code, report = await load(server, "-r", "100", "-d", "0.5")
    assert (code, broken(report)) == (0, {})
    published = len(server.lines)
    assert published >= 2 * len(SHAPES)
    assert report["published"] == report["acknowledged"] == published
    assert report["delivered"] == report["expected"] == published * SUBSCRIBERS
    crowds, fragmented = len(range(1, published, 3)), len(range(0, published, 3))
    assert report["other_pushes"] == 2 * crowds * SUBSCRIBERS
    assert server.answered_pings == (1 + crowds) * SUBSCRIBERS
    assert server.pongs == 1 + (1 + fragmented) * SUBSCRIBERS


async def test_every_broken_promise_is_counted() -> None:
    replaced = {7: [], 11: [11, 11], 20: [], 21: [21, 20]}  # dropped, doubled, swapped
    async with listening(Server(lambda n: replaced.get(n, [n]))) as server:
        code, report = await load(server, "-r", "100", "-d", "1", "-w", "1")
    assert code == 1
    # Offsets jump at 8, the second 11, 21, 20 and 22.
    assert broken(report) == {
        name: times * SUBSCRIBERS
        for name, times in {"lost": 1, "duplicated": 1, "out_of_order": 1, "offset_breaks": 5}.items()
    }


async def test_a_closed_loop_has_so_many_under_way_and_ends_when_nothing_comes() -> None:
    async with listening(Server(lambda n: [] if n >= 40 else [n])) as server:
        code, report = await load(server, "-k", "4", "-d", "30", "-w", "1")
    assert code == 1 and report["stalled"]
    assert report["published"] == len(server.lines) == 44
    assert broken(report) == {"lost": 4 * SUBSCRIBERS}


async def test_latency_runs_from_publish_to_delivery(monkeypatch: pytest.MonkeyPatch) -> None:
    delay = 0.05

    async def late(line: bytes, writer: asyncio.StreamWriter) -> None:
        asyncio.get_running_loop().call_later(delay, writer.write, frame(line))

    monkeypatch.setattr("tests.bench.test_load.SHAPES", (late,))
    async with listening(Server()) as server:
        code, report = await load(server, "-r", "50", "-d", "0.4")
    assert (code, broken(report)) == (0, {})
    times = report["latency_ms"]
    assert 0.98 * delay * 1000 <= times["p50"] <= times["p99"] <= times["max"]


async def test_a_hang_up_is_counted() -> None:
    server = Server()

    def hang_up_at_five(number: int) -> list[int]:
        if number == 5:
            server.subscribers.pop().write_eof()  # close() would be a reset, which overtakes what was sent before
        return [number]

    server.shape = hang_up_at_five
    async with listening(server):
        code, report = await load(server, "-r", "100", "-d", "0.1", "-w", "0.2")
    assert code == 1
    assert broken(report) == {"disconnects": 1, "lost": len(server.lines) - 5}


async def test_a_refusal_ends_the_run() -> None:
    server = Server()
    server.greeting = b'{"id":1,"error":{"code":103,"message":"permission denied"}}'
    async with listening(server):
        assert await load(server, "-r", "1") == (2, {})


async def test_idle_connections_are_measured() -> None:
    async with listening(Server()) as server:
        code, report = await load(server, "-i", "0.1", str(os.getpid()))
    (process,) = report["processes"]
    assert (code, broken(report), report["mode"]) == (0, {}, "idle")
    assert process["rss_kib_connected"] >= process["rss_kib_before"] // 2 > 1000
