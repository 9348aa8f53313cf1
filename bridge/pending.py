"""The calls that wait for their replies, and what a reply is that comes for none of them."""

import asyncio
import uuid
from collections import OrderedDict
from typing import Any

from bridge.envelope import Envelope
from chat.errors import TooManyRequests
from pipeline.consumer import Away

REMEMBERED = 1024  # ended calls and others' replies that are remembered, to tell what comes late from what is strange


class Waiting:
    """One call. `sent`: from now on the loss of the connection is the loss of its reply."""

    __slots__ = ("action", "future", "id", "sent")

    def __init__(self, action: str) -> None:
        self.id, self.action, self.sent = str(uuid.uuid4()), action, False
        self.future: asyncio.Future[dict[str, Any] | Away] = asyncio.get_running_loop().create_future()


class Pending:
    """At most `limit` calls by their requestId."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._calls: dict[str, Waiting] = {}
        self._ended: OrderedDict[str, str] = OrderedDict()  # requestId → what another reply to it is

    def __len__(self) -> int:
        return len(self._calls)

    def begin(self, action: str) -> Waiting:
        """Raises TooManyRequests."""
        if len(self._calls) >= self._limit:
            text = f"{self._limit} calls wait for their answers on this node; try again later"
            raise TooManyRequests(text, "calls")
        call = Waiting(action)
        self._calls[call.id] = call
        return call

    def end(self, call: Waiting) -> None:
        """It has its reply, or waits no longer."""
        del self._calls[call.id]
        answered = call.future.done() and not call.future.cancelled()
        remember(self._ended, call.id, "duplicate" if answered else "late")

    def answer(self, message: Envelope) -> str:
        """Give a reply to its call; else say what it is: late, duplicate, forged or stray."""
        assert message.request is not None
        call = self._calls.get(message.request)
        if call is None:
            return self._ended.get(message.request, "stray")
        if message.action not in (None, call.action):
            return "forged"
        if call.future.done():
            return "duplicate"
        call.future.set_result(message.result)
        return ""

    def lose(self, reason: str) -> None:
        """The replies to what was sent so far cannot come any more."""
        for call in self._calls.values():
            if call.sent and not call.future.done():
                call.future.set_result(Away(reason))


def remember(table: OrderedDict[str, str], key: str, value: str) -> None:
    """Keep the last REMEMBERED of a table."""
    table[key] = value
    if len(table) > REMEMBERED:
        table.popitem(last=False)
