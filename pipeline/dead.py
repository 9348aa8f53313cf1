"""Dead letters: what a consumer group cannot handle is set aside in `dead:<group>`, and its neighbours flow."""

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.keys import Keys
from pipeline.resp import Command, Link, ReplyError

KEPT = 100_000  # dead letters of a group; beyond, the oldest go
_PAGE = 500  # entries read at once


@dataclass(frozen=True)
class DeadLetter:
    """One message set aside: why, after how many attempts, and as it stood in the log (pipeline.encode.to_log)."""

    id: str
    reason: str
    count: int
    log: str
    channel: bytes
    message: bytes


def set_aside(keys: Keys, group: str, log: str, pair: tuple[bytes, bytes], reason: str, count: int) -> Command:
    """The command that keeps a log entry's pair (channel, message) as a dead letter of `group`."""
    channel, message = pair
    fields: list[bytes | str | int] = ["reason", reason, "count", count, "log", log]
    return ["XADD", keys.dead(group), "MAXLEN", KEPT, "*", *fields, "channel", channel, "message", message]


class DeadLetters:
    """The dead letters of one group: look, give back, throw away."""

    def __init__(self, link: Link, keys: Keys, group: str) -> None:
        self._link, self._keys, self._group = link, keys, group

    async def list(self) -> list[DeadLetter]:
        """All of them, oldest first."""
        letters: list[DeadLetter] = []
        start = "-"
        while True:
            entries = await self._link.call("XRANGE", self._keys.dead(self._group), start, "+", "COUNT", _PAGE)
            for entry, values in entries:
                fields = dict(zip(values[::2], values[1::2], strict=True))
                reason, count, log = fields[b"reason"].decode(), int(fields[b"count"]), fields[b"log"].decode()
                letters.append(DeadLetter(entry.decode(), reason, count, log, fields[b"channel"], fields[b"message"]))
            if len(entries) < _PAGE:
                return letters
            start = f"({letters[-1].id}"

    async def retry(self, letters: Sequence[DeadLetter]) -> None:
        """Put them at the end of the log again. Groups that had handled them know a message by its position."""
        for letter in letters:
            await self._link.call("XADD", letter.log, "*", letter.channel, letter.message)
            await self.drop([letter])

    async def drop(self, letters: Sequence[DeadLetter]) -> None:
        """Forget them."""
        for letter in letters:
            await self._link.call("XDEL", self._keys.dead(self._group), letter.id)


async def dead_counts(link: Link, keys: Keys, groups: list[str]) -> dict[str, int]:
    """How many dead letters each group has."""
    replies = await link.pipeline([["XLEN", keys.dead(group)] for group in groups]) if groups else []
    return {g: reply for g, reply in zip(groups, replies, strict=True) if not isinstance(reply, ReplyError)}
