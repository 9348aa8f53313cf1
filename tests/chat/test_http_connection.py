"""HTTP/1.1 as it is on the wire, rightly and wrongly: one request at a time, bounded in bytes and in time."""

import asyncio
import contextlib
import json
import re
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from chat.http_connection import MOST_HEADERS
from tests.chat.limited import refused
from tests.chat.wire import HANDSHAKE, frame
from tests.services import PeykServer, RedisProcess, until

PATIENCE = 30.0
HEALTH = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
MESSAGES = "/api/channels/wire/messages"
MIB = 2**20
LARGE_PAGES = {"PAGE_BYTES": str(MIB)}  # more than kernels take


@pytest.fixture(scope="module")
def server(redis_of_module: RedisProcess) -> Iterator[PeykServer]:
    """A server that is quick to lose its patience; its client is a proxy, so that each test may be an address."""
    env = {"REDIS_URL": redis_of_module.url, "HANDSHAKE_TIMEOUT": "2", "READER_TIMEOUT": "1", "HEADER_LIMIT": "4000"}
    with PeykServer(
        {**env, **LARGE_PAGES, "KEEP_ALIVE_TIMEOUT": "1", "AUTH_SECRET": "s" * 32, "GUESTS": "yes"}
    ) as server:
        with httpx.Client(base_url=server.url, trust_env=False) as http:
            assert http.post(MESSAGES, json={"text": "x"}).status_code == 201
        yield server


@asynccontextmanager
async def connected(server: PeykServer, buffer: int = 0) -> AsyncIterator[tuple[asyncio.StreamReader, Any]]:
    """A TCP connection; with `buffer`, one whose kernel takes no more than that for a program that does not read."""
    plain = socket.socket()
    if buffer:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    plain.setblocking(False)
    await asyncio.get_running_loop().sock_connect(plain, ("127.0.0.1", server.port))
    reader, writer = await asyncio.open_connection(sock=plain, limit=2**14 if buffer else 2**20)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


def request(method: str, path: str, body: bytes = b"", version: str = "1.1", **headers: str) -> bytes:
    fields = {"host": "localhost"} | ({"content-length": str(len(body))} if body else {}) | headers
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
    return f"{method} {path} HTTP/{version}\r\n{lines}\r\n".encode() + body


def upgrade(body: bytes = b"", **headers: str) -> bytes:
    return request("GET", "/connection/websocket", body, **HANDSHAKE, **headers).replace(b"host: localhost\r\n", b"", 1)


async def response(reader: asyncio.StreamReader, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
    """The next response: its status, headers and body, of a known length or in chunks."""
    async with asyncio.timeout(PATIENCE):
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        status, body = int(first.split()[1]), b""
        if method == "HEAD" or status in (100, 204, 304):
            return status, headers, b""
        if "content-length" in headers:
            body = await reader.readexactly(int(headers["content-length"]))
        return status, headers, body


async def all_of(reader: asyncio.StreamReader) -> bytes:
    """What comes until the server ends the connection."""
    said = b""
    async with asyncio.timeout(PATIENCE):
        with contextlib.suppress(ConnectionError):
            while piece := await reader.read(65536):
                said += piece
    return said


async def ask(server: PeykServer, sent: bytes) -> bytes:
    async with connected(server) as (reader, writer):
        writer.write(sent)
        return await all_of(reader)


# -- one request at a time


def resident(server: PeykServer) -> int:
    """KiB of the server in memory."""
    found = re.search(r"^VmRSS:\s+(\d+)", Path(f"/proc/{server.pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1])


@pytest.mark.parametrize("connections", [1, 20])
@pytest.mark.parametrize("reads", [True, False], ids=["reading", "not reading"])
async def test_a_flood_of_pipelined_requests_waits_in_its_kernel(
    redis_of_module: RedisProcess, connections: int, reads: bool
) -> None:
    """However much is sent: the server holds one read of it, and serves a neighbour meanwhile."""
    flood = HEALTH * (16 * MIB // len(HEALTH))
    with PeykServer({"REDIS_URL": redis_of_module.url}) as server:
        async with (
            contextlib.AsyncExitStack() as stack,
            httpx.AsyncClient(base_url=server.url, trust_env=False) as http,
        ):
            for _ in range(50):
                assert (await http.get("/health")).status_code == 200
            before = resident(server)
            tasks = []
            for _ in range(connections):
                reader, writer = await stack.enter_async_context(connected(server))
                writer.write(flood)
                if reads:
                    tasks.append(asyncio.create_task(all_of(reader)))
            for _ in range(50):
                assert (await http.get("/api/channels")).status_code == 200
            grown = resident(server) - before
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        assert grown < max(4096, 2048 * connections), "KiB"


async def test_pipelined_requests_are_answered_in_order(server: PeykServer) -> None:
    texts = [f"message {number}" for number in range(50)]
    posts = [request("POST", "/api/channels/pipeline/messages", json.dumps({"text": text}).encode()) for text in texts]
    for size in (len(b"".join(posts)), 1000, 77):  # in one piece, and cut anywhere
        async with connected(server) as (reader, writer):
            sent = b"".join(posts)
            for start in range(0, len(sent), size):
                writer.write(sent[start : start + size])
                await asyncio.sleep(0)
            offsets = [json.loads((await response(reader))[2])["offset"] for _ in texts]
            assert offsets == list(range(offsets[0], offsets[0] + len(texts)))
    async with httpx.AsyncClient(base_url=server.url, trust_env=False) as http:
        page = (await http.get("/api/channels/pipeline/messages?limit=150")).json()
    assert [publication["data"]["text"] for publication in page["publications"]] == texts * 3


async def test_what_stands_behind_a_stream_is_not_read(server: PeykServer) -> None:
    async with connected(server) as (reader, writer):
        writer.write(request("GET", MESSAGES, accept="text/event-stream") + request("POST", MESSAGES, b'{"text":"no"}'))
        await reader.readuntil(b": peyk")
        before = resident(server)
        endless = asyncio.create_task(_send(writer, b"GET / HTTP/1.1\r\nX-Long: " + b"x" * 64 * MIB))
        async with httpx.AsyncClient(base_url=server.url, trust_env=False) as http:
            for _ in range(20):
                assert (await http.post(MESSAGES, json={"text": "yes"})).status_code == 201
        async with asyncio.timeout(PATIENCE):
            await reader.readuntil(b'"yes"')  # it goes on
        assert resident(server) - before < 8192 and not endless.done()
        endless.cancel()
    async with httpx.AsyncClient(base_url=server.url, trust_env=False) as http:
        assert '"no"' not in (await http.get(MESSAGES)).text


async def _send(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(data)
    await writer.drain()


async def test_what_comes_with_the_handshake_is_not_lost(server: PeykServer) -> None:
    lines = "".join(f"{name}: {value}\r\n" for name, value in HANDSHAKE.items())
    early = frame(b'{"id":1,"connect":{"data":{"user":"guest-early"}}}')
    async with connected(server) as (reader, writer):
        writer.write(f"GET /connection/websocket HTTP/1.1\r\n{lines}\r\n".encode() + early)
        async with asyncio.timeout(PATIENCE):
            assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
            assert b'"id":1' in await reader.readuntil(b'"client"')


# -- what a request may be


BODY = b'{"text":"x"}'
IN_CHUNKS = b"5;note\r\n" + BODY[:5] + b"\r\n7\r\n" + BODY[5:] + b"\r\n0\r\n"


async def test_trailers_are_no_headers(server: PeykServer) -> None:
    """A proxy has not looked at them: they name neither an address nor a key."""
    trailers = (
        b"X-Forwarded-For: 198.51.100.9\r\nX-API-Key: wrong\r\nAuthorization: Bearer wrong\r\nOrigin: http://evil\r\n"
        b"Connection: close\r\nProxy-Connection: close\r\n"
    )
    sent = request("POST", MESSAGES, transfer_encoding="chunked") + IN_CHUNKS + trailers + b"\r\n"
    async with connected(server) as (reader, writer):
        for _ in range(2):
            writer.write(sent)
            assert (await response(reader))[0] == 201
        writer.write(HEALTH)
        assert (await response(reader))[0] == 200


@pytest.mark.parametrize("line", [b"a:\r\n", b"cookie: b=c\r\n"])
async def test_a_request_has_so_many_headers(server: PeykServer, line: bytes) -> None:
    """Each becomes objects, which cost more than its bytes."""
    head = HEALTH.removesuffix(b"\r\n")
    async with connected(server) as (reader, writer):
        writer.write(head + (MOST_HEADERS - 1) * line + b"\r\n")
        assert (await response(reader))[0] == 200
        writer.write(head + MOST_HEADERS * line + b"\r\n")
        status, headers, body = await response(reader)
        assert status == 431 and headers["connection"] == "close" and b"at most 128 headers" in body


@pytest.mark.parametrize("path", ["/", "/health", "/api/events", "/connection", "/connection/websocket/more"])
async def test_a_websocket_elsewhere_is_told_where_there_is_one(server: PeykServer, path: str) -> None:
    said = await ask(server, upgrade().replace(b"/connection/websocket", path.encode(), 1))
    head, _, body = said.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 404 ") and b"application/json" in head
    assert "there is one at /connection/websocket" in json.loads(body)["error"]["message"]


async def test_a_handshake_that_cannot_be_read_is_answered_and_ends(server: PeykServer) -> None:
    said = await ask(server, upgrade(b"", **{f"x{number}": "a" for number in range(130)}))
    assert said.startswith(b"HTTP/1.1 431 ") and b"at most 128 headers" in said


@pytest.mark.parametrize(
    "headers",
    [
        {"upgrade": "h2c", "connection": "Upgrade, HTTP2-Settings", "http2-settings": "AAMAAABk"},  # as Java's client
        {"UPGRADE": "TLS/1.0", "connection": "upgrade"},
        {"uPGRADE": "websocket, h2c", "connection": "upgrade"},
    ],
)
@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_is_no_request_though_another_protocol_is_offered(
    server: PeykServer, headers: dict[str, str], chunked: bool
) -> None:
    if chunked:
        head = request("POST", MESSAGES, b"", content_type="text/plain", transfer_encoding="chunked", **headers)
        sent = head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(HEALTH), HEALTH)
    else:
        sent = request("POST", MESSAGES, HEALTH, content_type="text/plain", **headers)
    async with connected(server) as (reader, writer):
        for _ in range(2):  # in one piece with what follows, and the connection goes on
            writer.write(sent + request("GET", f"{MESSAGES}?limit=1"))
            assert (await response(reader))[0] == 201
            _, _, page = await response(reader)
            said = json.loads(page)["publications"][-1]["data"]["text"]
            assert said == "GET /health HTTP/1.1\nHost: localhost\n"


@pytest.mark.parametrize(
    ("sent", "status", "says"),
    [
        (request("POST", MESSAGES, BODY, transfer_encoding="chunked"), 400, "Content-Length"),
        (
            request("POST", MESSAGES, content_length="1", transfer_encoding="chunked") + b"0\r\n\r\n",
            400,
            "Content-Length",
        ),
        (request("POST", MESSAGES, transfer_encoding="chunked, gzip"), 400, "Transfer-Encoding"),
        (request("POST", MESSAGES, transfer_encoding="identity"), 400, "Transfer-Encoding"),
        (request("POST", MESSAGES, content_length="+5"), 400, "Content-Length"),
        (request("POST", MESSAGES, transfer_encoding="chunked") + b"zz\r\n", 400, "chunk size"),
        (request("POST", MESSAGES, transfer_encoding="chunked") + b"-1\r\n", 400, "chunk size"),
        (request("POST", MESSAGES, transfer_encoding="chunked") + b"5\r\n{}\r\n0\r\n\r\n", 400, "HTTP"),
        (request("POST", MESSAGES, transfer_encoding="chunked") + b"1\n{\n0\n\n", 400, "CR LF"),
        (b"GET / HTTP/1.1\nHost: localhost\n\n", 400, "CR LF"),
        (b"GET / HTTP/1.1\r\nHost : localhost\r\n\r\n", 400, "header"),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n folded\r\n\r\n", 400, "whitespace"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, "not TLS"),
        (b"CONNECT localhost:1 HTTP/1.1\r\nHost: localhost\r\n\r\n" + HEALTH, 400, "CONNECT is for proxies"),
        (request("CONNECT", "/health", HEALTH), 400, "CONNECT is for proxies"),
        (upgrade(HEALTH), 400, "handshake has no body"),
        (request("GET", f"{MESSAGES}?limit=1" + "&a" * 64), 400, "at most 64 fields"),
        (upgrade(transfer_encoding="chunked") + b"0\r\n\r\n", 400, "handshake has no body"),
        (upgrade(CONNECTION="keep-alive") + HEALTH, 400, "CONNECT"),
        (b"GET * HTTP/1.1\r\nHost: localhost\r\n\r\n", 404, "see /openapi.json"),
        (b"GET / HTTP/2.0\r\n\r\n", 505, "HTTP/1.1 is spoken here"),
        (b"GET /\r\n\r\n", 505, "HTTP/1.1 is spoken here"),
        (b"GET / HTTP/1.1\r\n\r\n", 403, "not to no name"),
        (request("GET", "/", Host="localhost"), 403, "not to localhost, localhost"),
    ],
)
async def test_what_is_no_request_is_told_so(server: PeykServer, sent: bytes, status: int, says: str) -> None:
    async with connected(server) as (reader, writer):
        writer.write(sent)
        found, _, body = await response(reader)
        assert found == status and says in json.loads(body)["error"]["message"], body
        if status not in (403, 404):  # where its bytes are right, it may go on
            assert (await all_of(reader)).count(b"HTTP/1.1 ") == 0, "one answer"
    assert "Traceback" not in server.log.read_text()


@pytest.mark.parametrize(
    ("target", "host", "status"),
    [
        ("http://localhost/health", "evil.example", 200),  # the target counts (RFC 9112, section 3.2.2)
        ("http://127.0.0.1:80", "evil.example", 200),
        ("http://evil.example/health", "localhost", 403),
        ("HTTP://LOCALHOST/health?x=1", "localhost", 200),
    ],
)
async def test_a_target_may_be_a_whole_url(redis_of_module: RedisProcess, target: str, host: str, status: int) -> None:
    async with connected(_laptop(redis_of_module)) as (reader, writer):
        writer.write(f"GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        assert (await response(reader))[0] == status


_laptops: list[PeykServer] = []


@pytest.fixture(scope="module", autouse=True)
def laptops() -> Iterator[None]:
    yield
    while _laptops:
        _laptops.pop().close()


def _laptop(process: RedisProcess) -> PeykServer:
    """A server with the defaults of loopback, for several tests."""
    if not _laptops:
        _laptops.append(PeykServer({"REDIS_URL": process.url}))
        _laptops[0].start()
    return _laptops[0]


async def test_head_is_get_without_its_body(server: PeykServer) -> None:
    async with connected(server) as (reader, writer):
        for path in ("/", "/web/app.js", "/health", "/ready", "/metrics", "/openapi.json", "/api/channels", MESSAGES):
            for method in ("GET", "HEAD"):
                writer.write(request(method, path))
            got, head = await response(reader), await response(reader, "HEAD")
            assert (
                (head[0], head[1]["content-type"]) == (got[0], got[1]["content-type"]) == (200, got[1]["content-type"])
            )
        writer.write(request("HEAD", MESSAGES, accept="text/event-stream") + HEALTH)  # which is no stream
        status, headers, _ = await response(reader, "HEAD")
        assert status == 200 and headers["content-type"].startswith("text/event-stream")
        assert (await response(reader))[0] == 200


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/api/channels", "GET, HEAD, OPTIONS, POST"),
        (MESSAGES, "GET, HEAD, OPTIONS, POST"),
        (MESSAGES + "/", "GET, HEAD, OPTIONS, POST"),
        ("/health", "GET, HEAD, OPTIONS"),
        ("/", "GET, HEAD, OPTIONS"),
        ("*", "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT"),
    ],
)
async def test_options_names_the_methods(server: PeykServer, path: str, allowed: str) -> None:
    async with connected(server) as (reader, writer):
        writer.write(request("OPTIONS", path) + HEALTH)
        status, headers, _ = await response(reader)
        assert status == 204 and headers["allow"] == allowed
        assert (await response(reader))[0] == 200


async def test_http_1_0_is_answered_until_the_connection_ends(server: PeykServer) -> None:
    said = await ask(server, request("GET", "/health", version="1.0"))
    assert b"connection: close\r\n" in said and said.endswith(b'{"status":"ok","parts":{}}')
    async with connected(server) as (reader, writer):  # a stream, too: chunks are of 1.1
        writer.write(request("GET", MESSAGES + "?after=0", version="1.0", accept="text/event-stream"))
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"transfer-encoding" not in head and b"content-length" not in head
        async with asyncio.timeout(PATIENCE):
            assert (await reader.readline()).startswith((b": peyk", b"id: "))


@pytest.mark.parametrize("close", ["close", "Keep-Alive, Close"])
async def test_who_wants_no_other_request_is_left(server: PeykServer, close: str) -> None:
    said = await ask(server, request("GET", "/health", connection=close) + HEALTH)
    assert said.count(b"HTTP/1.1 200") == 1


async def test_a_client_may_wait_for_leave_to_send_its_body(server: PeykServer) -> None:
    async with connected(server) as (reader, writer):
        writer.write(request("POST", MESSAGES, content_length=str(len(BODY)), expect="100-continue"))
        assert (await response(reader))[0] == 100
        writer.write(BODY)
        assert (await response(reader))[0] == 201
    beyond = request("POST", MESSAGES, content_length="9" * 9, expect="100-continue")
    said = await ask(server, beyond)  # it hears so before it sends anything, and then the connection ends
    assert said.startswith(b"HTTP/1.1 413 ") and b"connection: close\r\n" in said


async def test_who_is_refused_while_it_sends_hears_why(server: PeykServer) -> None:
    """The connection is not reset before it has read the answer."""
    for size, extra in ((300_000, 200_000), (3 * MIB, 2 * MIB)):
        async with connected(server) as (reader, writer):
            writer.write(request("POST", MESSAGES, content_length=str(size)))
            assert (await response(reader))[0] == 413
            writer.write(b"x" * extra)
            assert await all_of(reader) == b""


async def test_a_small_body_that_is_answered_early_costs_no_connection(server: PeykServer) -> None:
    """A client that sends head and body apart may go on."""
    async with connected(server) as (reader, writer):
        for _ in range(3):
            writer.write(request("POST", "/nowhere", content_length="5"))
            assert (await response(reader))[0] == 404
            writer.write(b"GET /" + HEALTH)
            assert (await response(reader))[0] == 200


async def test_who_sends_no_more_is_still_answered(server: PeykServer) -> None:
    async with connected(server) as (reader, writer):
        writer.write(HEALTH * 3)
        writer.write_eof()
        assert (await all_of(reader)).count(b'{"status":"ok","parts":{}}') == 3


# -- time


@pytest.mark.parametrize(
    ("sent", "drop"),
    [
        (b"GET / HTTP/1.1\r\nX-Long: ", b"x"),
        (request("POST", MESSAGES, content_length="9999"), b"x"),
        (request("POST", MESSAGES, transfer_encoding="chunked"), b"1\r\nx\r\n"),
        (request("POST", MESSAGES, transfer_encoding="chunked") + b"0\r\n", b"X-A: b\r\n"),
        (b"\r\n", b"\r\n"),
    ],
    ids=["a head", "a body", "chunks", "trailers", "empty lines"],
)
async def test_a_request_that_comes_in_drops_is_given_up(server: PeykServer, sent: bytes, drop: bytes) -> None:
    """Each drop is in time; the whole is not."""
    async with connected(server) as (reader, writer):
        writer.write(sent)
        reading = asyncio.create_task(all_of(reader))
        async with asyncio.timeout(PATIENCE):
            while not reading.done():
                writer.write(drop)
                await asyncio.wait([reading], timeout=0.1)
        said = reading.result()
        assert sent == b"\r\n" or (said.startswith(b"HTTP/1.1 408 ") and b"within 2 s" in said)


async def test_a_connection_does_not_wait_for_ever_for_another_request(server: PeykServer) -> None:
    said = await ask(server, HEALTH)
    assert said.startswith(b"HTTP/1.1 200 ") and b"408" not in said


# -- who does not read


async def fill(server: PeykServer, channel: str) -> str:
    """A channel whose history is more than a large page; its path."""
    path = f"/api/channels/{channel}/messages"
    async with httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=PATIENCE) as http:
        for _ in range(30):
            assert (await http.post(path, json={"data": "x" * 50_000})).status_code == 201
    return path


def sockets(server: PeykServer, port: int) -> list[tuple[str, int]]:
    """The server's sockets that face this port of a client: their state, and the bytes that wait in the kernel."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    local, remote = f":{server.port:04X}", f":{port:04X}"
    found = [line for line in lines if line[1].endswith(local) and line[2].endswith(remote)]
    return [(line[3], int(line[4].partition(":")[0], 16)) for line in found]


@pytest.mark.parametrize("asked", ["pages", "a last page", "a stream", "a page, and leave to send"])
async def test_who_reads_no_answer_is_reset(server: PeykServer, asked: str) -> None:
    """As on a WebSocket; nothing of it stays in the kernel."""
    path = await fill(server, "unread-" + asked.replace(" ", "-").replace(",", ""))
    page = {"pages": request("GET", path) * 100, "a last page": request("GET", path, connection="close")}
    page["a stream"] = request("GET", path + "?after=0", accept="text/event-stream")
    page["a page, and leave to send"] = request("GET", path) + request(
        "POST", path, content_length="9", expect="100-continue"
    )
    before = await refused(server, "unread_bytes")
    async with connected(server, buffer=4096) as (_, writer):
        writer.write(page[asked])
        port = writer.get_extra_info("sockname")[1]
        writer.transport.pause_reading()

        async def dropped() -> bool:
            return await refused(server, "unread_bytes") > before

        await until(dropped, PATIENCE)
        await until(lambda: not sockets(server, port), PATIENCE, "the kernel holds nothing")


async def test_who_reads_slowly_gets_everything(server: PeykServer) -> None:
    """A connection that ends in good order ends behind its last byte."""
    path = await fill(server, "slowly")
    async with connected(server, buffer=4096) as (reader, writer):
        writer.write(request("GET", path, connection="close"))
        status, headers, said = 0, {}, b""
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
        status, headers = int(first.split()[1]), dict(line.split(": ", 1) for line in lines)
        async with asyncio.timeout(4 * PATIENCE):
            while piece := await reader.read(50_000):
                said += piece
                await asyncio.sleep(0.05)
        assert status == 200 and len(said) == int(headers["content-length"]) > 900_000


async def test_answers_that_nobody_reads_are_bounded(redis_of_module: RedisProcess) -> None:
    """One for each connection, and what the kernel holds."""
    with PeykServer({"REDIS_URL": redis_of_module.url, **LARGE_PAGES, "READER_TIMEOUT": "600"}) as server:
        path = await fill(server, "unread")
        async with (
            contextlib.AsyncExitStack() as stack,
            httpx.AsyncClient(base_url=server.url, trust_env=False) as http,
        ):
            for _ in range(3):
                assert (await http.get(path)).status_code == 200
            before = resident(server)
            for _ in range(30):
                _, writer = await stack.enter_async_context(connected(server, buffer=4096))
                writer.transport.pause_reading()
                writer.write(request("GET", path) * 20)
            for _ in range(20):
                assert (await http.get(path)).status_code == 200
            assert (resident(server) - before) / 30 < 2048, "KiB"


@pytest.mark.parametrize("ends", ["a close frame", "a broken frame"])
async def test_a_socket_that_ends_and_does_not_read_is_reset(server: PeykServer, ends: str) -> None:
    """Nothing of it stays in the kernel, however it ended."""
    await fill(server, "sockets")
    lines = "".join(f"{name}: {value}\r\n" for name, value in HANDSHAKE.items())
    asked = (
        {"id": 1, "connect": {"data": {"user": "guest-end"}}},
        {"id": 2, "history": {"channel": "sockets", "limit": 3}},
    )
    before = await refused(server, "unread_bytes")
    async with connected(server, buffer=4096) as (_, writer):
        writer.transport.pause_reading()
        writer.write(f"GET /connection/websocket HTTP/1.1\r\n{lines}\r\n".encode())
        writer.write(b"".join(frame(json.dumps(command).encode()) for command in asked))
        port = writer.get_extra_info("sockname")[1]
        await until(lambda: any(waiting > 50_000 for _, waiting in sockets(server, port)), PATIENCE)
        writer.write(frame(struct.pack("!H", 1000), 8) if ends == "a close frame" else frame(b"x", 3))

        async def dropped() -> bool:
            return await refused(server, "unread_bytes") > before

        await until(dropped, PATIENCE)
        await until(lambda: not sockets(server, port), PATIENCE, "the kernel holds nothing")
