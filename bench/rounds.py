"""Interleaved rounds: every scenario against every server, each run with a server and a Valkey of its own.

Where there are two CPUs, the server has the first; Valkey and the load generator share the second. Rounds are
interleaved, so that a slow minute of the machine touches all alike; what is shown are medians over the rounds.
"""

import argparse
import json
import os
import platform
import resource
import signal
import sys
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from bench.cpus import pin
from bench.drive import BROKEN, WAYS
from bench.load import LoadError, Report, build
from bench.numbers import summary
from bench.scenarios import SCENARIOS, Scenario
from tests.services import PeykServer, Process, RedisProcess, wait_until

RESULTS = Path(__file__).parent / "results.json"
LOOK = 0.3  # seconds in which a run sees what other programs use
LOG_TAIL = 4000  # characters of the server's log shown after a run that broke a promise


@dataclass(frozen=True)
class Contender:
    """A server that can be loaded: how it is made, from a Redis URL and settings, and what it speaks (dialect.h)."""

    name: str
    dialect: str
    make: Callable[[str, Mapping[str, str]], Process]


def _is_ready(server: Process) -> bool:
    if not isinstance(server, PeykServer):
        return True
    try:
        with urllib.request.urlopen(server.url + "/ready", timeout=5) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False


PEYK = Contender("Peyk", "peyk", lambda redis_url, env: PeykServer({"REDIS_URL": redis_url, **env}))


def run_once(contender: Contender, scenario: Scenario, seconds: float, cpus: Sequence[int]) -> Report:
    """One scenario against a fresh server. What is started has our CPU, the last; the server then gets the first."""
    others = psutil.cpu_percent(LOOK) / 100  # nothing of ours runs yet
    valkey = RedisProcess("valkey")
    socket = valkey.dir / "valkey.sock"
    valkey.args += ["--unixsocket", str(socket)]
    with valkey, contender.make(f"unix://{socket}", scenario.env) as server:
        wait_until(lambda: _is_ready(server), 20, "the server is ready")
        if len(cpus) > 1:
            pin(server.pid, cpus[0])
        options = scenario.options
        if scenario.way in ("load", "ingest", "workers"):
            options += f" -D {contender.dialect}" + (f" -d {seconds}" if scenario.timed else "")
        report = WAYS[scenario.way](server, [server.pid, valkey.pid], options, seconds)
        if not report["good"]:
            # A rare failure may not come again: its evidence goes with the directory.
            broken = {name: report[name] for name in BROKEN if report[name]}
            log = server.log.read_text(errors="replace")[-LOG_TAIL:]
            said = f"{contender.name} broke promises in {scenario.name}: {broken}; its log ends:\n{log}"
            print(said, file=sys.stderr, flush=True)
        return report | {"others_cpu_share": others}


Runs = dict[str, dict[str, list[Report]]]
"""Contender → scenario → a report for each round."""


def run_rounds(contenders: Sequence[Contender], scenarios: Sequence[Scenario], rounds: int, seconds: float) -> Runs:
    """Every scenario against every contender, so many times. What cannot be run is said and left out.

    Raises LoadError if the load generator cannot be built.
    """
    build()
    _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))  # a connection is a file: what we start may use all
    cpus = sorted(os.sched_getaffinity(0))
    runs: Runs = {contender.name: {scenario.name: [] for scenario in scenarios} for contender in contenders}
    os.sched_setaffinity(0, {cpus[-1]})
    try:
        for round_ in range(1, rounds + 1):
            for scenario in scenarios:
                for contender in contenders if round_ % 2 else contenders[::-1]:
                    what = f"{contender.name}: {scenario.name}, {scenario.meaning}"
                    print(f"round {round_} of {rounds}: {what}", file=sys.stderr, flush=True)
                    try:
                        runs[contender.name][scenario.name].append(run_once(contender, scenario, seconds, cpus))
                    except (LoadError, RuntimeError, TimeoutError) as error:  # the others' numbers are good still
                        print(f"{contender.name} could not run {scenario.name}: {error}", file=sys.stderr, flush=True)
    finally:
        os.sched_setaffinity(0, cpus)
    return runs


def measured(runs: Mapping[str, Sequence[Report]], scenarios: Sequence[Scenario]) -> dict[str, Any]:
    """One contender's runs as they are kept: by scenario, the median first; None where no run could be made."""
    return {s.name: _kept(s, runs[s.name]) if runs[s.name] else None for s in scenarios}


def _kept(scenario: Scenario, reports: Sequence[Report]) -> dict[str, Any]:
    what = {"meaning": scenario.meaning, "options": scenario.options}
    return {**what, "median": summary(reports), "runs": reports}


def medians(found: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """The numbers of what was measured, by scenario, in the order of SCENARIOS."""
    return {s.name: found[s.name]["median"] for s in SCENARIOS if found.get(s.name)}


def all_good(runs: Mapping[str, Sequence[Report]], rounds: int) -> bool:
    """Whether every run of every round was made, and none broke a promise."""
    return all(len(reports) == rounds and all(r["good"] for r in reports) for reports in runs.values())


def circumstances(rounds: int, seconds: float) -> dict[str, Any]:
    """What belongs to every number."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "rounds": rounds,
        "seconds": seconds,
    }


def kept_results() -> dict[str, Any]:
    """What was measured before; empty if nothing was."""
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else {}


def keep(part: str, fresh: Mapping[str, Any]) -> None:
    """Put what was measured into results.json; scenarios that were not run keep the numbers they had."""
    results = kept_results()
    results[part] = merged(results.get(part, {}), fresh)
    RESULTS.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")


def merged(before: Mapping[str, Any], fresh: Mapping[str, Any]) -> dict[str, Any]:
    """By scenario, or by contender and scenario."""
    after = dict(fresh)
    if "scenarios" in fresh:
        both = {**before.get("scenarios", {}), **fresh["scenarios"]}
        after["scenarios"] = {name: found for name, found in both.items() if found}
    if "contenders" in fresh:
        known = before.get("contenders", {})
        parts = {
            name: ({"scenarios": known.get(name, {})}, {"scenarios": s}) for name, s in fresh["contenders"].items()
        }
        after["contenders"] = {**known, **{name: merged(*part)["scenarios"] for name, part in parts.items()}}
    return after


def arguments(
    parser: argparse.ArgumentParser, scenarios: Sequence[str], usual: Sequence[str] = (), rounds: int = 3
) -> argparse.Namespace:
    """The options that all programs take; SIGTERM ends what was started. `usual`: what runs if none is named (all)."""
    usual = usual or scenarios
    parser.add_argument(
        "--scenario", action="append", choices=scenarios, help=f"run this one; may be repeated ({', '.join(usual)})"
    )
    parser.add_argument("--rounds", type=int, default=rounds, help="times each scenario runs (%(default)s)")
    parser.add_argument("--seconds", type=float, default=5.0, help="measured time of a run (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="one round of 1 second")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.seconds = 1, 1.0
    if options.rounds < 1 or options.seconds <= 0:
        parser.error("--rounds and --seconds must be positive")
    options.scenario = options.scenario or list(usual)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    return options
