"""`python -m bench`: Peyk under load, one process, durable streams on; a table, JSON, and the marks to reach.

`--beside CHECKOUT` runs another checkout in the same rounds, and shows what this one costs, or gains, against it.
"""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path

from bench import beside
from bench.load import LoadError
from bench.numbers import Summary, judge, rows, table
from bench.rounds import PEYK, RESULTS, Runs, all_good, arguments, circumstances, keep, measured, medians, run_rounds
from bench.scenarios import SCENARIOS


def main() -> int:
    """0; 1 if any run lost, doubled or reordered a message, or could not be made. Marks are shown, not enforced;
    beside another checkout, 1 as well if a message got dearer than it may."""
    both = argparse.ArgumentParser(add_help=False)
    both.add_argument("--beside", type=Path, metavar="CHECKOUT", help="run this other checkout of Peyk as well")
    parser = argparse.ArgumentParser(
        prog="python -m bench", description="Peyk under load: a table and results.json.", parents=[both]
    )
    names = [scenario.name for scenario in SCENARIOS]
    if both.parse_known_args()[0].beside:
        options = arguments(parser, names, beside.SCENARIOS, beside.ROUNDS)
    else:
        options = arguments(parser, names)
    chosen = [scenario for scenario in SCENARIOS if scenario.name in options.scenario]
    try:
        contenders = [PEYK, beside.other(options.beside)] if options.beside else [PEYK]
        runs = run_rounds(contenders, chosen, options.rounds, options.seconds)
    except LoadError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    found = {name: measured(reports, chosen) for name, reports in runs.items()}
    when = circumstances(options.rounds, options.seconds)
    good = [all_good(reports, options.rounds) for reports in runs.values()]
    if options.beside:
        keep("beside", when | {"contenders": found})
        dearer = show_beside(runs, {name: medians(scenarios) for name, scenarios in found.items()}) if all(good) else []
        return 0 if all(good) and not dearer else 1
    keep("peyk", when | {"scenarios": found[PEYK.name]})
    summaries = medians(found[PEYK.name])
    print(table(rows(summaries)))
    for mark in judge(summaries):
        print(f"{mark['mark']}: {mark['value']:,.2f}, {'met' if mark['met'] else 'not met'}")
    print(f"every number: {RESULTS}")
    return 0 if all(good) else 1


def show_beside(runs: Runs, found: Mapping[str, Mapping[str, Summary]]) -> list[str]:
    """Print both checkouts' medians and the ratios between them; what got dearer than it may."""
    ours, theirs = runs.values()
    for scenario in ours:
        print(f"\n{scenario}")
        print(table(rows({name: summaries[scenario] for name, summaries in found.items()})))
    compared = {scenario: beside.ratios(ours[scenario], theirs[scenario]) for scenario in ours if ours[scenario]}
    dearer = beside.dearer(compared)
    print("\n" + table(beside.rows(compared)))
    print(
        "\n".join(
            [
                "",
                *(dearer or [f"no message costs more than {beside.GROWTH} times the CPU time"]),
                f"every number: {RESULTS}",
            ]
        )
    )
    return dearer


if __name__ == "__main__":
    sys.exit(main())
