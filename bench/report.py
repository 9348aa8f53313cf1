"""`python -m bench.report`: put what results.json holds into docs/performance.md and README.md, and draw the plots.

In a page a block begins with `<!-- name -->` and ends with `<!-- /name -->`; only what is between is written anew.
"""

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.numbers import judge, numbers, rows
from bench.peers.__main__ import compared, judged
from bench.rounds import PEYK, RESULTS, kept_results, medians
from bench.scenarios import ARCHIVED, GROWING_CHANNELS, GROWING_CONNECTIONS, PEERS_TOO, SCENARIOS

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGE, README = DOCS / "performance.md", ROOT / "README.md"
SHOWN = "deliveries/s", "publishes/s", "entries/s", "p50 ms", "p99 ms", "KiB/connection", "connect s", "recovered in s"
COSTS = "server µs/publish", "server µs/delivery", "Redis µs/publish", "generator CPU", "others' CPU"
FIGURES = {  # of the README
    "S1M": {"deliveries_per_s": "{} deliveries/s"},
    "S1M-256": {"deliveries_per_s": "{} deliveries/s"},
    "S2": {"publishes_per_s": "{} publishes/s, each delivered to 5"},
    "S3": {"p50_ms": "p50 {} ms", "p99_ms": "p99 {} ms"},
    "S4": {"kib_per_connection": "{} KiB a connection"},
    "ingest": {"publishes_per_s": "{} acknowledged publishes/s"},
    "posts": {"publishes_per_s": "{} posts/s"},
    "replay-1": {"entries_per_s": "{} messages/s"},
    "recovery": {"recovery_s": "{} s until all have everything"},
}
PLOTTED = {
    "S1M": ("deliveries_per_s", "S1M, deliveries/s"),
    "S2": ("publishes_per_s", "S2, publishes/s"),
    "S4": ("kib_per_connection", "S4, KiB a connection (less is better)"),
}


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """A table; the first line is its head, columns of numbers stand to the right."""
    head, *others = ["| " + " | ".join(line) + " |" for line in lines]
    columns = list(zip(*lines, strict=True))
    rule = "|".join("---:" if all(c[:1].isdigit() or c == "–" for c in cells) else "---" for _, *cells in columns)
    return "\n".join([head, f"|{rule}|", *others])


def _when(part: Mapping[str, Any]) -> str:
    how = "one round" if part["rounds"] == 1 else f"medians of {part['rounds']} rounds"
    return f"{part['date'][:10]}, Python {part['python']}, {part['cpus']} CPUs, {how} of {part['seconds']:g} s"


def _meanings() -> str:
    return markdown([["scenario", "what happens"], *([f"`{s.name}`", s.meaning] for s in SCENARIOS)])


def blocks(results: Mapping[str, Any]) -> dict[str, str]:
    """What belongs into the page, by block. Raises KeyError when Peyk was not measured."""
    peyk = results["peyk"]
    ours = medians(peyk["scenarios"])
    verdicts = [[f"`{j['mark']}`", f"{j['value']:,.2f}", "met" if j["met"] else "**not met**"] for j in judge(ours)]
    made = {
        "scenarios": _meanings(),
        "when": f"Measured {_when(peyk)}.",
        "numbers": markdown(rows(ours, SHOWN)),
        "costs": markdown(rows(ours, COSTS)),
        "marks": markdown([["mark", "measured", ""], *verdicts]),
    }
    if "peers" in results:
        made |= _peer_blocks(results["peers"])
    return made


def readme_blocks(results: Mapping[str, Any]) -> dict[str, str]:
    """What belongs into the README: of a few scenarios, what the rounds found, from the lowest to the highest."""
    lines = [["scenario", "", "without archive", "with the SQLite archive"]]
    scenarios = results["peyk"]["scenarios"]

    def found(name: str, figures: Mapping[str, str]) -> str:
        rounds = [numbers(run) for run in scenarios[name]["runs"]] if name in scenarios else []
        return ", ".join(text.format(_range([r[of] for r in rounds])) for of, text in figures.items() if rounds) or "–"

    for scenario in (s for s in SCENARIOS if s.name in FIGURES and s.name in scenarios):
        figures = FIGURES[scenario.name]
        both = [found(name, figures) for name in (scenario.name, scenario.name + ARCHIVED)]
        lines.append([scenario.name, scenario.meaning, *both])
    return {"figures": markdown(lines), "figures-when": f"Measured {_when(results['peyk'])}."}


def _range(values: Sequence[float]) -> str:
    """The lowest and the highest value."""
    scale, unit = (1e6, " million") if max(values) >= 1e6 else (1, "")
    low, high = (f"{v / scale:,.{0 if v / scale >= 100 else 1}f}" for v in (min(values), max(values)))
    return (low if low == high else f"{low}–{high}") + unit


def _peer_blocks(peers: Mapping[str, Any]) -> dict[str, str]:
    found = {name: medians(scenarios) for name, scenarios in peers["contenders"].items()}
    tables = []
    for scenario in (s for s in SCENARIOS if s.name in PEERS_TOO):
        there = {name: numbers[scenario.name] for name, numbers in found.items() if scenario.name in numbers}
        if there:
            lines = rows(there, ("deliveries/s", "publishes/s", *SHOWN[3:6], *COSTS))
            tables.append(f"**{scenario.name}**: {scenario.meaning}\n\n{markdown(lines)}")
    return {
        "peers-when": f"Measured {_when(peers)}, interleaved.",
        "ratios": markdown(compared(found)),
        "ratio-marks": "\n".join(f"- {line}" for line in judged(found)),
        "peers": "\n\n".join(tables),
    }


def filled(page: str, made: Mapping[str, str]) -> str:
    """The page with its blocks written anew. Raises ValueError for a block that the page has not."""
    for name, text in made.items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        if not pattern.search(page):
            raise ValueError(f"the page has no block <!-- {name} --> … <!-- /{name} -->")
        page = pattern.sub(lambda found, text=text: f"{found[1]}{text}\n{found[2]}", page)  # type: ignore[misc]
    return page


# -- plots


def _save(name: str, size: tuple[float, float], panels: int, draw: Callable[[Any], None]) -> None:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, panels, figsize=size, layout="constrained")
    draw(axes)
    for panel in axes:
        panel.spines[["top", "right"]].set_visible(False)
        panel.tick_params(labelsize=8)
        panel.title.set_size(9)
    figure.savefig(DOCS / name, dpi=90)
    pyplot.close(figure)


def plot_peers(peers: Mapping[str, Any]) -> None:
    """docs/peers.png: everybody's throughput and memory, on scales where each step is tenfold."""
    found = {name: medians(scenarios) for name, scenarios in peers["contenders"].items()}

    def draw(axes: Any) -> None:
        for panel, (scenario, (number, title)) in zip(axes, PLOTTED.items(), strict=True):
            values = {name: m[scenario][number] for name, m in found.items() if number in m.get(scenario, {})}
            names = list(reversed(values))
            colours = ["#b5482a" if name == PEYK.name else "#8a9aa8" for name in names]
            bars = panel.barh(names, [values[name] for name in names], color=colours)
            panel.bar_label(bars, [f"{values[name]:,.3g}" if values[name] < 100 else f"{values[name]:,.0f}"
                                   for name in names], fontsize=7, padding=2)  # fmt: skip
            panel.set(xscale="log", title=title)
            panel.margins(x=0.35)

    _save("peers.png", (12, 2.8), len(PLOTTED), draw)


def plot_growth(ours: Mapping[str, Mapping[str, float]]) -> None:
    """docs/growth.png: what a message costs as channels and connections grow."""
    series = ("channels", GROWING_CHANNELS), ("connections", GROWING_CONNECTIONS)

    def draw(axes: Any) -> None:
        for panel, (what, counts) in zip(axes, series, strict=True):
            there = [count for count in counts if f"{what}-{count}" in ours]
            for number, label in (("server_us", "server"), ("redis_us", "Redis")):
                values = [ours[f"{what}-{count}"][number] for count in there]
                panel.plot(there, values, marker="o", label=label)
            panel.set(xscale="log", title=f"CPU µs a message (5 deliveries), by {what}")
            panel.set_ylim(bottom=0)
            panel.legend(fontsize=8, frameon=False)

    _save("growth.png", (8, 2.6), len(series), draw)


def main() -> int:
    """0; 1 when there is nothing to report."""
    results = kept_results()
    if "peyk" not in results:
        print(f"report: {RESULTS} holds no numbers yet; make bench measures them", file=sys.stderr)
        return 1
    for page, made in ((PAGE, blocks(results)), (README, readme_blocks(results))):
        page.write_text(filled(page.read_text(), made))
    plot_growth(medians(results["peyk"]["scenarios"]))
    if "peers" in results:
        plot_peers(results["peers"])
    print(f"written: {PAGE}, {README} and the plots")
    return 0


if __name__ == "__main__":
    sys.exit(main())
