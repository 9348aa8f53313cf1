"""The channel list of the screen: where one is, what is unread, who called."""

import unicodedata
from collections.abc import Callable

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.message import Message
from textual.strip import Strip
from textual.widget import Widget

from chat.models import Channel
from chat.plain import fit, glyphs, width
from chat.terminal import Terminal
from chat.themes import Palette
from chat.transcript import View
from chat.words import Words

BLANK = "\u2800"
"""Looks like a space and counts as a letter from left to right: terminals that order Persian stop there."""


class ChannelList(Widget):
    """Those one belongs to, the private ones, then those one may join; a click goes there."""

    class Chosen(Message):
        def __init__(self, channel: Channel) -> None:
            super().__init__()
            self.channel = channel

    def __init__(self, terminal: Terminal, words: Words, palette: Callable[[], Palette]) -> None:
        super().__init__(id="channels")
        self._terminal, self._words, self._palette = terminal, words, palette
        self._top = 0
        self._rows: list[View | Channel | str] = []

    def order(self) -> list[View]:
        """The views in the order they are listed."""
        views = sorted(self._terminal.views.values(), key=lambda view: self._terminal.title(view.channel))
        return sorted(views, key=lambda view: self._terminal.is_private(view.channel))

    def rows(self) -> list[View | Channel | str]:
        """Headings are strings."""
        views = self.order()
        private = [view for view in views if self._terminal.is_private(view.channel)]
        public = [view for view in views if view not in private]
        others = [c for c in self._terminal.known.values() if c.id not in self._terminal.views]
        rows: list[View | Channel | str] = [self._words("channels"), *public]
        if private:
            rows += ["", self._words("private"), *private]
        if others:
            rows += ["", self._words("others"), *others]
        return rows

    def refresh_rows(self) -> None:
        """Something changed: list anew, so that the current channel is seen, and draw."""
        rows = self._rows = self.rows()
        current = next((i for i, row in enumerate(rows) if row is self._terminal.current), 0)
        if not self._top <= current < self._top + self.size.height or self._top + self.size.height > len(rows):
            self._top = max(0, min(current - self.size.height // 2, len(rows) - self.size.height))
        self.refresh()

    def on_resize(self) -> None:
        self.refresh_rows()

    def render_line(self, y: int) -> Strip:
        palette, rows = self._palette(), self._rows
        if self._top + y >= len(rows):
            return Strip.blank(self.size.width, Style(bgcolor=palette.side))
        match rows[self._top + y]:
            case str(heading):
                return self._text(f" {heading}", Style(color=palette.side_quiet, bgcolor=palette.side, bold=True))
            case View() as view:
                return self._view(view)
            case Channel() as channel:
                title = glyphs(self._terminal.title(channel))
                return self._text(f"   {title}", Style(color=palette.side_quiet, bgcolor=palette.side))
        raise AssertionError

    def _view(self, view: View) -> Strip:
        palette, here = self._palette(), view is self._terminal.current
        back = palette.side_here if here else palette.side
        unread = bool(view.unread) and not (here and self._terminal.attended)
        text = Style(color=palette.side_here_text if here else palette.side_text, bgcolor=back, bold=unread or here)
        title = glyphs(self._terminal.title(view.channel))
        if not view.subscribed:
            text += Style(strike=True)
        badge = ""
        if unread:
            number = self._words.number(view.unread) if view.unread < 1000 else self._words.number(999) + "+"
            badge = f" {'@' if view.mentioned else ''}{number} "
        room = self.size.width - width(badge) - 4
        name = f" {'›' if here else ' '} {fit(title, room)}" + (BLANK if rightward(title) else " ")
        colours = (palette.alarm_text, palette.alarm) if view.mentioned else (palette.badge_text, palette.badge)
        return Strip([Segment(name, text), Segment(badge, Style(color=colours[0], bgcolor=colours[1], bold=True))])

    def _text(self, text: str, style: Style) -> Strip:
        return Strip(
            [Segment(fit(text, self.size.width - 1), style), Segment(BLANK if rightward(text) else " ", style)]
        )

    def on_click(self, event: events.Click) -> None:
        rows = self._rows
        if 0 <= self._top + event.y < len(rows):
            row = rows[self._top + event.y]
            if isinstance(row, View):
                self.post_message(self.Chosen(row.channel))
            elif isinstance(row, Channel):
                self.post_message(self.Chosen(row))


def rightward(text: str) -> bool:
    """Whether it holds letters that are written from right to left."""
    return any(unicodedata.bidirectional(c) in ("R", "AL") for c in text)
