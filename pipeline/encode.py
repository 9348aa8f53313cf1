"""A message becomes wire bytes once for the whole cluster: here.

Names hold letters, digits, marks and `_-.` only (chat.models), so they need no escaping in JSON.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple


class Message(NamedTuple):
    """One message as the streams hold it. `data` is one line of JSON; offset 0 means shown, not stored."""

    channel: str
    offset: int
    ms: int
    epoch: str
    user: str
    client: str
    data: bytes

    @property
    def id(self) -> str:
        """Its entry id in the channel's history."""
        return f"{self.offset}-{self.ms}"


def publication(message: Message) -> bytes:
    """The publication object of the Centrifugal protocol."""
    info = f',"info":{{"user":"{message.user}","client":"{message.client}"}}}}'.encode()
    if message.offset == 0:
        return b'{"data":' + message.data + info
    return b'{"offset":%d,"time":%d,"data":' % (message.offset, message.ms) + message.data + info


def push_prefix(channel: str) -> bytes:
    """What stands before the publication in a push of `channel`; behind it stand two braces."""
    return b'{"push":{"channel":"' + channel.encode() + b'","pub":'


def push(message: Message) -> bytes:
    """The line a subscriber is sent."""
    return push_prefix(message.channel) + publication(message) + b"}}"


def publication_of(channel: str, line: bytes) -> bytes:
    """The publication inside a push line of `channel`."""
    return line[len(push_prefix(channel)) : -2]


def from_history(channel: str, epoch: str, entry: Sequence[Any]) -> Message:
    """An entry of a channel's history, as XRANGE replies it: [id, [field, value, …]]."""
    offset, _, ms = entry[0].partition(b"-")
    fields = entry[1]
    values = dict(zip(fields[::2], fields[1::2], strict=True))
    user, client = values[b"user"].decode(), values[b"client"].decode()
    return Message(channel, int(offset), int(ms), epoch, user, client, values[b"data"])


def from_log(channel: bytes, value: bytes) -> Message:
    """A message of a log entry, whose fields are channel, "<id> <epoch> <user> <client> <data>", channel, …

    Raises ValueError if it is damaged.
    """
    entry, epoch, user, client, data = value.split(b" ", 4)
    left, _, right = entry.partition(b"-")
    offset, ms = (0, 0) if entry == b"-" else (int(left), int(right))
    return Message(channel.decode(), offset, ms, epoch.decode(), user.decode(), client.decode(), data)


def to_log(message: Message) -> tuple[bytes, bytes]:
    """A message as it stood in the log."""
    entry = message.id if message.offset else "-"
    head = f"{entry} {message.epoch} {message.user} {message.client} ".encode()
    return message.channel.encode(), head + message.data
