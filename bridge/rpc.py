"""Calls to and from services in other languages, over Redis Pub/Sub.

A request goes to `<RPC_CHANNEL>_sender`, its reply comes back on `<RPC_CHANNEL>`; bridge/envelope.py has the JSON.
Pub/Sub keeps nothing: a call is answered in time, or it has failed, and then it may or may not have been done.

    async with Rpc(address, settings) as rpc:
        answer = await rpc.call("configs")
        await rpc.send("seen", {"user": "sara"})
"""

import asyncio
import contextlib
import inspect
import logging
import secrets
from collections import OrderedDict
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

from bridge import envelope
from bridge.envelope import DEFAULT_ACTION, Envelope, Malformed
from bridge.lane import Lane
from bridge.pending import Pending, remember
from bridge.said import Said
from bridge.settings import BridgeSettings
from chat.errors import CallFailed, PeykError, TooLarge
from pipeline.consumer import Away
from pipeline.keys import Keys, reply_channel, request_channel
from pipeline.lasting import lasting
from pipeline.listener import Listener
from pipeline.ports import Measures
from pipeline.resp import ConnectionLost, Link, Refused, ReplyError
from redis_config import Address

logger = logging.getLogger(__name__)

Action = Callable[[Any], object]  # a coroutine function, or a plain one that is quickly done
OnEvent = Callable[[dict[str, Any]], object]

TIMEOUT = 5.0  # seconds a call waits for its reply
ACTION_TIMEOUT = 30.0  # seconds an action of ours may take
CONFIGS = "configs"
_CLAIM_TTL = 60_000  # ms a request is known to be some node's: longer than its caller and its action take
_DEFERENCE = 0.5  # seconds another service has to answer what each of them might, before we do
_CHECK = 5.0  # seconds between looks whether the Pub/Sub connection is alive
_PATIENCE = 2.0  # seconds Redis has to take a PUBLISH
IGNORED = {
    "late": "replies to calls that had timed out",
    "duplicate": "second replies to one call",
    "stray": "replies to nobody's call here: another caller's, or forged",
    "forged": "replies that name another action than the call",
    "malformed": "messages that are not JSON as the README describes it",
    "busy": "requests and events left alone because too many of their kind came before them",
}
"""What is counted and otherwise ignored."""


class Rpc:
    """One node's part: calls, actions and events. Register actions before it is entered. Use `async with`."""

    def __init__(
        self,
        address: Address,
        settings: BridgeSettings,
        fallbacks: Mapping[str, object] | None = None,
        said: Said | None = None,
    ) -> None:
        """`fallbacks` are constant answers by action, given on RPC_CHANNEL where no other service gives one.

        `said` shows in a chat channel what other services say unasked.
        """
        self._settings, self._keys = settings, Keys.of(settings)
        self._channel = settings.rpc_channel
        self._own = self._channel, request_channel(self._channel)
        self._link = Link(address, _PATIENCE)
        self._address = address
        self._name = secrets.token_hex(4)
        self._actions: dict[str, tuple[Action, Lane]] = {}
        self._fallbacks: frozenset[str] = frozenset(fallbacks or ())
        self._on_event: list[OnEvent] = []
        self._said = said
        self._control = self._keys.control
        self._pending = Pending(settings.rpc_pending)
        self._others: OrderedDict[str, str] = OrderedDict()  # requests that another service has answered, and which
        self._events = self._lane("an event")
        self._shown = self._lane("to show an event")
        self._ready = asyncio.Event()
        self.configuration: dict[str, Any] = {}
        """What another service last published as `configs`."""
        self._counts = dict.fromkeys(IGNORED, 0)
        for name, answer in (fallbacks or {}).items():
            self._register(name, _constant(answer))

    async def __aenter__(self) -> "Rpc":
        patterns = [self._settings.rpc_listen] if self._actions else []
        self._listener = Listener(self._address, self._on_message, self._names, self._connected, patterns, self._lost)
        try:
            await self._listener.start()
            if self._said:
                with contextlib.suppress(TimeoutError):  # else they are shown as soon as it can be
                    await asyncio.wait_for(self._said.begun.wait(), _PATIENCE)
        except BaseException:
            await self._listener.close()
            raise
        self._watch = lasting(self._stay_heard)
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._watch.cancel()
        self._pending.lose("this node is stopping")
        await asyncio.gather(self._watch, *(lane.close() for lane in self._lanes()), return_exceptions=True)
        await self._listener.close()
        self._link.close()

    def _names(self) -> list[str]:
        return [self._channel, *([self._control] if self._said else [])]

    def reopen(self) -> None:
        """Listen and speak on new connections: Redis is not where it was."""
        self._listener.reopen()
        self._link.reopen()

    # -- calling others

    async def call(self, action: str = DEFAULT_ACTION, data: object = None, timeout: float = TIMEOUT) -> Any:  # noqa: ASYNC109
        """Ask the other services and return what the first of them answers: an object, without its head.

        Raises TimeoutError when nobody answers in time, CallFailed when the other service says so, Away when Redis
        is away or was lost meanwhile; after all three the action may have been done. TooManyRequests: not sent.
        """
        call = self._pending.begin(action)
        try:
            async with asyncio.timeout(timeout):
                await self._ready.wait()
                call.sent = True
                await self._publish(self._own[1], envelope.request(action, data, call.id))
                result = await call.future
        except TimeoutError:
            if not call.sent:
                raise Away(f"Redis is away; {action} was not called") from None
            raise TimeoutError(f"nobody answered {action} within {timeout:g} s; it may have been done") from None
        finally:
            self._pending.end(call)
        if isinstance(result, Away):
            raise result
        if (message := envelope.failed(result)) is not None:
            raise CallFailed(f"{action}: {message}")
        return result

    async def send(self, action: str, data: object = None) -> None:
        """Tell the other services, and wait for nothing. Every one that listens hears it. Raises Away."""
        await self._publish(self._own[1], envelope.request(action, data))

    async def _publish(self, channel: str, payload: bytes) -> None:
        self._check_size(payload)
        try:
            await self._link.call("PUBLISH", channel, payload)
        except (ConnectionLost, ReplyError) as error:
            raise Away(f"Redis did not take the message: {error}") from error

    def _check_size(self, payload: bytes) -> None:
        if len(payload) > self._settings.rpc_bytes:
            raise TooLarge(f"a call or its answer has at most {self._settings.rpc_bytes} bytes, not {len(payload)}")

    # -- being called

    def action(self, name: str) -> Callable[[Action], Action]:
        """Answer `name` with what the function, plain or a coroutine's, returns for a request's data.

        A PeykError it raises is told to the caller; what else it raises is logged, and the caller told only that.
        """

        def register(function: Action) -> Action:
            self._fallbacks -= {name}
            self._register(name, function)
            return function

        return register

    def _register(self, name: str, function: Action) -> None:
        if any(fnmatchcase(name, pattern) for pattern in self._settings.answered):
            self._actions[name] = function, self._lane(f"action {name}")

    def on_event(self, function: OnEvent) -> OnEvent:
        """Have `function`, plain or a coroutine's, called with what others publish unasked: {"source", "action", …}."""
        self._on_event.append(function)
        return function

    def _lane(self, name: str) -> Lane:
        """Who asked has gone after TIMEOUT; what waits longer is not begun."""
        settings = self._settings
        return Lane(name, settings.rpc_at_once, settings.rpc_pending, TIMEOUT, ACTION_TIMEOUT)

    def _lanes(self) -> list[Lane]:
        return [self._events, self._shown, *(lane for _, lane in self._actions.values())]

    # -- what comes

    def _on_message(self, name: bytes, payload: bytes) -> None:
        channel = name.decode(errors="replace")
        if self._said and channel == self._control:
            self._said.marked(payload)
            return
        id = self._said.number() if self._said and channel == self._channel else ""
        if channel not in self._own and self._keys.is_taken(channel):
            return  # a chat channel whose name ends like a request channel's
        try:
            message = envelope.read(payload, self._settings.rpc_bytes)
        except Malformed as error:
            logger.debug("ignored a message on %s: %s", channel, error)
            self._counts["malformed"] += 1
            return
        if channel == self._channel:
            self._on_answer(message, id)
        elif answer_to := reply_channel(channel):
            self._on_request(answer_to, message)

    def _on_answer(self, message: Envelope, id: str) -> None:
        if message.request is None:
            self._on_said(message, id)
            return
        if message.source != envelope.SOURCE:
            remember(self._others, message.request, message.source)
        if ignored := self._pending.answer(message):
            self._counts[ignored] += 1
        else:
            self._keep_configs(message)

    def _on_said(self, message: Envelope, id: str) -> None:
        if message.source == envelope.SOURCE:
            return
        self._keep_configs(message)
        for function in self._on_event:
            self._events.do(partial(_result, function, message.body))
        if self._said and id:
            self._shown.do(partial(self._said.show, message, id))

    def _keep_configs(self, message: Envelope) -> None:
        if message.action == CONFIGS and message.source != envelope.SOURCE:
            self.configuration = message.result

    def _on_request(self, channel: str, message: Envelope) -> None:
        action = message.action or DEFAULT_ACTION
        # What other applications are asked on channels of theirs is theirs to say.
        ours = action not in self._fallbacks or channel == self._channel
        if ours and action in self._actions:
            function, lane = self._actions[action]
            lane.do(partial(self._answer, channel, action, function, message))

    async def _answer(self, channel: str, action: str, function: Action, message: Envelope) -> None:
        """Act, and reply. Of several nodes that hear a request with an id, the one that claims it first does."""
        request_id, data = message.request, message.body.get("data")
        if request_id is None:
            await _result(function, data)
            return
        if action in self._fallbacks:
            await asyncio.sleep(_DEFERENCE)
            if request_id in self._others:
                return
        try:
            if not await self._claim(request_id):
                return
            reply = await self._reply(action, request_id, function, data)
            await self._publish(channel, reply)
        except (Away, ConnectionLost, ReplyError) as error:
            if isinstance(error, Refused):
                self.reopen()
            logger.info("no answer to %s could be given: %s", action, error)

    async def _claim(self, request_id: str) -> bool:
        key = self._keys.rpc_claim(request_id)
        return bool(await self._link.call("SET", key, self._name, "NX", "PX", _CLAIM_TTL))

    async def _reply(self, action: str, request_id: str, function: Action, data: object) -> bytes:
        """What the action says, or that it failed."""
        try:
            reply = envelope.reply(action, request_id, await _result(function, data))
            self._check_size(reply)
            return reply
        except PeykError as error:
            return envelope.failure(action, request_id, error.code, str(error))
        except Exception:
            logger.exception("action %s failed", action)
            text = f"{action} failed; the log of its service says more"
            return envelope.failure(action, request_id, PeykError.code, text)

    # -- the connection

    async def _connected(self) -> None:
        self._ready.set()
        if self._said:
            await self._link.call("PUBLISH", self._control, self._said.mark())

    def _lost(self) -> None:
        if self._said:
            self._said.lost()
        if self._ready.is_set():
            self._ready.clear()
            self._pending.lose("Redis Pub/Sub was lost while the answer was awaited; the action may have been done")

    async def _stay_heard(self) -> None:
        """Have Redis confirm the subscription again and again; a connection that died in silence is dropped."""
        while True:
            await asyncio.sleep(_CHECK)
            try:
                await self._listener.subscribe([self._channel])
            except ConnectionLost as error:
                logger.info("RPC: %s", error)

    @property
    def counts(self) -> dict[str, int]:
        """How often each of IGNORED was met."""
        return self._counts | {"busy": sum(lane.left for lane in self._lanes())}

    def measures(self) -> Measures:
        """What /metrics shows of it."""
        counts = self.counts
        ignored = {f"rpc_{name}_total": (f"RPC: {text}.", counts[name]) for name, text in IGNORED.items()}
        return {"rpc_pending": ("RPC calls that wait for their answer.", len(self._pending)), **ignored}


def _constant(value: object) -> Action:
    return lambda data: value


async def _result(function: Callable[[Any], object], argument: object) -> object:
    """What a function returns, plain or a coroutine's."""
    result = function(argument)
    return await result if inspect.isawaitable(result) else result
