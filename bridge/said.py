"""What other services say unasked, as events of the chat channel RPC_EVENTS names; each once on any number of nodes.

What Pub/Sub carries has no id, and two equal messages are two events. But Redis tells every listener everything in the
same order. So each node that begins to listen publishes a mark on `control`, and what comes on RPC_CHANNEL is numbered
from the last mark on: mark and number are the same on every node, and so is the idempotency key made of them. All
nodes append an event, and the stream takes the first; a node that dies takes none with it.
"""

import asyncio
import logging
import secrets

import msgspec

from bridge.envelope import Envelope
from chat.errors import BadRequest, PeykError
from chat.models import channel_id, user_name
from pipeline.event import Event, checked, key_of
from pipeline.producer import Producer

logger = logging.getLogger(__name__)

_MARK = b"rpc "
_NOBODY = "service"  # who says what comes without a source, or with one that is no name
_NO_ACTION = "event"  # the type of what comes without an action


class Said:
    """Numbers what is heard, and appends it to the channel."""

    def __init__(self, channel: str, producer: Producer, limit: int, depth: int) -> None:
        """`channel` as people call it; `limit` bytes and `depth` levels are what a message may have."""
        self._channel, self._producer = channel_id(channel), producer
        self._limit, self._depth = limit, depth
        self._since = ""  # the last mark heard; without one nothing is numbered
        self._number = 0
        self.begun = asyncio.Event()  # a mark was heard

    def mark(self) -> bytes:
        """What to publish on `control` once everything is listened to."""
        return _MARK + secrets.token_hex(8).encode()

    def marked(self, payload: bytes) -> None:
        """Something came on `control`."""
        if payload.startswith(_MARK):
            self._since = payload[len(_MARK) :].decode(errors="replace")
            self._number = 0
            self.begun.set()

    def lost(self) -> None:
        """Something may have been missed: nothing is numbered until the next mark."""
        self._since = ""

    def number(self) -> str:
        """The id of what came on RPC_CHANNEL just now, whatever it is. Empty before the first mark."""
        self._number += 1
        return f"rpc-{self._since}-{self._number}" if self._since else ""

    async def show(self, message: Envelope, id: str) -> None:
        """Append the event that another service said; what cannot be one is logged."""
        action = message.action or _NO_ACTION
        event = Event(id, action, self._channel, msgspec.json.encode(message.result))
        try:
            data = checked(event, self._limit, self._depth)
            await self._producer.publish(self._channel, data, user=_name(message.source), key=key_of(id))
        except PeykError as error:
            logger.warning("RPC_EVENTS: %s of %s is not shown: %s", action, message.source or _NOBODY, error)


def _name(source: str) -> str:
    try:
        return user_name(source)
    except BadRequest:
        return _NOBODY
