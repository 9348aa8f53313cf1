"""History beyond the stream, from every door: seamless out of the archive, and an error rather than a hole."""

import asyncio
import json
from collections.abc import Iterator

import asyncpg
import httpx2 as httpx
import pytest

from app import AppSettings, join
from chat.access import Access
from chat.auth import Identity
from chat.events import event_stream
from chat.models import User
from chat.node import Node
from tests.bridge.stage import RETURN, Stage, lines
from tests.clients import Client
from tests.services import run_app, until

CHANNEL, COUNT = "long", 450
MESSAGES = f"/api/channels/{CHANNEL}/messages"


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    """Its streams hold about 100 messages; Redis drops a hundred at a time."""
    with Stage({"HISTORY_LENGTH": "100", "PAGE_LIMIT": "500"}) as stage:
        yield stage


@pytest.fixture
async def filled(stage: Stage) -> int:
    """The stream's first offset; before it, messages are in the archive only."""
    async with stage.http() as http:
        top = (await http.get(MESSAGES, params={"after": 0, "limit": 0})).json().get("offset", 0)
        for i in range(top, COUNT):
            assert (await http.post(MESSAGES, json={"text": str(i + 1)})).status_code == 201
    await until(stage.acked, RETURN)
    first = (await stage.in_stream(CHANNEL))[0]
    assert 200 < first < COUNT
    return first


async def offsets(http: httpx.AsyncClient, **params: str | int) -> list[int]:
    reply = await http.get(MESSAGES, params=params)
    assert reply.status_code == 200, reply.text
    return [pub["offset"] for pub in reply.json()["publications"]]


async def test_pages_over_http(stage: Stage, filled: int) -> None:
    async with stage.http() as http:
        assert await offsets(http, after=0, limit=500) == list(range(1, COUNT + 1))
        assert await offsets(http, after=filled - 3, limit=5) == list(range(filled - 2, filled + 3))
        assert await offsets(http, before=filled + 2, limit=5) == list(range(filled - 3, filled + 2))
        assert await offsets(http, before=4, limit=500) == [1, 2, 3]
        page = (await http.get(MESSAGES, params={"after": 6, "limit": 1})).json()
        (pub,) = page["publications"]
        assert (pub["data"], pub["info"]["user"], page["offset"]) == ({"text": "7"}, "anonymous", COUNT)
        every = (await http.get(MESSAGES, params={"after": 0, "limit": 500})).json()["publications"]
        later = [one["offset"] for one in every if one["time"] >= pub["time"]]
        assert await offsets(http, since=pub["time"], limit=500) == later
        for early in ("2000-01-01", "0001-01-01T00:00:00+14:00"):
            assert await offsets(http, since=early, limit=2) == [1, 2]
        assert await offsets(http, since="9999-12-31T23:59:59-14:00") == []


async def test_the_protocols_history(stage: Stage, filled: int) -> None:
    client = await Client.open(stage.server.port, "sara")

    async def history(**asked: object) -> list[int]:
        reply = await client.ask(history={"channel": CHANNEL, **asked})
        return [pub["offset"] for pub in reply["history"]["publications"]]

    epoch = (await client.ask(history={"channel": CHANNEL}))["history"]["epoch"]
    assert await history(limit=-1, since={"epoch": epoch, "offset": 100}) == list(range(101, COUNT + 1))
    back = await history(limit=filled, reverse=True, since={"epoch": epoch, "offset": filled + 1})
    assert back == list(range(filled, 0, -1))
    # A subscription recovers from the stream alone: what is beyond it, the client pages.
    reply = await client.ask(subscribe={"channel": CHANNEL, "recover": True, "epoch": epoch, "offset": 5})
    assert reply["subscribe"]["recovered"] is False
    client.abort()


async def test_the_command_replay(stage: Stage, filled: int) -> None:
    def replay(*words: str) -> list[int]:
        done = run_app("replay", CHANNEL, *words, **stage.environment)
        assert done.returncode == 0, done.stderr
        return list(lines(done.stdout))

    assert await asyncio.to_thread(replay) == list(range(1, COUNT + 1))
    assert await asyncio.to_thread(replay, "--after", str(filled - 2)) == list(range(filled - 1, COUNT + 1))
    assert await asyncio.to_thread(replay, "--since", "2000-01-01") == list(range(1, COUNT + 1))


async def test_an_event_stream_replays_and_stays_live(stage: Stage, filled: int) -> None:
    async with stage.http() as http:
        epoch = (await http.get(MESSAGES, params={"after": 0, "limit": 0})).json()["epoch"]
        for query, resume in (("?after=3", {}), ("", {"Last-Event-ID": f"{epoch}:3"})):
            headers = {"Accept": "text/event-stream", **resume}
            async with http.stream("GET", MESSAGES + query, headers=headers) as reply:
                seen: list[int] = []
                async for line in reply.aiter_lines():
                    assert not line.startswith("event:"), line
                    if line.startswith("data:"):
                        seen.append(json.loads(line[5:])["offset"])
                    if len(seen) == COUNT - 3:
                        break
                assert seen == list(range(4, COUNT + 1))


async def test_an_event_stream_out_of_the_archive_ends_when_who_follows_it_is_shut_out(
    stage: Stage, filled: int
) -> None:
    settings = AppSettings(redis_url=stage.redis.url, database_url=stage.postgres.url, _env_file=None)
    async with Node(settings, "tool", join) as node, asyncio.timeout(RETURN):
        (epoch, _) = await node.replay.position(CHANNEL) or ("", 0)
        access = Access(node.doors, Identity(User.named("sara"), token="stolen"))
        stream = await event_stream(node, CHANNEL, (epoch, 0), access)
        assert f"id: {epoch}:1\n".encode() in await anext(stream)
        await node.doors.revoke(token="stolen")
        assert b"data:" not in b"".join([text async for text in stream])


async def test_while_the_archive_is_away_or_behind_there_is_no_page_with_a_hole(stage: Stage, filled: int) -> None:
    """PostgreSQL and MongoDB go, the stream moves on; what only they would have is a 503, the rest flows."""
    channel, path = "behind", "/api/channels/behind/messages"
    async with stage.http() as http:
        for process in (stage.postgres, stage.mongo):
            await asyncio.to_thread(process.kill)
        for i in range(300):
            assert (await http.post(path, json={"text": str(i)})).status_code == 201
        first = (await stage.in_stream(channel))[0]
        reply = await http.get(path, params={"after": 0})
        assert reply.status_code == 503 and "older than the stream" in reply.json()["error"]["message"]
        newest = (await http.get(path, params={"limit": 50})).json()["publications"]
        assert [pub["offset"] for pub in newest] == list(range(251, 301))
        streamed = await http.get(path, params={"after": 0}, headers={"Accept": "text/event-stream"})
        assert streamed.status_code == 503

        # Back, and the sinks may not store yet: somebody holds the tables.
        await asyncio.to_thread(stage.postgres.start)
        connection = await asyncpg.connect(stage.postgres.url)
        async with connection.transaction():
            await connection.execute("LOCK TABLE stream IN EXCLUSIVE MODE")
            await until(lambda: _says(http, path, "not yet in the archive"), RETURN)
        await connection.close()
        await until(lambda: _holds(stage, channel, first), RETURN)
        pubs = (await http.get(path, params={"after": 0, "limit": 500})).json()["publications"]
        assert [pub["offset"] for pub in pubs] == list(range(1, 301))
        await asyncio.to_thread(stage.mongo.start)
    assert len(await stage.in_sql(channel)) == 300
    await until(stage.acked, RETURN)
    assert await stage.in_mongo(channel) == list(range(1, 301))


async def _says(http: httpx.AsyncClient, path: str, text: str) -> bool:
    reply = await http.get(path, params={"after": 0})
    return reply.status_code == 503 and text in reply.json()["error"]["message"]


async def _holds(stage: Stage, channel: str, first: int) -> bool:
    return len(await stage.in_sql(channel)) == 300
