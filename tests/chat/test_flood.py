"""Rates on a real server: at the limit, one beyond it, and under a flood that others must not notice."""

import asyncio
import contextlib
import gzip
import struct
import time
from collections.abc import Iterator
from typing import Any

import httpx2 as httpx
import pytest
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from tests.chat.conftest import Talk
from tests.chat.limited import (
    BURST,
    ask_all,
    ask_until_refused,
    at_limit,
    codes,
    dial,
    http,
    refused,
    registered,
    server,
)
from tests.chat.wire import CONT, PING, frame
from tests.services import PeykServer, RedisProcess, until

__all__ = ["http", "server"]

FAST = {"COMMAND_RATE": "200", "RATE_BURST": "0.1"}  # a burst of 20; closed after 1 s of nothing but refusals


@pytest.fixture(scope="module")
def fast(redis_of_module: RedisProcess) -> Iterator[PeykServer]:
    with PeykServer({"REDIS_URL": redis_of_module.url, **FAST}) as server:
        yield server


# -- rates


async def test_commands_of_a_client(server: PeykServer) -> None:
    since = time.monotonic()
    async with dial(server, "rate-commands") as talk:
        *served, last = await ask_until_refused(talk, {"ping": {}})
        assert set(codes(served)) == {0} and at_limit(1 + len(served), BURST, 2, since)  # connecting was one
        assert last["error"]["temporary"] is True and "too many commands; wait 0." in last["error"]["message"]
        assert codes([await talk.ask(ping={})]) == [0]  # it waits, and is served again
    assert await refused(server, "rate") >= 1


async def test_messages_of_a_client_however_they_are_sent(server: PeykServer) -> None:
    since = time.monotonic()
    async with dial(server, "rate-messages") as talk:
        first: dict[str, Any] = {"publish": {"channel": "rate", "data": 1}}
        second: dict[str, Any] = {"rpc": {"method": "publish", "data": {"channel": "rate", "data": 2}}}
        *served, last = await ask_until_refused(talk, first, second)
        assert set(codes(served)) == {0} and at_limit(len(served), 10, 1, since)
        assert "too many messages" in last["error"]["message"]
        page = (await talk.ask(history={"channel": "rate", "limit": 100}))["history"]
        assert len(page["publications"]) == len(served)  # a refused one is not stored


async def test_commands_that_are_wrong_count_as_well(server: PeykServer) -> None:
    since = time.monotonic()
    async with dial(server, "rate-wrong") as talk:
        *served, _ = await ask_until_refused(talk, {"publish": 5})
        assert set(codes(served)) == {107} and at_limit(1 + len(served), BURST, 2, since)


async def test_commands_before_connect_count_as_well(server: PeykServer) -> None:
    since = time.monotonic()
    async with dial(server, "", "rate-early") as talk:
        *served, _ = await ask_until_refused(talk, {"ping": {}})
        assert set(codes(served)) == {107} and at_limit(len(served), BURST, 2, since)


async def test_a_users_clients_share_its_rate(server: PeykServer) -> None:
    cookie = await registered(server, "rate-user")
    since = time.monotonic()
    async with (
        dial(server, "rate-user", "rate-user-1", cookie) as one,
        dial(server, "rate-user", "rate-user-2", cookie) as two,
        dial(server, "rate-other") as other,
    ):
        assert codes(await ask_all(one, *[{"ping": {}}] * 18)) == [0] * 18
        *served, _ = await ask_until_refused(two, {"ping": {}})
        assert set(codes(served)) == {0} and at_limit(18 + len(served), 30, 3, since)
        assert codes(await ask_all(other, *[{"ping": {}}] * 18)) == [0] * 18


async def test_guests_share_the_rate_of_their_address_by_whatever_names(server: PeykServer) -> None:
    since = time.monotonic()
    at = "rate-guests"
    async with dial(server, "guest-1", at) as one, dial(server, "guest-2", at) as two, dial(server, "guest-1") as far:
        assert codes(await ask_all(one, *[{"ping": {}}] * 18)) == [0] * 18
        *served, _ = await ask_until_refused(two, {"ping": {}})
        assert set(codes(served)) == {0} and at_limit(2 + 18 + len(served), 30, 3, since)  # two handshakes
        assert codes(await ask_all(far, *[{"ping": {}}] * 18)) == [0] * 18  # its name is anybody's


PIECES = 100  # frames that arrive together: far more than a full bucket


@pytest.mark.parametrize(
    "frames",
    [
        [frame(b"", PING)] * PIECES + [frame(b'{"id":1,"ping":{}}')],
        [frame(b'{"id":1,"pi', fin=False), *[frame(b"", CONT, fin=False)] * PIECES, frame(b'ng":{}}', CONT)],
    ],
    ids=["pings", "fragments"],
)
async def test_frames_that_are_no_commands_count_as_commands(server: PeykServer, frames: list[bytes]) -> None:
    """Each alone: the command behind them, and nothing before it, is beyond the rate."""
    async with dial(server, f"rate-frames-{len(frames)}") as talk:
        before = await refused(server, "rate")
        talk.socket.transport.write(b"".join(frames))
        assert codes([await talk.reply(1)]) in ([0], [111])
        assert await refused(server, "rate") > before


async def test_messages_over_http(http: httpx.AsyncClient) -> None:
    path, body = "/api/channels/rate-http/messages", {"text": "x"}
    served, since = 0, time.monotonic()
    while (reply := await http.post(path, json=body)).status_code == 201:
        served += 1
        assert served < 1000
    assert at_limit(served, 10, 1, since)
    assert (reply.status_code, reply.json()["error"]["code"]) == (429, 111) and "too many messages" in reply.text
    assert reply.headers["retry-after"] == "1"
    other = await http.post(path, json=body, headers={"x-forwarded-for": "elsewhere"})
    assert other.status_code == 201


async def test_a_batch_may_be_more_than_the_rate_holds_and_then_waits(http: httpx.AsyncClient) -> None:
    """Ten messages may come at once; EVENT_BATCH says how many a batch may have."""
    event = {"type": "x", "channel": "rate-batch", "payload": 1}
    for size, status in ((1001, 413), (1000, 202), (1, 429)):
        reply = await http.post("/api/events", json=[event] * size)
        assert reply.status_code == status, reply.text
    assert 980 < int(reply.headers["retry-after"]) <= 991


async def test_requests_over_http(http: httpx.AsyncClient) -> None:
    served = 0
    while (await http.get("/api/channels")).status_code == 200:  # three more come a second
        served += 1
        assert served < 1000
    assert served >= 30
    for path in ("/health", "/ready", "/metrics", "/", "/web/app.js", "/openapi.json", "/nothing"):
        while (reply := await http.get(path)).status_code != 429:  # one more of them may be
            served += 1
            assert served < 1000
        assert int(reply.headers["retry-after"]) > 0 and "too many requests" in reply.text


# -- what is large

LARGE = b" " * 100 * 1024
PACKED = {"content-encoding": "gzip"}


@pytest.fixture(scope="module")
def weighed(redis_of_module: RedisProcess) -> Iterator[PeykServer]:
    rates = {"USER_COMMAND_RATE": "1", "COMMAND_RATE": "1", "RATE_BURST": "30", "COMMAND_BYTES": "1024"}
    public = {"TRUSTED_PROXIES": "127.0.0.1", "GUESTS": "yes", "API_KEY": "0123456789abcdef"}
    with PeykServer({"REDIS_URL": redis_of_module.url, **public, **rates}) as server:
        yield server


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (LARGE, {}),
        (gzip.compress(LARGE), PACKED),
        (gzip.compress(b" " * 2_000_000), PACKED),
        (gzip.compress(LARGE)[:-8] + bytes(8), PACKED),
    ],
    ids=["plain", "packed", "too much", "packed wrongly"],
)
async def test_what_is_large_counts_as_several_commands(
    weighed: PeykServer, body: bytes, headers: dict[str, str], request: pytest.FixtureRequest
) -> None:
    headers = {**headers, "x-forwarded-for": request.node.name, "content-type": "application/json"}
    async with httpx.AsyncClient(base_url=weighed.url, timeout=180, trust_env=False, headers=headers) as http:
        assert (await http.post("/api/events", content=body)).status_code in (400, 413)
        reply = await http.get("/api/channels")
        assert reply.status_code == 429 and "too many requests" in reply.text


async def test_so_does_a_large_answer(weighed: PeykServer) -> None:
    page, headers = "/api/channels/large/messages", {"x-forwarded-for": "reads"}
    async with httpx.AsyncClient(base_url=weighed.url, timeout=180, trust_env=False) as http:
        for writer in ("writes", "writes too"):
            reply = await http.post(page, json={"text": "x" * 50_000}, headers={"x-forwarded-for": writer})
            assert reply.status_code == 201
        assert len((await http.get(page, headers=headers)).content) > 100_000
        assert (await http.get(page, headers=headers)).status_code == 429
    async with dial(weighed, "reader") as talk:
        history = {"history": {"channel": "large", "limit": 2}}
        assert codes([await talk.ask(**history), await talk.ask(**history)]) == [0, 111]


async def test_so_does_what_is_looked_up_in_many_places(redis_of_module: RedisProcess) -> None:
    """A list of channels is short, and asks Redis for each of them."""
    rates = {"USER_COMMAND_RATE": "1", "COMMAND_RATE": "1", "RATE_BURST": "5"}
    public = {"TRUSTED_PROXIES": "127.0.0.1", "GUESTS": "yes", "API_KEY": "0123456789abcdef"}
    program = {"x-api-key": "0123456789abcdef", "x-forwarded-for": "program"}
    events = [{"type": "made", "channel": f"listed-{number}", "payload": 1} for number in range(120)]
    with PeykServer({"REDIS_URL": redis_of_module.url, **public, **rates}) as server:
        async with httpx.AsyncClient(base_url=server.url, timeout=180, trust_env=False) as http:
            assert (await http.post("/api/events", json=events, headers=program)).status_code == 202
            asked, by = "/api/channels?prefix=listed-", {"x-forwarded-for": "lists"}
            assert len((await http.get(asked, headers=by)).json()) == 120
            assert (await http.get(asked, headers=by)).status_code == 429
        async with dial(server, "lister") as talk:
            lists = {"rpc": {"method": "channels.list", "data": {"prefix": "listed-"}}}
            assert codes([await talk.ask(**lists), await talk.ask(**lists)]) == [0, 111]


# -- floods


async def flood(socket: ClientConnection, piece: str) -> int:
    """Send for as long as the connection lives; its close code."""
    with contextlib.suppress(ConnectionClosed):
        while True:
            await socket.send(piece)
            await asyncio.sleep(0)  # read, too: `send` goes on without a turn of the loop while there is room
    return socket.close_code or 0


@pytest.mark.parametrize("lines", [1, 1000], ids=["a command a frame", "many in a frame"])
async def test_a_flood_is_held_back_and_closed_if_it_does_not_end(fast: PeykServer, lines: int) -> None:
    before = await refused(fast, "rate"), await refused(fast, "flood")
    async with dial(fast, f"flood-{lines}") as talk, dial(fast, f"quiet-{lines}") as quiet:
        drain = asyncio.create_task(_read_all(talk))
        async with asyncio.timeout(180):
            flooding = asyncio.create_task(flood(talk.socket, "\n".join(['{"id":7,"ping":{}}'] * lines)))
            while not flooding.done():
                assert await quiet.ask(ping={}) == {"ping": {}}  # the neighbour is served all the time
                await asyncio.sleep(0.05)
        await drain
        assert await flooding == 3503
        assert await quiet.ask(ping={}) == {"ping": {}}
    held = await refused(fast, "rate") - before[0]
    assert 0 < held < 200 * 10, "each refusal holds the client until a token is there"
    assert await refused(fast, "flood") == before[1] + 1


async def _read_all(talk: Talk) -> None:
    with contextlib.suppress(ConnectionClosed):
        while True:
            await talk.socket.recv()


async def test_who_slows_down_is_served_again(fast: PeykServer) -> None:
    async with dial(fast, "slower") as talk:
        replies = await ask_all(talk, *[{"ping": {}}] * 100)
        assert set(codes(replies)) == {0, 111}
        await until(lambda: _is_served(talk), what="the client is served again")


async def _is_served(talk: Talk) -> bool:
    return await talk.ask(ping={}) == {"ping": {}}


@pytest.mark.parametrize(
    "piece",
    [frame(b"", 9), frame(b"", 10), bytes((0, 0x80)) + bytes(4), frame(b"", 1), frame(b"\n" * 60_000, 1)],
    ids=["pings", "pongs", "empty fragments", "empty texts", "newlines"],
)
async def test_a_flood_of_frames_that_are_no_commands(fast: PeykServer, piece: bytes) -> None:
    """It is closed like any other, and what it sent did not pile up."""
    reader, writer = await _socket(fast)
    writer.write(frame(b'{"id":1,"connect":{}}'))
    if piece[0] == 0:
        writer.write(bytes((1, 0x81)) + bytes(5))  # the first fragment of a text
    piece *= max(1, 6000 // len(piece))
    pouring = asyncio.create_task(_pour(writer, piece))
    async with asyncio.timeout(180):
        assert struct.pack("!H", 3503) in await _read(reader)
    pouring.cancel()
    writer.close()
    await asyncio.gather(pouring, writer.wait_closed(), return_exceptions=True)


async def _pour(writer: asyncio.StreamWriter, piece: bytes) -> None:
    while True:
        writer.write(piece)
        await writer.drain()


async def _read(reader: asyncio.StreamReader) -> bytes:
    """All that comes, also when the connection is reset at the end."""
    data = b""
    with contextlib.suppress(ConnectionError):
        while piece := await reader.read(65536):
            data += piece
    return data


async def _socket(server: PeykServer) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(
        b"GET /connection/websocket HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
    return reader, writer
