"""Which CPU a process may use, and for how much of the time."""

import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

_LENGTH = 0.005  # seconds of a turn


def pin(pid: int, cpu: int) -> None:
    """Let all threads of a process run on one CPU only."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(thread.name), {cpu})


@contextmanager
def by_turns(pids: Sequence[int], turns: int) -> Iterator[None]:
    """Let each process run one of `turns` turns and stand still in the others; no two run at once.

    Each then has 1/turns of a CPU at most, however many there are, and what they share is idle enough to serve them.
    """
    ended = threading.Event()

    def rotate() -> None:
        turn = 0
        while not ended.wait(_LENGTH):
            before, turn = turn, (turn + 1) % turns
            for now, sign in ((before, signal.SIGSTOP), (turn, signal.SIGCONT)):
                if now < len(pids):
                    os.kill(pids[now], sign)

    rotation = threading.Thread(target=rotate)
    for pid in pids[1:]:
        os.kill(pid, signal.SIGSTOP)
    rotation.start()
    try:
        yield
    finally:
        ended.set()
        rotation.join()
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
