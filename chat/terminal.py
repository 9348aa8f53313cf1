"""A terminal without its screen: the channels somebody is in, what is unread, what is being sent.

A *source* (chat/source.py) brings what happens; a *face* shows it: chat/screen.py, or line by line chat/lines.py.
"""

import asyncio
import contextlib
from collections.abc import Coroutine, Sequence
from datetime import date
from typing import Protocol

from chat.auth import PAIR
from chat.errors import BadRequest, PeykError, UnknownChannel
from chat.marks import ReadMarks
from chat.models import Channel, channel_id, fold
from chat.outbox import Outbox
from chat.source import DELETED, Began, Said, Source
from chat.text import mentions, with_hosts
from chat.transcript import KEPT, KEPT_HIDDEN, Transcript, View, day_of
from chat.words import Told, Words
from pipeline.resp import FAILURES

PAGE = 100  # messages of history read at once
PEOPLE = 1000  # names of a channel that Tab completes
REREAD = 500  # missed messages that are read one page after another; beyond, the log begins at the newest page


class Face(Protocol):
    """What shows a terminal. Nothing here waits."""

    def changed(self) -> None:
        """Something is to be shown anew."""

    def older(self, view: View) -> None:
        """Older messages of a view were asked for and are there."""

    def moved(self) -> None:
        """Another channel is the current one."""

    def rang(self) -> None:
        """Somebody called this user by name."""

    def stop(self) -> None:
        """The person wants to leave."""


class Terminal:
    """The listener of a source, and what a person can do."""

    def __init__(self, source: Source, face: Face, words: Words) -> None:
        self.source, self.face, self.words = source, face, words
        self.views: dict[str, View] = {}
        self.known: dict[str, Channel] = {}  # channels one may see
        self.current: View | None = None
        self.home = Transcript()  # what is said where there is no channel
        self.up, self.final, self.why = True, False, ""
        self.attended = True  # the newest messages of the current channel are before somebody's eyes
        self._asking: set[str] = set()  # who wants to talk, as far as it was told
        self._refused: set[str] = set()  # channels one belongs to and may not hear
        self._tasks: set[asyncio.Task[None]] = set()
        self.outbox, self.marks = Outbox(self), ReadMarks(self)
        source.listener = self

    @property
    def transcript(self) -> Transcript:
        return self.current.transcript if self.current else self.home

    @property
    def user(self) -> str:
        """The user's id."""
        return fold(self.source.username)

    @property
    def unread(self) -> int:
        """In all channels."""
        return sum(view.unread for view in self.views.values())

    @property
    def unsent(self) -> bool:
        """Whether something said is not known to be stored."""
        return any(view.transcript.outgoing for view in self.views.values())

    def title(self, channel: Channel) -> str:
        """A channel's name for people; of a private one, who the other is."""
        if channel.kind == PAIR:
            others = [name for name in channel.description.split() if fold(name) != self.user]
            if len(others) == 1:
                return "@" + others[0]
        return channel.name

    def is_private(self, channel: Channel) -> bool:
        return self.title(channel) != channel.name

    def line(self, said: Said, dated: bool = False) -> str:
        """A message as one line: `[10:00] sara: hello`."""
        clock = self.words.clock(said.time)
        if dated and (day := day_of(said.time)) is not None:
            clock = f"{self.words.day(day, date.today())} {clock}"
        text = with_hosts(said.text)
        return f"[{clock}] " + (f"* {said.user} {text}" if said.is_action else f"{said.user}: {text}")

    # -- coming and going

    async def start(self, channel: str) -> None:
        """Join `channel`, take up all the others one belongs to, and keep in step. Raises what joining raises."""
        await self.look_around()
        try:
            await self.join(channel)
        finally:
            self.spawn(self.take_up())
            self.spawn(self.marks.regularly())

    async def close(self) -> None:
        """End what is under way; what is still being sent has two seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2 if self.up else 0):
                await self.outbox.settled()
        with contextlib.suppress(TimeoutError, PeykError, *FAILURES):
            async with asyncio.timeout(1):
                await self.marks.tell()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def spawn(self, work: Coroutine[None, None, None]) -> "asyncio.Task[None]":
        task = asyncio.create_task(self._quietly(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _quietly(self, work: Coroutine[None, None, None]) -> None:
        """What fails says so in a line."""
        try:
            await work
        except (PeykError, *FAILURES) as error:
            self.complain(error)

    def complain(self, error: Exception) -> None:
        """One quiet line with what went wrong and the remedy."""
        self.say(self.words.error(error), "error")

    def say(self, text: str, kind: str = "notice") -> None:
        """A line of the terminal's own."""
        self.transcript.note(text, kind)
        self.face.changed()

    async def look_around(self, ids: Sequence[str] = ()) -> None:
        """Which channels there are; those of `ids` and one's own in any case."""
        self.known = {channel.id: channel for channel in await self.source.channels([*self.views, *ids])}
        for view in self.views.values():
            view.channel = self.known.get(view.channel.id, view.channel)
        self.face.changed()

    async def join(self, name: str) -> None:
        """Make a channel if it is missing, belong to it, and show it."""
        channel = self.id_of(name)
        if self.current is not None and channel == self.current.channel.id and self.current.subscribed:
            raise Told(self.words("in_already", name=name))
        view = self.views.get(channel)
        if view is None or not view.subscribed:
            view = await self._begin(name)
            if channel not in self.known:
                await self.look_around()
            view.transcript.note(self.words("joined", channel=self.title(view.channel)))
        await self.show(view)

    async def leave(self, view: View) -> None:
        """Belong to a channel no longer."""
        await self.source.leave(view.channel.id)
        self.views.pop(view.channel.id, None)
        if self.current is view:
            self.current = None
        self.say(self.words("left", channel=self.title(view.channel)))

    def id_of(self, name: str) -> str:
        """The id of a channel as somebody wrote it. Raises Told."""
        try:
            return channel_id(name)
        except BadRequest:
            raise Told(self.words("name_rule")) from None

    async def _begin(self, name: str) -> View:
        channel = channel_id(name)
        view = self.views.get(channel) or View(self.known.get(channel) or Channel(channel, name))
        self.views[channel] = view
        try:
            self.began(channel, await self.source.subscribe(name))
        except BaseException:
            if not view.subscribed:
                self.views.pop(channel, None)
            raise
        return view

    async def take_up(self) -> None:
        """Subscribe to what one belongs to and is not subscribed to yet."""
        known = self._refused | self.views.keys()
        mine = [channel for channel in await self.source.mine() if channel not in known]
        if any(channel not in self.known for channel in mine):
            await self.look_around(mine)
        for channel in mine:
            try:
                await self._begin(channel)
            except PeykError as error:
                self._refused.add(channel)
                self.complain(error)
        asking = set(await self.source.asks())
        for name in sorted(asking - self._asking):
            self.say(self.words("asks", name=name))
        self._asking = asking
        await self.marks.count(self.views)
        for view in [self.views[channel] for channel in mine if channel in self.views]:
            if view.unread and not view.transcript.first:  # somebody may have called this user
                await self.load_older(view)
                recent = [e for e in view.transcript.entries if e.offset > view.read]
                view.mentioned |= any(entry.mentions for entry in recent)
        self.face.changed()

    async def show(self, view: View) -> None:
        """Make a channel the current one; its newest messages are loaded."""
        last = self.current
        if last is not None:
            last.transcript.marker = None
            last.transcript.trim(KEPT_HIDDEN)
            if not last.subscribed:
                self.views.pop(last.channel.id, None)
        if view is not last:
            self.current = view
            self.face.moved()
        await self.marks.count([view.channel.id])
        view.transcript.marker = view.read if view.unread and view.read else None
        if len(view.transcript.entries) < PAGE:
            await self.load_older(view)
        self.face.changed()
        for name in await self._present(view):
            view.people.setdefault(fold(name), name)
        if self.current is view:
            self.marks.mark_read()

    async def _present(self, view: View) -> list[str]:
        try:
            return await self.source.present(view.channel.id)
        except PeykError:  # not to be asked for here
            return []

    # -- history

    async def load_older(self, view: View) -> None:
        """One page above what is shown, if there is one."""
        log = view.transcript
        if log.whole or log.loading:
            return
        log.loading = True
        self.face.changed()
        try:
            past = await self.source.before(view.channel.id, log.first or None, PAGE)
            self._take(view, past.messages)
            log.top = max(log.top, past.top)
            log.whole = not past.messages or log.first == 1
        finally:
            log.loading = False
            self.face.changed()

    async def _fill(self, view: View, began: Began, anew: bool) -> None:
        """Read what came while a subscription was away, as far as it is still there."""
        log, name = view.transcript, view.channel.id
        last = log.last
        if anew or began.offset - last > REREAD:
            log.clear()
            log.top = began.offset
            if anew:
                view.read = 0
                log.note(self.words("anew", channel=self.title(view.channel)))
            await self.load_older(view)
            return
        log.loading = True
        try:
            while last < began.offset:
                past = await self.source.after(name, last, PAGE)
                self._take(view, past.messages)
                if not past.messages:
                    break
                last = past.messages[-1].offset
        finally:
            log.loading = False
            self.face.changed()

    def _take(self, view: View, messages: list[Said]) -> None:
        for message in messages:
            self.take(view, message)

    def take(self, view: View, message: Said) -> bool:
        """Put a message into its place; whether it is new."""
        if not view.transcript.add(message, self.mentions(view, message)):
            return False
        view.people[fold(message.user)] = message.user
        if len(view.people) > PEOPLE:
            del view.people[next(iter(view.people))]
        if message.client in self.source.clients:
            view.transcript.take_own(message)
        here = message.client in self.source.clients
        if fold(message.user) == self.user and message.offset == (view.transcript.top if here else view.read + 1):
            view.read = max(view.read, message.offset)
        return True

    def mentions(self, view: View, message: Said) -> bool:
        """Whether somebody else calls this user, or writes to nobody else."""
        if fold(message.user) == self.user:
            return False
        return self.is_private(view.channel) or any(fold(name) == self.user for name in mentions(message.text))

    # -- what the source tells

    def said(self, channel: str, message: Said) -> None:
        view = self.views.get(channel)
        if view is None or not self.take(view, message):
            return
        if view is self.current and self.attended:
            self.marks.mark_read()
        elif self.mentions(view, message):
            view.mentioned = True
            self.face.rang()
        kept = KEPT if view is self.current else KEPT_HIDDEN
        if len(view.transcript.entries) > 2 * kept and (view is not self.current or self.attended):
            view.transcript.trim(kept)  # nobody is reading up there
        self.face.changed()

    def began(self, channel: str, began: Began) -> None:
        view = self.views.get(channel)
        if view is None:
            return
        anew = bool(view.epoch) and began.epoch != view.epoch and began.offset < view.transcript.top
        view.subscribed = True
        if began.recovered:
            self._take(view, list(began.messages))
        elif view.transcript.last:
            self.spawn(self._fill(view, began, anew))
        view.transcript.top = max(view.transcript.top, began.offset)
        view.epoch = began.epoch
        self.face.changed()

    def ended(self, channel: str, code: int, reason: str) -> None:
        view = self.views.get(channel)
        if view is None:
            return
        view.subscribed = False
        key = "remake" if code in (DELETED, UnknownChannel.code) else "gone"
        self.say(self.words(key, channel=self.title(view.channel), reason=self.words.reason(code, reason)))
        if view is not self.current:
            del self.views[channel]

    def connected(self, up: bool, why: str = "", final: bool = False) -> None:
        self.up, self.why, self.final = up, why, final
        if up:
            for view in self.views.values():
                self.outbox.resume(view)
            self.marks.wake()
        self.face.changed()
