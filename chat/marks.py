"""How far somebody has read: told to the other side, and heard from it, so that all their clients agree."""

import asyncio
import contextlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

from chat.errors import PeykError
from pipeline.resp import FAILURES

if TYPE_CHECKING:
    from chat.terminal import Terminal

LOOK_SECONDS = 5.0  # between looks for what other clients of this user joined and read
_LOOKS_AROUND = 6  # every so many looks: for channels that others made, and for topics
_TOGETHER = 0.3  # seconds in which what is read is told together


class ReadMarks:
    """The read positions of one terminal."""

    def __init__(self, terminal: "Terminal") -> None:
        self._terminal = terminal
        self._reads: dict[str, int] = {}  # read, and not told yet
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """The connection is back."""
        self._woken.set()

    def mark_read(self) -> None:
        """The current channel's messages are before somebody's eyes."""
        view = self._terminal.current
        if view is not None and (view.unread or view.mentioned):
            view.read, view.mentioned = view.transcript.top, False
            self._reads[view.channel.id] = view.read
            self._woken.set()
            self._terminal.face.changed()

    async def count(self, channels: Iterable[str]) -> None:
        """Ask how far this user has read, wherever it was."""
        counts = await self._terminal.source.unread([channel for channel in channels if channel not in self._reads])
        for channel, (read, _) in counts.items():
            if channel in self._terminal.views and channel not in self._reads:
                counted = self._terminal.views[channel]
                counted.read = max(counted.read, read)
                counted.mentioned &= counted.unread > 0

    async def tell(self) -> None:
        """Tell what was read since."""
        while self._reads:
            channel, offset = next(iter(self._reads.items()))
            await self._terminal.source.read(channel, offset)
            if self._reads.get(channel) == offset:
                del self._reads[channel]

    async def regularly(self) -> None:
        """Tell what was read; look what other clients of this user joined and read."""
        loop = asyncio.get_running_loop()
        due, looks = loop.time() + LOOK_SECONDS, 0
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(due):
                    await self._woken.wait()
            self._woken.clear()
            if not self._terminal.up:
                due = loop.time() + LOOK_SECONDS
                continue
            try:
                await self.tell()
                if loop.time() >= due:
                    due = loop.time() + LOOK_SECONDS
                    looks += 1
                    await self._terminal.take_up()
                    if looks % _LOOKS_AROUND == 0:
                        await self._terminal.look_around()
                await asyncio.sleep(_TOGETHER)
            except (PeykError, *FAILURES):
                await asyncio.sleep(1)
