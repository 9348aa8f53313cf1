"""A consumer group at work: read the log, handle, ack, go on; nothing is acked before it was handled.

The consumer's name is the partition's role, `owner`, and a lease says which node plays it (pipeline.lease). So a
new owner finds what the last one had not acked as its own pending entries and handles them first: no claim scan,
no idle wait, order kept. One cycle is one write and one reply: what the handler wants sent (the fan-out's PUBLISH),
the acks, and the next blocking read.
"""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any, Protocol

from pipeline.dead import set_aside
from pipeline.encode import Message, from_log, to_log
from pipeline.keys import Keys
from pipeline.lease import RENEWALS, Leases
from pipeline.resp import Command, Connection, ConnectionLost, Link, ReplyError, connect
from redis_config import Address, Settings

logger = logging.getLogger(__name__)

OWNER = "owner"
READ_ENTRIES = 32  # log entries of a partition in one read; an entry is at most 1 MiB
PENDING, NEW = "0", ">"
_BACKOFF = 0.05, 2.0  # seconds: first and longest wait after a failure
_REASON = 500  # characters of an error kept with a dead letter

_TRIM = """
local low
for _, group in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  local g = {}
  for i = 1, #group, 2 do g[group[i]] = group[i + 1] end
  local id = g['last-delivered-id']
  if g['pending'] > 0 then id = redis.call('XPENDING', KEYS[1], g['name'])[2] end
  local ms, seq = string.match(id, '(%d+)-(%d+)')
  ms, seq = tonumber(ms), tonumber(seq)
  if not low or ms < low[1] or (ms == low[1] and seq < low[2]) then low = {ms, seq, id} end
end
if low then return redis.call('XTRIM', KEYS[1], 'MINID', low[3]) end
return 0"""


class Away(Exception):
    """A handler's destination is away: nothing is wrong with the messages, they wait for it."""


class Handler(Protocol):
    """What a group does with messages."""

    async def handle(self, messages: Sequence[Message]) -> Sequence[Command]:
        """Handle messages in order and return Redis commands to send before the ack.

        Raises Away or OSError when all must wait; what else it raises is the messages' own fault.
        """


async def create_groups(link: Link, keys: Keys, groups: Sequence[str]) -> None:
    """Have the logs keep for these groups what is appended from now on, before anybody plays them."""
    logs = [(keys.log(p), group) for group in groups for p in range(keys.partitions)]
    commands = [["XGROUP", "CREATE", log, group, "0", "MKSTREAM"] for log, group in logs]
    for reply in await link.pipeline(commands) if commands else ():
        if isinstance(reply, ReplyError) and not str(reply).startswith("BUSYGROUP"):
            raise reply


class Consumer:
    """One node's part in one consumer group."""

    def __init__(
        self, group: str, handler: Handler, address: Address, settings: Settings, leases: Leases, pause: float = 0
    ) -> None:
        """`pause`: seconds to gather messages after a read that left none waiting; nobody waits for a sink."""
        self._pause, self._wait = pause, _BACKOFF[0]
        self._group, self._handler, self._address = group, handler, address
        self._keys, self._leases = Keys.of(settings), leases
        self._link = Link(address)
        self._tick = settings.lease_ttl / RENEWALS
        self._attempts = settings.poison_attempts
        self._positions: dict[int, str] = {}
        self._blocked: int | None = None  # the Redis id of a connection that waits in a read
        self._stopping = False
        self._task: asyncio.Task[None] | None = None
        self._unblocks: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()

    def start(self) -> None:
        self._leases.on_change.append(self._wake)
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Finish and ack what is in hand, then stop; the leases may be released after this."""
        self._stopping = True
        self._wake()
        if self._task is not None:
            done, _ = await asyncio.wait([self._task], timeout=self._tick + 1)
            if not done:
                self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._link.close()
        await asyncio.gather(*self._unblocks)

    def _wake(self) -> None:
        """End a blocking read: the node's partitions changed, or it stops."""
        self._changed.set()
        if self._blocked is not None:
            task = asyncio.create_task(self._unblock(self._blocked))
            self._unblocks.add(task)
            task.add_done_callback(self._unblocks.discard)

    async def _unblock(self, client: int) -> None:
        try:
            await self._link.call("CLIENT", "UNBLOCK", client)
        except (ConnectionLost, ReplyError) as error:
            logger.info("%s: the read ends by itself: %s", self._group, error)

    async def _run(self) -> None:
        while not self._stopping:
            connection = None
            try:
                connection = await connect(self._address)
                client = await connection.call("CLIENT", "ID")
                await self._consume(connection, client)
            except (Away, OSError, ReplyError) as error:
                level = logging.WARNING if self._wait == _BACKOFF[0] else logging.INFO  # an outage is told of once
                logger.log(
                    level, "%s: %s; reading again from what is pending in %.2f s", self._group, error, self._wait
                )
            except Exception:
                logger.exception("%s: a batch failed; trying again in %.2f s", self._group, self._wait)
            finally:
                self._positions.clear()
                self._blocked = None
                if connection is not None:
                    connection.abort()
            if not self._stopping:
                await asyncio.sleep(self._wait)
                self._wait = min(self._wait * 2, _BACKOFF[1])

    async def _consume(self, connection: Connection, client: int) -> None:
        """Cycle until the connection or the handler fails, or the node stops."""
        loop = asyncio.get_running_loop()
        outbox: list[Command] = []
        check_at = 0.0
        while True:
            partitions, gone = await self._settle(connection)
            if gone or not partitions or self._stopping:
                # Ack first, then let go.
                await self._send(connection, outbox)
                outbox = []
                if gone:
                    await self._leases.release(self._group, gone)
                if self._stopping:
                    return
                if not partitions:
                    await self._changed.wait()
                continue
            checks: list[int] = []
            if loop.time() >= check_at:
                checks, check_at = partitions, loop.time() + self._tick
            entries = await self._exchange(connection, client, outbox, partitions, checks)
            messages, damaged, acks = self._take(entries)
            await self._send(connection, damaged)
            outbox = [*await self._handle(connection, messages), *acks] if acks else []
            self._wait = _BACKOFF[0]
            if self._pause and entries and not self._stopping and all(len(e) < READ_ENTRIES for _, e in entries):
                await asyncio.sleep(self._pause)

    async def _handle(self, connection: Connection, messages: list[Message]) -> list[Command]:
        """What the handler wants sent for `messages`.

        If it fails they are handled in halves, and what still fails alone after all attempts is a dead letter.
        """
        try:
            return list(await self._handler.handle(messages))
        except (Away, OSError):
            raise
        except Exception as error:
            logger.warning("%s: %r on a batch of %d; looking for what fails alone", self._group, error, len(messages))
        wait = _BACKOFF[0]
        for attempt in range(1, self._attempts + 1):
            commands, failed = await self._apart(messages)
            if not failed:
                return commands
            await self._send(connection, commands)  # its neighbours do not wait for it
            if attempt < self._attempts:
                await asyncio.sleep(wait)
                wait *= 2
            messages = [message for message, _ in failed]
        letters = [self._letter(*one) for one in failed]
        await self._send(connection, letters)  # on their own: the ack must not follow a letter Redis refused
        return []

    def _letter(self, message: Message, error: Exception) -> Command:
        logger.error("%s: set aside %s of channel %s: %r", self._group, message.id, message.channel, error)
        log = self._keys.log(self._keys.partition(message.channel))
        return set_aside(self._keys, self._group, log, to_log(message), repr(error)[:_REASON], self._attempts)

    async def _apart(self, messages: list[Message]) -> tuple[list[Command], list[tuple[Message, Exception]]]:
        """Handle `messages`, halved until each half succeeds or is one message: those that fail alone, and why.

        One by one, a single bad message in a batch of 10,000 would cost a sink 10,000 transactions.
        """
        if len(messages) > 1:
            middle = len(messages) // 2
            commands, failed = await self._try(messages[:middle])
            more, also_failed = await self._try(messages[middle:])
            return commands + more, failed + also_failed
        return await self._try(messages)

    async def _try(self, messages: list[Message]) -> tuple[list[Command], list[tuple[Message, Exception]]]:
        try:
            return list(await self._handler.handle(messages)), []
        except (Away, OSError):
            raise
        except Exception as error:
            if len(messages) == 1:
                return [], [(messages[0], error)]
        return await self._apart(messages)

    async def _settle(self, connection: Connection) -> tuple[list[int], set[int]]:
        """Bring the partitions read from in line with the leases: those to read, those to let go of."""
        self._changed.clear()
        gone = self._leases.unwanted[self._group] & self._positions.keys()
        # What was taken over and never begun can be let go of as well.
        gone |= self._leases.unwanted[self._group]
        mine = self._leases.owned[self._group] - gone
        for partition in self._positions.keys() - mine:
            del self._positions[partition]
        for partition in sorted(mine - self._positions.keys()):
            try:
                await connection.call("XGROUP", "CREATE", self._keys.log(partition), self._group, "0", "MKSTREAM")
            except ReplyError as error:
                if not str(error).startswith("BUSYGROUP"):
                    raise
            self._positions[partition] = PENDING
        return sorted(mine), gone

    async def _send(self, connection: Connection, commands: Sequence[Command]) -> None:
        if commands:
            _raise_errors(await connection.pipeline(commands))

    async def _exchange(
        self, connection: Connection, client: int, outbox: list[Command], partitions: list[int], checks: list[int]
    ) -> list[Any]:
        """Send what is due, then read: one write, one wait. `checks` are partitions to trim and to compare."""
        logs = [self._keys.log(p) for p in partitions]
        commands = list(outbox)
        for p in checks:
            commands.append(["XPENDING", self._keys.log(p), self._group])
            commands.append(["EVAL", _TRIM, 1, self._keys.log(p)])
        block = max(1, int(self._tick * 1000))
        read: list[bytes | str | int] = ["XREADGROUP", "GROUP", self._group, OWNER, "COUNT", READ_ENTRIES]
        read += ["BLOCK", block, "STREAMS", *logs, *[self._positions[p] for p in partitions]]
        self._blocked = client
        replies = await connection.pipeline([*commands, read], patience=self._tick + 5)
        self._blocked = None
        _raise_errors(replies)
        entries = replies[-1] or []
        for p, reply in zip(checks, replies[len(outbox) : -1 : 2], strict=True):
            # After our acks nothing is pending, unless a zombie owner read entries under the shared name.
            if reply[0] and self._positions[p] == NEW:
                logger.warning(
                    "%s: partition %d has %d entries another owner left; reading them", self._group, p, reply[0]
                )
                self._positions[p] = PENDING
        return entries

    def _take(self, streams: list[Any]) -> tuple[list[Message], list[Command], list[Command]]:
        """The messages read, in order; what is damaged, as dead letters; and the acks that will be due for both."""
        messages: list[Message] = []
        damaged: list[Command] = []
        acks: list[Command] = []
        numbers = {self._keys.log(p).encode(): p for p in self._positions}
        for log, entries in streams:
            for _, fields in entries:
                for pair in (
                    zip(fields[::2], fields[1::2], strict=True) if fields else ()
                ):  # none: trimmed while pending
                    try:
                        messages.append(from_log(*pair))
                    except ValueError as error:
                        logger.error("%s: set aside a damaged message of channel %r: %s", self._group, pair[0], error)
                        damaged.append(set_aside(self._keys, self._group, log.decode(), pair, repr(error)[:_REASON], 1))
            if entries:
                acks.append(["XACK", log, self._group, *[entry[0] for entry in entries]])
            elif self._positions.get(numbers[log]) == PENDING:
                self._positions[numbers[log]] = NEW
        return messages, damaged, acks


def _raise_errors(replies: Sequence[Any]) -> None:
    for reply in replies:
        if isinstance(reply, ReplyError):
            raise reply
