"""/api/events without a broker: the same answers, straight to the streams."""

import asyncio
import json
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any
from urllib.parse import quote

import httpx2 as httpx
import pytest
from redis.asyncio import Redis
from starlette.testclient import TestClient

from chat.errors import LimitExceeded, Unavailable
from chat.server import application
from chat.settings import ServerSettings
from pipeline.consumer import Away
from pipeline.encode import Message
from pipeline.event import Event
from pipeline.gateway import raise_failed
from pipeline.ports import Parts, Readable
from tests.chat.conftest import Dial
from tests.services import PeykServer, RedisProcess, until

EVENT = {"type": "order.created", "channel": "Orders", "payload": {"n": 1}}
NDJSON = {"content-type": "application/x-ndjson"}


async def test_an_event_is_a_message_of_its_channel(http: httpx.AsyncClient) -> None:
    reply = await http.post("/api/events", json={**EVENT, "id": "e1", "user": "sara"})
    assert (reply.status_code, reply.json()) == (202, {"id": "e1", "status": "queued"})
    again = await http.post("/api/events", json={**EVENT, "id": "e1", "user": "sara"})
    assert again.status_code == 202
    (message,) = (await http.get("/api/channels/orders/messages")).json()["publications"]
    assert message["data"] == {"id": "e1", "type": "order.created", "payload": {"n": 1}}
    assert message["info"]["user"] == "sara"


async def test_an_event_and_a_users_key_are_never_the_same(http: httpx.AsyncClient, dial: Dial) -> None:
    await http.post("/api/events", json={**EVENT, "channel": "keys", "id": "k", "user": "sara"})
    posted = await http.post(
        "/api/channels/keys/messages", json={"text": "x", "user": "sara"}, headers={"Idempotency-Key": "k"}
    )
    assert posted.status_code == 201
    async with dial("sara") as talk:
        data = {"channel": "keys", "data": {"text": "x"}, "key": "event\nk"}
        assert await talk.fail(rpc={"method": "publish", "data": data}) == (107, "an idempotency key is one line")


async def test_batches(http: httpx.AsyncClient) -> None:
    batch = [{**EVENT, "channel": "batch", "payload": n} for n in range(3)]
    reply = await http.post("/api/events", json=batch)
    assert reply.status_code == 202 and [one["status"] for one in reply.json()] == ["queued"] * 3
    lines = "\n".join(json.dumps(event) for event in batch) + "\n\n"
    reply = await http.post("/api/events", content=lines, headers=NDJSON)
    assert reply.status_code == 202 and len({one["id"] for one in reply.json()}) == 3
    page = (await http.get("/api/channels/batch/messages")).json()
    assert [message["data"]["payload"] for message in page["publications"]] == [0, 1, 2, 0, 1, 2]


CLOUD = {"specversion": "1.0", "id": "c1", "source": "/shop", "type": "order.created", "subject": "order 7"}
CLOUD |= {"time": "2026-01-31T12:00:00Z"}
STRUCTURED, BATCH = [{"content-type": f"application/cloudevents{kind}+json; charset=utf-8"} for kind in ("", "-batch")]


async def test_a_cloud_event_is_the_same_event_in_both_modes_and_in_a_batch(http: httpx.AsyncClient) -> None:
    payload = {"n": 1, "city": "شیراز"}
    headers = {f"ce-{name}": quote(value, " ") for name, value in CLOUD.items()}
    async with asyncio.TaskGroup() as group:
        for channel, body, more in (
            ("cloud-a", {**CLOUD, "data": payload, "channel": "cloud-a"}, STRUCTURED),
            ("cloud-b", payload, {"content-type": "application/json", **headers}),
            ("cloud-c", [{**CLOUD, "data": payload}], BATCH),
        ):
            group.create_task(_posted(http, f"/api/events?channel={channel}", body, more))
    for channel in ("cloud-a", "cloud-b", "cloud-c"):
        (message,) = (await http.get(f"/api/channels/{channel}/messages")).json()["publications"]
        about = {name: CLOUD[name] for name in ("id", "type", "subject", "time", "source")}
        assert message["data"] == {**about, "payload": payload}, channel


async def _posted(http: httpx.AsyncClient, url: str, body: object, headers: dict[str, str]) -> None:
    reply = await http.post(url, content=json.dumps(body).encode(), headers=headers)
    queued = {"id": "c1", "status": "queued"}
    assert reply.status_code == 202 and reply.json() == ([queued] if isinstance(body, list) else queued), reply.text


async def test_a_cloud_event_that_cannot_be_taken_says_why(http: httpx.AsyncClient) -> None:
    for body, headers, why in (
        (CLOUD, STRUCTURED, "say ?channel=NAME"),
        ({**CLOUD, "type": ""}, STRUCTURED, "has a type"),
        ({**CLOUD, "channel": "c", "time": "now"}, STRUCTURED, "RFC 3339"),
        (CLOUD, {"content-type": "application/cloudevents+xml"}, "not application/cloudevents+xml"),
    ):
        reply = await http.post("/api/events", content=json.dumps(body), headers=headers)
        assert reply.status_code == 400 and why in reply.json()["error"]["message"], reply.text
    assert (await http.post("/api/events", content="[]", headers=BATCH)).status_code == 422


WRONG: list[tuple[Any, int, str]] = [
    ({}, 400, "type"),
    ({**EVENT, "extra": 1}, 400, "extra"),
    ({**EVENT, "type": ""}, 400, "type"),
    ({**EVENT, "type": "a\nb"}, 400, "one line"),
    ({**EVENT, "type": "ش" * 128}, 400, "1 to 255 bytes"),
    ({**EVENT, "id": "x" * 256}, 400, "id"),
    ({**EVENT, "id": "a\u202eb"}, 400, "visible"),
    ({**EVENT, "channel": "no such name!"}, 400, "channel name"),
    ({**EVENT, "user": "no name!"}, 400, "user name"),
    ({**EVENT, "payload": 2**64}, 400, "64 bits"),
    ({**EVENT, "payload": "\0"}, 400, "U+0000"),
    ({**EVENT, "payload": "x" * 70_000}, 413, "65536"),
    ([], 422, "1 to 1000"),
    ([EVENT] * 1001, 413, "1 to 1000"),
    ([EVENT, {}], 400, "type"),
    ([[EVENT]], 400, "array"),
    ("text", 400, "str"),
]


@pytest.mark.parametrize(("body", "status", "why"), WRONG)
async def test_what_is_no_event(http: httpx.AsyncClient, body: Any, status: int, why: str) -> None:
    reply = await http.post("/api/events", json=body)
    assert reply.status_code == status and why in reply.json()["error"]["message"], reply.text
    assert (await http.post("/api/events", content=b"{", headers=NDJSON)).status_code == 400
    assert (await http.post("/api/events", content=b"{", headers={"content-type": "text/plain"})).status_code == 415
    assert (await http.post("/api/events", content=b" " * (2**20 + 1))).status_code == 413


ONE = json.dumps(EVENT)
LARGE: list[tuple[str, dict[str, str], int, str]] = [
    (f"[{ONE}" + f",{ONE}" * 1000 + " and what is no JSON", {}, 413, "1 to 1000 events; this one has more"),
    ("no JSON\n" * 1001, NDJSON, 413, "1 to 1000 events; this one has 1001"),
    (ONE + "\n" * 2001 + ONE, NDJSON, 413, "1 to 1000 events; this one has 2002 lines"),
    ("\n" * 2**20, NDJSON, 422, "1 to 1000 events; this one has none"),
    ("[{}" + ",{}" * 300_000 + " and what is no JSON", BATCH, 413, "1 to 1000 events; this one has more"),
]


@pytest.mark.parametrize(("body", "headers", "status", "why"), LARGE)
async def test_a_batch_is_counted_before_it_is_read(
    http: httpx.AsyncClient, body: str, headers: dict[str, str], status: int, why: str
) -> None:
    reply = await http.post("/api/events", content=body, headers=headers)
    assert reply.status_code == status and why in reply.json()["error"]["message"], reply.text


async def test_a_wrong_event_keeps_its_batch_out(http: httpx.AsyncClient) -> None:
    batch = [{**EVENT, "channel": "whole"}, {**EVENT, "channel": "whole", "payload": "\0"}]
    assert (await http.post("/api/events", json=batch)).status_code == 400
    assert (await http.get("/api/channels/whole/messages")).status_code == 404


def test_who_may_publish_and_how_fast(valkey_process: RedisProcess) -> None:
    env = {"API_KEY": "k" * 16 + "=Orders*", "GUESTS": "no", "USER_PUBLISH_RATE": "2", "CREATE_CHANNELS": "0"}
    with (
        PeykServer({"REDIS_URL": valkey_process.url, **env}) as server,
        httpx.Client(base_url=server.url, trust_env=False) as http,
    ):
        assert http.post("/api/events", json=EVENT).status_code == 401
        assert http.get("/api/events?channel=orders").status_code == 401
        http.headers["X-API-Key"] = "k" * 16
        assert http.post("/api/events", json={**EVENT, "channel": "other"}).status_code == 403
        assert http.post("/api/events", json={**EVENT, "channel": "orders-new"}).status_code == 404
        for _ in range(20):
            reply = http.post("/api/events", json=[{**EVENT, "channel": "orders-new"}] * 5)
        assert reply.status_code == 429 and int(reply.headers["retry-after"]) >= 1


class Store:
    """An event store with one event in it."""

    def __init__(self) -> None:
        data = Event("a/b", "t", "c", b'{"n":1}').data()
        self.message = Message("c", 7, 1_700_000_000_000, "ep", "sara", "-", data)
        self.away, self.hit = False, True
        self.asked: list[tuple[str, str, int]] = []

    async def event(self, id: str, readable: Readable, channel: str = "") -> tuple[Message | None, bool]:
        if self.away:
            raise Away("no database")
        here = id == "a/b" and await readable([channel or "c"]) == {"c": 0}
        return (self.message if here else None), self.hit

    async def events(self, channel: str, type: str, limit: int) -> list[Message]:
        if self.away:
            raise Away("no database")
        self.asked.append((channel, type, limit))
        return [self.message, self.message._replace(data=b'{"text":"x"}')]


async def test_events_end_with_their_channel(server: PeykServer, redis_of_module: RedisProcess) -> None:
    """Private is for members only, and what was deleted does not come back, from the cache as from the databases."""
    paths = "/api/events?channel=board", "/api/events/pay-1"
    event = {"type": "salary", "channel": "board", "payload": {"sara": 1000}, "id": "pay-1"}
    async with AsyncExitStack() as stack:
        owner, guest = [
            await stack.enter_async_context(httpx.AsyncClient(base_url=server.url, trust_env=False)) for _ in range(2)
        ]
        direct: Redis = await stack.enter_async_context(Redis(port=redis_of_module.port, decode_responses=True))

        async def answers(http: httpx.AsyncClient) -> list[int]:
            return [(await http.get(path)).status_code for path in paths]

        async def listed() -> list[str]:
            return [event["id"] for event in (await guest.get(paths[0])).json()]

        await owner.post("/api/accounts", json={"username": "mina", "password": "long enough"})
        made = await owner.post("/api/channels", json={"name": "board", "kind": "private"})
        assert (await owner.post("/api/events", json=event)).status_code == 202 and made.status_code == 201
        await until(lambda: direct.exists("event:board pay-1"))
        assert (await answers(guest), await answers(owner)) == ([403, 404], [200, 200])
        assert (await owner.delete("/api/channels/board")).status_code == 204
        assert await answers(guest) == await answers(owner) == [404, 404]
        assert await direct.delete("event:board pay-1", "event: pay-1") == 2
        assert await answers(guest) == [404, 404]

        assert (await guest.post("/api/channels", json={"name": "board"})).status_code == 201
        assert await answers(guest) == [200, 404] and await listed() == []
        await guest.post("/api/events", json={**event, "id": "pay-2"})
        await until(lambda: direct.exists("event:board pay-2"))
        assert await listed() == ["pay-2"]
        await direct.hset("channel:board", "epoch", "later")  # Redis came back older: the channel is the same
        assert await listed() == ["pay-2"] and (await guest.get("/api/events/pay-2")).status_code == 200

        await guest.post("/api/events", json={**event, "payload": {"sara": 2}})  # the id of one that is gone

        async def is_there() -> bool:
            return (await guest.get(paths[1])).status_code == 200

        await until(is_there)
        assert (await guest.get(paths[1])).json()["payload"] == {"sara": 2}


async def test_an_id_that_somebody_used_first_hides_nothing(server: PeykServer, redis_of_module: RedisProcess) -> None:
    """In a private channel of their own: whoever may not read it sees what stands elsewhere, and nothing else."""
    event = {"type": "t", "payload": 1}
    async with AsyncExitStack() as stack:
        owner, guest = [
            await stack.enter_async_context(httpx.AsyncClient(base_url=server.url, trust_env=False)) for _ in range(2)
        ]
        direct: Redis = await stack.enter_async_context(Redis(port=redis_of_module.port, decode_responses=True))
        await owner.post("/api/accounts", json={"username": "troll", "password": "long enough"})
        await owner.post("/api/channels", json={"name": "den", "kind": "private"})
        for http, channel, id in ((owner, "den", "one"), (owner, "den", "only"), (guest, "open", "one")):
            await http.post("/api/events", json={**event, "channel": channel, "id": id})
            key = f"event:{channel} {id}"
            await until(lambda key=key: direct.exists(key))  # type: ignore[misc]

        async def where(http: httpx.AsyncClient, path: str) -> str:
            reply = await http.get(f"/api/events/{path}")
            return str(reply.json()["channel"]) if reply.status_code == 200 else str(reply.status_code)

        for _ in ("from the cache", "from the database"):
            assert await where(guest, "one") == "open" and await where(owner, "one") == "den"
            assert await where(owner, "one?channel=Open") == "open" == await where(guest, "one?channel=open")
            assert await where(guest, "one?channel=den") == "403" and await where(guest, "only") == "404"
            hidden, unknown = await guest.get("/api/events/only"), await guest.get("/api/events/none")
            assert (
                hidden.text.replace("only", "none") == unknown.text and hidden.headers.keys() == unknown.headers.keys()
            )
            await direct.delete(*await direct.keys("event:*"))


async def test_while_the_archive_is_away_the_stream_may_have_an_event(
    settings: ServerSettings, redis_client: Redis
) -> None:
    store = Store()
    store.away = True

    class Joined:
        async def __aenter__(self) -> Parts:
            return Parts(events=store)

        async def __aexit__(self, *exc: object) -> None:
            pass

    with TestClient(application(settings, lambda node: Joined()), "http://localhost") as http:
        for n in range(3):
            said = {"type": "t", "channel": "c", "payload": n, "id": f"e{n % 2}", "user": f"u{n}"}
            assert http.post("/api/events", json=said).status_code == 202
        reply = http.get("/api/events/e0?channel=C")
        assert (reply.json()["payload"], reply.headers["x-cache"]) == (0, "stream")
        for path in ("e0", "e5?channel=c", "e0?channel=d"):
            reply = http.get(f"/api/events/{path}")
            assert reply.status_code == 503 and ("?channel=NAME" in reply.text) is (path == "e0")


async def test_stored_events_are_read_back(settings: ServerSettings, redis_client: Redis) -> None:
    store = Store()
    await redis_client.hset("channel:c", mapping={"id": "c", "name": "c", "epoch": "ep", "offset": 7})

    class Joined:
        async def __aenter__(self) -> Parts:
            return Parts(events=store)

        async def __aexit__(self, *exc: object) -> None:
            pass

    with TestClient(application(settings, lambda node: Joined()), "http://localhost") as http:
        reply = http.get("/api/events/a/b")
        expected = {"id": "a/b", "type": "t", "channel": "c", "payload": {"n": 1}, "user": "sara"}
        assert reply.json() == {**expected, "offset": 7, "epoch": "ep", "time": 1_700_000_000_000}
        assert reply.headers["x-cache"] == "hit"
        store.hit = False
        assert http.get("/api/events/a/b").headers["x-cache"] == "miss"
        assert http.get("/api/events/other").status_code == http.get("/api/events/a/b?channel=d").status_code == 404
        assert http.get("/api/events/a/b?channel=C").json() == reply.json()
        assert http.get("/api/events/a/b?channel=no such!").status_code == 400
        assert [event["id"] for event in http.get("/api/events?channel=C&type=t&limit=5").json()] == ["a/b"]
        assert store.asked == [("c", "t", 5)]
        assert http.get("/api/events").status_code == 400
        assert http.get("/api/events?channel=c&limit=x").status_code == 400
        for type in ("%00", "a%0Ab", "%E2%80%AE", "%ED%A0%80%00"):  # PostgreSQL could not even be asked
            assert http.get(f"/api/events?channel=c&type={type}").status_code == 400
        assert len(store.asked) == 1
        store.away = True
        assert http.get("/api/events/a/b").status_code == http.get("/api/events?channel=c").status_code == 503


def test_an_error_among_many_names_those_it_is_about() -> None:
    events: Sequence[Event] = [Event(f"e{n}", "t", "c", b"1") for n in range(3)]
    raise_failed(events, [None, None, None])
    with pytest.raises(Unavailable, match=r"1 of 3 events were not queued \(e1\): away"):
        raise_failed(events, [None, Unavailable("away"), None])
    with pytest.raises(Unavailable, match=r"^away$"):
        raise_failed(events[:1], [Unavailable("away")])
    with pytest.raises(LimitExceeded, match=r"1 of 3 events were not queued \(e0\): full") as raised:
        raise_failed(events, [LimitExceeded("full", "channels"), None, None])
    assert (raised.value.limit, raised.value.code) == ("channels", 106)
