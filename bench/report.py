"""`python -m bench.report`: put what results.json holds into docs/performance.md, and draw its plots.

In the page a block begins with `<!-- name -->` and ends with `<!-- /name -->`; only what is between is written anew.
"""

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.numbers import judge, rows
from bench.peers.__main__ import compared, judged
from bench.rounds import PEYK, RESULTS, kept_results, medians
from bench.scenarios import GROWING_CHANNELS, GROWING_CONNECTIONS, PEERS_TOO, SCENARIOS

DOCS = Path(__file__).parent.parent / "docs"
PAGE = DOCS / "performance.md"
SHOWN = "deliveries/s", "publishes/s", "entries/s", "p50 ms", "p99 ms", "KiB/connection", "connect s", "recovered in s"
COSTS = "server µs/publish", "server µs/delivery", "Redis µs/publish", "generator CPU", "others' CPU"
PLOTTED = {
    "S1M": ("deliveries_per_s", "S1M, deliveries/s"),
    "S2": ("publishes_per_s", "S2, publishes/s"),
    "S4": ("kib_per_connection", "S4, KiB a connection (less is better)"),
}


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """A table; the first line is its head, numbers stand to the right."""
    head, *others = ["| " + " | ".join(line) + " |" for line in lines]
    rule = "|---|" + "---:|" * (len(lines[0]) - 1)
    return "\n".join([head, rule, *others])


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
    PAGE.write_text(filled(PAGE.read_text(), blocks(results)))
    plot_growth(medians(results["peyk"]["scenarios"]))
    if "peers" in results:
        plot_peers(results["peers"])
    print(f"written: {PAGE} and its plots")
    return 0


if __name__ == "__main__":
    sys.exit(main())
