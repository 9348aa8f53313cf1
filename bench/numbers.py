"""What is shown of the reports: rates, latencies, CPU, memory; medians over the rounds, a table, and the marks."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from bench.drive import BROKEN
from bench.load import Report
from bench.scenarios import MARKS

Summary = Mapping[str, float]

RATES: Mapping[str, Sequence[str]] = {  # which rates mean something, by the mode of a report
    "closed": ("deliveries_per_s", "publishes_per_s"),
    "open": ("deliveries_per_s", "publishes_per_s"),
    "ingest": ("publishes_per_s",),
    "posts": ("publishes_per_s",),
    "replay": ("entries_per_s",),
    "recovery": ("deliveries_per_s",),
}


def numbers(report: Report) -> dict[str, float]:
    """Of one run: rates, latencies in ms, CPU in µs a message, KiB a connection, broken promises.

    The first process is the server, the second, if there is one, Redis.
    """
    shown: dict[str, float] = {name: report[name] for name in (*BROKEN, "others_cpu_share") if name in report}
    server, *others = report["processes"]
    if "connect_s" in report:
        connections = report["subscribers"] + report["publishers"]
        shown |= {"connect_s": report["connect_s"], "connections_per_s": connections / max(report["connect_s"], 1e-3)}
    if report["mode"] == "idle":
        shown["kib_per_connection"] = (server["rss_kib_connected"] - server["rss_kib_before"]) / report["subscribers"]
        return shown
    shown |= {f"{name}_ms": value for name, value in report.get("latency_ms", {}).items()}
    shown["generator_cpu_share"] = report["generator_cpu_s"] / report["seconds"]
    if report["mode"] == "recovery":
        shown["recovery_s"] = report["seconds"]
    shown |= {name: report[name] for name in RATES.get(report["mode"], ()) if name in report}
    if seen := report.get("delivered_in_window", 0) + report.get("entries_in_window", 0):
        shown["server_us_per_delivery"] = server["cpu_s"] * 1e6 / seen
    if published := report.get("published_in_window", 0):
        redis = sum(process["cpu_s"] for process in others)
        shown |= {"server_us": server["cpu_s"] * 1e6 / published, "redis_us": redis * 1e6 / published}
        shown["cost_us"] = shown["server_us"] + shown["redis_us"]
    return shown


def summary(runs: Sequence[Report]) -> dict[str, float]:
    """Medians over the rounds; of what must never happen, the sum."""
    rounds = [numbers(run) for run in runs]
    names = [name for name in rounds[0] if all(name in shown for shown in rounds)]
    columns = {name: [shown[name] for shown in rounds] for name in names}
    return {name: sum(values) if name in BROKEN else statistics.median(values) for name, values in columns.items()}


COLUMNS = {
    "deliveries/s": ("deliveries_per_s", ",.0f"),
    "publishes/s": ("publishes_per_s", ",.0f"),
    "entries/s": ("entries_per_s", ",.0f"),
    "p50 ms": ("p50_ms", ",.2f"),
    "p99 ms": ("p99_ms", ",.2f"),
    "server µs/publish": ("server_us", ",.1f"),
    "server µs/delivery": ("server_us_per_delivery", ",.2f"),
    "Redis µs/publish": ("redis_us", ",.1f"),
    "KiB/connection": ("kib_per_connection", ".1f"),
    "recovered in s": ("recovery_s", ".2f"),
    "connect s": ("connect_s", ".2f"),
    "generator CPU": ("generator_cpu_share", ".0%"),
    "others' CPU": ("others_cpu_share", ".0%"),
}
KEPT = "lost", "duplicated", "out_of_order"


def kept(shown: Summary) -> str:
    """What must be 0/0/0; what else was broken behind it."""
    others = {name: shown[name] for name in BROKEN if name not in KEPT and shown[name]}
    more = "".join(f" {name} {value:.0f}" for name, value in others.items())
    return "/".join(f"{shown[name]:.0f}" for name in KEPT) + more


def rows(summaries: Mapping[str, Summary], columns: Sequence[str] = tuple(COLUMNS)) -> list[list[str]]:
    """A head, and a line for each summary; columns in which nobody has a number are left out."""
    used = [name for name in columns if any(COLUMNS[name][0] in shown for shown in summaries.values())]
    lines = [["", "lost/dup/order", *used]]
    for name, shown in summaries.items():
        cells = [format(shown[key], form) if key in shown else "–" for key, form in (COLUMNS[c] for c in used)]
        lines.append([name, kept(shown), *cells])
    return lines


def table(lines: Sequence[Sequence[str]]) -> str:
    """For a terminal."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(cell.rjust(w) for cell, w in zip(line, widths, strict=True)) for line in lines)


def judge(summaries: Mapping[str, Summary]) -> list[dict[str, Any]]:
    """The marks of the scenarios that ran."""
    values = [(mark, mark.value(summaries)) for mark in MARKS]
    return [{"mark": str(m), "value": value, "met": m.met(value)} for m, value in values if value is not None]
