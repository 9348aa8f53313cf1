"""Each flood for a moment: the server does not grow without bound, and its ordinary clients lose nothing.

How long they wait is for `make hostile`, which has the machine for itself.
"""

from collections.abc import Iterator

import pytest

from bench import floods, hostile, load
from tests.services import PeykServer


@pytest.fixture(scope="module")
def public() -> Iterator[PeykServer]:
    load.build()
    with hostile.public_server() as server:
        yield server


@pytest.mark.parametrize("name", floods.FLOODS)
def test_a_flood_is_held_off(public: PeykServer, name: str) -> None:
    growth, under, tally = hostile.flooded(public, name, 3, 0.5)
    assert tally.opened >= 3 and tally.bytes_sent > 0
    assert growth < hostile.GROWTH
    assert under["good"], under


def found(growth: float = 1, p99: float = 10, good: bool = True) -> hostile.Found:
    calm, under = ({"latency_ms": {"p50": 1.0, "p99": value}, "good": good} for value in (5.0, p99))
    return hostile.Found("pings", 20, growth, calm, under, floods.Tally())


def test_what_was_not_held_is_said() -> None:
    assert found().broken == []
    assert found(growth=48).broken == ["grew by 48 MiB, at most 48"]
    assert found(p99=26).broken == ["p99 26 ms, 5 without"]
    assert found(good=False).broken == ["messages were lost, doubled, reordered or refused"]
    assert len(found().row()) == len(hostile.HEAD)
