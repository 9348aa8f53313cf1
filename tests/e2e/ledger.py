"""What publishers were told, held against what is in the history afterwards."""

import asyncio
import itertools
import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx2 as httpx

from tests.clients import Client
from tests.services import RedisClient

ANSWER = 6.0  # seconds a publisher waits at most; the server's own limit is PUBLISH_TIMEOUT
_TAKEN, _REFUSED, _UNKNOWN = (200, 201), 503, 504


class Ledger:
    """Publishes numbered messages to one channel over HTTP, each with its number as key, and remembers the answers."""

    def __init__(self, channel: str) -> None:
        self.channel = channel
        self.taken: dict[str, int] = {}  # text → offset
        self.refused: set[str] = set()  # "nothing was stored"
        self.unknown: set[str] = set()  # "retry with the same key", or the connection broke
        self.slowest = 0.0  # seconds until an answer
        self._numbers: Iterator[int] = itertools.count(1)

    async def publish(self, http: httpx.AsyncClient, text: str = "") -> bool:
        """Publish the next message, or `text` again; whether it was taken. Raises TimeoutError without an answer."""
        text = text or str(next(self._numbers))
        loop = asyncio.get_running_loop()
        start = loop.time()
        try:
            async with asyncio.timeout(ANSWER):
                reply = await http.post(
                    f"/api/channels/{self.channel}/messages",
                    json={"text": text, "user": "ledger"},
                    headers={"Idempotency-Key": text},
                )
        except httpx.TransportError:  # the node died or went away
            self.unknown.add(text)
            return False
        self.slowest = max(self.slowest, loop.time() - start)
        assert reply.status_code in (*_TAKEN, _REFUSED, _UNKNOWN), reply.text
        if reply.status_code in _TAKEN:
            self.taken[text] = reply.json()["offset"]
            self.unknown.discard(text)
            return True
        assert reply.json()["error"]["message"]
        if text not in self.unknown:  # what was unknown once stays so, whatever is said of a later try
            (self.refused if reply.status_code == _REFUSED else self.unknown).add(text)
        return False

    async def tell(self, client: Client) -> None:
        """As publish, through the socket of a user called ledger: an error or the end leaves the message unknown."""
        text = str(next(self._numbers))
        self.unknown.add(text)
        try:
            reply = await client.publish(self.channel, {"text": text}, key=text)
        except ConnectionError:
            return
        if "rpc" in reply:
            self.taken[text] = reply["rpc"]["data"]["offset"]
            self.unknown.discard(text)
        else:
            assert reply["error"]["temporary"] is True, reply

    async def retry(self, http: httpx.AsyncClient) -> None:
        """Publish everything unknown again, with its key, until it is taken."""
        for text in list(self.unknown):
            while not await self.publish(http, text):
                pass

    def check(self, history: list[tuple[int, Any]]) -> None:
        """Taken: there once, at its offset. Refused: not there. Unknown: there at most once. And nothing else."""
        stored = [(offset, data["text"]) for offset, data in history]
        assert [offset for offset, _ in stored] == list(range(1, len(stored) + 1))
        counts = Counter(text for _, text in stored)
        assert [text for text, count in counts.items() if count > 1] == [], "stored twice"
        assert set(self.taken.items()) <= {(text, offset) for offset, text in stored}, "answered ok, and not there"
        assert [text for text in counts if text in self.refused] == [], "refused, and there"
        assert counts.keys() <= self.taken.keys() | self.unknown


async def history(redis: RedisClient, channel: str) -> list[tuple[int, Any]]:
    """A channel's stream, as clients see it: offsets and data."""
    entries = await redis.xrange(f"message:{channel}")
    return [(int(entry.split("-")[0]), json.loads(fields["data"])) for entry, fields in entries]
