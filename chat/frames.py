"""What comes on a socket: frames, and the messages in them (RFC 6455, section 5)."""

import logging
from abc import ABC, abstractmethod
from typing import Any

from websockets.frames import (  # type: ignore[attr-defined]  # apply_mask: that of C, if it is there
    CTRL_OPCODES,
    Opcode,
    apply_mask,
)
from websockets.protocol import SERVER, Protocol

_TEXT = 0x81  # how a frame begins that is a whole text message
_MASKED = 0x80
FRAMES = 100  # of a client that are taken before others have their turn,
BYTES = 16 * 1024  # or bytes of them
_quiet = logging.getLogger(__name__)  # of websockets; it looks once in a connection whether to say all
_quiet.setLevel(logging.WARNING)


class FrameReader(ABC):
    """Reads text messages that are all here itself, as nearly all are; what else comes is for websockets' parser.

    That makes objects of a frame and takes 5 µs for it, this takes 1.
    """

    __slots__ = "_fragments", "_head", "_limit", "_made_parser", "_missing", "_text"

    def __init__(self, limit: int) -> None:
        self._limit = limit  # bytes of a message
        self._head = b""  # the beginning of a frame's head
        self._missing = 0  # bytes of the frame the parser is reading
        self._made_parser: Protocol | None = None
        self._fragments: bytearray | None = None  # of a message whose last frame is not here
        self._text = False  # whether that is a text

    # -- what its heir does

    @abstractmethod
    def on_message(self, data: bytes, text: bool) -> None:
        """A message; whether it is UTF-8 is not known."""

    @abstractmethod
    def on_other(self, opcode: Opcode) -> None:
        """A frame that is no message: CONT, PING (the parser has made the answer), PONG, CLOSE."""

    @abstractmethod
    def on_error(self, error: Exception) -> None:
        """The client broke the protocol; the parser has made a close frame that says how."""

    @property
    @abstractmethod
    def ended(self) -> bool:
        """Whether what comes does not count any more."""

    # -- what it does

    def take(self, data: bytes) -> bytes:
        """Read what came, however it is cut: what is no whole frame yet is kept. What is left for another turn."""
        if self._head:
            data, self._head = self._head + data, b""
        at, end = min(self._missing, len(data)), len(data)
        if at:
            self._missing -= at
            self._parse(data[:at])
        most = min(end, BYTES)
        for _ in range(FRAMES):
            if at >= most:
                break
            if self.ended:
                return b""
            start, stop = _extent(data, at)
            if not stop:
                self._head = data[at:]
                return b""
            whole = data[at] == _TEXT and data[at + 1] & _MASKED and stop <= end and stop - start <= self._limit
            if whole and self._fragments is None:
                self.on_message(apply_mask(data[start:stop], data[start - 4 : start]), True)
            else:
                self._missing = max(stop - end, 0)
                self._parse(data[at:stop])
            at = stop
        return data[at:]

    @property
    def parser(self) -> Protocol:
        """Made when it is needed: for most connections that is at their end, and it takes 2 KiB."""
        if self._made_parser is None:
            self._made_parser = Protocol(SERVER, max_size=self._limit, logger=_quiet)
        return self._made_parser

    def forget(self) -> None:
        """The end: the parser is in a circle with the rest."""
        if self._made_parser is not None:
            self._made_parser.parser.close()

    def _parse(self, data: bytes) -> None:
        parser = self.parser
        parser.receive_data(data)
        if parser.parser_exc is not None:
            self.on_error(parser.parser_exc)
            return
        for frame in parser.events_received():
            self._on_frame(frame)

    def _on_frame(self, frame: Any) -> None:
        opcode = frame.opcode
        if opcode in CTRL_OPCODES:
            self.on_other(opcode)
            return
        if opcode is Opcode.CONT and self._fragments is not None:
            # Joined as they come: a list of a million bytes would weigh forty times as much.
            self._fragments += frame.data
            self.on_other(opcode)
        else:
            self._text, self._fragments = opcode is Opcode.TEXT, bytearray(frame.data)
        if frame.fin:
            data, self._fragments = bytes(self._fragments), None
            self.on_message(data, self._text)


def _extent(data: bytes, at: int) -> tuple[int, int]:
    """Where a frame's payload begins and ends; (0, 0): what says so is not all here."""
    left = len(data) - at
    length = data[at + 1] & 0x7F if left > 1 else 0
    if left < (2, 4, 10)[max(0, length - 125)]:
        return 0, 0
    start = at + (6 if data[at + 1] & _MASKED else 2)
    if length == 126:
        start, length = start + 2, int.from_bytes(data[at + 2 : at + 4])
    elif length == 127:
        start, length = start + 8, int.from_bytes(data[at + 2 : at + 10])
    return start, start + length
