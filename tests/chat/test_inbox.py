"""Lines of commands that wait: taken in order, one after the other, and never more than were sent."""

import pytest

from chat.inbox import Inbox

MANY = 5000  # lines; more than Python's calls may be deep


class Scene:
    """A client that may be busy, and the inbox of its lines."""

    def __init__(self) -> None:
        self.busy = self.paused = False
        self.taken: list[bytes] = []
        self.inbox = Inbox(self, self.take, lambda: self.busy)

    def take(self, line: bytes) -> None:
        self.taken.append(line)

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False


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
    assert scene.taken == lines and not scene.inbox.waits and not scene.paused
