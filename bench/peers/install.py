"""What the peers need, installed once into bench/.build: Python packages, Node packages, a compiled C server."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.load import LoadError, compiled

HERE = Path(__file__).parent
BUILD = HERE.parent / ".build"
VENV, NODE = BUILD / "peers-python", BUILD / "peers-node"
PYTHON = VENV / "bin" / "python"
MODULES = NODE / "node_modules"  # NODE_PATH of the peers in Node
C_SERVER = BUILD / "server"


class Missing(Exception):
    """A peer cannot be installed here; the message says why."""


def _run(command: Sequence[str | Path], what: str) -> None:
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=600)
    except FileNotFoundError:
        raise Missing(f"{command[0]} is missing (on Debian: apt-get install nodejs npm)") from None
    except subprocess.TimeoutExpired:
        raise Missing(f"{what}: no end after ten minutes") from None
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines() or ["it does not say why"]
        raise Missing(f"{what} failed; does the index answer? It said: {' / '.join(said[-3:])}")


def _once(home: Path, wanted: Path, install: Callable[[], None]) -> None:
    """Install unless it was done for the same list of packages."""
    stamp = home / "installed"
    if stamp.exists() and stamp.read_bytes() == wanted.read_bytes():
        return
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    install()
    stamp.write_bytes(wanted.read_bytes())


def python() -> None:
    """Raises Missing."""
    wanted = HERE / "requirements.txt"

    def install() -> None:
        _run([sys.executable, "-m", "venv", VENV], "python -m venv")
        _run([PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", wanted], "pip install")

    _once(VENV, wanted, install)


def node() -> None:
    """Raises Missing."""
    wanted = HERE / "package.json"

    def install() -> None:
        shutil.copy(wanted, NODE)
        _run(["npm", "install", "--prefix", NODE, "--no-audit", "--no-fund", "--no-update-notifier"], "npm install")

    _once(NODE, wanted, install)


def c() -> None:
    """Raises Missing."""
    try:
        compiled(C_SERVER, [HERE / "server.c"])
    except LoadError as error:
        raise Missing(str(error)) from None


def environment() -> dict[str, str]:
    """What a peer finds around it, besides PORT, REDIS_URL and REDIS_SOCKET."""
    return {**os.environ, "NODE_PATH": str(MODULES), "NODE_ENV": "production"}
