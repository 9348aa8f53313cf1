"""The list of channels in pages, and the word that it changed."""

from collections.abc import AsyncIterator
from typing import Any

import httpx2 as httpx
import msgspec
import pytest

from chat import directory
from chat.access import Access
from chat.auth import Identity
from chat.limits import LOOKED_UP
from chat.models import User
from chat.node import Node
from chat.rpc import call_method
from chat.settings import ServerSettings
from tests.chat.conftest import Dial, Talk
from tests.services import PeykServer, RedisClient

SARA = User.named("sara")
MANY = 2600


@pytest.fixture
async def node(settings: ServerSettings, redis_client: RedisClient) -> AsyncIterator[Node]:
    """One with many channels, of which every fifth is private and one of those sara's."""
    names = [f"c{number:04}" for number in range(MANY)] + ["گفت‌وگو", "zoo"]
    async with redis_client.pipeline() as pipe:
        for number, name in enumerate(names):
            kind = "private" if number % 5 == 0 else "public"
            pipe.hset(f"channel:{name}", mapping={"id": name, "name": name, "kind": kind, "epoch": "e", "owner": "x"})
            pipe.zadd("channels", {name: 0})
        pipe.hset("channel:c0010:roles", "sara", "member")
        await pipe.execute()
    async with Node(settings, "tool") as node:
        yield node


def access(node: Node, user: User = SARA) -> Access:
    return Access(node.doors, Identity(user))


async def everything(node: Node, who: Access, limit: int, prefix: str = "") -> list[list[str]]:
    """The pages one after another."""
    pages, after = [], ""
    while True:
        page = await node.directory.page(who, after, limit, prefix)
        pages.append([channel.id for channel in page.channels])
        after = page.next
        if not after:
            return pages


async def test_what_is_looked_up_counts_whether_it_may_be_seen_or_not(node: Node) -> None:
    owed: list[int] = []
    who = Access(node.doors, Identity(SARA, guest=True), owe=owed.append)
    private = [f"c{number:04}" for number in range(0, 5 * 5 * LOOKED_UP, 5)]
    assert (await node.directory.named(who, private)).channels == []
    who.passing = dict.fromkeys(private, 0)
    assert await call_method(node, who, "unread", msgspec.Raw(b"{}")) == {"channels": {}}
    assert owed == [5, 5]


@pytest.mark.parametrize("limit", [1, 7, 200, 1000])
async def test_the_pages_hold_what_one_may_see_each_once_and_in_order(node: Node, limit: int) -> None:
    prefix = "c00" if limit < 200 else ""
    pages = await everything(node, access(node), limit, prefix)
    listed = [name for page in pages for name in page]
    seen = [f"c{number:04}" for number in range(MANY) if number % 5 or number == 10] + ["zoo"]
    assert listed == [name for name in seen if name.startswith(prefix)]
    assert all(len(page) <= limit for page in pages)


async def test_a_page_costs_the_same_however_many_channels_there_are(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted is what is asked of Redis: names, and two commands for each name that is looked at."""
    commands: list[int] = []
    pipeline = node.link.pipeline

    async def counting(asked: Any) -> list[Any]:
        commands.append(len(asked))
        return await pipeline(asked)

    monkeypatch.setattr(node.link, "pipeline", counting)
    costs = []
    for after in ("", "c1000", "c2000"):
        page = await node.directory.page(access(node), after, 200)
        assert len(page.channels) == 200 and page.next
        costs.append(sum(commands))
        commands.clear()
    assert costs[0] == costs[1] == costs[2] < 2 * (1 + 2 * 201) + 1


async def test_a_page_ends_though_one_may_see_nothing(node: Node, redis_client: RedisClient) -> None:
    narrowed = Access(node.doors, Identity(SARA, channels=("zoo",)))
    pages = await everything(node, narrowed, 100)
    assert [name for page in pages for name in page] == ["zoo"]
    assert 1 < len(pages) < 10


async def test_channels_are_asked_for_by_name(node: Node) -> None:
    page = await node.directory.named(access(node), ["c0001", "c0005", "c0010", "none", "zoo"])
    assert [channel.id for channel in page.channels] == ["c0001", "c0010", "zoo"] and page.next == ""


async def test_changes_are_gathered_and_bounded(node: Node) -> None:
    class Listener:
        """A client that wants to hear."""

        closed = full = False

        def __init__(self, who: Access) -> None:
            self.access, self.user = who, SARA
            who.listens = True
            self.lines: list[bytes] = []

        def reply(self, line: bytes) -> None:
            self.lines.append(line)

    all_of_it, narrowed = Listener(access(node)), Listener(Access(node.doors, Identity(SARA, channels=("zoo",))))
    deaf = Listener(access(node))
    deaf.access.listens = False
    node.directory._sessions = lambda: [all_of_it, narrowed, deaf]  # type: ignore[list-item]
    changed = ["c0001", "c0005", "c0010", "zoo", "never-made"]
    await node.directory._tell(changed, {"was-public": "public", "was-private": "private"}, False)
    assert deaf.lines == [] and len(all_of_it.lines) == len(narrowed.lines) == 1
    assert all_of_it.lines[0].count(b'"id"') == 3 and b"c0005" not in all_of_it.lines[0]
    assert b'"gone":["was-public"],"many":false' in all_of_it.lines[0]
    assert narrowed.lines[0].count(b'"id"') == 1 and b"was-" not in narrowed.lines[0]
    await node.directory._tell(["c0005"], {}, False)
    assert len(all_of_it.lines) == 1
    for number in range(3 * directory.AT_ONCE):
        node.directory.changed(f"c{number:04}")
        node.directory.deleted(f"d{number:04}", "public")
    assert len(node.directory._changed) == len(node.directory._gone) == directory.AT_ONCE and node.directory._many


# -- at the doors


async def rpc(talk: Talk, **params: Any) -> Any:
    return (await talk.ask(rpc={"method": "channels.list", "data": params}))["rpc"]["data"]


async def test_a_page_and_the_next_over_the_protocol_and_over_http(
    dial: Dial, http: httpx.AsyncClient, server: PeykServer
) -> None:
    names = [f"page-{number}" for number in range(5)]
    for name in names:
        await http.post("/api/channels", json={"name": name})
    async with dial("sara") as talk:
        first = await rpc(talk, limit=3, prefix="page-")
        assert [channel["id"] for channel in first["channels"]] == names[:3] and first["next"] == "page-2"
        rest = await rpc(talk, limit=3, prefix="page-", after="page-2")
        assert [channel["id"] for channel in rest["channels"]] == names[3:] and rest["next"] == ""
        assert [c["id"] for c in (await rpc(talk, ids=["page-4", "none"]))["channels"]] == ["page-4"]
        code, text = await talk.fail(rpc={"method": "channels.list", "data": {"ids": ["x"] * 1001}})
        assert code == 107 and "at most 1000" in text
    reply = await http.get("/api/channels", params={"limit": 2, "prefix": "page-"})
    listed = [channel["id"] for channel in reply.json()]
    while "next" in reply.links:
        reply = await http.get(reply.links["next"]["url"])
        listed += [channel["id"] for channel in reply.json()]
        assert len(reply.json()) <= 2
    assert listed == names
    refusal = await http.get("/api/channels", params={"limit": 1001})
    assert refusal.status_code == 400 and "from 0 to 1000" in refusal.text


async def test_who_listens_hears_what_was_made_changed_and_deleted(dial: Dial, http: httpx.AsyncClient) -> None:
    async with dial("sara") as listener, dial("babak") as other:
        await rpc(listener, listen=True, limit=1)
        await rpc(other, limit=1)

        async def hears(what: str, id: str) -> Any:
            """What the word says in which somebody hears of a channel; of others it may tell as well."""
            while True:
                word = (await listener.push("message"))["message"]["data"]["channels"]
                listener.pushes.clear()
                for item in word[what]:
                    if item == id or (isinstance(item, dict) and item["id"] == id):
                        return item

        await http.post("/api/channels", json={"name": "heard-1"})
        assert (await hears("changed", "heard-1"))["description"] == ""
        await other.ask(publish={"channel": "heard-2", "data": 1})
        await hears("changed", "heard-2")
        await http.patch("/api/channels/heard-1", json={"description": "anew"})
        assert (await hears("changed", "heard-1"))["description"] == "anew"
        await http.delete("/api/channels/heard-2")
        await hears("gone", "heard-2")
        await other.ask(ping={})
        assert [push for push in other.pushes if "message" in push] == []
