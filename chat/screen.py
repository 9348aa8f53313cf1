"""The terminal as a screen: header, channel list, message log, input, status bar."""

import asyncio
import logging
import sys
from collections.abc import Callable

from rich.segment import Segment
from rich.style import Style
from textual import events, on
from textual.app import App, ComposeResult
from textual.binding import Binding
from textual.containers import Horizontal
from textual.driver import Driver
from textual.strip import Strip
from textual.widget import Widget
from textual.widgets import Static

from chat.channel_list import BLANK, ChannelList, rightward
from chat.composer import Composer
from chat.errors import PeykError
from chat.message_log import MessageLog
from chat.plain import clip, fit, glyphs, width
from chat.slash import Command, Slash
from chat.source import Source
from chat.terminal import Terminal
from chat.themes import THEMES, Palette
from chat.transcript import View
from chat.version import VERSION
from chat.words import Told, Words

logger = logging.getLogger(__name__)

_FRAME = 0.03  # seconds in which changes are drawn together
INTERRUPTED = 130  # exit code of Ctrl-C


def _driver() -> type[Driver] | None:
    """What reads the terminal; None: Textual chooses, as where there is no POSIX."""
    if sys.platform == "win32":
        return None
    from chat.driver import TolerantDriver

    return TolerantDriver


class Bar(Widget):
    """One row: something first, something quieter behind it, something at the right. What does not fit is cut."""

    def __init__(self, say: Callable[[], tuple[str, str, str]], style: Callable[[], tuple[Style, Style]], name: str):
        super().__init__(id=name)
        self._say, self._style = say, style

    def render_line(self, y: int) -> Strip:
        (first, behind, right), (style, quiet) = self._say(), self._style()
        right = fit(right, min(width(right), max(0, self.size.width - width(first) - 4)))
        room = max(0, self.size.width - width(right) - 2)
        first = clip(f" {first}{BLANK if rightward(first) else ' '}", room)
        behind = fit(behind, room - width(first))
        between = BLANK if rightward(behind) else " "
        return Strip([Segment(first, style), Segment(behind, quiet), Segment(f"{between}{right} ", quiet)])


class Screen(App[None]):
    """The face of a terminal that has a screen."""

    ENABLE_COMMAND_PALETTE = False
    CSS = """
    Screen { layout: vertical; background: $log; color: $log-text; }
    #header, #status { height: 1; }
    #middle { height: 1fr; }
    #channels { width: 24; }
    #log { width: 1fr; }
    #write { height: auto; max-height: 6; background: $input; }
    #prompt { width: 3; height: 1; padding: 0 1; background: $input; color: $input-text; }
    #composer { width: 1fr; height: 1; border: none; padding: 0; background: $input; color: $input-text;
        scrollbar-size: 1 1; scrollbar-color: $input-text; scrollbar-background: $input; }
    #composer:focus { border: none; background-tint: transparent; }
    #composer .text-area--placeholder { color: $input-quiet; }
    #composer .text-area--cursor { background: $input-text; color: $input; }
    #composer .text-area--selection { background: $input-text; color: $input; }
    .narrow #channels { width: 17; }
    .tiny #channels { display: none; }
    """
    BINDINGS = [  # noqa: RUF012  # Textual's way
        Binding("pageup", "scroll(-1)", priority=True),
        Binding("pagedown", "scroll(1)", priority=True),
        Binding("ctrl+home", "top", priority=True),
        Binding("ctrl+end", "bottom", priority=True),
        Binding("alt+up", "next(-1)", priority=True),
        Binding("alt+down", "next(1)", priority=True),
        Binding("alt+a,alt+shift+up,alt+shift+down", "unread", priority=True),
        Binding("ctrl+r", "again", priority=True),
        Binding("ctrl+x", "drop", priority=True),
        Binding("ctrl+c", "interrupt", priority=True),
        Binding("ctrl+d", "end", priority=True),
        Binding("ctrl+q", "leave", priority=True),
        Binding("escape", "calm", priority=True),
    ]

    def __init__(self, source: Source, channel: str, words: Words, theme: str = "peyk") -> None:
        self._palette = THEMES[theme]
        super().__init__(driver_class=_driver())
        self.words, self._channel = words, channel
        self.terminal = Terminal(source, self, words)
        self.slash = Slash(self.terminal)
        self.slash.table["/theme"] = Command("/theme <name>", self._theme)
        self._dirty = asyncio.Event()
        self._drawing: asyncio.Task[None] | None = None
        self._hint, self._trouble = "", ""
        self._asked_to_leave = False

    # -- what it is made of

    def get_css_variables(self) -> dict[str, str]:
        colours = self._palette._asdict()
        ours = {name.replace("_", "-"): value for name, value in colours.items() if isinstance(value, str)}
        return super().get_css_variables() | ours

    def palette(self) -> Palette:
        return self._palette

    def compose(self) -> ComposeResult:
        words = self.words
        yield Bar(self._header, self._header_style, "header")
        with Horizontal(id="middle"):
            yield ChannelList(self.terminal, words, self.palette)
            yield MessageLog(self.terminal, words, self.palette)
        with Horizontal(id="write"):
            yield Static(">", id="prompt", markup=False)
            yield Composer(self.slash.complete, words("write"))
        yield Bar(self._status, self._status_style, "status")

    @property
    def log_view(self) -> MessageLog:
        return self.query_one(MessageLog)

    @property
    def composer(self) -> Composer:
        return self.query_one(Composer)

    def _header_style(self) -> tuple[Style, Style]:
        palette = self._palette
        strong = Style(color=palette.header_text, bgcolor=palette.header, bold=True)
        return strong, Style(color=palette.header_quiet, bgcolor=palette.header)

    def _status_style(self) -> tuple[Style, Style]:
        palette = self._palette
        colour = palette.status_text if self.terminal.up and not self._hint else palette.status_warning
        style = Style(color=colour, bgcolor=palette.status)
        return style + Style(bold=True), style

    def _header(self) -> tuple[str, str, str]:
        view = self.terminal.current
        version = VERSION.translate(str.maketrans("10.", "۱۰٫")) if self.words.language == "fa" else VERSION
        topic = ""
        if view is not None and not self.terminal.is_private(view.channel):
            topic = f"  {glyphs(view.channel.description)}"
        source = self.terminal.source
        return f"{self.words('name')} {version}", topic, f"{glyphs(source.username)} · {glyphs(source.where)}"

    def _status(self) -> tuple[str, str, str]:
        terminal, words = self.terminal, self.words
        if self._hint:
            return "", self._hint, ""
        view = terminal.current
        name = glyphs(terminal.title(view.channel)) if view else words("no_channel")
        state = "connected" if terminal.up else "refused" if terminal.final else "connecting"
        parts = ["", words("subscribed" if view and view.subscribed else "not_subscribed")]
        parts.append(words(state) + (f" ({glyphs(terminal.why)})" if terminal.final else ""))
        unread = words("unread", n=terminal.unread) if terminal.unread else words("all_read")
        return name, " · ".join(parts).lstrip(), unread

    # -- a face

    def changed(self) -> None:
        self._dirty.set()

    def older(self, view: View) -> None:
        self.log_view.page(-1)

    def moved(self) -> None:
        """Show what was being written there; what is typed already stays, as it was typed behind a /join."""
        view = self.terminal.current
        if view is not None and not self.composer.text:
            self.composer.put(view.draft)
            view.draft = ""

    def rang(self) -> None:
        self.bell()

    def stop(self) -> None:
        self.exit()

    async def _draw_on(self) -> None:
        """Draw what changed, a few times a second at most. Changes are told from outside of Textual's own tasks."""
        while True:
            await self._dirty.wait()
            await asyncio.sleep(_FRAME)
            self._dirty.clear()
            try:
                self._draw()
            except Exception as error:  # one message that cannot be drawn is not to end all drawing
                if repr(error) != self._trouble:  # told once: telling it draws again
                    self._trouble = repr(error)
                    logger.exception("not everything could be drawn: %s", self._trouble)

    def _draw(self) -> None:
        self.log_view.refresh_rows()
        self._attend()
        self.query_one(ChannelList).refresh_rows()
        for bar in self.query(Bar):
            bar.refresh()

    def _attend(self) -> None:
        """Whether somebody sees what comes."""
        seen = self.log_view.at_bottom and self.app_focus
        if seen != self.terminal.attended:
            self.terminal.attended = seen
            if not seen and self.terminal.current is not None:
                self.terminal.transcript.marker = self.terminal.transcript.top
        if seen:
            self.terminal.marks.mark_read()

    # -- what happens

    async def on_mount(self) -> None:
        self.title = f"{self.words('name')} {VERSION}"
        self.composer.focus()
        self._measure(self.size.width)
        self._drawing = asyncio.create_task(self._draw_on())
        self.terminal.home.note(self.words("welcome"))
        self.terminal.spawn(self.terminal.start(self._channel))

    def on_unmount(self) -> None:
        if self._drawing is not None:
            self._drawing.cancel()

    def on_resize(self, event: events.Resize) -> None:
        self._measure(event.size.width)

    def _measure(self, columns: int) -> None:
        self.screen.set_class(columns < 80, "narrow")
        self.screen.set_class(columns < 50, "tiny")

    def on_app_focus(self) -> None:
        self.call_later(self._draw)

    def on_app_blur(self) -> None:
        self.call_later(self._draw)

    @on(MessageLog.Moved)
    def _moved(self) -> None:
        self._attend()
        self.changed()

    @on(Composer.Changed)
    def _grow(self) -> None:
        composer = self.composer
        composer.styles.height = min(6, max(1, composer.wrapped_document.height), max(1, self.size.height // 3))
        self._hint, self._asked_to_leave = "", False
        self.query_one("#status").refresh()

    @on(Composer.Entered)
    def _entered(self, event: Composer.Entered) -> None:
        self.log_view.to_bottom()
        if self.terminal.current is not None:
            self.terminal.transcript.marker = None
        self.terminal.spawn(self.slash.enter(event.text))

    @on(Composer.Offered)
    def _offered(self, event: Composer.Offered) -> None:
        self._hint = "  ".join(glyphs(choice.strip()) for choice in event.choices)
        self.query_one("#status").refresh()

    @on(ChannelList.Chosen)
    async def _chosen(self, event: ChannelList.Chosen) -> None:
        view = self.terminal.views.get(event.channel.id)
        if view is not None:
            await self._show(view)
        else:
            self._put_aside()
            self.terminal.spawn(self._join(event.channel.name))

    async def _join(self, name: str) -> None:
        await self.slash.enter(f"/join {name}")
        self.moved()  # or not: the draft is back then

    async def _show(self, view: View) -> None:
        if view is self.terminal.current:
            return
        self._put_aside()
        self.terminal.attended = True
        self.terminal.spawn(self.terminal.show(view))

    def _put_aside(self) -> None:
        """Keep what is being written with its channel."""
        view = self.terminal.current
        if view is not None:
            view.draft = "\n".join(filter(None, (view.draft, self.composer.text)))
            self.composer.put("")

    # -- keys

    def action_scroll(self, direction: int) -> None:
        self.log_view.page(direction)

    def action_top(self) -> None:
        self.log_view.to_top()

    def action_bottom(self) -> None:
        self.log_view.to_bottom()

    async def action_next(self, step: int) -> None:
        """The channel above or below."""
        views = self.query_one(ChannelList).order()
        if views:
            current = self.terminal.current
            at = views.index(current) if current in views else -1 if step > 0 else 0
            await self._show(views[(at + step) % len(views)])

    async def action_unread(self) -> None:
        """The next channel with something unread; first those where somebody called."""
        views = [view for view in self.query_one(ChannelList).order() if view is not self.terminal.current]
        waiting = [view for view in views if view.mentioned] or [view for view in views if view.unread]
        if waiting:
            await self._show(waiting[0])

    def action_again(self) -> None:
        self._do(lambda view: self.terminal.outbox.again(view))

    def action_drop(self) -> None:
        """Drop what failed, back into the input; else what Ctrl+X does there."""
        texts = self.terminal.outbox.drop(self.terminal.current) if self.terminal.current else []
        if not texts:
            self.composer.action_cut()
        elif not self.composer.text:
            self.composer.put("\n".join(texts))

    def _do(self, work: Callable[[View], None]) -> None:
        try:
            if self.terminal.current is not None:
                work(self.terminal.current)
        except PeykError as error:
            self.terminal.complain(error)

    def action_interrupt(self) -> None:
        """Ctrl+C: copy, or clear the input, or on the second time leave."""
        if self.composer.selected_text:
            self.composer.action_copy()
        elif self.composer.text:
            self.composer.put("")
        elif self._asked_to_leave:
            self.exit(return_code=INTERRUPTED)
        else:
            self._asked_to_leave, self._hint = True, self.words("leave_hint")
            self.query_one("#status").refresh()

    def action_end(self) -> None:
        if self.composer.text:
            self.composer.action_delete_right()
        else:
            self.exit()

    def action_leave(self) -> None:
        self.exit()

    def action_calm(self) -> None:
        self._hint = ""
        self.log_view.to_bottom()
        self.changed()

    async def _theme(self, name: str) -> None:
        if name not in THEMES:
            raise Told(self.words("themes", names=", ".join(THEMES)))
        self._palette = THEMES[name]
        self.refresh_css(animate=False)
        self.changed()


class Quiet(logging.Handler):
    """Log lines on a screen would destroy it: errors are shown as one quiet line."""

    def __init__(self, screen: Screen) -> None:
        super().__init__(logging.ERROR)
        self._screen = screen

    def emit(self, record: logging.LogRecord) -> None:
        self._screen.terminal.say(record.getMessage(), "error")


async def run_screen(source: Source, channel: str, words: Words, theme: str) -> int:
    """Chat on a screen until the person leaves; the exit code."""
    screen = Screen(source, channel, words, theme)
    root = logging.getLogger()
    handlers, root.handlers = root.handlers, [Quiet(screen)]
    try:
        await screen.run_async()
    finally:
        root.handlers = handlers
        await screen.terminal.close()
    return screen.return_code or 0
