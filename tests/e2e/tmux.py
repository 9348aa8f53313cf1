"""Real terminals: a private tmux server, keys typed, the screen read."""

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.services import ROOT, clean_environment, free_port, wait_until


class Tmux:
    """A tmux server of a test's own; each `open` is one terminal of 100 × 30 running `python app.py …`."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._socket = f"peyk-{free_port()}"

    def __enter__(self) -> "Tmux":
        return self

    def __exit__(self, *exc: object) -> None:
        subprocess.run(["tmux", "-L", self._socket, "kill-server"], capture_output=True, check=False)

    def _tmux(self, *words: str, env: Mapping[str, str] | None = None) -> str:
        done = subprocess.run(
            ["tmux", "-u", "-f", "/dev/null", "-L", self._socket, *words],
            cwd=ROOT,
            env=dict(env) if env else clean_environment(),
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout

    def open(self, name: str, *words: str, begins: str = "* joined") -> "Screen":
        """Start a terminal called `name` and wait until it shows how it `begins`."""
        env = clean_environment({"DATA_DIR": str(self._data_dir), "LANG": "C.UTF-8", "TERM": "screen-256color"})
        program = shlex.join(["env", f"DATA_DIR={self._data_dir}", sys.executable, "app.py", *words])
        self._tmux("new-session", "-d", "-s", name, "-x", "100", "-y", "30", program, env=env)
        self._tmux("set-option", "-t", name, "remain-on-exit", "on")
        screen = Screen(self, name)
        screen.wait(begins)
        return screen


class Screen:
    """One terminal."""

    def __init__(self, tmux: Tmux, name: str) -> None:
        self._tmux, self._name = tmux, name

    def type(self, text: str) -> None:
        """Type a line and press Enter."""
        self._tmux._tmux("send-keys", "-t", self._name, "-l", text)
        self._tmux._tmux("send-keys", "-t", self._name, "Enter")

    def press(self, key: str) -> None:
        self._tmux._tmux("send-keys", "-t", self._name, key)

    def send(self, data: bytes) -> None:
        """What a terminal would send, byte for byte."""
        self._tmux._tmux("send-keys", "-t", self._name, "-H", *[f"{byte:02x}" for byte in data])

    def text(self) -> str:
        return self._tmux._tmux("capture-pane", "-p", "-J", "-t", self._name)

    def raw(self) -> str:
        """The screen with its escape sequences."""
        return self._tmux._tmux("capture-pane", "-p", "-e", "-J", "-t", self._name)

    def record(self, path: Path) -> None:
        """From now on append what the program writes to its terminal, byte for byte, to a file."""
        self._tmux._tmux("pipe-pane", "-t", self._name, f"exec cat >>{shlex.quote(str(path))}")

    def wait(self, text: str, patience: float = 20) -> None:
        """Until `text` is on the screen."""
        wait_until(lambda: text in self.text(), patience, f"{text!r} on the screen of {self._name}")

    def pid(self) -> int:
        return int(self._tmux._tmux("display-message", "-p", "-t", self._name, "#{pane_pid}"))

    def ended(self) -> bool:
        return self._tmux._tmux("display-message", "-p", "-t", self._name, "#{pane_dead}").strip() == "1"

    def code(self) -> int:
        """The exit code of a terminal that ends."""
        words = ("display-message", "-p", "-t", self._name, "#{pane_dead_status}")
        wait_until(self.ended, what=f"{self._name} ends")
        # tmux 3.3 may miss the signal that its child has ended, and then never tells its status.
        os.kill(int(self._tmux._tmux("display-message", "-p", "#{pid}")), signal.SIGCHLD)
        wait_until(lambda: self._tmux._tmux(*words).strip(), what=f"{self._name}'s status is told")
        return int(self._tmux._tmux(*words))

    def resize(self, columns: int, rows: int) -> None:
        self._tmux._tmux("resize-window", "-t", self._name, "-x", str(columns), "-y", str(rows))
