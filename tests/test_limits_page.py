"""docs/limits.md lists what others can make grow: every key is there, and what it names exists."""

import importlib
import inspect
import re

import pytest

from app import AppSettings
from chat import models
from chat.settings import AUTO
from pipeline import keys, producer
from pipeline.keys import Keys
from pipeline.producer import Append, Batch, Producer
from redis_config import Address, Settings
from tests.services import ROOT

PAGE = (ROOT / "docs" / "limits.md").read_text()
ROWS = [
    line.split(" | ")
    for line in PAGE.splitlines()
    if line.startswith("| ") and not line.startswith(("| key", "| what"))
]
NO_KEYS = {"of", "partition", "control", "pubsub", "channel_of", "is_taken", "patterns"}


def families() -> set[str]:
    """The name of each kind of key, with its parts in angle brackets."""
    built = Keys("channel:", "message:", 8)
    found = set(keys._NAMES)
    for name, function in inspect.getmembers(Keys):
        if not name.startswith("_") and callable(function) and name not in NO_KEYS:
            make = getattr(built, name)
            found.add(make(*(f"<{part}>" for part in inspect.signature(make).parameters)))
    return found


def test_every_key_is_on_the_page() -> None:
    table = PAGE[PAGE.index("## In Redis") : PAGE.index("## In a node's memory")]
    first = [row.split(" | ")[0] for row in table.splitlines() if row.startswith("| `")]
    assert {name for cell in first for name in re.findall(r"`([^`]+)`", cell)} == families()


def test_every_row_has_a_bound_and_a_test_that_exists() -> None:
    assert len(ROWS) > 50
    for row in ROWS:
        assert len(row) == 4 and all(cell.strip(" |") for cell in row), row
        tests = re.findall(r"`(tests/[a-z0-9_/]+\.py)::(test_\w+)`", row[3])
        assert tests, row
        for file, test in tests:
            assert f"def {test}(" in (ROOT / file).read_text(), test


def test_every_setting_and_constant_it_names_exists() -> None:
    named = set(re.findall(r"`([A-Z_]{4,})`", PAGE))
    assert named - {name.upper() for name in AppSettings.model_fields} == set()
    assert {name.upper() for name in AUTO} <= named
    constants = re.findall(r"`((?:chat|pipeline|bridge)\.\w+)\.([A-Z_]+)`", PAGE)
    assert len(constants) > 10
    for module, name in constants:
        assert hasattr(importlib.import_module(module), name), f"{module}.{name}"


def test_positions_that_are_remembered_are_bounded(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(producer, "SEEN_CHANNELS", 3)
    made = Producer(Address.parse(settings), settings)
    for number in range(9):
        append = Append(f"c{number}", b"1", "sara", "-", "", True, 0.0, lambda outcome: None)
        made._settle(made._lanes[0], Batch([append], b"", 0.0), b"1 1 epoch")
    assert list(made._seen) == ["c6", "c7", "c8"]


def test_folded_names_are_bounded() -> None:
    caches = [function for _, function in inspect.getmembers(models) if hasattr(function, "cache_info")]
    assert caches
    for function in caches:
        assert 0 < (function.cache_info().maxsize or 0) <= 8192, function
