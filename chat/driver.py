"""What a terminal sends, made fit for Textual: bytes that are no UTF-8, and pastes that hold escape sequences.

Textual 8.2 ends with a traceback at the first, and takes the second for keys, which it types ahead of the paste.
"""

import os
from codecs import getincrementaldecoder
from collections.abc import Iterable
from selectors import EVENT_READ, SelectSelector

from textual._xterm_parser import BRACKETED_PASTE_END, BRACKETED_PASTE_START, XTermParser
from textual.drivers.linux_driver import LinuxDriver
from textual.message import Message

_READ = 4096  # bytes at once
_WAIT = 0.1  # seconds between looks whether the program ends


class Pastes:
    """Takes the escape characters out of what is pasted, between the marks that a terminal puts around it."""

    def __init__(self) -> None:
        self._pasting = False
        self._tail = ""  # the end of what came, as a mark may come in two parts

    def feed(self, text: str) -> str:
        """What came, as far as it may go on to the parser."""
        passed = ""
        while text:
            part, text = self._inside(text) if self._pasting else self._outside(text)
            passed += part
        return passed

    def _outside(self, text: str) -> tuple[str, str]:
        """Everything goes on at once: a lone escape is a key, and waits for nothing. Returns (passed, rest)."""
        seen = self._tail + text
        _, mark, rest = seen.partition(BRACKETED_PASTE_START)
        self._pasting = bool(mark)
        self._tail = "" if mark else seen[1 - len(BRACKETED_PASTE_START) :]
        return text[: len(text) - len(rest)], rest

    def _inside(self, text: str) -> tuple[str, str]:
        """What may be the beginning of the closing mark is held back."""
        pasted, mark, rest = (self._tail + text).partition(BRACKETED_PASTE_END)
        self._pasting = not mark
        begun = [BRACKETED_PASTE_END[:n] for n in range(len(BRACKETED_PASTE_END) - 1, 0, -1)]
        self._tail = "" if mark else next(filter(pasted.endswith, begun), "")
        return pasted.removesuffix(self._tail).replace("\x1b", "") + mark, rest


class TolerantDriver(LinuxDriver):
    """Textual's driver, with a reader of its own."""

    def run_input_thread(self) -> None:
        """Read what is typed until the program ends. What is no UTF-8 becomes U+FFFD."""
        decode = getincrementaldecoder("utf-8")("replace").decode
        pastes, parser = Pastes(), XTermParser()
        with SelectSelector() as selector:
            selector.register(self.fileno, EVENT_READ)
            while not self.exit_event.is_set():
                if selector.select(_WAIT):
                    data = os.read(self.fileno, _READ)
                    if not data:  # the terminal is gone
                        return
                    if text := pastes.feed(decode(data)):  # to the parser, nothing is the end
                        self._process(parser.feed(text))
                self._process(parser.tick())

    def _process(self, messages: Iterable[Message]) -> None:
        for message in messages:
            self.process_message(message)
