"""The terminal line by line: for pipes, for `send`, and where a screen is not wanted (--plain)."""

import sys
from collections.abc import Callable

from chat.plain import harmless
from chat.slash import Slash
from chat.source import Source
from chat.stdio import typed_lines, while_read
from chat.terminal import Terminal
from chat.transcript import Day, Entry, Gap, Item, New, Outgoing, Transcript, View
from chat.version import VERSION
from chat.words import Words

HISTORY = 20  # messages shown on joining

Show = Callable[[str], None]


class Lines:
    """A face that writes each thing once, in a line of its own."""

    def __init__(self, show: Show, words: Words) -> None:
        self._show, self._words = show, words
        self.terminal: Terminal
        self.running = True
        self._written: dict[Transcript, tuple[int, int]] = {}  # the place up to which each was written
        self._troubled: dict[str, str] = {}  # the states of what could not be sent that were told, by key

    def show(self, line: str) -> None:
        self._show(harmless(line))

    def changed(self) -> None:
        log = self.terminal.transcript
        if log.loading:
            return
        fresh = self._fresh(log)
        for item in fresh:
            if (line := self._line(item)) is not None:
                self.show(line)
        entries = [item for item in fresh if isinstance(item, Entry)]
        if entries:
            self._written[log] = entries[-1].place

    def older(self, view: View) -> None:
        for item in view.transcript.items():
            if isinstance(item, Entry) and item.said is not None and (line := self._line(item)) is not None:
                self.show(line)

    def moved(self) -> None:
        pass

    def rang(self) -> None:
        pass

    def stop(self) -> None:
        self.running = False

    def _fresh(self, log: Transcript) -> list[Item]:
        """What was not written yet; of a channel just opened, its last messages."""
        if (written := self._written.get(log)) is None:
            entries = [entry for entry in log.entries if entry.said is not None][-HISTORY:]
            written = (entries[0].offset - 1, sys.maxsize) if entries else (-1, 0)
        fresh: list[Item] = []
        gap: list[Item] = []
        for item in log.items():
            if isinstance(item, Entry):
                fresh += [*gap, item] if item.place > written else []
            elif isinstance(item, Outgoing):
                fresh.append(item)
            gap = [item] if isinstance(item, Gap) else gap if isinstance(item, Day) else []
        return fresh

    def _line(self, item: Item) -> str | None:
        match item:
            case Entry(kind="message", said=said) if said is not None:
                return self.terminal.line(said)
            case Entry(kind="list", text=text):
                return text
            case Entry(kind=kind, text=text):
                return f"{'!' if kind == 'error' else '*'} {text}"
            case Gap(missing=n):
                return f"* {self._words('one_missed') if n == 1 else self._words('missed', n=n)}"
            case Outgoing(state=state, key=key) if state != "sending" and self._troubled.get(key) != state:
                self._troubled[key] = state
                return f"! {item.reason}"
            case Day() | New() | Outgoing():
                return None
        return None


def show_line(line: str) -> None:
    print(line, flush=True)


async def chat(source: Source, channel: str, words: Words) -> int:
    """Chat until /quit or the end of input. Returns the exit code: 1 if something said could not be sent."""
    face = Lines(show_line, words)
    terminal = face.terminal = Terminal(source, face, words)
    slash = Slash(terminal)
    face.show(f"{words('name')} {VERSION} — {source.username} — {source.where}")
    face.show("  ".join(slash.table))
    try:
        with while_read():
            await slash.enter(f"/join {channel}")
            async for line in typed_lines():
                await slash.enter(line)
                await terminal.outbox.settled()
                if not face.running:
                    break
    finally:
        await terminal.close()
    return int(terminal.unsent)
