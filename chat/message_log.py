"""The message log of the screen: rows made of a transcript, held in place by what one reads, not by row numbers."""

from collections.abc import Callable
from datetime import date
from typing import NamedTuple
from zlib import crc32

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.message import Message
from textual.strip import Strip
from textual.widget import Widget

from chat.models import fold
from chat.plain import fit, glyphs, paragraphs, width, wrap
from chat.terminal import Terminal
from chat.text import with_hosts
from chat.themes import Palette
from chat.transcript import Day, Entry, Gap, Item, New, Outgoing, Transcript
from chat.words import Words


class Row(NamedTuple):
    """A row of the log: of which item (by its index; -1: the edge above all), which of its rows, and what it shows."""

    at: int
    row: int
    strip: Strip


_INDENT = len("[10:00] ")
_MADE = 10_000  # entries whose rows are kept
EDGE = 2  # columns left free at the right, where terminals that measure differently may overrun


class Anchor:
    """What stands at the top while somebody reads further up: a row of an entry, so many rows below the edge."""

    __slots__ = ("below", "item", "row")

    def __init__(self, item: Item, row: int, below: int) -> None:
        self.item, self.row, self.below = item, row, below


class MessageLog(Widget):
    """The current channel's messages. At the bottom it follows what comes; elsewhere it stays where it is."""

    class Moved(Message):
        """It was scrolled, or came back to the bottom."""

    def __init__(self, terminal: Terminal, words: Words, palette: Callable[[], Palette]) -> None:
        super().__init__(id="log")
        self._terminal, self._words, self._palette = terminal, words, palette
        self._anchors: dict[Transcript, Anchor] = {}
        self._items: list[Item] = []
        self._rows: list[Row] = []  # what is seen, and a screen or two above and below it
        self._top = 0
        self._made: dict[Item, list[Strip]] = {}
        self._made_for: tuple[int, Palette] | None = None

    # -- where it stands

    @property
    def at_bottom(self) -> bool:
        return self._terminal.transcript not in self._anchors

    def scroll(self, rows: int) -> None:
        """Up (negative) or down, a page at most; near the top, older messages are read."""
        self.build()
        bottom = max(0, len(self._rows) - self.size.height)
        top = min(max(self._top + rows, 0), bottom)
        if top >= bottom and rows >= 0:
            self.to_bottom()
            return
        for i in range(top, len(self._rows)):
            index, row, _ = self._rows[i]
            if index >= 0 and isinstance(item := self._items[index], Entry):
                self._anchors[self._terminal.transcript] = Anchor(item, row, i - top)
                break
        self._moved(rows)

    def to_top(self) -> None:
        """The oldest message that is here."""
        first = next((item for item in self._items if isinstance(item, Entry)), None)
        if first is not None:
            self._anchors[self._terminal.transcript] = Anchor(first, 0, 2)
            self._moved(-1)

    def _moved(self, rows: int) -> None:
        self.build()
        if rows < 0 and self._rows[0].at < 0 and self._top < self.size.height:
            self.want_older()
        self.post_message(self.Moved())
        self.refresh()

    def page(self, direction: int) -> None:
        self.scroll(direction * max(1, self.size.height - 3))

    def to_bottom(self) -> None:
        self._anchors.pop(self._terminal.transcript, None)
        self.post_message(self.Moved())
        self.refresh_rows()

    def want_older(self) -> None:
        view = self._terminal.current
        if view is not None and not view.transcript.whole and not view.transcript.loading:
            self._terminal.spawn(self._terminal.load_older(view))

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        event.stop()
        self.scroll(-3)

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        event.stop()
        self.scroll(3)

    def on_resize(self) -> None:
        self.refresh_rows()

    def _height(self) -> int:
        return self.size.height - (0 if self.at_bottom else 1)

    # -- rows

    def build(self) -> None:
        """Make the rows anew around what is seen; what did not change is not made again."""
        log, palette, enough = self._terminal.transcript, self._palette(), 3 * self.size.height
        if self._made_for != (self.size.width, palette) or len(self._made) > _MADE:
            self._made_for, self._made = (self.size.width, palette), {}
        items = self._items = list(log.items())
        anchor = self._anchors.get(log)
        at = len(items)
        if anchor is not None:
            at = next((i for i, item in enumerate(items) if item is anchor.item), at)
            if at == len(items):  # it is kept no longer
                del self._anchors[log]
                anchor = None
        above: list[Row] = []
        for index in range(at - 1, -2, -1):
            above += [Row(index, i, strip) for i, strip in reversed(list(enumerate(self._strips_at(index))))]
            if len(above) >= enough:
                break
        rows = above[::-1]
        for index in range(at, len(items)):
            rows += [Row(index, i, strip) for i, strip in enumerate(self._strips_at(index))]
            if len(rows) >= len(above) + enough:
                break
        self._rows = rows
        self._top = max(0, len(rows) - self.size.height)
        if anchor is not None:
            row = len(above) + min(anchor.row, len(self._strips_at(at)) - 1)
            self._top = max(0, min(row - anchor.below, self._top))

    def _strips_at(self, index: int) -> list[Strip]:
        if index < 0:
            return [self._edge()]
        item = self._items[index]
        if not isinstance(item, Entry):
            return self._strips(item)
        if item not in self._made:
            self._made[item] = self._strips(item)
        return self._made[item]

    def refresh_rows(self) -> None:
        """Something changed: make the rows anew, and draw them."""
        self.build()
        self.refresh()

    def render_line(self, y: int) -> Strip:
        if not self._rows or self._made_for != (self.size.width, self._palette()):
            self.build()
        palette, height = self._palette(), self._height()
        if y >= height:
            return self._pill()
        # A short log stands at the bottom, as what is said last stands next to what one writes.
        row = self._top + y - max(0, height - len(self._rows))
        blank = Style(bgcolor=palette.log)
        if 0 <= row < len(self._rows):
            return self._rows[row].strip.extend_cell_length(self.size.width, blank)
        return Strip.blank(self.size.width, blank)

    def _pill(self) -> Strip:
        """How much is below, while somebody reads further up."""
        palette = self._palette()
        seen = self._rows[: self._top + self._height()]
        below = self._items[seen[-1].at + 1 :] if seen else []
        count = sum(isinstance(item, Entry | Outgoing) for item in below)
        text = f" {self._words('below', n=count)} "
        style = Style(color=palette.badge_text, bgcolor=palette.badge)
        rest = Style(bgcolor=palette.log)
        left = max(0, self.size.width - width(text) - EDGE)
        return Strip([Segment(" " * left, rest), Segment(text, style), Segment(" " * EDGE, rest)])

    def _edge(self) -> Strip:
        """Above everything: whether there is more."""
        log = self._terminal.transcript
        if self._terminal.current is None:
            return self._centred("")
        if log.loading:
            return self._centred(self._words("loading"))
        if not log.whole:
            return self._centred("")
        return self._centred(self._words("beginning" if log.first <= 1 else "forgotten"))

    def _strips(self, item: Item) -> list[Strip]:
        palette = self._palette()
        match item:
            case Day(day=day):
                return [self._rule(self._words.day(day, date.today()), palette.log_quiet)]
            case New():
                return [self._rule(self._words("new"), palette.log_accent)]
            case Gap(missing=n):
                text = self._words("one_missed") if n == 1 else self._words("missed", n=n)
                return [self._rule(text, palette.log_error)]
            case Outgoing():
                return self._outgoing(item)
            case Entry(said=None):
                return self._note(item)
            case Entry():
                return self._message(item)
        raise AssertionError(item)

    def _message(self, entry: Entry) -> list[Strip]:
        palette, said = self._palette(), entry.said
        assert said is not None
        back = palette.mention if entry.mentions else palette.log
        text = Style(color=palette.mention_text if entry.mentions else palette.log_text, bgcolor=back)
        quiet = Style(color=palette.mention_text if entry.mentions else palette.log_quiet, bgcolor=back)
        name_colour = palette.mention_text if entry.mentions else colour_of(said.user, palette)
        name = Style(color=name_colour, bgcolor=back, bold=True)
        name_text = self._called(said.user)
        head = [Segment(f"[{self._words.clock(said.time)}] ", quiet)]
        head += [Segment(f"* {name_text} ", name)] if said.is_action else [Segment(f"{name_text}: ", name)]
        if not isinstance(said.data, dict) or not isinstance(said.data.get("text"), str):
            text = quiet  # an event, shown as its JSON
        return self._lay(head, with_hosts(entry.text), text, _INDENT)

    def _called(self, user: str) -> str:
        """A name, cut where it would leave its message no room."""
        name, room = glyphs(user), max(8, (self.size.width - EDGE - _INDENT) // 2)
        return name if width(name) <= room else fit(name, room)

    def _lay(self, head: list[Segment], text: str, style: Style, indent: int) -> list[Strip]:
        """A head, and a text that goes on below it, indented: nobody can begin a line that looks like another's."""
        room = max(10, self.size.width - EDGE - 1)
        margin = Segment(" ", style)
        used = sum(width(segment.text) for segment in head)
        rows: list[list[Segment]] = []
        for paragraph in paragraphs(text):
            first, *rest = wrap(paragraph, room - used) if not rows else wrap(paragraph, room - indent)
            if not rows:
                if rest:  # what follows the first row has more room than it
                    rest = wrap(paragraph[len(first) :].lstrip(" "), room - indent)
                rows.append([margin, *head, Segment(first, style)])
            else:
                rest = [first, *rest]
            rows += [[margin, Segment(" " * indent + line, style)] for line in rest]
        return [Strip(row).extend_cell_length(self.size.width, style) for row in rows]

    def _outgoing(self, outgoing: Outgoing) -> list[Strip]:
        palette = self._palette()
        colour = palette.log_error if outgoing.state == "failed" else palette.log_quiet
        quiet, style = Style(color=colour, bgcolor=palette.log), Style(color=palette.log_quiet, bgcolor=palette.log)
        mark = {"sending": "·····", "waiting": "··…··", "failed": "  !  "}[outgoing.state]
        name = Style(color=palette.log_quiet, bgcolor=palette.log, bold=True)
        star = "* {} " if outgoing.said.is_action else "{}: "
        head = [Segment(f"[{mark}] ", quiet), Segment(star.format(self._called(outgoing.said.user)), name)]
        strips = self._lay(head, outgoing.text, style, _INDENT)
        if outgoing.state != "sending":
            say = self._words(outgoing.state, reason=glyphs(outgoing.reason))
            strips += self._lay([Segment(" " * _INDENT, quiet)], say, quiet, _INDENT)
        return strips

    def _note(self, entry: Entry) -> list[Strip]:
        palette = self._palette()
        colour = {"error": palette.log_error, "list": palette.log_text}.get(entry.kind, palette.log_quiet)
        style = Style(color=colour, bgcolor=palette.log)
        head = {"error": "! ", "list": "  "}.get(entry.kind, "* ")
        return self._lay([Segment(head, style)], entry.text, style, len(head))

    def _rule(self, text: str, colour: str) -> Strip:
        """A word in the middle of a thin line."""
        palette, room = self._palette(), self.size.width - 2
        side = max(2, (room - width(text) - 2) // 2)
        line = f" {'─' * side} {text} {'─' * max(2, room - side - width(text) - 2)} "
        return Strip([Segment(fit(line, self.size.width), Style(color=colour, bgcolor=palette.log))])

    def _centred(self, text: str) -> Strip:
        palette = self._palette()
        left = max(0, (self.size.width - width(text)) // 2)
        style = Style(color=palette.log_quiet, bgcolor=palette.log)
        return Strip([Segment(fit(" " * left + text, self.size.width), style)])


def colour_of(user: str, palette: Palette) -> str:
    """One person has one colour, everywhere."""
    return palette.names[crc32(fold(user).encode("utf-8", "replace")) % len(palette.names)]
