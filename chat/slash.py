"""What is typed: commands behind a slash, text to send, and how Tab completes both."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from chat.errors import PeykError
from chat.models import User, fold
from chat.source import Said
from chat.terminal import PAGE, Terminal
from chat.transcript import View
from chat.words import Told
from pipeline.content import cleaned
from pipeline.resp import FAILURES

SEARCHED = 10_000  # messages that /search looks through, newest first
HITS = 20  # of them shown
LISTED = 60  # names and channels in one list
_MOVES = ("/join", "/leave", "/msg")  # what is typed behind them is for where they lead


class Command(NamedTuple):
    """`takes` says what Tab completes behind it: channels, names, or nothing."""

    usage: str
    run: Callable[[str], Awaitable[None]]
    takes: str = ""


class Slash:
    """The commands of one terminal. A face may add its own to `table`."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal, self._words = terminal, terminal.words
        self._turn = asyncio.Lock()  # lines are worked off one by one
        self._moves = 0  # that wait or are under way
        self._view: View | None = None  # what was shown when the line was typed
        self.table: dict[str, Command] = {
            "/join": Command("/join <channel>", self._join, "channels"),
            "/leave": Command("/leave", self._leave),
            "/channels": Command("/channels", self._channels),
            "/send": Command("/send <text>", self._send, "names"),
            "/quit": Command("/quit", self._quit),
            "/help": Command("/help", self._help),
            "/who": Command("/who", self._who),
            "/history": Command("/history", self._history),
            "/topic": Command("/topic <text>", self._topic),
            "/me": Command("/me <text>", self._me, "names"),
            "/search": Command("/search <text>", self._search),
            "/name": Command("/name <name>", self._name),
            "/msg": Command("/msg <name> <text>", self._msg, "names"),
            "/decline": Command("/decline <name>", self._decline, "names"),
        }

    async def enter(self, line: str) -> None:
        """One line typed: a command, or text to send. What goes wrong is one quiet line."""
        line = cleaned(line)
        word, _, rest = line.strip().partition(" ")
        if word == "/quit":  # waits for nothing
            return await self._quit(rest)
        view, moves = None if self._moves else self._terminal.current, word in _MOVES
        self._moves += moves
        try:
            async with self._turn:
                self._view = view
                await self._do(line, word, rest)
        finally:
            self._moves -= moves

    async def _do(self, line: str, word: str, rest: str) -> None:
        try:
            if word in self.table:
                await self.table[word].run(rest.strip())
            elif word.startswith("//"):  # a text that begins with a slash
                await self._send(line.strip()[1:])
            elif word.startswith("/") and "\n" not in word:
                raise Told(self._words("no_command", word=word, commands="  ".join(self.table)))
            elif word:
                await self._send(line.strip())
        except (PeykError, *FAILURES) as error:
            self._terminal.complain(error)

    def _here(self) -> View:
        view = self._view or self._terminal.current
        if view is None:
            raise Told(self._words("be_in"))
        return view

    def _given(self, text: str, command: str) -> str:
        if not text:
            raise Told(self._words("which", usage=self.table[command].usage))
        return text

    async def _join(self, name: str) -> None:
        if self._given(name, "/join").startswith("@"):  # as a private channel is shown
            await self._msg(name)
        else:
            await self._terminal.join(name)

    async def _leave(self, _: str) -> None:
        await self._terminal.leave(self._here())

    async def _channels(self, _: str) -> None:
        await self._terminal.look_around()
        mine = set(await self._terminal.source.mine())
        channels = list(self._terminal.known.values())
        for channel in channels[:LISTED]:
            here = self._terminal.current is not None and self._terminal.current.channel.id == channel.id
            mark = "»" if here else "+" if channel.id in mine else " "
            self._terminal.say(f"{mark} {self._terminal.title(channel)}  {channel.description}".rstrip(), "list")
        if len(channels) > LISTED:
            self._terminal.say(f"  … +{len(channels) - LISTED}", "list")

    async def _send(self, text: str) -> None:
        self._terminal.outbox.send(self._here(), {"text": self._given(text, "/send")})

    async def _me(self, text: str) -> None:
        self._terminal.outbox.send(self._here(), {"text": self._given(text, "/me"), "me": True})

    async def _quit(self, _: str) -> None:
        self._terminal.face.stop()

    async def _help(self, _: str) -> None:
        for word, command in self.table.items():
            self._terminal.say(f"{command.usage:<20}{self._words('help_' + word[1:])}", "list")
        self._terminal.say(self._words("keys"), "list")

    async def _who(self, _: str) -> None:
        view = self._here()
        names = sorted(set(await self._terminal.source.present(view.channel.id)), key=fold)
        more = f" … +{len(names) - LISTED}" if len(names) > LISTED else ""
        self._terminal.say(self._words("who", n=len(names), names=", ".join(names[:LISTED]) + more))

    async def _history(self, _: str) -> None:
        view = self._here()
        if not view.transcript.whole:
            await self._terminal.load_older(view)
        self._terminal.face.older(view)

    async def _topic(self, text: str) -> None:
        view = self._here()
        if text:
            await self._terminal.source.describe(view.channel.id, text)
        await self._terminal.look_around()
        channel = view.channel
        key = "topic" if channel.description else "no_topic"
        self._terminal.say(self._words(key, channel=channel.name, topic=channel.description))

    async def _search(self, text: str) -> None:
        view, wanted = self._here(), fold(self._given(text, "/search"))
        hits: list[Said] = []
        looked, before = 0, None
        while looked < SEARCHED and len(hits) < HITS:
            past = await self._terminal.source.before(view.channel.id, before, 10 * PAGE)
            if not past.messages:
                break
            looked += len(past.messages)
            before = past.messages[0].offset
            hits += [said for said in reversed(past.messages) if wanted in fold(said.text)][: HITS - len(hits)]
        if not hits:
            self._terminal.say(self._words("none_found", n=looked, text=text))
            return
        self._terminal.say(self._words("found", n=len(hits), text=text))
        for said in reversed(hits):
            self._terminal.say(self._terminal.line(said, dated=True), "list")

    async def _name(self, name: str) -> None:
        name = User.named(self._given(name, "/name")).username
        await self._terminal.source.rename(name)
        self._terminal.say(self._words("renamed", name=name))
        await self._terminal.look_around()

    async def _msg(self, rest: str) -> None:
        name, _, text = self._given(rest, "/msg").partition(" ")
        channel = await self._terminal.source.private(name.removeprefix("@"))
        self._terminal.known[channel.id] = channel
        if self._terminal.current is None or self._terminal.current.channel.id != channel.id:
            await self._terminal.join(channel.id)
        self._view = self._terminal.views.get(channel.id)
        if text.strip():
            await self._send(text.strip())

    async def _decline(self, name: str) -> None:
        name = self._given(name, "/decline").removeprefix("@")
        await self._terminal.source.decline(name)
        self._terminal.say(self._words("declined", name=name))

    # -- completion

    def complete(self, line: str) -> tuple[int, list[str]]:
        """What may stand for the last word of `line`, which begins at the index given."""
        start = max(line.rfind(" "), line.rfind("\n")) + 1
        word, command = line[start:], line.partition(" ")[0]
        if start == 0 and word.startswith("/"):
            return 0, [f"{name} " for name in self.table if name.startswith(word)]
        takes = self.table[command].takes if command in self.table else "names"
        if takes == "channels":
            names = [self._terminal.title(c) for c in self._terminal.known.values()]
            return start, [name for name in names if word and fold(name).startswith(fold(word))] if word else names
        if takes != "names":
            return start, []
        people = self._terminal.current.people if self._terminal.current else {}
        at = "@" if word.startswith("@") else ""
        wanted = fold(word[len(at) :])
        found = sorted(n for i, n in people.items() if i.startswith(wanted) and i != self._terminal.user)
        if not wanted and not at and command != "/msg":
            return start, []
        if command == "/msg" and start == len("/msg "):
            return start, [f"{name} " for name in found]
        return start, [f"@{name} " for name in found]
