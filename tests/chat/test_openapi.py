"""Schemathesis reads /openapi.json and tries to break what it says: no 500, no answer the document does not allow."""

from pathlib import Path

from tests.faults.openapi import broken


def test_the_server_does_what_its_description_says(tmp_path: Path) -> None:
    """In short; `make faults` goes on for two minutes, each time with another seed."""
    assert not broken(15, 1, tmp_path)
