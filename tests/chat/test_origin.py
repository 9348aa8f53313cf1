"""Whose pages may use the server: the rule, and every door that asks it."""

import asyncio
import json
import re
from collections.abc import Iterator
from typing import Any

import httpx2 as httpx
import pytest
from pydantic import ValidationError
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from chat.origin import allows, answers_to, is_here, is_host, is_origin, listed
from chat.settings import ServerSettings
from tests.services import PeykServer, RedisProcess

HOST = "chat.example.com:5000"
OTHERS = listed("https://app.example.org, http://localhost:3000")
FRIEND = "https://app.example.org"


@pytest.mark.parametrize(
    ("origin", "scheme"),
    [
        (None, "http"),  # a program
        (f"http://{HOST}", "http"),
        (f"http://{HOST}", "ws"),
        (f"https://{HOST}", "https"),
        (f"https://{HOST}", "wss"),
        (FRIEND, "http"),
        (FRIEND, "wss"),
        ("http://localhost:3000", "ws"),
    ],
)
def test_our_own_pages_and_those_named_are_let_in(origin: str | None, scheme: str) -> None:
    assert allows(origin, HOST, scheme, OTHERS)


@pytest.mark.parametrize(
    "origin",
    [
        "",
        "null",
        "*",
        "http://",
        "chat.example.com:5000",
        "//chat.example.com:5000",
        "https://evil.example",
        "https://chat.example.com:5000",  # another scheme
        "ws://chat.example.com:5000",
        "file://chat.example.com:5000",
        "http://chat.example.com",  # another port
        "http://chat.example.com:80",
        "http://chat.example.com:5001",
        "http://chat.example.com:50000",
        "http://chat.example.com:05000",
        "http://evilchat.example.com:5000",  # look-alikes
        "http://evil-chat.example.com:5000",
        "http://a.chat.example.com:5000",
        "http://chat.example.com.evil.example:5000",
        "http://chat.example.com:5000.evil.example",
        "http://chat-example.com:5000",
        "http://chat.example.co:5000",
        "http://chаt.example.com:5000",  # a Cyrillic а
        "http://chat.example.com.:5000",  # a trailing dot
        "http://evil.example@chat.example.com:5000",
        "http://chat.example.com:5000@evil.example",
        "http://user:chat.example.com:5000@evil.example",
        "HTTP://chat.example.com:5000",
        "http://CHAT.example.com:5000",
        "http://chat.example.com:5000/",
        "http://chat.example.com:5000/path",
        "http://chat.example.com:5000?",
        "http://chat.example.com:5000#",
        " http://chat.example.com:5000",
        "http://chat.example.com:5000 ",
        "http://chat.example.com:5000\t",
        "http://chat.example.com:5000\n",
        "http://evil.example http://chat.example.com:5000",
        "http://chat.example.com:5000, http://chat.example.com:5000",  # the header twice
        "http://app.example.org",  # the friend's look-alikes
        "https://app.example.org:8443",
        "https://app.example.org:443",
        "https://app.example.org.",
        "https://app.example.org.evil.example",
        "https://evilapp.example.org",
        "https://APP.example.org",
        "https://app.example.org/",
        "http://localhost",
        "http://localhost:30000",
        "http://127.0.0.1:3000",
    ],
)
def test_all_others_are_not(origin: str) -> None:
    assert not allows(origin, HOST, "http", OTHERS)
    assert not allows(origin, HOST, "ws", OTHERS)


@pytest.mark.parametrize(
    ("origin", "host", "scheme", "same"),
    [
        ("http://h", "h", "http", True),
        ("http://h", "h:80", "ws", True),  # the default port, which an origin never shows
        ("https://h", "h:443", "wss", True),
        ("https://h", "h:80", "https", False),
        ("http://h", "h:443", "http", False),
        ("http://[::1]:5000", "[::1]:5000", "http", True),
        ("http://127.0.0.1:5000", "127.0.0.1:5000", "ws", True),
        ("http://127.0.0.1:5000", "localhost:5000", "http", False),
        ("http://xn--mgba3a4f16a.example", "xn--mgba3a4f16a.example", "http", True),
        ("http://h", "", "http", False),
        ("http://", "", "http", False),
        ("null", "null", "http", False),
        ("http://h, http://h", "h, http://h", "http", False),
    ],
)
def test_the_same_origin_is_scheme_host_and_port(origin: str, host: str, scheme: str, same: bool) -> None:
    assert allows(origin, host, scheme, ()) is same


@pytest.mark.parametrize(
    ("host", "here"),
    [
        ("localhost:5000", True),
        ("LocalHost", True),
        ("chat.localhost:5000", True),
        ("127.0.0.1:5000", True),
        ("127.8.8.8", True),
        ("[::1]:5000", True),
        ("rebound.example:5000", False),  # a name that was made to point here
        ("localhost.rebound.example:5000", False),
        ("127.0.0.1.rebound.example:5000", False),
        ("192.168.1.5:5000", False),
        ("app.example.org", True),  # of a page that is named
        ("app.example.org:5000", False),
        ("evil.app.example.org", False),
        ("localhost, localhost", False),  # the header twice
        ("", False),
    ],
)
def test_names_of_this_machine(host: str, here: bool) -> None:
    assert is_here(host, OTHERS) is here


@pytest.mark.parametrize(
    "listing", ["https://a.example/", "a.example", "*", "null", "https://A.example", "https://a.example:443", "x,"]
)
def test_what_is_no_origin_is_not_allowed_silently(listing: str) -> None:
    with pytest.raises(ValidationError, match=r"is not an origin; write https://chat\.example\.com"):
        ServerSettings(allowed_origins=listing)


def test_several_origins_may_be_named() -> None:
    settings = ServerSettings(allowed_origins=" https://a.example , http://b.example:8080,")
    assert listed(settings.allowed_origins) == {"https://a.example", "http://b.example:8080"}
    assert all(map(is_origin, listed(settings.allowed_origins)))


NAMED = listed("chat.example.com, *.chat.example.org, other.example:8443, [2001:db8::1], 192.0.2.1")


@pytest.mark.parametrize(
    ("host", "answered"),
    [
        ("chat.example.com", True),
        ("chat.example.com:5000", True),  # any port
        ("CHAT.Example.com.", True),
        ("chat.example.com.:443", True),
        ("a.chat.example.com", False),
        ("chat.example.com.evil.example", False),
        ("evilchat.example.com", False),
        ("chat.example.com:5000:80", False),
        ("chat.example.com:x", False),
        ("user@chat.example.com", False),
        ("chat.example.com, chat.example.com", False),
        ("chat.example.com/", False),
        (" chat.example.com", False),
        ("a.chat.example.org", True),
        ("b.a.chat.example.org:1", True),
        ("chat.example.org", False),
        (".chat.example.org", False),
        ("other.example:8443", True),  # its port only
        ("other.example", False),
        ("other.example:443", False),
        ("[2001:db8::1]", True),
        ("[2001:DB8::1]:5000", True),
        ("[2001:db8::2]", False),
        ("2001:db8::1", False),
        ("192.0.2.1:80", True),
        ("192.0.2.10", False),
        ("10.0.0.7:5000", True),  # where the connection came to
        ("10.0.0.8:5000", False),
        ("", False),
        ("*", False),
        ("*.chat.example.org", False),
        ("x" * 5000, False),
    ],
)
def test_hosts_that_are_answered(host: str, answered: bool) -> None:
    assert answers_to(host, NAMED, "10.0.0.7") is answered
    assert answers_to(host, listed("*")) is (is_host(host) and len(host) < 300 and host[:1] != "*")


@pytest.mark.parametrize(
    "listing", ["https://a.example", "a.example/", "a b", "a.*.example", "*a.example", "::1", "a:b"]
)
def test_what_is_no_host_is_not_allowed_silently(listing: str) -> None:
    with pytest.raises(ValidationError, match=r"is no host; write chat\.example\.com"):
        ServerSettings(allowed_hosts=listing)


@pytest.mark.parametrize(
    ("host", "right"),
    [
        ("chat.example.com:443", "chat.example.com"),
        ("chat.example.com:80", "chat.example.com"),
        ("chat.example.com:0443", "chat.example.com"),
        ("*.Example.com:443", "*.example.com"),
        ("[::1]:80", "[::1]"),
    ],
)
def test_a_port_that_browsers_leave_out_is_left_out(host: str, right: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(f"browsers leave out :80 and :443; write {right},")):
        ServerSettings(allowed_hosts=f"a.example:8443, {host}", _env_file=None)
    assert ServerSettings(allowed_hosts="a.example:8443, b.example:4430", _env_file=None)


# -- the doors


@pytest.fixture(scope="module")
def server(redis_of_module: RedisProcess) -> Iterator[PeykServer]:
    env = {"REDIS_URL": redis_of_module.url, "ALLOWED_ORIGINS": FRIEND, "TRUSTED_PROXIES": "127.0.0.1"}
    with PeykServer({**env, "GUESTS": "yes", "API_KEY": "0123456789abcdef"}) as server:
        yield server


FOREIGN = "http://evil.example", "null", "https://app.example.org.evil.example", "OWN.evil.example", "https://OWN"


def spelled(origin: str, server: PeykServer) -> str:
    return origin.replace("OWN", f"127.0.0.1:{server.port}")


def own(server: PeykServer) -> str:
    return f"http://127.0.0.1:{server.port}"


async def refused(http: httpx.AsyncClient, limit: str = "origin") -> int:
    lines = (await http.get("/metrics")).text.splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f'peyk_refused_total{{limit="{limit}"}}'))


@pytest.mark.parametrize("origin", FOREIGN)
async def test_a_foreign_page_has_no_socket(server: PeykServer, http: httpx.AsyncClient, origin: str) -> None:
    before = await refused(http)
    with pytest.raises(InvalidStatus) as refusal:
        await connect(server.ws_url, proxy=None, additional_headers={"Origin": spelled(origin, server)})
    assert refusal.value.response.status_code == 403
    error = json.loads(refusal.value.response.body or b"")["error"]
    assert error["code"] == 103 and "ALLOWED_ORIGINS" in error["message"]
    assert await refused(http) == before + 1


async def test_our_pages_and_a_friends_have_one(server: PeykServer) -> None:
    for origin in (own(server), FRIEND, None):
        headers = {} if origin is None else {"Origin": origin}
        async with connect(server.ws_url, proxy=None, additional_headers=headers) as socket:
            await socket.send('{"id":1,"connect":{}}')
            assert "client" in json.loads(await socket.recv())["connect"]


async def test_behind_a_proxy_that_ends_tls_our_pages_are_https(server: PeykServer) -> None:
    """The proxy is believed because TRUSTED_PROXIES names it."""
    headers = {"Origin": own(server).replace("http", "https"), "X-Forwarded-Proto": "https"}
    async with connect(server.ws_url, proxy=None, additional_headers=headers):
        pass
    headers["Origin"] = own(server)
    with pytest.raises(InvalidStatus):
        await connect(server.ws_url, proxy=None, additional_headers=headers)


async def test_a_page_whose_name_was_made_to_point_here_finds_nothing(redis_of_module: RedisProcess) -> None:
    """It is of one origin with us, as its browser sees it: it sends no Origin to read."""
    with PeykServer({"REDIS_URL": redis_of_module.url, "ALLOWED_ORIGINS": FRIEND}) as laptop:
        host = f"rebound.example:{laptop.port}"
        for origin in ({}, {"Origin": f"http://{host}"}):
            with pytest.raises(InvalidStatus) as refusal:
                await connect(laptop.ws_url, proxy=None, additional_headers={"Host": host, **origin})
            assert refusal.value.response.status_code == 403
        async with httpx.AsyncClient(base_url=laptop.url, trust_env=False) as http:
            await http.post("/api/channels/origin/messages", json={"text": "x"})
            before = await refused(http, "host")
            events = {"accept": "text/event-stream"}
            for path, headers in (("/", {}), ("/api/channels", {}), ("/api/channels/origin/messages", events)):
                reply = await http.get(path, headers={**headers, "host": host})
                assert reply.status_code == 403 and "ALLOWED_ORIGINS" in reply.json()["error"]["message"]
            assert await refused(http, "host") == before + 3
            for named in (laptop.url, FRIEND, "http://localhost"):
                reply = await http.get("/api/channels", headers={"host": named.partition("://")[2]})
                assert reply.status_code == 200
        async with connect(laptop.ws_url, proxy=None, additional_headers={"Origin": laptop.url}):
            pass


async def test_behind_a_proxy_this_machine_is_no_laptop(redis_of_module: RedisProcess) -> None:
    """Whoever comes by it comes from elsewhere; and it passes on its own name."""
    env = {"REDIS_URL": redis_of_module.url, "TRUSTED_PROXIES": "127.0.0.1", "API_KEY": "0123456789abcdef"}
    with PeykServer(env) as behind:
        async with httpx.AsyncClient(base_url=behind.url, trust_env=False) as http:
            reply = await http.get("/api/channels", headers={"host": "chat.example.com"})
            assert reply.status_code == 401 and "guests are not let in" in reply.text


@pytest.mark.parametrize("behind", [True, False], ids=["behind a proxy", "on loopback"])
async def test_only_the_hosts_it_is_known_by_are_answered(redis_of_module: RedisProcess, behind: bool) -> None:
    """A page whose origin is that very host is no proof that it is ours."""
    env = {"REDIS_URL": redis_of_module.url, "ALLOWED_HOSTS": "chat.example.com, *.example.net", "GUESTS": "yes"}
    env |= {"TRUSTED_PROXIES": "127.0.0.1", "API_KEY": "0123456789abcdef"} if behind else {}
    path = "/api/channels/hosts/messages"
    with PeykServer(env) as named:
        async with httpx.AsyncClient(base_url=named.url, trust_env=False) as http:

            async def status(host: str) -> int:
                headers = {"host": host, "origin": f"http://{host.lower()}"}
                return (await http.post(path, json={"text": "x"}, headers=headers)).status_code

            for host in ("chat.example.com", "chat.example.com:8080", "a.example.net", f"127.0.0.1:{named.port}"):
                assert await status(host) == 201, host
            assert (await http.get("/health", headers={"host": "Chat.Example.COM."})).status_code == 200
            foreign = ("evil.example", "chat.example.com.evil.example", "example.net", "192.0.2.9")
            for host in foreign:
                assert await status(host) == 403, host
            before = await refused(http, "host")
            for page in ("/", "/api/channels", "/health"):
                reply = await http.get(page, headers={"host": "evil.example"})
                assert reply.status_code == 403 and "ALLOWED_HOSTS" in reply.json()["error"]["message"]
            assert await refused(http, "host") == before + 3
        with pytest.raises(InvalidStatus) as refusal:
            await connect(f"ws://evil.example:{named.port}/connection/websocket", host="127.0.0.1", proxy=None)
        assert b"ALLOWED_HOSTS" in (refusal.value.response.body or b"")
        assert "ALLOWED_HOSTS is empty" not in named.log.read_text()


@pytest.mark.parametrize("hosts", [b"", b"Host: a\r\nHost: a\r\n"], ids=["none", "two"])
async def test_a_request_names_one_host(server: PeykServer, hosts: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"GET /health HTTP/1.1\r\n" + hosts + b"\r\n")
    async with asyncio.timeout(180):
        assert b" 400 " in await reader.readline()
    writer.close()
    await writer.wait_closed()


async def test_a_public_server_without_the_list_says_so_at_its_start(server: PeykServer) -> None:
    assert server.log.read_text().count("ALLOWED_HOSTS is empty") == 1


async def test_two_origins_are_none(server: PeykServer) -> None:
    with pytest.raises(InvalidStatus):
        await connect(server.ws_url, proxy=None, additional_headers=[("Origin", own(server)), ("Origin", FRIEND)])


@pytest.mark.parametrize("origin", [*FOREIGN, "", FRIEND, None])
async def test_event_streams(server: PeykServer, http: httpx.AsyncClient, origin: str | None) -> None:
    await http.post("/api/channels/origin/messages", json={"text": "x"})
    headers = {"accept": "text/event-stream"} | ({} if origin is None else {"origin": spelled(origin, server)})
    async with http.stream("GET", "/api/channels/origin/messages", headers=headers) as reply:
        assert reply.status_code == (200 if origin in (FRIEND, None) else 403)


CHANGES = [
    ("POST", "/api/channels/origin-mine/messages", {"text": "x"}),
    ("POST", "/api/channels", {"name": "origin-made"}),
    ("PATCH", "/api/channels/origin-mine", {"description": "x"}),
    ("PUT", "/api/channels/origin-mine/subscribers/sara", None),
    ("DELETE", "/api/channels/origin-mine/subscribers/sara", None),
]


@pytest.fixture(scope="module")
def cookie(server: PeykServer) -> str:
    """Sara's, who owns a channel."""
    with httpx.Client(base_url=server.url, trust_env=False) as http:
        made = http.post("/api/accounts", json={"username": "sara", "password": "long enough"})
        assert made.status_code == 201
        assert http.post("/api/channels", json={"name": "origin-mine"}).status_code == 201
        return f"peyk={http.cookies['peyk']}"


@pytest.mark.parametrize(("method", "path", "body"), CHANGES)
async def test_a_foreign_page_changes_nothing(
    server: PeykServer, http: httpx.AsyncClient, cookie: str, method: str, path: str, body: Any
) -> None:
    async def status(**headers: str) -> int:
        return (await http.request(method, path, json=body, headers=headers)).status_code

    for origin in FOREIGN:
        assert await status(origin=spelled(origin, server), cookie=cookie) == 403
    assert await status(origin="http://evil.example") == 403  # nor as a guest, who is let in here
    for headers in ({"origin": own(server)}, {}):  # our page, and a program
        assert await status(cookie=cookie, **headers) < 300
        await http.delete("/api/channels/origin-made", headers={"cookie": cookie})


async def test_reading_needs_no_origin(server: PeykServer, http: httpx.AsyncClient) -> None:
    """Another site's script cannot see the answer; that is the browser's work."""
    headers = {"origin": "http://evil.example", "cookie": "session=1"}
    for path in ("/", "/api/channels", "/health"):
        assert (await http.get(path, headers=headers)).status_code == 200
