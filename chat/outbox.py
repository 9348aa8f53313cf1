"""What somebody says, on its way: in order, under a key, again after a lost answer, and never twice."""

import asyncio
import secrets
from typing import TYPE_CHECKING, Any

import msgspec

from chat.errors import ConnectionEnded, PeykError, Temporary, TooManyRequests
from chat.protocol import encode
from chat.source import Said
from chat.transcript import Outgoing, View
from chat.words import Told
from pipeline.content import json_line
from pipeline.resp import FAILURES

if TYPE_CHECKING:
    from chat.terminal import Terminal

MESSAGE_BYTES = 64 * 1024
RETRY_SECONDS = 120.0  # a message is sent again by itself while there is a connection
KEY_SECONDS = 240.0  # and after one was away; a key is remembered for 300 (IDEMPOTENCY_TTL)
BLAMES = 2  # connections that a message may end before it is given up
_BACKOFF = 0.5, 5.0  # seconds: first and longest wait before a message is sent again


class Outbox:
    """Sends the messages of one terminal, each channel's one after the other."""

    def __init__(self, terminal: "Terminal") -> None:
        self._terminal = terminal
        self._senders: dict[View, asyncio.Task[None]] = {}

    def send(self, view: View, data: dict[str, Any]) -> None:
        """Say something; it is shown at once, as on its way. Raises BadRequest."""
        line = json_line(encode(data), MESSAGE_BYTES)
        said = Said(msgspec.json.decode(line), self._terminal.source.username)
        now = asyncio.get_running_loop().time()
        view.transcript.outgoing.append(Outgoing(said.text, line, said, secrets.token_urlsafe(12), now))
        self._go_on(view)
        self._terminal.face.changed()

    def again(self, view: View) -> None:
        """Send what failed again, under its old key. Raises BadRequest where nothing did."""
        failed = [o for o in view.transcript.outgoing if o.state == "failed"]
        if not failed:
            raise Told(self._terminal.words("nothing_failed"))
        for outgoing in failed:
            outgoing.state, outgoing.at = "sending", asyncio.get_running_loop().time()
        self._go_on(view)
        self._terminal.face.changed()

    def drop(self, view: View) -> list[str]:
        """Forget what failed; its texts."""
        failed = [o for o in view.transcript.outgoing if o.state == "failed"]
        view.transcript.outgoing = [o for o in view.transcript.outgoing if o.state != "failed"]
        self._terminal.face.changed()
        return [outgoing.text for outgoing in failed]

    def resume(self, view: View) -> None:
        """The connection is back: send what waited for it. What waited too long is the person's to decide."""
        now = asyncio.get_running_loop().time()
        for outgoing in view.transcript.outgoing:
            if outgoing.state == "waiting":
                late = now - outgoing.at > KEY_SECONDS
                outgoing.state = "failed" if late else "sending"
                outgoing.reason = self._terminal.words("late") if late else ""
        self._go_on(view)

    def _go_on(self, view: View) -> None:
        if view not in self._senders and any(o.state == "sending" for o in view.transcript.outgoing):
            self._senders[view] = self._terminal.spawn(self._send_all(view))

    async def _send_all(self, view: View) -> None:
        """One after the other, so that they stand in the order they were written."""
        wait = _BACKOFF[0]
        try:
            while outgoing := next((o for o in view.transcript.outgoing if o.state == "sending"), None):
                try:
                    place = await self._terminal.source.publish(view.channel.id, outgoing.data, outgoing.key)
                except (Temporary, *FAILURES) as error:
                    outgoing.blames += isinstance(error, ConnectionEnded)
                    if outgoing.blames >= BLAMES:
                        outgoing.state, outgoing.reason = "failed", self._terminal.words.error(error)
                    elif not await self._wait(outgoing, error, wait):
                        return
                    wait = min(wait * 2, _BACKOFF[1])
                except PeykError as error:
                    outgoing.state, outgoing.reason = "failed", self._terminal.words.error(error)
                else:
                    wait = _BACKOFF[0]
                    if outgoing in view.transcript.outgoing:
                        view.transcript.outgoing.remove(outgoing)
                    self._terminal.take(view, outgoing.said._replace(offset=place.offset, time=place.time))
                    if self._terminal.current is view and self._terminal.attended:
                        self._terminal.marks.mark_read()
                self._terminal.face.changed()
        finally:
            del self._senders[view]

    async def _wait(self, outgoing: Outgoing, error: Exception, wait: float) -> bool:
        """Until it is time to send again; False: not before the connection is back, or not at all."""
        if not self._terminal.up:
            outgoing.state, outgoing.reason = "waiting", self._terminal.words.error(error)
            self._terminal.face.changed()
            return False
        if asyncio.get_running_loop().time() - outgoing.at > RETRY_SECONDS:
            outgoing.state, outgoing.reason = "failed", self._terminal.words.error(error)
            return True
        await asyncio.sleep(error.retry_after if isinstance(error, TooManyRequests) else wait)
        return True

    async def settled(self) -> None:
        """Until nothing is on its way that could be."""
        while self._senders:
            await asyncio.wait(self._senders.values())
