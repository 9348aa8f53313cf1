"""What the command line takes for granted when nothing is said."""

import os

import pytest

from app import parser


def test_a_user_whose_number_has_no_name_is_a_guest(monkeypatch: pytest.MonkeyPatch) -> None:
    """As containers have it; no command would start, not even the server."""
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 54_321)
    assert parser().parse_args([]).user == "guest"
    monkeypatch.setenv("USER", "sara")
    assert parser().parse_args([]).user == "sara"
