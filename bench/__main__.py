"""`python -m bench`: Peyk under load, one process, durable streams on; a table, JSON, and the marks to reach."""

import argparse
import sys

from bench.load import LoadError
from bench.numbers import judge, rows, table
from bench.rounds import PEYK, RESULTS, all_good, arguments, circumstances, keep, measured, medians, run_rounds
from bench.scenarios import SCENARIOS


def main() -> int:
    """0; 1 if any run lost, doubled or reordered a message, or could not be made. Marks are shown, not enforced."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Peyk under load: a table and results.json.")
    options = arguments(parser, [scenario.name for scenario in SCENARIOS])
    chosen = [scenario for scenario in SCENARIOS if scenario.name in options.scenario]
    try:
        runs = run_rounds([PEYK], chosen, options.rounds, options.seconds)[PEYK.name]
    except LoadError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    scenarios = measured(runs, chosen)
    keep("peyk", circumstances(options.rounds, options.seconds) | {"scenarios": scenarios})
    summaries = medians(scenarios)
    print(table(rows(summaries)))
    for mark in judge(summaries):
        print(f"{mark['mark']}: {mark['value']:,.2f}, {'met' if mark['met'] else 'not met'}")
    print(f"every number: {RESULTS}")
    return 0 if all_good(runs, options.rounds) else 1


if __name__ == "__main__":
    sys.exit(main())
