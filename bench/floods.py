"""`python -m bench.floods NAME PORT CONNECTIONS SECONDS`: what a hostile client does to a server.

Each flood is what one connection does until it is told to stop. A connection that the server closes is opened again
after a moment, as an attacker would. Prints a line when every connection was opened and the time begins to count; then
one JSON object: what was sent, what came back, how often it was closed. Loopback only, and never longer than asked.
"""

import asyncio
import gzip
import itertools
import json
import secrets
import struct
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field

import uvloop

FROM = "127.0.0.1"  # the address that attacks
BEGUN = "begun"  # the line that says so
_PATIENCE = 60.0  # seconds until it must have begun
_PAUSE = 0.05  # seconds before a connection that was closed is opened again
_AT_ONCE = 64 * 1024  # bytes of a read
_PAGE = "/api/channels/c0/messages?limit=1000"  # of history, as large as there may be
_TEXT, _PING = 1, 9
Reader = asyncio.StreamReader
Writer = asyncio.StreamWriter


@dataclass
class Tally:
    """What a flood did, and what it met."""

    bytes_sent: int = 0
    bytes_read: int = 0
    opened: int = 0
    closed: int = 0  # by the server
    statuses: dict[str, int] = field(default_factory=dict)  # first lines of answers, of floods that look at them


class Peer:
    """One connection of a flood."""

    def __init__(self, reader: Reader, writer: Writer, tally: Tally) -> None:
        self.reader = reader
        self.writer = writer
        self.tally = tally

    async def send(self, data: bytes) -> None:
        """Send, and wait where the kernel is full."""
        self.writer.write(data)
        self.tally.bytes_sent += len(data)
        await self.writer.drain()

    async def read(self) -> bytes:
        data = await self.reader.read(_AT_ONCE)
        if not data:
            raise ConnectionResetError
        self.tally.bytes_read += len(data)
        return data

    async def read_for_ever(self) -> None:
        while True:
            await self.read()

    async def send_for_ever(self, pieces: Iterator[bytes]) -> None:
        for piece in pieces:
            await self.send(piece)

    async def answered(self, request: bytes) -> int:
        """Send one request and read its whole answer; the status."""
        await self.send(request)
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0]
        if length:
            await self.reader.readexactly(int(length))
        self.tally.bytes_read += len(head) + int(length or 0)
        status = head.split(b" ", 2)[1].decode()
        self.tally.statuses[status] = self.tally.statuses.get(status, 0) + 1
        return int(status)

    async def upgrade(self, user: str = "") -> None:
        """Become a WebSocket, and connect as a guest."""
        await self.send(
            b"GET /connection/websocket HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        await self.reader.readuntil(b"\r\n\r\n")
        name = user or f"flood-{secrets.token_hex(4)}"
        await self.send(frame(b'{"id":1,"connect":{"data":{"user":"%b"}}}' % name.encode()))

    async def flood(self, pieces: Iterator[bytes]) -> None:
        """Send without end, and read what comes."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.read_for_ever())
            tasks.create_task(self.send_for_ever(pieces))


Flood = Callable[[Peer], Awaitable[None]]


def frame(body: bytes, opcode: int = _TEXT) -> bytes:
    """A client's frame, masked with zeros."""
    size = len(body)
    head = bytes([0x80 | opcode])
    if size < 126:
        head += bytes([0x80 | size])
    elif size < 65536:
        head += b"\xfe" + struct.pack("!H", size)
    else:
        head += b"\xff" + struct.pack("!Q", size)
    return head + bytes(4) + body


def request(method: str, path: str, body: bytes = b"", *headers: str) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "host: localhost", *headers]
    if body:
        lines += ["content-type: application/json", f"content-length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode() + body


def command(number: int, name: str, **fields: object) -> bytes:
    return json.dumps({"id": number, name: fields}).encode()


def many(data: bytes) -> bytes:
    """As often as fits into what is read at once."""
    return data * max(1, _AT_ONCE // len(data))


# -- the HTTP door


async def pipelined(peer: Peer) -> None:
    """Requests back to back; the answers are read."""
    await peer.flood(itertools.repeat(many(request("GET", "/health"))))


async def pipelined_and_unread(peer: Peer) -> None:
    """The same; nothing is read."""
    await peer.send_for_ever(itertools.repeat(many(request("GET", "/health"))))


async def pages_unread(peer: Peer) -> None:
    """Pages of history back to back; nothing is read."""
    await peer.send_for_ever(itertools.repeat(many(request("GET", _PAGE))))


async def pages(peer: Peer) -> None:
    """Pages of history one after another; they are read."""
    while True:
        await peer.answered(request("GET", _PAGE))


async def page_and_metrics(peer: Peer) -> None:
    """What is not under /api/: one request after another, as fast as they are answered."""
    for path in itertools.cycle(["/", "/metrics", "/ready", "/openapi.json", "/web/app.js"]):
        await peer.answered(request("GET", path))


async def slow_body(peer: Peer) -> None:
    """A request that is never whole, an octet at a time."""
    await peer.send(request("POST", "/api/channels/c0/messages", b"", "content-length: 60000"))
    while True:
        await peer.send(b"x")
        await asyncio.sleep(0.5)


async def endless_trailers(peer: Peer) -> None:
    """A chunked body whose trailers do not end."""
    await peer.send(request("POST", "/api/channels/c0/messages", b"", "transfer-encoding: chunked") + b"0\r\n")
    await peer.flood(itertools.repeat(many(b"x-forwarded-for: 10.0.0.1\r\n")))


# -- the socket


async def many_headers(peer: Peer) -> None:
    """As many headers as there is room for: each becomes objects."""
    head = request("GET", "/health").removesuffix(b"\r\n") + b"a:\r\n" * 15_000 + b"\r\n"
    while True:
        await peer.answered(head)


async def packed_batches(peer: Peer) -> None:
    """A kilobyte that unfolds into a third of a million events."""
    body = gzip.compress(b"[" + b"{}," * 349_000 + b"{}]")
    while True:
        await peer.answered(request("POST", "/api/events", body, "content-encoding: gzip"))


async def newlines(peer: Peer) -> None:
    """Frames of a megabyte of nothing."""
    await peer.upgrade()
    await peer.flood(itertools.repeat(frame(b"\n" * 1_000_000)))


async def empty_frames(peer: Peer) -> None:
    await peer.upgrade()
    await peer.flood(itertools.repeat(many(frame(b""))))


async def pings(peer: Peer) -> None:
    await peer.upgrade()
    await peer.flood(itertools.repeat(many(frame(b"x" * 100, _PING))))


async def unread_socket(peer: Peer) -> None:
    """Asks for pages of history and never reads."""
    await peer.upgrade()
    asked = frame(command(2, "history", channel="c0", limit=1000))
    await peer.send_for_ever(itertools.repeat(many(asked)))


async def recoveries(peer: Peer) -> None:
    """Comes back to a channel again and again, and wants all it missed."""
    await peer.upgrade()
    await peer.send(frame(command(2, "history", channel="c0", limit=1)))
    epoch = (await peer.reader.readuntil(b'"offset":')).partition(b'"epoch":"')[2].split(b'"')[0].decode()
    back = command(3, "subscribe", channel="c0", recover=True, epoch=epoch, offset=0)
    again = back + b"\n" + command(4, "unsubscribe", channel="c0")
    await peer.flood(itertools.repeat(frame(again)))


async def deep_json(peer: Peer) -> None:
    """64 KiB of JSON, nested as deep as is read."""
    await peer.upgrade()
    nested = b"[" * 900 + b"]" * 900
    data = b"[" + b",".join([nested] * 35) + b"]"
    await peer.flood(itertools.repeat(frame(b'{"id":2,"publish":{"channel":"deep","data":%b}}' % data)))


async def new_channels(peer: Peer) -> None:
    """Publishes to a channel that nobody has heard of, again and again."""
    await peer.upgrade()
    names = (secrets.token_hex(8) for _ in itertools.count())
    await peer.flood(frame(command(2, "publish", channel=f"new-{name}", data="x")) for name in names)


async def asked_names(peer: Peer) -> None:
    """Asks for the history of channels that are not there."""
    await peer.upgrade()
    names = (secrets.token_hex(8) for _ in itertools.count())
    await peer.flood(frame(command(2, "history", channel=f"asked-{name}", limit=1)) for name in names)


async def channel_lists(peer: Peer) -> None:
    await peer.upgrade()
    await peer.flood(itertools.repeat(frame(command(2, "rpc", method="channels.list", data={}))))


async def guests_come_and_go(peer: Peer) -> None:
    """A guest subscribes and is gone."""
    await peer.upgrade()
    await peer.send(frame(command(2, "subscribe", channel="c0")))
    await peer.read()


# -- accounts


async def accounts(peer: Peer) -> None:
    while True:
        body = json.dumps({"username": f"mass-{secrets.token_hex(6)}", "password": "correct horse"}).encode()
        await peer.answered(request("POST", "/api/accounts", body))


async def sign_ins(peer: Peer) -> None:
    """With names that may be anybody's."""
    while True:
        body = json.dumps({"username": f"who-{secrets.token_hex(6)}", "password": "correct horse"}).encode()
        await peer.answered(request("POST", "/api/session", body))


async def sign_outs(peer: Peer) -> None:
    while True:
        await peer.answered(request("DELETE", "/api/session"))


FLOODS: dict[str, Flood] = {
    "pipelined": pipelined,
    "pipelined-unread": pipelined_and_unread,
    "pages-unread": pages_unread,
    "pages": pages,
    "page-and-metrics": page_and_metrics,
    "slow-body": slow_body,
    "endless-trailers": endless_trailers,
    "many-headers": many_headers,
    "packed-batches": packed_batches,
    "newlines": newlines,
    "empty-frames": empty_frames,
    "pings": pings,
    "unread-socket": unread_socket,
    "recoveries": recoveries,
    "deep-json": deep_json,
    "new-channels": new_channels,
    "asked-names": asked_names,
    "channel-lists": channel_lists,
    "guests-come-and-go": guests_come_and_go,
    "accounts": accounts,
    "sign-ins": sign_ins,
    "sign-outs": sign_outs,
}


@asynccontextmanager
async def _connected(port: int, tally: Tally) -> AsyncIterator[Peer]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(FROM, 0))
    tally.opened += 1
    try:
        yield Peer(reader, writer, tally)
    finally:
        writer.transport.abort()


async def _again_and_again(flood: Flood, port: int, tally: Tally, connections: int, all_open: asyncio.Event) -> None:
    task = asyncio.current_task()
    while task is None or not task.cancelling():  # a group of tasks that fails meanwhile swallows that it was cancelled
        try:
            async with _connected(port, tally) as peer:
                if tally.opened >= connections:
                    all_open.set()
                await all_open.wait()
                await flood(peer)
        except* (OSError, asyncio.IncompleteReadError, ValueError):
            tally.closed += 1
        await asyncio.sleep(_PAUSE)


async def run(name: str, port: int, connections: int, seconds: float) -> Tally:
    """One flood for so long; what it met. Raises TimeoutError where it could not begin."""
    tally = Tally()
    all_open = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        flooding = (_again_and_again(FLOODS[name], port, tally, connections, all_open) for _ in range(connections))
        attackers = [tasks.create_task(attacker) for attacker in flooding]
        try:
            async with asyncio.timeout(_PATIENCE):
                await all_open.wait()
            print(BEGUN, flush=True)
            await asyncio.sleep(seconds)
        finally:
            for attacker in attackers:
                attacker.cancel()
    return tally


def main() -> None:
    name, port, connections, seconds = sys.argv[1:]
    tally = uvloop.run(run(name, int(port), int(connections), float(seconds)))
    print(json.dumps(asdict(tally)))


if __name__ == "__main__":
    main()
