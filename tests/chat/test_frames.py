"""However the bytes of a connection are cut, they say the same, and the same as to websockets' parser alone."""

import logging
from itertools import chain
from typing import Any, NamedTuple

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode
from websockets.protocol import SERVER, Protocol

from chat.frames import BYTES, FRAMES, FrameReader
from chat.local import frame as frame_of
from tests.chat.wire import BINARY, CLOSE, CONT, PING, PONG, TEXT, frame

LIMIT = 70_000
NO_MASK = b"\0\0\0\0"
Seen = list[tuple[object, ...]]


class Reader(FrameReader):
    """Writes down what it is told."""

    def __init__(self) -> None:
        super().__init__(LIMIT)
        self.seen: Seen = []

    def on_message(self, data: bytes, text: bool) -> None:
        self.seen.append((text, data))

    def on_other(self, opcode: Opcode) -> None:
        if opcode is not Opcode.CONT:
            self.seen.append((opcode, b"".join(self.parser.data_to_send())))

    def on_error(self, error: Exception) -> None:
        self.seen.append((type(error), b"".join(self.parser.data_to_send())))

    @property
    def ended(self) -> bool:
        return bool(self.seen) and (self.seen[-1][0] is Opcode.CLOSE or isinstance(self.seen[-1][0], type))


def by_websockets(frames: list[bytes]) -> Seen:
    """What the parser says of it, given whole frames: messages joined, answers to control frames, the error."""
    parser, seen, parts, text = Protocol(SERVER, max_size=LIMIT, logger=logging.getLogger("quiet")), Seen(), b"", True
    for data in frames:
        parser.receive_data(data)
        if parser.parser_exc is not None:
            return [*seen, (type(parser.parser_exc), b"".join(parser.data_to_send()))]
        got: Any
        for got in parser.events_received():
            if got.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
                text = text if got.opcode is Opcode.CONT else got.opcode is Opcode.TEXT
                parts += got.data
                if got.fin:
                    seen.append((text, parts))
                    parts = b""
            else:
                seen.append((got.opcode, b"".join(parser.data_to_send())))
                if got.opcode is Opcode.CLOSE:
                    return seen
    return seen


class Sent(NamedTuple):
    """A frame, and what may be wrong with it."""

    size: int
    opcode: int = TEXT
    fin: bool = True
    rsv: int = 0
    masked: bool = True

    @property
    def bytes(self) -> bytes:
        text = b"\x03\xe8bye" if self.opcode == CLOSE else frame(b"", mask=NO_MASK)  # whoever loses count reads that
        payload = (text * (self.size // len(text) + 1))[: self.size]
        return frame(payload, self.opcode, self.fin, self.rsv, NO_MASK if self.masked else None)


def some(*fields: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Sent]]:
    return st.tuples(*fields).map(lambda drawn: [Sent(*drawn)])


sizes = st.sampled_from([0, 1, 2, 60, 125, 126, 127, 1000, 65_535, 65_536, LIMIT, LIMIT + 1])
small = st.integers(0, 130)
opcodes = st.sampled_from([CONT, TEXT, BINARY, CLOSE, PING, PONG, 3, 11])
messages = some(sizes, st.sampled_from([TEXT, TEXT, BINARY]))
fragments = st.tuples(st.sampled_from([TEXT, BINARY]), sizes, sizes).map(
    lambda drawn: [Sent(drawn[1], drawn[0], fin=False), Sent(5, PING), Sent(drawn[2], CONT)]
)
controls = some(small, st.sampled_from([PING, PONG, CLOSE]))
anything = some(small, opcodes, st.booleans(), st.sampled_from([0, 0, 1]), st.booleans())
streams = st.lists(messages | messages | fragments | controls | anything, max_size=8)


@given(streams.map(lambda lists: list(chain(*lists))), st.lists(st.integers(0, 200_000), max_size=8))
@example([Sent(5)] * 3, list(range(33)))  # every octet alone
@example([Sent(126), Sent(65_536)], [1, 2, 3, 134, 135, 136, 137, 143, 144, 147, 148, 149])
@example([Sent(LIMIT), Sent(LIMIT + 1)], [])
@example([Sent(3), Sent(4, BINARY), Sent(5, masked=False)], [])
@example([Sent(3, fin=False), Sent(4)], [])  # no end before the next begins
@example([Sent(5, rsv=4)], [])
def test_frames_cut_anywhere_are_read_as_by_websockets(sent: list[Sent], cuts: list[int]) -> None:
    reader, frames = Reader(), [one.bytes for one in sent]
    data = b"".join(frames)
    ends = [*sorted({cut % (len(data) + 1) for cut in cuts}), len(data)]
    for start, stop in zip([0, *ends], ends, strict=False):
        rest = data[start:stop]
        while rest and not reader.ended:
            rest = reader.take(rest)
    assert reader.seen == by_websockets(frames)


@pytest.mark.parametrize(("size", "count"), [(0, FRAMES), (10, FRAMES), (1000, -(-BYTES // 1008)), (50_000, 1)])
def test_a_turn_takes_so_much_and_leaves_whole_frames(size: int, count: int) -> None:
    reader = Reader()
    rest = frame(b"x" * size) * 1000
    for turn in range(1, 4):
        rest = reader.take(rest)
        assert len(reader.seen) == turn * count
    assert rest == frame(b"x" * size) * (1000 - 3 * count)


def test_a_connection_that_sends_whole_texts_alone_needs_no_parser() -> None:
    reader = Reader()
    reader.take(frame(b"one") + frame(b"two" * 100)[:7])
    reader.take(frame(b"two" * 100)[7:])
    assert reader.seen == [(True, b"one"), (True, b"two" * 100)]


def test_a_frame_of_ours_has_the_shortest_form() -> None:
    """Every length around those where the form changes."""
    for size in (*range(200), *range(65_500, 65_600)):
        body = b"x" * size
        assert frame_of(body) == Frame(Opcode.TEXT, body).serialize(mask=False), size
