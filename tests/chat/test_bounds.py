"""Counts, sizes and times on a real server: at the limit, and one beyond it."""

import asyncio
import contextlib

import httpx2 as httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.chat.limited import ask_all, codes, dial, http, refused, registered, server
from tests.clients import Client
from tests.services import PeykServer, RedisProcess, until

__all__ = ["http", "server"]


# -- counts


async def test_connections_of_an_address(server: PeykServer, http: httpx.AsyncClient) -> None:
    address = {"X-Forwarded-For": "192.0.2.7"}
    await http.post("/api/channels", json={"name": "counted"})
    async with contextlib.AsyncExitStack() as stack:
        for number in range(2):
            await stack.enter_async_context(dial(server, f"counted-{number}", "192.0.2.7"))
        events = {"accept": "text/event-stream", **address}
        stream = http.stream("GET", "/api/channels/counted/messages", headers=events)
        assert (await stack.enter_async_context(stream)).status_code == 200  # the third
        for _ in range(5):
            with pytest.raises(InvalidStatus) as refusal:
                await connect(server.ws_url, proxy=None, additional_headers=address)
            response = refusal.value.response
            assert response.status_code == 429 and int(response.headers["retry-after"]) > 0
            assert b"at most 3 connections at a time" in (response.body or b"")
        beyond = await http.get("/api/channels/counted/messages", headers=events)
        assert beyond.status_code == 429 and beyond.json()["error"]["code"] == 111
        async with dial(server, "counted-else", "192.0.2.8"):
            pass
    await until(lambda: _can_connect(server, address), what="the address has room again")
    assert await refused(server, "address_connections") >= 6


async def _can_connect(server: PeykServer, headers: dict[str, str]) -> bool:
    with contextlib.suppress(InvalidStatus):
        async with connect(server.ws_url, proxy=None, additional_headers=headers):
            return True
    return False


async def test_a_connection_counts_for_its_address_before_it_asks_for_anything(
    redis_of_module: RedisProcess,
) -> None:
    env = {"REDIS_URL": redis_of_module.url, "ADDRESS_CONNECTIONS": "3", "HANDSHAKE_TIMEOUT": "600"}
    with PeykServer(env) as strict, contextlib.ExitStack() as stack:
        for sent in (b"", b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n", b"GET / HTTP/1.1\r\n"):
            reader, writer = await asyncio.open_connection("127.0.0.1", strict.port)
            stack.callback(writer.close)
            writer.write(sent)
            if b"health" in sent:
                await reader.readuntil(b'"ok"')  # it stays open, for another request
        for beyond in (b"", b"GET /health"):  # who says nothing is closed as well
            reader, writer = await asyncio.open_connection("127.0.0.1", strict.port)
            writer.write(beyond)
            async with asyncio.timeout(180):
                said = await reader.read()
            assert not beyond or (b" 429 " in said and b"at most 3 connections at a time" in said)
            await _end(writer)
        stack.close()
        await until(lambda: _can_connect(strict, {}), what="the address has room again")
        assert await refused(strict, "address_connections") >= 2


async def test_a_connection_counts_once_whatever_becomes_of_it(redis_of_module: RedisProcess) -> None:
    with PeykServer({"REDIS_URL": redis_of_module.url, "ADDRESS_CONNECTIONS": "1"}) as strict:
        for _ in range(3):
            async with dial(strict, "once") as talk:
                assert "publish" in await talk.ask(publish={"channel": "once", "data": 1})
                assert not await _can_connect(strict, {})
            await until(lambda: _can_connect(strict, {}), what="the address has room again")
            with pytest.raises(InvalidStatus):  # a handshake that comes to nothing
                await connect(f"{strict.ws_url}/nowhere", proxy=None)
            async with httpx.AsyncClient(trust_env=False) as client:
                for path in ("health", "api/channels", "nowhere"):
                    assert (await client.get(f"{strict.url}/{path}")).status_code != 429
                events = {"accept": "text/event-stream"}
                async with client.stream("GET", f"{strict.url}/api/channels/once/messages", headers=events) as stream:
                    assert stream.status_code == 200 and not await _can_connect(strict, {})
            await until(lambda: _can_connect(strict, {}), what="the address has room again")


async def test_a_forged_address_is_not_believed(redis_of_module: RedisProcess) -> None:
    env = {"REDIS_URL": redis_of_module.url, "ADDRESS_CONNECTIONS": "1"}
    with PeykServer(env) as strict:
        async with dial(strict, "one", "192.0.2.1"):
            with pytest.raises(InvalidStatus):
                await connect(strict.ws_url, proxy=None, additional_headers={"X-Forwarded-For": "192.0.2.2"})


async def test_connected_clients_of_a_user(server: PeykServer) -> None:
    cookie = await registered(server, "many")
    async with dial(server, "many", cookie=cookie), contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(dial(server, "many", cookie=cookie))
        async with dial(server, "", "many", cookie) as third:
            code, text = await third.fail(connect={})
            assert code == 106 and "at most 2 connected clients; close another" in text
        await stack.aclose()
        await until(lambda: _connects(server, "many", cookie), what="a place is free again")
    assert await refused(server, "user_connections") >= 1


async def _connects(server: PeykServer, address: str, cookie: str) -> bool:
    async with dial(server, "", address, cookie) as talk:
        return "connect" in await talk.ask(connect={})


async def test_nobody_takes_up_the_places_of_a_guests_name(server: PeykServer) -> None:
    async with contextlib.AsyncExitStack() as stack:
        for number in range(4):
            await stack.enter_async_context(dial(server, "anybody", f"place-{number}"))


async def test_subscriptions_of_a_client(server: PeykServer) -> None:
    async with dial(server, "subscriber") as talk:
        replies = await ask_all(talk, *[{"subscribe": {"channel": f"sub-{number}"}} for number in range(6)])
        assert codes(replies) == [0] * 4 + [106] * 2 and "at most 4 subscriptions" in replies[4]["error"]["message"]
        await talk.ask(unsubscribe={"channel": "sub-0"})
        assert codes(await ask_all(talk, {"subscribe": {"channel": "sub-4"}})) == [0]
        async with httpx.AsyncClient(trust_env=False) as client:
            shown = (await client.get(f"{server.url}/metrics")).text
        assert "\npeyk_subscriptions 4\n" in shown and "\npeyk_connections 1\n" in shown
    assert await refused(server, "subscriptions") == 2


async def test_channels_of_a_user(server: PeykServer, http: httpx.AsyncClient, redis_of_module: RedisProcess) -> None:
    """Two clients join at once; whoever is beyond the limit is not subscribed and not on any list."""
    await http.post("/api/accounts", json={"username": "joiner", "password": "a long password"})
    cookie = http.cookies["peyk"]  # a guest belongs nowhere
    async with dial(server, "joiner", cookie=cookie) as one, dial(server, "joiner", cookie=cookie) as two:
        asked = [
            ask_all(talk, *[{"subscribe": {"channel": f"{name}-{number}"}} for number in range(4)])
            for talk, name in ((one, "a"), (two, "b"))
        ]
        replies = [reply for some in await asyncio.gather(*asked) for reply in some]
        assert sorted(codes(replies)) == [0] * 6 + [106] * 2
        error = next(reply["error"] for reply in replies if "error" in reply)
        assert error["message"] == "a user may belong to 6 channels; leave one first"
        mine = (await one.ask(rpc={"method": "subscriptions.list"}))["rpc"]["data"]["channels"]
        assert len(mine) == 6
        await http.post("/api/channels", json={"name": "one-more"})
        beyond = await http.put("/api/channels/one-more/subscribers/joiner")
        assert beyond.status_code == 429 and beyond.json()["error"]["code"] == 106
        for name in [f"{letter}-{number}" for letter in "ab" for number in range(4)]:
            reply = await http.get(f"/api/channels/{name}/subscribers")
            assert reply.status_code == 404 or reply.json() == (["joiner"] if name in mine else [])
        assert (await http.put(f"/api/channels/{mine[0]}/subscribers/joiner")).status_code == 200  # belongs already
        await http.delete(f"/api/channels/{mine[0]}/subscribers/joiner")
        assert (await http.put("/api/channels/one-more/subscribers/joiner")).status_code == 201


async def test_channels_there_may_be() -> None:
    """By whichever door the one too many is made; what is there goes on, and one that is deleted makes room."""
    text = "there are 2 channels, as many as may be; delete one, or raise CHANNEL_LIMIT"
    with PeykServer({"CHANNEL_LIMIT": "2"}) as full:
        async with httpx.AsyncClient(base_url=full.url, trust_env=False) as http, dial(full, "maker") as talk:
            assert (await http.post("/api/channels", json={"name": "one"})).status_code == 201
            assert "publish" in await talk.ask(publish={"channel": "two", "data": 1})
            event = {"type": "x", "channel": "three", "payload": 1}
            for path, body in (
                ("/api/channels", {"name": "three"}),
                ("/api/channels/three/messages", {"text": "x"}),
                ("/api/events", event),
            ):
                reply = await http.post(path, json=body)
                assert reply.status_code == 429 and reply.json()["error"] == {"code": 106, "message": text}, path
            for command in ("publish", "subscribe"):
                assert await talk.fail(**{command: {"channel": "three", "data": 1}}) == (106, text)
            assert [channel["id"] for channel in (await http.get("/api/channels")).json()] == ["one", "two"]
            assert "subscribe" in await talk.ask(subscribe={"channel": "one"})
            assert (await http.post("/api/channels/two/messages", json={"text": "x"})).status_code == 201
            assert (await http.delete("/api/channels/one")).status_code == 204
            assert "publish" in await talk.ask(publish={"channel": "three", "data": 1})
        assert await refused(full, "channels") == 5


# -- sizes


async def test_a_message_and_its_limit(server: PeykServer, http: httpx.AsyncClient) -> None:
    before = await refused(server, "message_bytes")
    async with dial(server, "sizes") as talk:
        assert "publish" in await talk.ask(publish={"channel": "sizes", "data": "x" * 998})
        code, text = await talk.fail(publish={"channel": "sizes", "data": "x" * 999})
        assert code == 107 and "at most 1000 bytes; this one has 1001" in text
    path = "/api/channels/sizes/messages"
    assert (await http.post(path, json={"data": "x" * 998})).status_code == 201
    assert (await http.post(path, json={"data": "x" * 999})).status_code == 413
    assert (await http.post(path, content=b" " * 2001)).status_code == 413
    assert await refused(server, "message_bytes") == before + 3


async def test_a_channel_name_and_its_limit(server: PeykServer, http: httpx.AsyncClient) -> None:
    before = await refused(server, "name_length")
    async with dial(server, "names") as talk:
        assert "subscribe" in await talk.ask(subscribe={"channel": "پ" * 30})
        code, text = await talk.fail(subscribe={"channel": "پ" * 31})
        assert code == 107 and "at most 30 characters" in text
        code, text = await talk.fail(publish={"channel": "پ" * 31, "data": "x"})
        assert code == 107 and "at most 30 characters" in text
    for length in (31, 65):
        reply = await http.post("/api/channels", json={"name": "n" * length})
        assert (reply.status_code == 400 and "characters" in reply.text) or "64" in reply.text
    assert (await http.get(f"/api/channels/{'پ' * 30}")).status_code == 200
    listed = (await http.get("/api/channels", params={"after": "n"})).json()
    assert all(len(channel["id"]) < 31 for channel in listed)
    assert await refused(server, "name_length") == before + 4


async def test_the_depth_of_json_and_its_limit(server: PeykServer) -> None:
    before = await refused(server, "json_depth")
    async with dial(server, "deep") as talk:
        assert "publish" in await talk.ask(publish={"channel": "deep", "data": [[[[1]]]]})
        code, text = await talk.fail(publish={"channel": "deep", "data": [[[[[1]]]]]})
        assert code == 107 and "more than 4 levels" in text
    assert await refused(server, "json_depth") == before + 1


async def test_a_page_of_history_and_its_limit(server: PeykServer, http: httpx.AsyncClient) -> None:
    before = await refused(server, "page")
    await http.post("/api/channels", json={"name": "paged"})
    assert (await http.get("/api/channels/paged/messages?limit=10")).status_code == 200
    beyond = await http.get("/api/channels/paged/messages?limit=11")
    assert beyond.status_code == 400 and "from 0 to 10" in beyond.text
    assert await refused(server, "page") == before + 1


def fragments(size: int, pieces: int) -> list[str]:
    """A ping of `size` bytes, padded with spaces, in pieces."""
    text = '{"id":5,"ping":{}}'.ljust(size)
    step = -(-size // pieces)
    return [text[start : start + step] for start in range(0, size, step)]


@pytest.mark.parametrize("pieces", [1, 2, 7])
async def test_a_frame_and_its_limit_whole_or_in_fragments(server: PeykServer, pieces: int) -> None:
    before = await refused(server, "frame_bytes")
    async with dial(server, f"frames-{pieces}") as talk:
        await talk.socket.send(iter(fragments(65536, pieces)))
        assert await talk.reply(5) == {"ping": {}}
        with contextlib.suppress(ConnectionClosed):  # may be closed while it is still being sent
            await talk.socket.send(iter(fragments(65537, pieces)))
        with pytest.raises(ConnectionClosed):
            await talk.reply(5)
        assert talk.socket.close_code == 1009
    assert await refused(server, "frame_bytes") == before + 1


async def test_who_reads_nothing_is_dropped_and_others_read_on(redis_of_module: RedisProcess) -> None:
    env = {"REDIS_URL": redis_of_module.url, "HIGH_WATER": "16384", "READER_TIMEOUT": "1"}
    with PeykServer(env) as server:
        idle, other = await Client.open(server.port, "idle", buffer=4096), await Client.open(server.port, "other")
        for client in (idle, other):
            await client.subscribe("unread")
        idle.transport.pause_reading()
        sent = 0
        async with asyncio.timeout(180):
            while not await refused(server, "unread_bytes"):
                assert "publish" in await other.ask(publish={"channel": "unread", "data": "x" * 20000})
                sent += 1
        await until(lambda: other.offsets("unread") == list(range(1, sent + 1)), what="the other has it all")
        for client in (idle, other):
            client.abort()


def head(size: int) -> bytes:
    """A request whose first line and headers are `size` bytes."""
    start = b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-Long: "
    return start.ljust(size - 4, b"x") + b"\r\n\r\n"


def asked(method: str, path: str, *headers: str) -> bytes:
    return "\r\n".join((f"{method} {path} HTTP/1.1", "Host: localhost", *headers, "", "")).encode()


BEFORE = {
    "the first": (b"", b""),
    "a later one": (asked("GET", "/health"), b"}}"),  # and the end of its answer
}


@pytest.mark.parametrize("kind", BEFORE)
async def test_the_headers_of_a_request_and_their_limit(server: PeykServer, kind: str) -> None:
    counted = await refused(server, "header_bytes")
    before, answered = BEFORE[kind]
    for size, step in ((2000, 2000), (2000, 700), (2001, 2001), (2001, 700)):  # whole, and in drops
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(before)
        if answered:
            await reader.readuntil(answered)
        for start in range(0, size, step):
            writer.write(head(size)[start : start + step])
            await asyncio.sleep(0)
        if size == 2001:
            with contextlib.suppress(ConnectionResetError):
                said = await reader.read()
                assert b" 431 " in said and b"at most 2000 bytes" in said
        else:
            await reader.readuntil(b"}}")
        await _end(writer)
    assert await refused(server, "header_bytes") == counted + 2


TRAILERS = asked("POST", "/api/channels/heads/messages", "Transfer-Encoding: chunked") + b"1\r\nx\r\n0\r\n"
ENDLESS = [*[before + b"GET / HTTP/1.1\r\n" for before, _ in BEFORE.values()], TRAILERS]


@pytest.mark.parametrize("before", ENDLESS, ids=[*BEFORE, "trailers"])
async def test_headers_without_an_end_are_not_kept(server: PeykServer, before: bytes) -> None:
    counted = await refused(server, "header_bytes")
    _, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(before + b"X-Long: ")
    sent = 0
    with contextlib.suppress(ConnectionError):
        while sent < 100:
            writer.write(b"x" * 2**20)
            await writer.drain()
            sent += 1
    assert sent < 20, "MiB"
    await _end(writer)
    assert await refused(server, "header_bytes") == counted + 1


# -- time


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n",
        b"POST /api/channels HTTP/1.1\r\nHost: localhost\r\nContent-Length: 20\r\n\r\n{",
        b"GET /connection/websocket HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n",
    ],
    ids=["nothing", "half a head", "half a body", "half a handshake"],
)
async def test_a_half_open_connection_is_closed(server: PeykServer, sent: bytes) -> None:
    before = await refused(server, "handshake")
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(sent)
    loop = asyncio.get_running_loop()
    start = loop.time()
    with contextlib.suppress(ConnectionResetError):
        async with asyncio.timeout(180):
            await reader.read()
    assert loop.time() - start > 1.9
    await _end(writer)
    assert await refused(server, "handshake") == before + 1


@pytest.mark.parametrize(
    "first", [b"", b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"], ids=["the first", "a later one"]
)
async def test_a_request_that_comes_in_drops_is_not_waited_for(server: PeykServer, first: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    if first:
        writer.write(first)
        await reader.readuntil(b'"ok"')
    reading = asyncio.create_task(reader.read())
    sent = 0
    async with asyncio.timeout(180):
        while not reading.done():
            writer.write(b"GET / HTTP/1.1\r\nX-Header: " if not sent else b"x")
            sent += 1
            await asyncio.wait([reading], timeout=0.1)
    assert sent > 1
    await asyncio.gather(reading, return_exceptions=True)
    await _end(writer)


async def _end(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


async def test_a_flood_of_half_open_connections_ends(server: PeykServer, http: httpx.AsyncClient) -> None:
    opened = await asyncio.gather(*[asyncio.open_connection("127.0.0.1", server.port) for _ in range(200)])
    assert (await http.get("/health")).status_code == 200
    async with asyncio.timeout(180):
        await asyncio.gather(*[reader.read() for reader, _ in opened], return_exceptions=True)
    for _, writer in opened:
        await _end(writer)


async def test_a_socket_that_says_nothing_is_closed(server: PeykServer) -> None:
    before = await refused(server, "connect")
    async with connect(server.ws_url, proxy=None) as socket:
        with pytest.raises(ConnectionClosed):
            await socket.recv()
        assert socket.close_code == 3501
    assert await refused(server, "connect") == before + 1
