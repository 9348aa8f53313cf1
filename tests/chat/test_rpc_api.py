"""Calls to other services over HTTP and the WebSocket: who may, what is answered, and what is said when nothing is."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from typing import Any

import httpx2 as httpx
import pytest
import redis
from redis.asyncio import Redis
from websockets.asyncio.client import connect

from chat.auth import CALL, Identity, Tokens, check_call
from chat.errors import PermissionDenied
from chat.models import User
from chat.settings import ServerSettings
from chat.version import SERVER
from redis_config import Address, command_client
from tests.chat.conftest import Dial, Talk
from tests.services import PeykServer, RedisProcess, until

CHANNEL = "laravel_database_general"
SECRET = "s" * 32
KEY, NARROW = "k" * 32, "n" * 32


@asynccontextmanager
async def service(process: RedisProcess) -> AsyncIterator[Redis]:
    """Another service that knows `sum` and `fail`, and answers as Laravel would."""
    async with command_client(Address("127.0.0.1", process.port)) as client, client.pubsub() as pubsub:

        async def work() -> None:
            async for message in pubsub.listen():
                if message["type"] == "pmessage":
                    request = json.loads(message["data"])
                    head = {"source": "laravel", "action": request["action"], "requestId": request["requestId"]}
                    if request["action"] == "sum":
                        reply = head | {"total": sum(request["data"])}
                    elif request["action"] == "fail":
                        reply = head | {"error": {"code": 7, "message": "not today"}}
                    else:
                        continue
                    await client.publish(message["channel"].removesuffix("_sender"), json.dumps(reply))

        await pubsub.psubscribe("*_sender")
        assert await pubsub.get_message(timeout=180)
        task = asyncio.create_task(work())
        try:
            yield client
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def test_a_call_over_http(http: httpx.AsyncClient, redis_of_module: RedisProcess) -> None:
    async with service(redis_of_module):
        answer = await http.post("/api/rpc/sum", json=[1, 2])
        assert (answer.status_code, answer.json()) == (200, {"total": 3})
        failed = await http.post("/api/rpc/fail")
        assert failed.status_code == 502
        assert failed.json()["error"] == {"code": 100, "message": "fail: not today"}
        silent = await http.post("/api/rpc/nobody", json={"a": 1})
        assert silent.status_code == 504
        text = "nobody answered nobody within 5 s; it may have been done"
        assert silent.json()["error"] == {"code": 100, "message": text}


async def test_our_own_configs_hold_nothing_secret(http: httpx.AsyncClient) -> None:
    configs = (await http.post("/api/rpc/configs")).json()
    assert configs["version"] == SERVER and configs["message_limit"] == 65536
    assert set(configs) == {
        "version",
        "channel_prefix",
        "message_prefix",
        "create_channels",
        "message_limit",
        "page_limit",
    }


async def test_a_call_over_the_websocket(dial: Dial, redis_of_module: RedisProcess) -> None:
    async with service(redis_of_module), dial("sara") as talk:
        called = await talk.ask(rpc={"method": "call", "data": {"action": "sum", "data": [2, 3]}})
        assert called == {"rpc": {"data": {"total": 5}}}
        assert await talk.fail(rpc={"method": "call", "data": {"action": "fail"}}) == (100, "fail: not today")
        code, text = await talk.fail(rpc={"method": "call", "data": {"action": "x", "more": 1}})
        assert code == 107 and "more" in text


@pytest.mark.parametrize(
    "path, body, status",
    [
        ("/api/rpc/sum", b"{", 400),
        ("/api/rpc/sum", b"[" * 40 + b"]" * 40, 400),
        ("/api/rpc/sum", b'"' + b"x" * 70_000 + b'"', 413),
        ("/api/rpc/" + "x" * 129, b"1", 400),
        ("/api/rpc/a%0ab", b"1", 400),
        ("/api/rpc/", b"1", 404),
    ],
)
async def test_what_cannot_be_called(http: httpx.AsyncClient, path: str, body: bytes, status: int) -> None:
    answer = await http.post(path, content=body, headers={"content-type": "application/json"})
    assert answer.status_code == status, answer.text
    assert set(answer.json()["error"]) == {"code", "message"}


async def test_a_foreign_page_calls_nothing(http: httpx.AsyncClient) -> None:
    answer = await http.post("/api/rpc/configs", headers={"origin": "https://evil.example"})
    assert answer.status_code == 403


async def test_what_was_ignored_is_in_the_metrics(http: httpx.AsyncClient, redis_of_module: RedisProcess) -> None:
    with closing(redis.Redis(port=redis_of_module.port)) as client:
        client.publish(CHANNEL, "nonsense")

    async def metrics() -> str:
        text: str = (await http.get("/metrics")).text
        return text

    async def counted() -> bool:
        return "peyk_rpc_malformed_total 1\n" in await metrics()

    await until(counted)
    text = await metrics()
    assert "# TYPE peyk_rpc_malformed_total counter" in text and "# TYPE peyk_rpc_pending gauge" in text


# -- who may


@pytest.fixture(scope="module")
def guarded(redis_of_module: RedisProcess) -> Iterator[PeykServer]:
    """People may call `sum`; programs anything."""
    keys = {"API_KEY": f"{KEY},{NARROW}=news", "AUTH_SECRET": SECRET, "RPC_ACTIONS": "sum, public.*", "GUESTS": "no"}
    with PeykServer({"REDIS_URL": redis_of_module.url, **keys}) as server:
        yield server


@pytest.mark.parametrize(
    "claims, key, sum_, configs",
    [
        (None, "", 401, 401),
        ({}, "", 200, 403),
        ({"caps": ["publish"]}, "", 403, 403),
        ({"caps": ["call"]}, "", 200, 403),
        ({"channels": ["news"]}, "", 403, 403),
        ({"admin": True}, "", 200, 200),
        (None, KEY, 200, 200),
        (None, NARROW, 403, 403),
    ],
)
async def test_who_may_call(
    guarded: PeykServer,
    redis_of_module: RedisProcess,
    claims: dict[str, Any] | None,
    key: str,
    sum_: int,
    configs: int,
) -> None:
    headers = {"x-api-key": key} if key else {}
    if claims is not None:
        headers = {"authorization": "Bearer " + Tokens(SECRET).issue("sara", 60, **claims)}
    async with service(redis_of_module), httpx.AsyncClient(base_url=guarded.url, trust_env=False, timeout=180) as http:
        assert (await http.post("/api/rpc/sum", json=[1], headers=headers)).status_code == sum_
        assert (await http.post("/api/rpc/configs", headers=headers)).status_code == configs


async def test_the_websocket_asks_the_same(guarded: PeykServer) -> None:
    async with connect(guarded.ws_url, proxy=None) as socket:
        talk = Talk(socket)
        await talk.ask(connect={"token": Tokens(SECRET).issue("sara", 60)})
        code, text = await talk.fail(rpc={"method": "call", "data": {"action": "configs"}})
        assert (code, text) == (
            103,
            "the action configs is not open to people; RPC_ACTIONS can open it, programs may call it",
        )


def test_without_rpc_actions_people_call_nothing() -> None:
    sara = User.named("sara")
    with pytest.raises(PermissionDenied):
        check_call(Identity(sara), "sum", ())
    with pytest.raises(PermissionDenied):
        check_call(Identity(sara, guest=True), "sum", ())
    check_call(Identity(sara, program=True), "sum", ())
    check_call(Identity(sara, channels=("a",), caps=frozenset({CALL})), "sum", ("s*",))


async def test_a_server_without_a_channel_says_so(redis_of_module: RedisProcess) -> None:
    with PeykServer({"REDIS_URL": redis_of_module.url, "RPC_CHANNEL": ""}) as server:
        async with httpx.AsyncClient(base_url=server.url, trust_env=False) as http:
            answer = await http.post("/api/rpc/sum", json=1)
    assert answer.status_code == 404 and "RPC_CHANNEL" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "given, patterns",
    [
        ({}, {"*"}),
        ({"http_host": "0.0.0.0"}, set()),
        ({"trusted_proxies": "10.0.0.1"}, set()),
        ({"rpc_actions": ""}, set()),
        ({"http_host": "0.0.0.0", "rpc_actions": "sum, public.*"}, {"sum", "public.*"}),
    ],
)
def test_what_is_open_to_people(given: dict[str, Any], patterns: set[str]) -> None:
    assert ServerSettings(**given).open_actions == patterns
