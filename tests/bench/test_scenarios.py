"""The ways of loading, each for a moment against a real server; and what becomes of the reports."""

from pathlib import Path
from typing import Any

import pytest

from bench import load, numbers, report
from bench.drive import BROKEN
from bench.peers import install
from bench.peers.__main__ import C_WRITE, PEERS, PeerServer, compared, judged
from bench.rounds import PEYK, measured, medians, merged, run_once, run_rounds
from bench.scenarios import MARKS, PEERS_TOO, SCENARIOS, Mark, Scenario
from tests.services import ROOT

NO_PINNING = [0]
TWO_WORKERS = {"ARCHIVE": "off", "HTTP_WORKERS": "2"}


@pytest.mark.parametrize(
    ("scenario", "number"),
    [
        (Scenario("ingest", "", "-C 8 -P 4 -k 100 -a", way="ingest"), "publishes_per_s"),
        (Scenario("workers", "", "-C 8 -P 4 -k 100 -a", way="workers", env=TWO_WORKERS), "publishes_per_s"),
        (Scenario("posts", "", "4", way="posts"), "publishes_per_s"),
        (Scenario("replay", "", "3 300", way="replay"), "entries_per_s"),
        (Scenario("recovery", "", "20 30", way="recovery"), "deliveries_per_s"),
        (Scenario("growth", "", "-n 20 -C 8 -s 5 -P 4 -r 200"), "server_us"),
    ],
    ids=lambda value: value.name if isinstance(value, Scenario) else "",
)
def test_each_way_ends_well_and_measures(scenario: Scenario, number: str) -> None:
    found = run_once(PEYK, scenario, 1, NO_PINNING)
    assert found["good"], found
    shown = numbers.summary([found])
    assert shown[number] > 0
    assert numbers.kept(shown) == "0/0/0"
    if scenario.way == "recovery":
        assert found["delivered"] == 20 * 30


def test_an_idle_connection_keeps_little_of_its_handshake() -> None:
    shown = numbers.summary([run_once(PEYK, Scenario("S4", "", "-n 2000 -i 0.2"), 0.2, NO_PINNING)])
    (mark,) = [mark for mark in MARKS if mark.scenario == "S4"]
    assert 1 < shown["kib_per_connection"] <= mark.bound  # 5; 27 with the handshake


@pytest.mark.parametrize("way", ["write", "coalesce"])
def test_the_c_server_delivers_to_those_who_follow(way: str) -> None:
    install.c()
    with PeerServer([install.C_SERVER, "{port}", way], "unix://none", {}) as server:
        wide = ["-n", "30", "-C", "12", "-s", "7", "-P", "3"]  # 84 subscriptions on 30 connections
        found = load.run(server.port, ["-D", "plain", *wide, "-k", "40", "-d", "0.2"], [server.pid], 60)
        assert found["good"]
        assert found["delivered"] == 7 * found["published"] > 0
        assert load.run(server.port, ["-D", "plain", "-n", "50", "-i", "0.1"], [server.pid], 60)["good"]


def test_the_c_server_is_a_contender() -> None:
    scenario = Scenario("S3", "", "-n 2 -r 100")
    (peer,) = [peer for peer in PEERS if peer.name == C_WRITE]
    peer.install()
    runs = run_rounds([peer.contender()], [scenario], 1, 0.2)[C_WRITE]
    (found,) = runs["S3"]
    assert found["good"] and measured(runs, [scenario])["S3"]["median"]["p50_ms"] > 0


def test_what_cannot_be_installed_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "NODE", tmp_path / "node")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(install.Missing, match="npm is missing"):
        install.node()


# -- what is made of reports


def of(**found: float) -> dict[str, float]:
    return {**dict.fromkeys(BROKEN, 0), **found}


OURS = {s.name: of(deliveries_per_s=2e6, publishes_per_s=20_000, server_us=40.0, redis_us=12.0) for s in SCENARIOS}


def results() -> dict[str, Any]:
    scenarios = {name: {"median": found} for name, found in OURS.items()}
    part = {"date": "2026-01-01T00:00:00", "python": "3.11", "cpus": 2, "rounds": 3, "seconds": 5.0}
    slow = {name: {"median": of(deliveries_per_s=2e5, publishes_per_s=50_000)} for name in PEERS_TOO}
    contenders = {PEYK.name: {name: scenarios[name] for name in PEERS_TOO}, C_WRITE: slow}
    return {"peyk": {**part, "scenarios": scenarios}, "peers": {**part, "contenders": contenders}}


def test_rounds_become_medians_and_losses_sums() -> None:
    def run(rate: float, lost: int) -> dict[str, Any]:
        window = {"seconds": 1.0, "generator_cpu_s": 0.5, "published_in_window": 1000, "publishes_per_s": rate}
        return {**of(lost=lost), **window, "mode": "posts", "processes": [{"cpu_s": 0.1}, {"cpu_s": 0.02}]}

    shown = numbers.summary([run(10, 0), run(30, 2), run(20, 1)])
    assert shown["publishes_per_s"] == 20 and shown["server_us"] == pytest.approx(100)
    assert shown["cost_us"] == pytest.approx(120) and numbers.kept(shown) == "3/0/0"


def test_marks_compare_with_a_bound_or_with_another_scenario() -> None:
    growth = Mark("b", "cost_us", 1.3, than="a")
    assert growth.value({"a": {"cost_us": 10.0}, "b": {"cost_us": 12.0}}) == pytest.approx(1.2)
    assert growth.met(1.2) and not growth.met(1.4) and growth.value({"b": {"cost_us": 1.0}}) is None
    names = {s.name for s in SCENARIOS}
    assert all(mark.scenario in names and (not mark.than or mark.than in names) for mark in MARKS)
    assert {j["mark"] for j in numbers.judge(OURS) if j["met"]} >= {"S2 publishes_per_s ≥ 18,000"}


def test_ratios_are_ours_divided_by_theirs() -> None:
    found = {name: medians(s) for name, s in results()["peers"]["contenders"].items()}
    lines = {line[0]: line[1] for line in compared(found)}
    assert lines["S1M deliveries_per_s"] == "10.00" and lines["S2 publishes_per_s"] == "0.40"
    assert f"S1M / {C_WRITE} deliveries_per_s ≥ 7: 10.00, met" in judged(found)


def test_what_was_not_run_keeps_its_numbers_and_what_failed_does_not() -> None:
    before = {"date": "old", "scenarios": {"S1M": 1, "S2": 2, "S3": 3}}
    assert merged(before, {"date": "new", "scenarios": {"S2": 4, "S3": None}}) == {
        "date": "new",
        "scenarios": {"S1M": 1, "S2": 4},
    }
    peers = {"contenders": {"a": {"S1M": 1}, "b": {"S1M": 2}}}
    assert merged(peers, {"contenders": {"b": {"S1M": None, "S2": 3}}}) == {
        "contenders": {"a": {"S1M": 1}, "b": {"S2": 3}}
    }


def test_the_page_has_a_place_for_everything_measured() -> None:
    page = (ROOT / "docs" / "performance.md").read_text()
    made = report.blocks(results())
    filled = report.filled(page, made)
    assert all(text in filled for text in made.values())
    assert report.filled(filled, made) == filled
    with pytest.raises(ValueError, match="no block"):
        report.filled("nothing", made)


def test_the_readme_shows_what_the_slowest_and_the_fastest_round_found() -> None:
    def run(rate: float) -> dict[str, Any]:
        window = {"seconds": 1.0, "generator_cpu_s": 0.5, "delivered_in_window": 1000, "deliveries_per_s": rate}
        return {**of(), **window, "mode": "closed", "processes": [{"cpu_s": 0.1}]}

    found = results()
    found["peyk"]["scenarios"] = {
        "S1M": {"runs": [run(2_510_000), run(2_990_000), run(2_700_000)]},
        "S1M+archive": {"runs": [run(2_000_000)]},
        "S1M-256": {"runs": [run(7_000_000)]},
    }
    made = report.readme_blocks(found)
    assert (
        "| S1M | 1 channel, 1,000 subscribers, 32 messages in flight "
        "| 2.5–3.0 million deliveries/s | 2.0 million deliveries/s |" in made["figures"]
    )
    assert "256 messages in flight | 7.0 million deliveries/s | – |" in made["figures"]
    readme = (ROOT / "README.md").read_text()
    assert all(text in report.filled(readme, made) for text in made.values())
