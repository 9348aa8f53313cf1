"""The audit of `make check`: a finding fails, an index that does not answer is told quickly."""

import json
import shlex
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import audit
from tests.services import ROOT

FOUND = {"name": "starlette", "version": "0.1", "vulns": [{"id": "PYSEC-1", "fix_versions": ["0.2"], "aliases": []}]}
CLEAN = {"name": "redis", "version": "8.1.0", "vulns": []}
UNKNOWN = {"name": "mine", "skip_reason": "Dependency not found on PyPI"}
PIP_AUDIT = str(Path(sys.executable).with_name("pip-audit"))


def stub(tmp_path: Path, packages: list[dict[str, Any]] | None, stderr: str = "", code: int = 0) -> str:
    """A program that says what pip-audit would."""
    path = tmp_path / "pip-audit"
    said = "" if packages is None else json.dumps({"dependencies": packages, "fixes": []})
    path.write_text(f"#!/bin/sh\nprintf %s {shlex.quote(said)}\nprintf %s {shlex.quote(stderr)} >&2\nexit {code}\n")
    path.chmod(0o700)
    return str(path)


@pytest.mark.parametrize(
    ("packages", "stderr", "exit_code", "says"),
    [
        ([CLEAN, FOUND], "Found 1 known vulnerability", 1, "starlette 0.1: PYSEC-1, fixed in 0.2"),
        ([CLEAN, UNKNOWN], "", 0, "no known vulnerability in 1 of 2 packages"),
        ([UNKNOWN], "", 0, "knows none of the 1 packages; not audited"),
        (None, "requests.exceptions.ConnectionError: pypi.org", 0, "does not answer; not audited"),
        (None, "pip-audit: error: unrecognized arguments", 1, "unrecognized arguments"),
        (None, "", 1, ""),
    ],
    ids=["a finding", "clean", "unknown", "no answer", "broken", "silent"],
)
def test_what_each_outcome_means(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    packages: list[dict[str, Any]] | None,
    stderr: str,
    exit_code: int,
    says: str,
) -> None:
    command = stub(tmp_path, packages, stderr, int(packages is None or FOUND in packages))
    assert audit.audit(command) == exit_code
    assert says in "".join(capsys.readouterr())


@pytest.mark.parametrize("silent", [True, False], ids=["an index that is silent", "no index"])
def test_no_index_is_found_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, silent: bool
) -> None:
    """The real pip-audit, whose way out is a socket that never answers, or one that is closed."""
    with socket.socket() as hole:
        hole.bind(("127.0.0.1", 0))
        if silent:
            hole.listen()
        for name in ("HTTPS_PROXY", "https_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{hole.getsockname()[1]}")
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HOME", str(tmp_path))  # and it remembers no answer
        assert audit.audit(PIP_AUDIT) == 0
    assert "does not answer; not audited" in capsys.readouterr().out


def test_make_check_asks() -> None:
    recipe = (ROOT / "Makefile").read_text().partition("\ncheck:")[2].partition("\n\n")[0]
    assert "-m tests.audit" in recipe
