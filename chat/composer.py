"""Where one writes: lines, what was written before, and completion."""

from collections.abc import Callable

from textual import events
from textual.message import Message
from textual.widgets import TextArea

from pipeline.content import cleaned

ROWS = 6  # it grows with what is written, so far
JOINERS = "\u200c\u200d"
REMEMBERED = 200  # lines for the up arrow

Complete = Callable[[str], tuple[int, list[str]]]


class Composer(TextArea):
    """Enter sends; Ctrl+J begins a new line, as do Shift+Enter and Alt+Enter where the terminal tells them apart."""

    class Entered(Message):
        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = text

    class Offered(Message):
        """What Tab could complete to."""

        def __init__(self, choices: list[str]) -> None:
            super().__init__()
            self.choices = choices

    def __init__(self, complete: Complete, placeholder: str) -> None:
        super().__init__(id="composer", compact=True, highlight_cursor_line=False, placeholder=placeholder)
        self._complete = complete
        self._past: list[str] = []
        self._at = 0  # in what was written before; its length: what is being written
        self._draft = ""
        self._choices: list[str] = []
        self._choice = 0
        self._completing = (0, 0)  # where the completed word begins and ends in the text

    async def _on_key(self, event: events.Key) -> None:
        actions: dict[str, Callable[[], bool]] = {
            "enter": self._enter,
            "alt+enter": self._new_line,
            "shift+enter": self._new_line,
            "ctrl+j": self._new_line,
            "tab": lambda: self._tab(1),
            "shift+tab": lambda: self._tab(-1),
            "up": lambda: self._remember(-1),
            "down": lambda: self._remember(1),
        }
        if event.key not in ("tab", "shift+tab"):
            self._choices = []
        if event.character and event.character in JOINERS:  # not printable, but Persian is written with them
            actions[event.key] = lambda: self._type(event.character)
        if event.key in actions and actions[event.key]():
            event.prevent_default()
            event.stop()
            return
        await super()._on_key(event)

    async def _on_paste(self, event: events.Paste) -> None:
        event.text = cleaned(event.text)
        event.prevent_default()  # else Textual calls the inherited one once more, and the text is there twice
        await super()._on_paste(event)

    def put(self, text: str) -> None:
        """Show a text, the cursor behind it."""
        self.text = text
        self.move_cursor(self.document.end)

    def _type(self, text: str | None) -> bool:
        self.insert(text or "")
        return True

    def _enter(self) -> bool:
        text = self.text.strip()
        if text:
            self._past = [*self._past, text][-REMEMBERED:]
            self.put("")
            self.post_message(self.Entered(text))
        self._at = len(self._past)
        return True

    def _new_line(self) -> bool:
        self.insert("\n")
        return True

    def _remember(self, step: int) -> bool:
        """What was written before, at the first row upwards and at the last downwards."""
        first, last = self.cursor_at_first_line, self.cursor_at_last_line
        to = self._at + step
        if not (first if step < 0 else last) or not 0 <= to <= len(self._past):
            return False
        if self._at == len(self._past):
            self._draft = self.text
        self._at = to
        self.put(self._past[to] if to < len(self._past) else self._draft)
        return True

    def _tab(self, step: int) -> bool:
        """Complete the word before the cursor; again: the next that would fit."""
        if not self._choices:
            before = self.get_text_range((0, 0), self.cursor_location)
            start, self._choices = self._complete(before)
            self._choice, self._completing = -1 if step > 0 else 0, (start, len(before))
        if not self._choices:
            return True
        self._choice = (self._choice + step) % len(self._choices)
        start, end = self._completing
        choice, text = self._choices[self._choice], self.text
        self.text = text[:start] + choice + text[end:]
        self._completing = start, start + len(choice)
        lines = self.text[: start + len(choice)].split("\n")
        self.move_cursor((len(lines) - 1, len(lines[-1])))
        self.post_message(self.Offered(self._choices if len(self._choices) > 1 else []))
        if len(self._choices) == 1:
            self._choices = []
        return True
