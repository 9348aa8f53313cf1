"""Pages of other origins use the HTTP API by fetch: those of ALLOWED_ORIGINS, and nobody else's."""

import json
from collections.abc import AsyncIterator, Iterator

import httpx2 as httpx
import pytest
from websockets.asyncio.client import connect
from websockets.typing import Origin

from chat.headers import HEADERS
from tests.services import PeykServer, RedisProcess

FRIEND, OTHER = "https://app.example.org", "http://localhost:3000"
STRANGERS = "https://evil.example", "http://app.example.org", "https://app.example.org.evil.example", "null", "*"
MESSAGES = "/api/channels/cors/messages"
PREFLIGHT = {"access-control-request-method": "POST", "access-control-request-headers": "content-type,authorization"}
SENT = "authorization", "content-type", "idempotency-key", "last-event-id", "x-api-key"


@pytest.fixture(scope="module")
def server(redis_of_module: RedisProcess) -> Iterator[PeykServer]:
    env = {"REDIS_URL": redis_of_module.url, "ALLOWED_ORIGINS": f"{FRIEND}, {OTHER}", "HTTP_HOST": "127.0.0.1"}
    with PeykServer(env) as server:
        yield server


@pytest.fixture
async def http(server: PeykServer) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=server.url, timeout=180, trust_env=False) as client:
        await client.post(MESSAGES, json={"text": "x"})
        yield client


def told(reply: httpx.Response) -> dict[str, str]:
    """What an answer says to pages of other origins."""
    return {name: value for name, value in reply.headers.items() if name.startswith("access-control-")}


@pytest.mark.parametrize("origin", [FRIEND, OTHER])
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "GET"])
async def test_a_friends_page_asks_first_and_may(http: httpx.AsyncClient, origin: str, method: str) -> None:
    asked = PREFLIGHT | {"origin": origin, "access-control-request-method": method}
    reply = await http.request("OPTIONS", MESSAGES, headers=asked)
    assert reply.status_code == 204 and reply.headers["vary"] == "Origin"
    assert reply.headers["access-control-allow-origin"] == origin
    assert method in reply.headers["access-control-allow-methods"].split(", ")
    assert set(SENT) <= set(reply.headers["access-control-allow-headers"].split(", "))
    assert int(reply.headers["access-control-max-age"]) > 0
    assert "access-control-allow-credentials" not in reply.headers


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/api/channels", 200),
        ("GET", MESSAGES, 200),
        ("POST", MESSAGES, 201),
        ("GET", "/api/channels/never", 404),
        ("DELETE", "/api/channels", 405),
        ("POST", "/api/channels", 400),
        ("GET", "/nothing", 404),
        ("GET", "/health", 200),
    ],
)
async def test_every_answer_can_be_read_by_a_friends_page(
    http: httpx.AsyncClient, method: str, path: str, status: int
) -> None:
    reply = await http.request(
        method, path, json={"text": "x"} if method == "POST" else None, headers={"origin": FRIEND}
    )
    assert reply.status_code == status
    assert reply.headers["access-control-allow-origin"] == FRIEND and "Origin" in reply.headers["vary"]
    assert "x-epoch" in reply.headers["access-control-expose-headers"]
    expected = HEADERS | {"cross-origin-resource-policy": "cross-origin"}
    assert expected.items() <= dict(reply.headers).items()


async def test_and_so_can_an_event_stream_and_a_refused_credential(http: httpx.AsyncClient) -> None:
    events = {"accept": "text/event-stream", "origin": FRIEND}
    async with http.stream("GET", MESSAGES, headers=events) as reply:
        assert reply.status_code == 200 and reply.headers["access-control-allow-origin"] == FRIEND
    wrong = await http.get("/api/session", headers={"origin": FRIEND, "authorization": "Bearer x"})
    assert wrong.status_code == 401 and wrong.headers["access-control-allow-origin"] == FRIEND


@pytest.mark.parametrize("origin", STRANGERS)
async def test_a_strangers_page_is_told_nothing(http: httpx.AsyncClient, origin: str) -> None:
    preflight = await http.request("OPTIONS", MESSAGES, headers=PREFLIGHT | {"origin": origin})
    read = await http.get("/api/channels", headers={"origin": origin})
    change = await http.post(MESSAGES, json={"text": "x"}, headers={"origin": origin})
    assert [told(reply) for reply in (preflight, read, change)] == [{}, {}, {}]
    assert change.status_code == 403
    assert read.headers["cross-origin-resource-policy"] == "same-origin"


async def test_caches_know_that_answers_differ(http: httpx.AsyncClient) -> None:
    assert (await http.get("/api/channels")).headers["vary"] == "Origin"
    page = (await http.get("/web/app.js")).headers
    assert {name.strip().lower() for name in page["vary"].split(",")} == {"accept-encoding", "origin"}


async def test_cookies_count_only_if_the_setting_says_so(redis_of_module: RedisProcess) -> None:
    for setting in ("0", "1"):
        env = {"REDIS_URL": redis_of_module.url, "ALLOWED_ORIGINS": FRIEND, "CORS_COOKIES": setting}
        with PeykServer(env) as server:
            async with httpx.AsyncClient(base_url=server.url, trust_env=False) as http:
                account = {"username": f"sara{setting}", "password": "long enough"}
                assert (await http.post("/api/accounts", json=account)).status_code == 201
                assert (await http.get("/api/session")).json()["guest"] is False  # the page's own
                reply = await http.get("/api/session", headers={"origin": FRIEND})
                assert reply.json()["guest"] is (setting == "0")
                allowed = reply.headers.get("access-control-allow-credentials")
                assert allowed == (None if setting == "0" else "true")
                cookies = {"cookie": f"peyk={http.cookies['peyk']}"}
                async with connect(
                    server.ws_url, proxy=None, origin=Origin(FRIEND), additional_headers=cookies
                ) as socket:
                    await socket.send('{"id":1,"connect":{}}')
                    who = json.loads(await socket.recv())["connect"]["data"]
                    assert who["guest"] is (setting == "0")


async def test_a_page_of_our_own_that_is_listed_keeps_its_cookies(redis_of_module: RedisProcess) -> None:
    """On loopback a name of ours is listed so that it is answered."""
    env = {"REDIS_URL": redis_of_module.url, "ALLOWED_ORIGINS": "http://chat.example.org"}
    with PeykServer(env) as server:
        own = {"host": "chat.example.org", "origin": "http://chat.example.org"}
        async with httpx.AsyncClient(base_url=server.url, trust_env=False) as http:
            account = {"username": "owner", "password": "long enough"}
            cookie = (await http.post("/api/accounts", json=account, headers=own)).cookies["peyk"]
            headers = own | {"cookie": f"peyk={cookie}"}
            made = await http.post("/api/channels", json={"name": "own", "kind": "private"}, headers=headers)
            assert made.status_code == 201 and made.json()["owner"] == "owner"


async def test_without_the_setting_nothing_is_said(redis_of_module: RedisProcess) -> None:
    with PeykServer({"REDIS_URL": redis_of_module.url}) as server:
        async with httpx.AsyncClient(base_url=server.url, trust_env=False) as http:
            reply = await http.get("/api/channels", headers={"origin": FRIEND})
            assert told(reply) == {} and "vary" not in reply.headers
