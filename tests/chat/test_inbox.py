"""Lines of commands that wait: taken in order, one after the other, and never more than were sent."""

import re
import tracemalloc
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chat.inbox import TURN, Inbox, lines_with

MANY = 5000  # lines; more than Python's calls may be deep


class Scene:
    """A client that may be busy, and the inbox of its lines."""

    def __init__(self) -> None:
        self.busy = self.paused = False
        self.taken: list[bytes] = []
        self.next: list[Callable[[], None]] = []
        self.inbox = Inbox(self, self.take, lambda: self.busy, self.next.append)

    def take(self, line: bytes) -> None:
        self.taken.append(line)

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def turns(self) -> None:
        """What the loop does later."""
        while self.next:
            before = len(self.taken)
            self.next.pop(0)()
            assert len(self.taken) <= before + TURN


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_lines_that_are_answered_at_once_are_taken_one_after_the_other(scene: Scene) -> None:
    class Prompt(Scene):
        def take(self, line: bytes) -> None:
            super().take(line)
            self.inbox.resume()

    scene, lines = Prompt(), [b"%d" % number for number in range(MANY)]
    scene.busy = True
    scene.inbox.receive(b"\n".join(lines))
    assert scene.inbox.waits and scene.paused and not scene.taken
    scene.busy = False
    scene.inbox.resume()
    scene.turns()
    assert scene.taken == lines and not scene.inbox.waits and not scene.paused


@given(
    frames=st.lists(
        st.lists(st.sampled_from([b"", b"a", b"bc", b"{}"]), min_size=1, max_size=6)
        | st.lists(st.sampled_from([b"", b"{}"]), min_size=2, max_size=6).map(lambda lines: lines * (TURN // 3))
    ),
    turns=st.lists(st.integers(0, 5)),
)
def test_every_line_is_taken_in_order_however_often_the_client_is_busy(
    frames: list[list[bytes]], turns: list[int]
) -> None:
    """Whoever is busy after so many lines goes on behind the next frame."""

    class Tired(Scene):
        left = 0

        def take(self, line: bytes) -> None:
            super().take(line)
            self.rest(self.left - 1)

        def rest(self, left: int) -> None:
            self.left, self.busy = left, left == 0

    scene = Tired()
    for number, lines in enumerate(frames):
        scene.inbox.receive(b"\n".join(lines))
        assert scene.paused == scene.inbox.waits
        scene.rest(turns[number] if number < len(turns) else 1)
        scene.inbox.resume()
        scene.turns()
    scene.rest(-1)
    scene.inbox.resume()
    scene.turns()
    assert [line for line in scene.taken if line] == [line for lines in frames for line in lines if line]
    assert not scene.inbox.waits and not scene.paused


@pytest.mark.parametrize("line", [b"", b"{}"])
def test_a_frame_of_many_lines_takes_a_turn_after_the_other(scene: Scene, line: bytes) -> None:
    """A neighbour waits for a turn's lines, never for those of a frame."""
    scene.inbox.receive(b"\n".join([line] * (3 * TURN)) + b"\n")
    assert scene.taken == [line] * TURN and scene.paused and len(scene.next) == 1
    scene.inbox.resume()  # an answer came: the turn is over all the same
    scene.inbox.receive(b"last")
    assert len(scene.taken) == TURN and len(scene.next) == 1
    scene.turns()
    assert scene.taken[: 3 * TURN] == [line] * (3 * TURN) and scene.taken[-1] == b"last"
    assert not scene.paused and not scene.inbox.waits


@pytest.mark.parametrize("number", [1, TURN - 1, TURN, TURN + 1])
@pytest.mark.parametrize("end", [b"", b"\n"])
def test_lines_end_with_a_newline_or_the_frame(scene: Scene, number: int, end: bytes) -> None:
    lines = [b"%d" % each for each in range(number)]
    scene.inbox.receive(b"\n".join(lines) + end)
    scene.turns()
    assert scene.taken == lines and not scene.paused


def test_an_empty_frame_is_a_line(scene: Scene) -> None:
    scene.inbox.receive(b"")
    assert scene.taken == [b""]
    scene.busy = True
    scene.inbox.receive(b"")
    assert scene.inbox.waits and scene.paused
    scene.busy = False
    scene.inbox.resume()
    assert scene.taken == [b"", b""] and not scene.paused


def test_what_waits_weighs_what_was_sent(scene: Scene) -> None:
    data = b"{}\n" * 349_000
    scene.busy = True
    tracemalloc.start()
    try:
        scene.inbox.receive(data)
        size, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert scene.inbox.waits and size < 1.1 * len(data) and peak < 2.2 * len(data)


def test_nothing_is_taken_once_it_is_closed(scene: Scene) -> None:
    class Ended(Scene):
        def take(self, line: bytes) -> None:
            super().take(line)
            self.inbox.close()

    for scene, wait in ((Ended(), False), (Ended(), True)):
        scene.busy = wait
        scene.inbox.receive(b"a\nb")
        scene.busy = False
        scene.inbox.resume()
        assert scene.taken == [b"a"] and not scene.inbox.waits


def test_what_waited_is_no_more_when_it_is_closed(scene: Scene) -> None:
    data = b"\n" * 1_000_000
    scene.busy = True
    scene.inbox.receive(data)
    tracemalloc.start()
    try:
        waited = scene.inbox.close()
        assert lines_with(re.compile(b"x"), waited, 1) == []
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert waited == data and peak < 2.2 * len(data)


@given(st.lists(st.text("abx\r ", max_size=5)), st.integers(0, 4))
def test_the_lines_that_hold_something_are_found(lines: list[str], most: int) -> None:
    data = "\n".join(lines).encode()
    expected = [line for line in data.split(b"\n") if b"x" in line or b"ab" in line][:most]
    assert lines_with(re.compile(b"x|ab"), data, most) == expected
