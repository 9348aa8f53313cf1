"""A foreign client: centrifuge-python, as it is."""

import asyncio
from typing import Any

import httpx2 as httpx
from centrifuge import (
    Client,
    ClientState,
    JoinContext,
    PublicationContext,
    ReplyError,
    SubscriptionEventHandler,
    SubscriptionState,
)

from tests.services import PeykServer, until


class Seen(SubscriptionEventHandler):  # type: ignore[misc]  # the package has no types
    def __init__(self) -> None:
        self.publications: list[tuple[int, Any]] = []
        self.joined: list[str] = []

    async def on_publication(self, ctx: PublicationContext) -> None:
        self.publications.append((ctx.pub.offset, ctx.pub.data))

    async def on_join(self, ctx: JoinContext) -> None:
        self.joined.append(ctx.info.user)


async def test_connect_subscribe_publish_history_rpc(server: PeykServer) -> None:
    client = Client(server.ws_url, data={"user": "sara"}, proxy=None)
    await client.connect()
    await client.ready()
    seen = Seen()
    subscription = client.new_subscription("sdk", events=seen, recoverable=True, join_leave=True)
    await subscription.subscribe()
    await subscription.ready()
    await until(lambda: seen.joined == ["sara"])
    assert [info.user for info in (await subscription.presence()).clients.values()] == ["sara"]
    assert (await subscription.presence_stats()).num_users == 1
    for text in ("hello", "سلام"):
        await subscription.publish({"text": text})
    await until(lambda: seen.publications == [(1, {"text": "hello"}), (2, {"text": "سلام"})])

    history = await subscription.history(limit=10)
    assert [p.data["text"] for p in history.publications] == ["hello", "سلام"]
    assert (history.offset, history.publications[0].info.user) == (2, "sara")
    called = await client.rpc("channels.list", {})
    assert "sdk" in [channel["id"] for channel in called.data["channels"]]
    try:
        await client.rpc("dance", {})
        raise AssertionError("an unknown method must fail")
    except ReplyError as error:
        assert error.code == 104
    await subscription.unsubscribe()
    assert subscription.state == SubscriptionState.UNSUBSCRIBED
    await _leave(client)


async def test_it_recovers_what_it_missed_while_the_server_was_gone() -> None:
    with PeykServer() as server:
        client = Client(server.ws_url, data={"user": "sara"}, proxy=None, max_reconnect_delay=1.0)
        await client.connect()
        await client.ready()
        seen = Seen()
        subscription = client.new_subscription("sdk", events=seen, recoverable=True)
        await subscription.subscribe()
        await subscription.ready()
        async with httpx.AsyncClient(base_url=server.url, trust_env=False) as http:
            await _post(http, 1)
            await until(lambda: len(seen.publications) == 1)
            server.kill()
            await until(lambda: client.state == ClientState.CONNECTING)
        # Another node of the same installation takes messages meanwhile.
        with PeykServer({"DATA_DIR": str(server.dir)}) as other:
            async with httpx.AsyncClient(base_url=other.url, trust_env=False) as http:
                for i in range(2, 12):
                    await _post(http, i)
        server.start()
        await asyncio.wait_for(subscription.ready(), 180)
        async with httpx.AsyncClient(base_url=server.url, trust_env=False) as http:
            await _post(http, 12)
        await until(lambda: len(seen.publications) >= 12)
        assert seen.publications == [(i, {"text": str(i)}) for i in range(1, 13)]
        await _leave(client)


async def _leave(client: Client) -> None:
    """Disconnect; the client closes its socket in a task of its own, after disconnect() has returned."""
    await client.disconnect()
    await until(lambda: len(asyncio.all_tasks()) == 1)


async def _post(http: httpx.AsyncClient, text: int) -> None:
    reply = await http.post("/api/channels/sdk/messages", json={"text": str(text)})
    assert reply.status_code == 201, reply.text
