"""HTTP, as curl would see it."""

import asyncio
import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import httpx2 as httpx
import pytest
import redis
from redis.asyncio import Redis

from chat.node import Node
from chat.routes import OPERATIONS
from chat.settings import ServerSettings
from tests.chat.conftest import Dial
from tests.services import PeykServer, RedisProcess, until

JSON = {"content-type": "application/json"}
Http = httpx.AsyncClient


async def post(http: Http, channel: str, text: object, **headers: str) -> dict[str, Any]:
    reply = await http.post(f"/api/channels/{quote(channel)}/messages", json={"text": str(text)}, headers=headers)
    assert reply.status_code in (200, 201), reply.text
    return dict(reply.json())


async def offsets(http: Http, channel: str, query: str = "") -> list[int]:
    reply = await http.get(f"/api/channels/{channel}/messages{query}")
    assert reply.status_code == 200, reply.text
    return [p["offset"] for p in reply.json()["publications"]]


# -- channels and subscribers


async def test_a_channels_life(http: Http) -> None:
    made = await http.post("/api/channels", json={"name": "برنامه‌نویسی", "description": "کد"})
    assert made.status_code == 201
    channel = made.json()
    assert (channel["name"], channel["id"], channel["description"]) == ("برنامه‌نویسی", "برنامهنویسی", "کد")
    path = f"/api/channels/{quote('برنامهنویسي')}"  # another spelling
    assert (await http.get(path)).json() == channel
    assert channel in (await http.get("/api/channels")).json()
    changed = await http.patch(path, json={"description": "code"})
    assert changed.json() == channel | {"description": "code"}
    again = await http.post("/api/channels", json={"name": "برنامهنویسی"})
    assert again.status_code == 409 and "exists already" in again.json()["error"]["message"]
    assert (await http.delete(path)).status_code == 204
    for request in (http.get(path), http.delete(path), http.patch(path, json={"description": "x"})):
        assert (await request).status_code == 404


@pytest.mark.parametrize(
    ("refuse", "allow", "says"),
    [
        (("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "SET", "maxmemory", "0"), "it is full"),
        (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE"), "read-only replica"),
        (("ACL", "SETUSER", "default", "-hset"), ("ACL", "SETUSER", "default", "+@all"), "lacks a right"),
    ],
)
async def test_what_redis_refuses_is_told_as_that(
    refuse: tuple[str, ...], allow: tuple[str, ...], says: str, http: Http, redis_of_module: RedisProcess
) -> None:
    await http.post("/api/channels", json={"name": "refused"})
    with redis.Redis(port=redis_of_module.port) as client:
        client.execute_command(*refuse)
        try:
            reply = await http.patch("/api/channels/refused", json={"description": "a secret"})
        finally:
            client.execute_command(*allow)
    error = reply.json()["error"]
    assert (reply.status_code, error["code"]) == (503, 100)
    assert says in error["message"] and "secret" not in error["message"]

    async def stored() -> bool:
        return (await http.patch("/api/channels/refused", json={"description": "b"})).status_code == 200

    await until(stored, what="it is stored again")


async def test_of_two_that_make_one_channel_one_wins(http: Http) -> None:
    replies = await asyncio.gather(*[http.post("/api/channels", json={"name": "race"}) for _ in range(8)])
    assert sorted(reply.status_code for reply in replies) == [201] + [409] * 7


async def test_subscribers(http: Http, redis_of_module: RedisProcess) -> None:
    await http.post("/api/channels", json={"name": "club"})
    path = "/api/channels/club/subscribers"
    assert (await http.put(f"{path}/Sara")).status_code == 201
    again = await http.put(f"{path}/sara")
    assert again.status_code == 200 and again.json() == {"channel": "club", "user": "sara", "subscribed": True}
    assert (await http.get(path)).json() == ["sara"]
    with redis.Redis(port=redis_of_module.port, decode_responses=True) as client:
        assert client.smembers("channel:club:subscribers") == {"sara"}
        assert client.smembers("user:sara:channels") == {"club"}
    assert (await http.delete(f"{path}/sara")).status_code == 204
    assert (await http.get(f"{path}/sara")).json()["subscribed"] is False


async def test_a_channel_made_while_it_is_deleted_is_whole(http: Http, redis_of_module: RedisProcess) -> None:
    """Somebody publishes all the while; those who belonged to the old one do not belong to the new."""
    with redis.Redis(port=redis_of_module.port, decode_responses=True) as client, client.pipeline() as pipe:
        for room in (f"phoenix-{number}" for number in range(3)):
            first = await post(http, room, "x")
            for number in range(3000):
                pipe.sadd(f"channel:{room}:subscribers", f"u{number}").sadd(f"user:u{number}:channels", room)
            pipe.execute()
            deletion = asyncio.create_task(http.delete(f"/api/channels/{room}"))
            while (last := await post(http, room, "x"))["epoch"] == first["epoch"] or not deletion.done():
                pass
            assert (await deletion).status_code == 204
            assert client.hget(f"channel:{room}", "epoch") == last["epoch"] and client.zscore("channels", room) == 0
            assert await offsets(http, room) == list(range(1, last["offset"] + 1))
            assert not client.smembers(f"channel:{room}:subscribers") and not client.smembers("user:u2999:channels")


# -- messages


async def test_a_message_is_stored_where_it_says(http: Http, redis_of_module: RedisProcess) -> None:
    first = await post(http, "api-one", "hi")
    assert first["offset"] == 1 and first["id"] == f"1-{first['time']}" and not first["duplicate"]
    reply = await http.post("/api/channels/api-one/messages", json={"data": {"n": [1, None]}, "user": "sara"})
    assert reply.status_code == 201
    page = (await http.get("/api/channels/api-one/messages")).json()
    assert [(p["data"], p["info"]["user"]) for p in page["publications"]] == [
        ({"text": "hi"}, "anonymous"),
        ({"n": [1, None]}, "sara"),
    ]
    assert (page["epoch"], page["offset"]) == (first["epoch"], 2)
    with redis.Redis(port=redis_of_module.port, decode_responses=True) as client:
        ((_, entries),) = client.xread({"message:api-one": 0})
        assert entries[0] == (first["id"], {"user": "anonymous", "client": "-", "data": '{"text":"hi"}'})


async def test_json_becomes_one_compact_line(http: Http) -> None:
    body = '{"data": {"a" :\n\r [1,\t2], "b": "x\\ny"}}'
    reply = await http.post("/api/channels/api-line/messages", content=body, headers=JSON)
    assert reply.status_code == 201
    lines = await http.get("/api/channels/api-line/messages", headers={"accept": "application/x-ndjson"})
    assert lines.headers["content-type"].startswith("application/x-ndjson")
    assert '"data":{"a":[1,2],"b":"x\\ny"}' in lines.text and lines.text.count("\n") == 1


async def test_an_idempotency_key(http: Http) -> None:
    first = await post(http, "api-key", "x", **{"idempotency-key": "k"})
    reply = await http.post("/api/channels/api-key/messages", json={"text": "x"}, headers={"idempotency-key": "k"})
    assert reply.status_code == 200 and reply.json() == first | {"duplicate": True}
    assert await offsets(http, "api-key") == [1]


async def test_an_idempotency_key_ends_with_its_channel(http: Http) -> None:
    """A header's, and an event's id."""
    key, event = {"idempotency-key": "k"}, {"type": "t", "channel": "api-key-again", "payload": 1, "id": "k"}
    for _ in range(2):
        first = await post(http, "api-key-again", "x", **key)
        assert (await http.post("/api/events", json=event)).status_code == 202
        assert first["duplicate"] is False and await offsets(http, "api-key-again") == [1, 2]
        assert (await post(http, "api-key-again", "x", **key))["duplicate"] is True
        assert (await http.delete("/api/channels/api-key-again")).status_code == 204
        await until(lambda since=first["time"]: time.time() * 1000 > since + 1)  # type: ignore[misc]


async def test_a_channel_is_as_old_as_redis_says(
    settings: ServerSettings, redis_client: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By whose clock its messages are: else what is said at once could be older than the channel."""
    monkeypatch.setattr(time, "time", lambda: 4e9)
    async with Node(settings, "tool") as node:
        made = await node.channels.create("clock")
        said = await node.producer.publish("clock", b"1", user="sara")
    assert 0 < made.created_at <= said.ms


async def test_pages(http: Http) -> None:
    for i in range(12):
        await post(http, "api-page", i)
    assert await offsets(http, "api-page") == list(range(1, 13))
    assert await offsets(http, "api-page", "?limit=3") == [10, 11, 12]
    assert await offsets(http, "api-page", "?before=5&limit=2") == [3, 4]
    assert await offsets(http, "api-page", "?after=5&limit=2") == [6, 7]
    assert await offsets(http, "api-page", "?after=0&limit=0") == []
    assert await offsets(http, "api-page", "?after=99") == []


async def test_since_takes_milliseconds_and_iso_times(http: Http) -> None:
    times = [(await post(http, "api-since", i))["time"] for i in range(3)]
    assert await offsets(http, "api-since", f"?since={times[0]}") == [1, 2, 3]
    early = datetime.fromtimestamp(times[0] / 1000, UTC) - timedelta(seconds=5)
    for text in (early.isoformat(), early.isoformat().replace("+00:00", "Z"), early.replace(tzinfo=None).isoformat()):
        assert await offsets(http, "api-since", f"?since={quote(text)}") == [1, 2, 3]
    assert await offsets(http, "api-since", "?since=2100-01-01") == []


# -- event streams


class Events:
    """An event stream, read event by event."""

    def __init__(self, response: httpx.Response) -> None:
        self._lines = response.aiter_lines()

    async def next(self) -> dict[str, str]:
        fields: dict[str, str] = {}
        async with asyncio.timeout(180):
            async for line in self._lines:
                if not line and fields:
                    return fields
                if line and not line.startswith(":"):
                    name, _, value = line.partition(": ")
                    fields[name] = value
        raise AssertionError("the stream ended")


async def test_an_event_stream_replays_then_stays_live_and_resumes(http: Http) -> None:
    epoch = (await post(http, "api-sse", 1))["epoch"]
    await post(http, "api-sse", 2)
    accept = {"accept": "text/event-stream"}
    async with http.stream("GET", "/api/channels/api-sse/messages?after=0", headers=accept) as response:
        events = Events(response)
        await post(http, "api-sse", 3)
        got = [await events.next() for _ in range(3)]
    assert [e["id"] for e in got] == [f"{epoch}:{i}" for i in (1, 2, 3)]
    assert [json.loads(e["data"])["data"]["text"] for e in got] == ["1", "2", "3"]

    await post(http, "api-sse", 4)
    resume = accept | {"last-event-id": got[1]["id"]}
    async with http.stream("GET", "/api/channels/api-sse/messages", headers=resume) as response:
        events = Events(response)
        assert [(await events.next())["id"] for _ in range(2)] == [f"{epoch}:3", f"{epoch}:4"]


async def test_an_event_stream_says_when_it_cannot_resume(http: Http) -> None:
    await post(http, "api-reset", 1)
    headers = {"accept": "text/event-stream", "last-event-id": "other:1"}
    async with http.stream("GET", "/api/channels/api-reset/messages", headers=headers) as response:
        assert (await Events(response).next())["event"] == "reset"


async def test_an_event_stream_that_ends_leaves_nothing_behind(http: Http, redis_of_module: RedisProcess) -> None:
    await post(http, "api-end", 1)

    def listeners() -> int:
        with redis.Redis(port=redis_of_module.port, decode_responses=True) as client:
            return int(dict(client.pubsub_numsub("channel:api-end"))["channel:api-end"])

    accept = {"accept": "text/event-stream"}
    async with http.stream("GET", "/api/channels/api-end/messages?after=0", headers=accept) as response:
        await Events(response).next()
        assert listeners() == 1
    await until(lambda: listeners() == 0)


# -- bad input


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "says"),
    [
        ("GET", "/api/channels/never/messages", None, 404, "create it first"),
        ("GET", "/api/channels/never", None, 404, "create it first"),
        ("GET", "/api/channels/never/subscribers", None, 404, "create it first"),
        ("GET", "/api/channels/a%20b/messages", None, 400, "1 to 64 letters"),
        ("POST", "/api/channels/a%7Bb/messages", '{"text":"x"}', 400, "1 to 64 letters"),
        ("POST", "/api/channels/*/messages", '{"text":"x"}', 400, "1 to 64 letters"),
        ("POST", "/api/channels/a%07/messages", '{"text":"x"}', 400, "1 to 64 letters"),
        ("POST", "/api/channels/%E2%80%AEa/messages", '{"text":"x"}', 400, "1 to 64 letters"),
        ("POST", f"/api/channels/{'x' * 65}/messages", '{"text":"x"}', 400, "1 to 64 letters"),
        ("POST", "/api/channels/bad/messages", "not json", 400, "must be a JSON NewMessage"),
        ("POST", "/api/channels/bad/messages", '{"text":5}', 400, "$.text"),
        ("POST", "/api/channels/bad/messages", '{"text":null}', 400, "$.text"),
        ("POST", "/api/channels/bad/messages", "{}", 400, 'either "text"'),
        ("POST", "/api/channels/bad/messages", '{"text":"x","data":1}', 400, 'either "text"'),
        ("POST", "/api/channels/bad/messages", '{"txt":"x"}', 400, "txt"),
        ("POST", "/api/channels/bad/messages", '{"data":NaN}', 400, "JSON"),
        ("POST", "/api/channels/bad/messages", '{"data":"\\ud800"}', 400, "JSON"),
        ("POST", "/api/channels/bad/messages", '{"text":"x","user":"a b"}', 400, "a user name has"),
        ("POST", "/api/channels/bad/messages", json.dumps({"data": "x" * 65535}), 413, "at most 65536 bytes"),
        ("POST", "/api/channels/bad/messages", json.dumps({"data": "x" * 200_000}), 413, "at most 131072 bytes"),
        ("POST", "/api/channels/bad/messages", '{"data":' + "[" * 5000 + "]" * 5000 + "}", 400, "JSON"),
        ("POST", "/api/channels", '{"description":"x"}', 400, "name"),
        ("POST", "/api/channels", '{"name":"bad","description":"a\\nb"}', 400, "one line"),
        ("GET", "/api/channels/known/messages?after=x", None, 400, "after must be a whole number"),
        ("GET", "/api/channels/known/messages?after=-1", None, 400, "after must be a whole number"),
        ("GET", "/api/channels/known/messages?after=%C2%B2", None, 400, "after must be a whole number"),
        ("GET", f"/api/channels/known/messages?after={'0' * 20}{'9' * 5000}", None, 400, "after must be a whole"),
        ("GET", "/api/channels/known/messages?before=0", None, 400, "before must be a whole number from 1"),
        ("GET", "/api/channels/known/messages?limit=1001", None, 400, "from 0 to 1000"),
        ("GET", "/api/channels/known/messages?after=1&since=2", None, 400, "one of after, before, since"),
        ("GET", "/api/channels/known/messages?since=yesterday", None, 400, "ISO time"),
        ("GET", "/api/nothing", None, 404, "see /openapi.json"),
        ("PUT", "/api/channels", None, 405, "see /openapi.json"),
    ],
)
async def test_bad_requests_are_explained_and_change_nothing(
    http: Http, redis_of_module: RedisProcess, method: str, path: str, body: str | None, status: int, says: str
) -> None:
    await http.post("/api/channels", json={"name": "known"})
    with redis.Redis(port=redis_of_module.port, decode_responses=True) as client:
        keys = set(client.scan_iter("message:*")), set(client.scan_iter("channel:*"))
        reply = await http.request(method, path, content=body, headers=JSON if body else {})
        assert (set(client.scan_iter("message:*")), set(client.scan_iter("channel:*"))) == keys
    assert reply.status_code == status, reply.text
    error = reply.json()["error"]
    assert error.keys() == {"code", "message"} and says in error["message"]


async def test_other_bad_requests(http: Http) -> None:
    path = "/api/channels/known/messages"
    form = await http.post(path, content="text=hi", headers={"content-type": "application/x-www-form-urlencoded"})
    assert form.status_code == 415 and "curl: -H 'content-type: application/json'" in form.text
    long = await http.post(path, json={"text": "x"}, headers={"idempotency-key": "k" * 129})
    assert long.status_code == 400 and "128 bytes" in long.text
    for id in ("garbage", "epoch:x", "epoch:²", f"epoch:{10**16}"):
        accept = {b"accept": b"text/event-stream", b"last-event-id": id.encode("latin-1")}
        assert (await http.get(path, headers=accept)).status_code == 400, id
    unknown = await http.get("/api/channels/never/messages", headers={"accept": "text/event-stream"})
    assert unknown.status_code == 404


async def test_where_nobody_makes_channels(dial: Dial, redis_of_module: RedisProcess) -> None:
    env = {"REDIS_URL": redis_of_module.url, "CREATE_CHANNELS": "0"}
    with PeykServer(env) as server:
        async with httpx.AsyncClient(base_url=server.url, trust_env=False) as http:
            refused = await http.post("/api/channels/shut/messages", json={"text": "x"})
            assert refused.status_code == 404 and "create it first" in refused.text
            async with dial("sara", server) as talk:
                assert (await talk.fail(subscribe={"channel": "shut"}))[0] == 102
                assert (await talk.fail(publish={"channel": "shut", "data": 1}))[0] == 102
            assert "shut" not in (await http.get("/api/channels")).text
            await http.post("/api/channels", json={"name": "shut"})
            await post(http, "shut", "x")


# -- health and the description


async def test_health_and_ready(http: Http) -> None:
    assert (await http.get("/health")).json()["status"] == "ok"
    reply = await http.get("/ready")
    assert reply.status_code == 200
    assert reply.json() == {"status": "ok", "parts": {"redis": "ok", "pubsub": "ok", "fanout": "ok", "sql": "ok"}}


async def test_a_sink_that_lags_is_degraded_and_still_200() -> None:
    with RedisProcess("valkey") as process:
        with redis.Redis(port=process.port) as client:
            client.xadd("log:0", {"c": "- - u - 1"}, id="1-1")  # waits since 1970
            client.xgroup_create("log:0", "mongo", "0")  # which nobody plays here
        with PeykServer({"REDIS_URL": process.url}) as server:
            async with httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=180) as http:

                async def degraded() -> bool:
                    return bool((await http.get("/ready")).json()["status"] == "degraded")

                await until(degraded)
                reply = await http.get("/ready")
                assert reply.status_code == 200
                assert reply.json()["parts"]["fanout"] == "ok"
                assert reply.json()["parts"]["mongo"].endswith("in partitions [0]")


async def test_ready_says_which_part_does_not_move() -> None:
    with RedisProcess("valkey") as process, PeykServer({"REDIS_URL": process.url}) as server:
        async with httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=180) as http:
            process.kill()
            reply = await http.get("/ready")
            assert reply.status_code == 503 and reply.json()["parts"]["redis"] != "ok"
            assert (await http.get("/health")).status_code == 200
            assert (await http.get("/api/channels")).status_code == 503
            process.start()

            async def good() -> bool:
                return (await http.get("/ready")).status_code == 200

            await until(good)


async def test_the_description_is_of_the_same_types(http: Http) -> None:
    document = (await http.get("/openapi.json")).json()
    described = {(method.upper(), path) for path, item in document["paths"].items() for method in item}
    assert described == {(o.method, o.path) for o in OPERATIONS}
    schemas = document["components"]["schemas"]
    page = (await http.get("/api/channels/known/messages")).json()
    assert page.keys() == schemas["History"]["properties"].keys()
    assert (await post(http, "known", "x")).keys() == schemas["Published"]["properties"].keys()
    for reference in _references(document):
        assert reference.removeprefix("#/components/schemas/") in schemas


def _references(node: Any) -> list[str]:
    if isinstance(node, dict):
        return [node["$ref"]] if "$ref" in node else [r for value in node.values() for r in _references(value)]
    return [r for value in node for r in _references(value)] if isinstance(node, list) else []
