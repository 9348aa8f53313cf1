"""A terminal multiplexer of a test's own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.tmux import Tmux


@pytest.fixture
def tmux(data_dir: Path) -> Iterator[Tmux]:
    with Tmux(data_dir) as tmux:
        yield tmux
