"""One client: who it is, what it subscribes to, and the commands it gives."""

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from chat import protocol, queries
from chat.access import Access
from chat.auth import Identity
from chat.errors import (
    BadRequest,
    PeykError,
    UnknownMethod,
)
from chat.inbox import Inbox, Source, lines_with
from chat.local import frame
from chat.metrics import count
from chat.models import User, channel_id
from chat.protocol import Command
from chat.rpc import LAST_LINE, LAST_WORDS, LONG
from chat.subscriber import Subscriber
from chat.throttle import Throttle
from chat.version import SERVER
from pipeline.content import json_line
from pipeline.producer import Position
from pipeline.resp import FAILURES, unavailable

if TYPE_CHECKING:
    from chat.node import Node

logger = logging.getLogger(__name__)

AT_ONCE = 32  # commands of one client that may wait for Redis together, besides publishes
EXPIRED = 3005, "connection expired"  # close codes of the Centrifugal protocol
INVALID_TOKEN = 3500, "invalid token"
NAME_TAKEN = 3500, "this name has an account now"
BAD_REQUEST = 3501, "bad request"
NO_PONG = 3012, "no pong"
SUBSCRIPTION_EXPIRED = 2501, "subscription expired"  # an unsubscribe code: subscribe again, with a new token


Answer = Coroutine[Any, Any, bytes | None]


class Socket(Source, Protocol):
    """What a session needs of its connection."""

    def write(self, data: bytes) -> None: ...
    def close(self, code: int, reason: str) -> None: ...


class Session:
    """The state of one connection. `receive` takes its frames; the hub writes to it; nothing here waits."""

    framed = True

    __slots__ = (
        "_address", "_cookie", "_held", "_inbox", "_node", "_out", "_postponed", "_publishing", "_socket", "_tasks",
        "access", "awaits_pong", "client", "closed", "full", "receive", "subscriber", "throttle", "user", "write",
    )  # fmt: skip

    def __init__(self, node: "Node", socket: Socket, cookie: str = "", address: str = "") -> None:
        self._node, self._socket, self._cookie = node, socket, cookie
        self._address = address
        self.write = socket.write
        self.client = secrets.token_hex(16)
        self.user: User | None = None
        self.access: Access  # there once the client connected
        self.subscriber = Subscriber(node, self)
        self.full = self.closed = self.awaits_pong = False
        self._inbox = Inbox(socket, self._handle, self._busy, asyncio.get_running_loop().call_soon)
        self.receive = self._inbox.receive
        self._out: list[bytes] = []
        self._publishing = 0
        self._held = 0  # commands that must be done before the next is looked at
        self._postponed: Command | None = None  # waits until what is under way in its channel is done
        self.throttle = Throttle.of(node.limits, socket, self._let_go)  # None: it has no rates
        self._tasks: list[asyncio.Task[bytes | None]] = []  # AT_ONCE and few more; an empty set is 216 bytes, this 56

    # -- in

    def _busy(self) -> bool:
        """Whether the client must wait: it does not read, is beyond its rate, or has too much under way."""
        if self.full or self._held or (self.throttle is not None and self.throttle.held):
            return True
        return self._publishing >= self._node.settings.pending_limit or len(self._tasks) >= AT_ONCE

    def _handle(self, line: bytes) -> None:
        if not line:
            self.may_go_on()  # it says nothing, and counts
            return
        try:
            command = protocol.decode_command(line)
        except protocol.CommandError as error:
            if self.may_go_on(error.id):
                self._fail(error.id, error)
            return
        except protocol.Malformed as error:
            logger.info("client %s: %s", self.client, error)
            self._socket.close(*BAD_REQUEST)
            return
        if self.throttle is not None and not self.may_go_on(command.id, command.is_message):
            return
        try:
            self._dispatch(command, line)
        except PeykError as error:
            self._fail(command.id, error)

    def may_go_on(self, command_id: int = 0, message: bool = False) -> bool:
        """Whether one more command is within the client's rates; if not, it has its answer."""
        error = None if self.throttle is None or self.closed else self.throttle.refuse(message)
        if error is None:
            return True
        self.awaits_pong = False  # it is alive enough
        if command_id:
            self._fail(command_id, error)
        else:  # has no answer
            count(error.limit)
        return False

    def _let_go(self) -> None:
        """It was beyond its rate and may go on."""
        if self._inbox.waits:
            self._inbox.resume()
        elif not self.closed:
            self._socket.resume_reading()

    def _dispatch(self, command: Command, line: bytes) -> None:
        if command.connect is not None:
            self._connect(command.id, command.connect)
        elif self.user is None:
            raise BadRequest('connect first: {"id":1,"connect":{"data":{"user":"<your name>"}}}')
        elif command.publish is not None:
            self._append(command.id, command.publish, self.user, partial(self._published, command.id, False))
        elif (before := self.subscriber.under_way(command)) is not None:
            self._postponed = command
            self._hold(command.id, self._in_turn(before, command, line))
        elif command.subscribe is not None:
            self.subscriber.subscribe(command.id, command.subscribe, self.user)
        elif command.rpc is not None:
            if command.rpc.method == "publish":
                publish = protocol.publish_params(command.rpc.data)
                self._append(command.id, publish, self.user, partial(self._published, command.id, True))
            else:
                answer = self._hold if command.rpc.method in LONG else self.spawn
                answer(command.id, queries.rpc(self._node, self.access, command.id, command.rpc))
        elif command.history is not None:
            self._hold(command.id, queries.history(self._node, self.access, command.id, command.history))
        elif command.presence is not None:
            asked = command.presence.channel
            self._hold(command.id, queries.presence(self._node, self.access, command.id, asked))
        elif command.presence_stats is not None:
            asked = command.presence_stats.channel
            self.spawn(command.id, queries.presence_stats(self._node, self.access, command.id, asked))
        elif command.unsubscribe is not None:
            self.subscriber.unsubscribe(command.id, command.unsubscribe, self.user)
        elif command.refresh is not None:
            self.access.refresh(command.refresh.token)
            self.subscriber.recheck()
            result = {"client": self.client, "version": SERVER, **protocol.expiry(self.access.identity.ttl)}
            self.reply(protocol.reply(command.id, "refresh", result))
        elif command.sub_refresh is not None:
            ttl = self.subscriber.refresh(command.sub_refresh)
            self.reply(protocol.reply(command.id, "sub_refresh", protocol.expiry(ttl)))
        elif command.ping is not None:
            self.reply(protocol.reply(command.id, "ping", {}))
        elif not command.id and line.strip() == protocol.PING:
            self.awaits_pong = False
        elif command.send is None:
            asked = protocol.unknown_method(line) or "nothing"
            raise UnknownMethod(f"method {asked} not found; there are {', '.join(protocol.COMMANDS)}")

    async def _in_turn(self, before: "asyncio.Future[Any]", command: Command, line: bytes) -> None:
        """Take a command when what it must wait for is done."""
        await asyncio.wait([before])
        self._postponed = None
        self._dispatch(command, line)

    # -- out

    def reply(self, line: bytes) -> None:
        """Send a line at the end of this turn, with whatever else is said by then."""
        if not self._out:
            asyncio.get_running_loop().call_soon(self.flush)
        self._out.append(line)

    def _fail(self, command_id: int, error: PeykError) -> None:
        """Answer a command with an error."""
        if error.limit:
            count(error.limit)
        self.reply(protocol.error_reply(command_id, error))

    def flush(self) -> None:
        """Send what was said, in one frame."""
        if self._out and not self.closed:
            answers = b"\n".join(self._out)
            self._out = []
            self.write(frame(answers))
            if self.throttle is not None:
                self.throttle.weigh(len(answers))

    def unsubscribed(self, channel: str, code: int, reason: str) -> None:
        """A subscription ended, and not because the client said so."""
        self.subscriber.forget(channel)
        self.reply(protocol.unsubscribe_push(channel, code, reason))
        self.flush()

    def ping(self) -> None:
        """Ask for a sign of life; whoever gave none since the last time is dropped."""
        if self.full:
            return  # it may not have come to read the last one; the socket watches its progress
        if self.awaits_pong:
            self._socket.close(*NO_PONG)
        else:
            self.awaits_pong = True
            self.write(frame(protocol.PING))

    def expire(self, now: float) -> None:
        """Look whether what let the client in is over; it had the time to refresh it."""
        if self.user is None or self.closed:
            return
        if self.access.expired(now):
            self._socket.close(*EXPIRED)
        self._end(self.access.expired_grants(now))

    def check_revoked(self) -> None:
        """Somebody was revoked; if it is this client, it goes."""
        if self.user is None or self.closed:
            return
        if self.access.revoked():
            self._socket.close(*(NAME_TAKEN if self.access.identity.guest else INVALID_TOKEN))
        self._end(self.access.revoked_grants())

    def _end(self, channels: list[str]) -> None:
        """The tokens for these subscriptions are over."""
        for channel in channels:
            self.subscriber.stop(channel)
            self.unsubscribed(channel, *SUBSCRIPTION_EXPIRED)

    def leave(self) -> bool:
        """Take no more commands; whether answers are still to come."""
        self._held += 1
        self.flush()
        return self._publishing > 0 or bool(self._tasks)

    def drop(self, code: int, reason: str) -> None:
        """End the connection with a close code of the protocol."""
        self._socket.close(code, reason)

    def filled(self) -> None:
        """The write buffer passed the high-water mark."""
        self.full = True
        self._node.hub.filled(self.subscriber.subscriptions())

    def drained(self) -> None:
        """The write buffer has room again."""
        self.full = False
        self._node.hub.drained(self.subscriber.channels())
        self._inbox.resume()

    def close(self) -> None:
        """The connection ended."""
        self.closed, self.full = True, False
        if self.user is not None:
            self._node.limits.disconnect(self.access.identity.counts_as)
        channels = self.subscriber.channels()
        self.subscriber.close()
        self._node.hub.drained(channels)  # what has not begun ends when it hears where it would
        waiting = self._inbox.close()
        for task in self._tasks:
            task.cancel()
        self._part(waiting)

    def _part(self, waiting: bytes) -> None:
        """Whoever unsubscribes, or says how far it read, and closes at once: that counts, though it still waited."""
        if self.user is None:
            return
        commands = [] if self._postponed is None else [self._postponed]
        for line in lines_with(LAST_LINE, waiting, AT_ONCE):
            with contextlib.suppress(protocol.CommandError, protocol.Malformed):
                commands.append(protocol.decode_command(line))
        for command in commands:
            if command.unsubscribe is not None:
                with contextlib.suppress(PeykError):
                    self.subscriber.unsubscribe(command.id, command.unsubscribe, self.user)
            elif command.rpc is not None and command.rpc.method in LAST_WORDS:
                queries.rpc(self._node, self.access, command.id, command.rpc).close()

    def _hold(self, command_id: int, work: Answer) -> None:
        """Answer a command that must be done before the next, or whose answer is long: one at a time then waits."""
        self._held += 1
        self.spawn(command_id, work)
        self._tasks[-1].add_done_callback(self._release)

    def _release(self, task: asyncio.Task[bytes | None]) -> None:
        self._held -= 1
        self._inbox.resume()

    def spawn(self, command_id: int, work: Answer) -> None:
        """Answer a command that waits for Redis: with the line that `work` gives, if it gives one, or its error."""
        task = asyncio.create_task(work)
        self._tasks.append(task)
        task.add_done_callback(partial(self._finished, command_id))

    def _finished(self, command_id: int, task: asyncio.Task[bytes | None]) -> None:
        self._tasks.remove(task)
        error = None if task.cancelled() else task.exception()
        if isinstance(error, PeykError):
            self._fail(command_id, error)
        elif isinstance(error, FAILURES):
            logger.info("client %s: Redis failed a command: %s", self.client, error)
            self._fail(command_id, unavailable(error))
        elif error is not None:
            logger.error("client %s: a command failed", self.client, exc_info=error)
            self._fail(command_id, PeykError("internal error; the server's log says more"))
        elif not task.cancelled() and (line := task.result()) is not None:
            self.reply(line)
        self._inbox.resume()

    # -- commands

    def _connect(self, command_id: int, connect: protocol.Connect) -> None:
        if self.user is not None:
            raise BadRequest("connected already")
        name = connect.username()
        doors = self._node.doors
        if token := connect.token or self._cookie:
            self._connected(command_id, doors.by_token(token))
        elif name:  # what follows waits until the name is looked up
            self._hold(command_id, self._connect_guest(command_id, name))
        else:
            self._connected(command_id, doors.nameless())

    async def _connect_guest(self, command_id: int, name: str) -> None:
        self._connected(command_id, await self._node.doors.guest(name))

    def _connected(self, command_id: int, identity: Identity) -> None:
        if self.closed:
            return
        pace = None if self.throttle is None else self.throttle.pace
        self._node.limits.connect(identity.counts_as, pace, self._address)
        owe = None if self.throttle is None else self.throttle.owe
        self.access = Access(self._node.doors, identity, self._address, owe)
        self.user = identity.user
        if self._node.settings.names_given and not identity.guest:
            self._node.subscriptions.meet(identity.user)
        interval = self._node.settings.ping_interval
        result = {"client": self.client, "version": SERVER, "ping": interval, "pong": True}
        result |= protocol.expiry(self.access.identity.ttl)
        who = {"user": self.user.username, "guest": identity.guest}
        self.reply(protocol.reply(command_id, "connect", result | {"data": who}))

    def _append(self, command_id: int, publish: protocol.Publish, user: User, done: "partial[None]") -> None:
        settings = self._node.settings
        data = json_line(publish.data, settings.message_limit, settings.json_depth)
        protocol.check_key(publish.key)
        channel = channel_id(publish.channel)
        policy = self._node.policies.known(channel)
        if policy is None:  # the first publish there: what follows waits behind it
            self._hold(command_id, self._append_once_known(channel, data, publish.key, user, done))
            return
        self.access.check("publish", channel, policy)
        self._publishing += 1
        self._node.producer.append(channel, data, user.username, self.client, publish.key, True, done)

    async def _append_once_known(self, channel: str, data: bytes, key: str, user: User, done: "partial[None]") -> None:
        await self._node.allow(self.access, "publish", channel)
        await self._node.ensure(self.access, channel)
        self._publishing += 1
        self._node.producer.append(channel, data, user.username, self.client, key, True, done)

    def _published(self, command_id: int, by_rpc: bool, outcome: Position | PeykError) -> None:
        self._publishing -= 1
        if isinstance(outcome, PeykError):
            self._fail(command_id, outcome)
        elif by_rpc:
            self.reply(protocol.reply(command_id, "rpc", {"data": protocol.position_body(outcome)}))
        else:
            self.reply(protocol.publish_reply(command_id))
        self._inbox.resume()
