"""`python -m bench`: Peyk under load, one process, durable streams on; a table, JSON, and the marks to reach.

Each run has a server and an embedded Valkey of its own, in an empty directory. Where there are two CPUs, the server has
the first; Valkey and the load generator share the second. Rounds are interleaved, so that a slow minute of the machine
touches every scenario alike; what is shown are medians over the rounds.
"""

import argparse
import json
import os
import platform
import signal
import statistics
import sys
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import load
from bench.load import LoadError, Report
from tests.services import PeykServer, RedisProcess, wait_until

RESULTS = Path(__file__).parent / "results.json"
OVERHEAD = 150.0  # seconds a run may need beyond its measured time: connecting, warming up, waiting for the rest
LOG_TAIL = 4000  # characters of the server's log shown after a run that broke a promise
BROKEN = "lost", "duplicated", "out_of_order", "offset_breaks", "misrouted", "malformed", "errors", "disconnects"


@dataclass(frozen=True)
class Scenario:
    """One way to use a server; `options` are those of load.c."""

    name: str
    meaning: str
    options: str

    @property
    def idle(self) -> bool:
        return "-i" in self.options.split()


SCENARIOS = [
    Scenario("S1M", "1 channel, 1,000 subscribers, 32 messages in flight", "-n 1000 -k 32"),
    Scenario("S1R", "1 channel, 1,000 subscribers, 20 messages/s", "-n 1000 -r 20"),
    Scenario("S2", "200 channels × 5 subscribers, 20 publishers, 1,000 in flight", "-n 1000 -C 200 -P 20 -k 1000"),
    Scenario("S3", "1 channel, 2 subscribers, 100 messages/s", "-n 2 -r 100"),
    Scenario("S4", "5,000 idle connections", "-n 5000 -i 1"),
]


@dataclass(frozen=True)
class Mark:
    """What a scenario's number should be: at least, or at most."""

    scenario: str
    number: str
    bound: float
    at_least: bool

    def met(self, value: float) -> bool:
        return value >= self.bound if self.at_least else value <= self.bound

    def __str__(self) -> str:
        return f"{self.scenario} {self.number} {'≥' if self.at_least else '≤'} {self.bound:,g}"


MARKS = [
    Mark("S1M", "deliveries_per_s", 600_000, at_least=True),
    Mark("S2", "publishes_per_s", 8_000, at_least=True),
    Mark("S3", "p50_ms", 1.5, at_least=False),
]


def numbers(report: Report) -> dict[str, float]:
    """What is shown of one run: rates, latencies in ms, CPU in µs a publish, KiB a connection, broken promises."""
    server, redis = report["processes"]
    shown: dict[str, float] = {name: report[name] for name in BROKEN}
    shown["connections_per_s"] = (report["subscribers"] + report["publishers"]) / max(report["connect_s"], 1e-3)
    if report["mode"] == "idle":
        shown["kib_per_connection"] = (server["rss_kib_connected"] - server["rss_kib_before"]) / report["subscribers"]
    else:
        published = max(1, report["published_in_window"])
        shown |= {name: report[name] for name in ("deliveries_per_s", "publishes_per_s")}
        shown |= {f"{name}_ms": value for name, value in report["latency_ms"].items()}
        shown |= {"server_us": server["cpu_s"] * 1e6 / published, "redis_us": redis["cpu_s"] * 1e6 / published}
        shown["generator_cpu_share"] = report["generator_cpu_s"] / report["seconds"]
    return shown


def summary(runs: Sequence[Report]) -> dict[str, float]:
    """Medians over the rounds; of what must never happen, the sum."""
    rounds = [numbers(run) for run in runs]
    columns = {name: [shown[name] for shown in rounds] for name in rounds[0]}
    return {name: sum(values) if name in BROKEN else statistics.median(values) for name, values in columns.items()}


def pin(pid: int, cpu: int) -> None:
    """Let all threads of a process run on one CPU only."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(thread.name), {cpu})


def is_ready(server: PeykServer) -> bool:
    try:
        with urllib.request.urlopen(server.url + "/ready", timeout=5) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False


def run_once(scenario: Scenario, seconds: float, cpus: Sequence[int]) -> Report:
    """One scenario against a fresh server. What is started has our CPU, the last; the server then gets the first."""
    valkey = RedisProcess("valkey")
    socket = valkey.dir / "valkey.sock"
    valkey.args += ["--unixsocket", str(socket)]
    with valkey, PeykServer({"REDIS_URL": f"unix://{socket}"}) as server:
        wait_until(lambda: is_ready(server), 20, "the server is ready")
        if len(cpus) > 1:
            pin(server.pid, cpus[0])
        options = scenario.options.split() + ([] if scenario.idle else ["-d", str(seconds)])
        report = load.run(server.port, options, [server.pid, valkey.pid], seconds + OVERHEAD)
        if not report["good"]:
            # A rare failure may not come again: its evidence goes with the directory.
            broken = {name: report[name] for name in BROKEN if report[name]}
            log = server.log.read_text(errors="replace")[-LOG_TAIL:]
            print(
                f"{scenario.name} broke promises: {broken}; the server's log ends:\n{log}", file=sys.stderr, flush=True
            )
        return report


def run_rounds(scenarios: Sequence[Scenario], rounds: int, seconds: float) -> dict[str, list[Report]]:
    """Every scenario's reports, one a round."""
    cpus = sorted(os.sched_getaffinity(0))
    runs: dict[str, list[Report]] = {scenario.name: [] for scenario in scenarios}
    os.sched_setaffinity(0, {cpus[-1]})
    try:
        for round_ in range(1, rounds + 1):
            for scenario in scenarios:
                print(f"round {round_} of {rounds}: {scenario.name}, {scenario.meaning}", file=sys.stderr, flush=True)
                runs[scenario.name].append(run_once(scenario, seconds, cpus))
    finally:
        os.sched_setaffinity(0, cpus)
    return runs


COLUMNS = {
    "deliveries/s": ("deliveries_per_s", ",.0f"),
    "publishes/s": ("publishes_per_s", ",.0f"),
    "p50 ms": ("p50_ms", ".2f"),
    "p99 ms": ("p99_ms", ".2f"),
    "server µs/publish": ("server_us", ",.1f"),
    "Redis µs/message": ("redis_us", ",.1f"),
    "KiB/connection": ("kib_per_connection", ".1f"),
    "generator CPU": ("generator_cpu_share", ".0%"),
}


def table(summaries: Mapping[str, Mapping[str, float]]) -> str:
    """One line a scenario; the second column is what must be 0/0/0."""
    rows = [["", "lost/dup/order", *COLUMNS]]
    for name, shown in summaries.items():
        kept = "/".join(f"{shown[name]:.0f}" for name in ("lost", "duplicated", "out_of_order"))
        rows.append(
            [name, kept, *(format(shown[key], form) if key in shown else "-" for key, form in COLUMNS.values())]
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def judge(summaries: Mapping[str, Mapping[str, float]]) -> list[dict[str, Any]]:
    """The marks of the scenarios that ran."""
    marks = [mark for mark in MARKS if mark.scenario in summaries]
    values = [summaries[mark.scenario][mark.number] for mark in marks]
    return [{"mark": str(m), "value": value, "met": m.met(value)} for m, value in zip(marks, values, strict=True)]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Peyk under load: a table and results.json.")
    names = [scenario.name for scenario in SCENARIOS]
    parser.add_argument("--scenario", action="append", choices=names, help="run this one; may be repeated (all)")
    parser.add_argument("--rounds", type=int, default=3, help="times each scenario runs (%(default)s)")
    parser.add_argument("--seconds", type=float, default=5.0, help="measured time of a run (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="one round of 2 seconds")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.seconds = 1, 2.0
    if options.rounds < 1 or options.seconds <= 0:
        parser.error("--rounds and --seconds must be positive")
    return options


def main() -> int:
    """0; 1 if any run lost, doubled or reordered a message, or could not be made. Marks are shown, not enforced."""
    options = arguments()
    chosen = [scenario for scenario in SCENARIOS if not options.scenario or scenario.name in options.scenario]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is stopped
    try:
        runs = run_rounds(chosen, options.rounds, options.seconds)
    except (LoadError, RuntimeError, TimeoutError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    summaries = {name: summary(reports) for name, reports in runs.items()}
    marks = judge(summaries)
    results = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "rounds": options.rounds,
        "seconds": options.seconds,
        "marks": marks,
        "scenarios": {
            s.name: {"meaning": s.meaning, "options": s.options, "median": summaries[s.name], "runs": runs[s.name]}
            for s in chosen
        },
    }
    RESULTS.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    print(table(summaries))
    for mark in marks:
        print(f"{mark['mark']}: {mark['value']:,.2f}, {'met' if mark['met'] else 'not met'}")
    print(f"every number: {RESULTS}")
    return 0 if all(report["good"] for reports in runs.values() for report in reports) else 1


if __name__ == "__main__":
    sys.exit(main())
