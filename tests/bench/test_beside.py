"""Two checkouts side by side: both are run, and what is said of them."""

from pathlib import Path
from typing import Any

import pytest

from bench import beside
from bench.load import LoadError
from bench.rounds import PEYK, run_rounds
from bench.scenarios import Scenario
from tests.services import ROOT


def report(publishes: float, server: float, redis: float) -> dict[str, Any]:
    """Of one run of a second with a thousand messages; CPU times in ms."""
    processes = [{"cpu_s": server / 1000}, {"cpu_s": redis / 1000}]
    rates = {"publishes_per_s": publishes, "published_in_window": 1000}
    return {"mode": "ingest", "seconds": 1, "generator_cpu_s": 0, "processes": processes, **rates}


def test_a_number_is_compared_round_by_round() -> None:
    """The second round met a machine of half the speed, and both met it."""
    ours = [report(100, 10, 5), report(50, 20, 10)]
    theirs = [report(80, 10, 10), report(40, 20, 20)]
    found = beside.ratios(ours, theirs)
    assert found == {"publishes_per_s": [1.25, 1.25], "server_us": [1, 1], "redis_us": [0.5, 0.5]}
    assert beside.rows({"S2": found})[1] == ["S2 publishes_per_s", "1.250", "1.250", "1.250"]


def test_a_message_that_got_dearer_is_named() -> None:
    slower = beside.ratios([report(100, 10.4, 5)] * 3, [report(100, 10, 5)] * 3)
    assert beside.dearer({"S2": slower}) == ["S2 server_us grew to 1.040, at most 1.03"]
    noisy = beside.ratios([report(100, cpu, 5) for cpu in (10, 30, 10)], [report(100, 10, 5)] * 3)
    assert beside.dearer({"S2": noisy}) == []


def test_both_checkouts_are_run() -> None:
    scenario = Scenario("S3", "", "-n 2 -r 2000")  # the kernel counts CPU time in hundredths
    other = beside.other(ROOT)
    runs = run_rounds([PEYK, other], [scenario], 2, 1.0)
    ours, theirs = [runs[contender.name]["S3"] for contender in (PEYK, other)]
    assert all(run["good"] for run in (*ours, *theirs))
    assert {"p50_ms", "server_us", "redis_us"} <= beside.ratios(ours, theirs).keys()


def test_the_other_checkout_is_run_from_its_own_directory(tmp_path: Path) -> None:
    (tmp_path / "app.py").touch()
    server = beside.other(tmp_path).make("redis://127.0.0.1:1", {})
    assert isinstance(server, beside.OtherServer) and server.root == tmp_path
    server.close()


def test_what_is_no_checkout_is_said(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=r"has no app\.py"):
        beside.other(tmp_path)
