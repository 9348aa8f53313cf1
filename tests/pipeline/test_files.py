"""What Peyk writes nobody else may read, from the first moment; and what was open before is closed or refused."""

import os
import stat
import sys
from pathlib import Path

import pytest

from pipeline.files import private_directory, private_file
from redis_config import ConfigError
from tests.services import PeykServer, end_embedded, run_app

OPEN = 0o077


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def open_to_others(directory: Path) -> list[str]:
    files = [directory, *directory.rglob("*")]
    return [str(path) for path in files if mode(path) & OPEN and path.name != "output.log"]  # the test's own log


def test_an_open_directory_of_ours_is_closed_with_all_in_it(tmp_path: Path) -> None:
    directory = tmp_path / "data"
    (directory / "appendonlydir").mkdir(parents=True)
    for name in ("peyk.sqlite", "peyk.sqlite-wal", "valkey.log", "appendonlydir/appendonly.aof.1.incr.aof"):
        (directory / name).write_text("secret")
        (directory / name).chmod(0o644)
    directory.chmod(0o755)
    private_directory(directory)
    assert open_to_others(directory) == []
    assert (directory / "peyk.sqlite").read_text() == "secret"


def test_an_open_file_in_a_closed_directory_is_closed_as_well(tmp_path: Path) -> None:
    file = tmp_path / "peyk.sqlite"
    file.write_text("")
    file.chmod(0o664)
    tmp_path.chmod(0o700)
    private_directory(tmp_path)
    assert mode(file) == 0o600


def test_a_directory_that_is_not_ours_alone_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "somebody.txt").write_text("")
    (tmp_path / "somebody.txt").chmod(0o644)
    tmp_path.chmod(0o755)
    with pytest.raises(ConfigError, match=rf"DATA_DIR .*mode 755.*somebody\.txt.*chmod 700 {tmp_path}"):
        private_directory(tmp_path)
    assert (mode(tmp_path), mode(tmp_path / "somebody.txt")) == (0o755, 0o644)
    tmp_path.chmod(0o700)
    private_directory(tmp_path)
    assert mode(tmp_path / "somebody.txt") == 0o644  # nobody gets there


def test_what_a_link_leads_to_is_left_alone(tmp_path: Path) -> None:
    target = tmp_path / "elsewhere"
    target.write_text("")
    target.chmod(0o644)
    directory = tmp_path / "data"
    directory.mkdir(mode=0o700)
    (directory / "valkey.log").symlink_to(target)
    private_directory(directory)
    assert mode(target) == 0o644


def test_a_new_file_is_closed_whatever_the_umask_is(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        private_file(tmp_path / "new")
        private_directory(tmp_path / "data")
    finally:
        os.umask(before)
    assert (mode(tmp_path / "new"), mode(tmp_path / "data")) == (0o600, 0o700)


def test_nothing_that_a_server_writes_is_open_to_others() -> None:
    """In a directory that was made with mode 755 before, under the laxest umask."""

    class Lax(PeykServer):
        def command(self) -> list[str]:
            return ["sh", "-c", f"umask 0; exec {sys.executable} app.py serve --port {self.port}"]

    server = Lax()
    data = server.dir / "data"
    data.mkdir()
    data.chmod(0o755)
    server.env["DATA_DIR"] = str(data)
    with server:
        names = {path.name for path in data.rglob("*")}
        assert {"valkey.sock", "peyk.sqlite", "lock", "start.lock", "valkey.log", "appendonlydir"} <= names
        assert open_to_others(data) == []


def test_the_line_that_refuses_a_directory(tmp_path: Path) -> None:
    (tmp_path / "somebody.txt").write_text("")
    tmp_path.chmod(0o755)
    (tmp_path / "appendonlydir").mkdir()  # so that no Redis of this machine is taken instead
    try:
        done = run_app("status", DATA_DIR=str(tmp_path), REDIS_PORT="")
    finally:
        end_embedded(tmp_path)
    assert done.returncode == 1 and done.stderr.startswith("peyk: DATA_DIR") and done.stderr.count("\n") == 1
