"""Two checkouts of Peyk under the same load, interleaved: what a change costs, or gains.

A rented machine is noisy, and its noise comes in minutes: so each round runs a scenario against both, in turn first,
and what is shown is the median of the rounds' ratios. The CPU time a message is what noise touches least.
"""

import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.load import LoadError, Report
from bench.numbers import numbers
from bench.rounds import PEYK, Contender
from tests.services import PeykServer

SCENARIOS = "S1M", "S2", "S3", "ingest", "posts"  # what is compared if nothing else is asked for
ROUNDS = 10
NUMBERS = (
    "deliveries_per_s",
    "publishes_per_s",
    "p50_ms",
    "p99_ms",
    "server_us",
    "server_us_per_delivery",
    "redis_us",
    "kib_per_connection",
)
CPU = "server_us", "redis_us"
GROWTH = 1.03  # how much a message's CPU time may grow


class OtherServer(PeykServer):
    """A server of another checkout, on its own packages if it has them."""

    def __init__(self, root: Path, redis_url: str, env: Mapping[str, str]) -> None:
        super().__init__({"REDIS_URL": redis_url, **env})
        self.root = root
        own = root / ".venv" / "bin" / "python"
        self._python = str(own) if own.exists() else sys.executable

    def command(self) -> Sequence[str]:
        return [self._python, *super().command()[1:]]


def other(checkout: Path) -> Contender:
    """The server of another checkout. Raises LoadError if there is none."""
    root = checkout.resolve()
    if not (root / "app.py").is_file():
        raise LoadError(f"{checkout} is no checkout of Peyk: it has no app.py (git worktree add makes one)")
    return Contender(str(checkout), PEYK.dialect, lambda redis_url, env: OtherServer(root, redis_url, env))


def ratios(ours: Sequence[Report], theirs: Sequence[Report]) -> dict[str, list[float]]:
    """By number, ours divided by theirs in each round; of the numbers that every round of both has."""
    pairs = [(numbers(a), numbers(b)) for a, b in zip(ours, theirs, strict=True)]
    names = [name for name in NUMBERS if all(a.get(name) and b.get(name) for a, b in pairs)]
    return {name: [a[name] / b[name] for a, b in pairs] for name in names}


def rows(found: Mapping[str, Mapping[str, Sequence[float]]]) -> list[list[str]]:
    """A line for each scenario and number: the median of the ratios, and how far they lie apart."""
    lines = [["", "this / beside", "lowest", "highest"]]
    for scenario, by_number in found.items():
        for name, values in by_number.items():
            shown = (statistics.median(values), min(values), max(values))
            lines.append([f"{scenario} {name}", *(f"{value:.3f}" for value in shown)])
    return lines


def dearer(found: Mapping[str, Mapping[str, Sequence[float]]]) -> list[str]:
    """Which scenarios' messages cost more CPU time than they may."""
    medians = {f"{s} {name}": statistics.median(found[s][name]) for s in found for name in CPU if name in found[s]}
    return [f"{what} grew to {value:.3f}, at most {GROWTH}" for what, value in medians.items() if value > GROWTH]
