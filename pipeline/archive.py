"""Archive: log → sinks. Each sink is a consumer group of its own, so that one which stands still holds up no other.

A message is acked after its sink has committed it, and a sink keeps each message once however often it is given; so
whatever dies on the way, the archive holds everything once. Redis remembers, for each sink, which database that is.
"""

from collections.abc import Sequence
from typing import Any

from pipeline.consumer import Away
from pipeline.encode import Message
from pipeline.keys import Keys
from pipeline.ports import Sink
from pipeline.resp import Command, Link, ReplyError

BATCH = 1000  # messages in one transaction of a sink: larger ones are no faster, and hold up the event loop
PAUSE = 0.05  # seconds a sink gathers messages while fewer than that come: 20 transactions a second, not 1,000


class Archiver:
    """The handler of a sink's group."""

    def __init__(self, sink: Sink, keys: Keys) -> None:
        self._sink, self._key = sink, keys.archive(sink.group)

    async def handle(self, messages: Sequence[Message]) -> list[Command]:
        """Store messages and note the last one's position for `status`. What is only shown (offset 0) is not kept."""
        kept = [message for message in messages if message.offset]
        for start in range(0, len(kept), BATCH):
            await self._sink.store(kept[start : start + BATCH])
        if not kept:
            return []
        last = kept[-1]
        position: list[str | int] = ["channel", last.channel, "epoch", last.epoch, "offset", last.offset, "ms", last.ms]
        return [["HSET", self._key, *position]]


class WrongDatabase(Away):
    """The database is not the one this sink has filled so far: acking into it would lose what is in neither."""


class KnownDatabase:
    """Which database a sink fills. Each database has a random id; the first one used is remembered in Redis."""

    def __init__(self, link: Link, keys: Keys, group: str, *, adopts: bool = True) -> None:
        """`adopts`: whether a database may become the remembered one, where none is yet. Who only reads does not."""
        self._link, self._key, self._group, self._adopts = link, keys.archive(group), group, adopts

    async def is_known(self) -> bool:
        """Whether anything was archived by this sink."""
        return await self._call("HGET", self._key, "database") is not None

    async def id(self) -> str:
        """The id of the database in use. Raises WrongDatabase while there is none."""
        id = await self._call("HGET", self._key, "database")
        if id is None:
            raise WrongDatabase(f"nothing was archived in {self._group} so far")
        return str(id.decode())

    async def _call(self, *command: str) -> Any:
        try:
            return await self._link.call(*command)
        except ReplyError as error:  # Redis loads, or is full: no fault of the messages
            raise Away(f"Redis does not say which database it is: {error}") from error

    async def check(self, id: str, where: str) -> bool:
        """Compare the id of the database at `where`. True: it is used for the first time. Raises WrongDatabase."""
        first = self._adopts and bool(await self._call("HSETNX", self._key, "database", id))
        known = id if first else await self.id()
        if known != id:
            raise WrongDatabase(
                f"{where} is not the database that {self._group} was archived in so far (it is {id}, not {known}); "
                "set it right, or begin with this one: stop who plays it, then run "
                f"python app.py groups drop {self._group}, and after the next start python app.py reconcile"
            )
        return first
