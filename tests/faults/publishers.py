"""Producers: each says its numbers in one channel, the next when the last is acked, and again by key until it is."""

import asyncio
import json
from typing import Any

import httpx2 as httpx
import msgspec
from websockets.asyncio.client import ClientConnection

from tests.faults.checker import Position, Published, data_of
from tests.faults.world import ANSWER_TIMEOUT, LOST, Error, Line, Stored, World, dial, lines_of

PADDING = 400  # bytes of weight in a message


class Publisher:
    """One producer in one channel, over the socket: the next number when the last is acked."""

    def __init__(self, name: str, channel: str, world: World) -> None:
        self.published = Published(name, channel)
        self._world, self._url = world, ""
        self._socket: ClientConnection | None = None

    async def run(self, interval: float, until: float) -> None:
        """A number every `interval` seconds until the clock of the loop says `until`; the last one is acked as well.

        What could not be said in time is made up for while there is time.
        """
        loop, published = asyncio.get_running_loop(), self.published
        due = loop.time() + self._world.random.random() * interval
        while max(due, loop.time()) < until:
            await asyncio.sleep(due - loop.time())
            began = loop.time()
            published.sent += 1
            stored = await self._until_acked(published.sent)
            published.acked[published.sent] = Position(stored.epoch, stored.offset)
            self._world.ack_times.append(loop.time())
            self._world.ack_latencies.append(loop.time() - began)
            due += interval
        await self._let_go()

    async def _until_acked(self, number: int) -> Stored:
        """The same number with the same key, at any node, until one says where it stands."""
        tries = 0
        while True:
            self._url = self._url or self._world.another("")
            try:
                async with asyncio.timeout(ANSWER_TIMEOUT):
                    return await self._publish(number)
            except LOST:
                self._world.tally["publishes retried"] += 1
                await self._let_go()
                self._url = self._world.another(self._url)
                await self._world.back_off(tries)
                tries += 1

    async def _publish(self, number: int) -> Stored:
        if self._socket is None:
            self._socket = await dial(self._url)
            await self._ask(0, connect={"data": {"user": self.published.producer}})
        who = self.published
        params = {"channel": who.channel, "data": data_of(who.producer, number, PADDING), "key": str(number)}
        line = await self._ask(number, rpc={"method": "publish", "data": params})
        assert line.rpc is not None
        return line.rpc.data

    async def _ask(self, number: int, **command: Any) -> Line:
        assert self._socket is not None
        await self._socket.send(json.dumps({"id": number + 1, **command}))
        while True:
            for line in lines_of(await self._socket.recv(decode=False)):
                if line.error is not None:
                    raise self._world.refused(self.published.producer, line.error)
                if line.id == number + 1:
                    return line
                await self._socket.send("{}")

    async def _let_go(self) -> None:
        if self._socket is not None:
            self._socket.transport.abort()
            self._socket = None


class HttpPublisher(Publisher):
    """The same over HTTP, with an Idempotency-Key."""

    _client: httpx.AsyncClient | None = None

    async def _publish(self, number: int) -> Stored:
        if self._client is None:
            self._client = httpx.AsyncClient(timeout=ANSWER_TIMEOUT, trust_env=False)
        who = self.published
        body = {"data": data_of(who.producer, number, PADDING), "user": who.producer}
        url = f"{self._url}/api/channels/{who.channel}/messages"
        reply = await self._client.post(url, json=body, headers={"Idempotency-Key": str(number)})
        if reply.status_code not in (200, 201):
            text = reply.text[:200]
            raise self._world.refused(who.producer, Error(reply.status_code, text, reply.status_code in (503, 504)))
        return msgspec.json.decode(reply.content, type=Stored)

    async def _let_go(self) -> None:
        if self._client is not None:
            await self._client.aclose()
            self._client = None
