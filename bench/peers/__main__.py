"""`python -m bench.peers`: Peyk and its peers under the same load, interleaved; a table, JSON, and the ratios."""

import argparse
import functools
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.load import LoadError
from bench.numbers import rows, table
from bench.peers import install
from bench.rounds import (
    PEYK,
    RESULTS,
    Contender,
    all_good,
    arguments,
    circumstances,
    keep,
    measured,
    medians,
    run_rounds,
)
from bench.scenarios import PEERS_TOO, SCENARIOS, Mark
from tests.services import Process, free_port

HERE = Path(__file__).parent
C_WRITE, C_JOINED, STREAMS, SOCKETIO = "C, one write each", "C, joined writes", "Socket.IO + streams", "python-socketio"


@dataclass(frozen=True)
class Peer:
    """Another server: what installs what it needs, and its command line ({port} is filled in)."""

    name: str
    dialect: str
    install: Callable[[], None]
    command: Sequence[str | Path]

    def contender(self) -> Contender:
        return Contender(self.name, self.dialect, functools.partial(PeerServer, self.command))


PEERS = [
    Peer(C_WRITE, "plain", install.c, [install.C_SERVER, "{port}", "write"]),
    Peer(C_JOINED, "plain", install.c, [install.C_SERVER, "{port}", "coalesce"]),
    Peer(STREAMS, "socketio", install.node, ["node", HERE / "socketio_node.js"]),
    Peer("ws + Redis", "plain", install.node, ["node", HERE / "ws_node.js"]),
    Peer(SOCKETIO, "socketio", install.python, [install.PYTHON, HERE / "socketio_python.py"]),
    Peer("Django Channels", "plain", install.python, [install.PYTHON, HERE / "django_channels.py"]),
    Peer("Starlette tutorial", "plain", install.python, [install.PYTHON, HERE / "tutorial.py"]),
]

RATIOS = [  # what is compared; CPU time is what a busy machine changes least
    ("S1M", "deliveries_per_s"),
    ("S1M", "server_us_per_delivery"),
    ("S1M-256", "deliveries_per_s"),
    ("S1R", "p99_ms"),
    ("S2", "publishes_per_s"),
    ("S2", "server_us"),
    ("S3", "p50_ms"),
    ("S4", "kib_per_connection"),
]
MARKS = [
    Mark("S1M", "deliveries_per_s", 7, at_least=True, than=C_WRITE),
    Mark("S1M-256", "deliveries_per_s", 18, at_least=True, than=C_WRITE),
    Mark("S1M", "deliveries_per_s", 0.6, at_least=True, than=C_JOINED),
    Mark("S1M", "deliveries_per_s", 15, at_least=True, than=STREAMS),
    Mark("S1R", "p99_ms", 1, than=STREAMS),
    Mark("S2", "publishes_per_s", 0.35, at_least=True, than=C_WRITE),
    Mark("S2", "publishes_per_s", 3, at_least=True, than=STREAMS),
    Mark("S2", "publishes_per_s", 12, at_least=True, than=SOCKETIO),
    Mark("S4", "kib_per_connection", 1, than=STREAMS),
]


class PeerServer(Process):
    """A peer on a free port."""

    def __init__(self, command: Sequence[str | Path], redis_url: str, env: Mapping[str, str]) -> None:
        super().__init__()
        self.port, self._redis_url = free_port(), redis_url
        self._command = [str(part).format(port=self.port) for part in command]

    def command(self) -> Sequence[str]:
        return self._command

    def environment(self) -> dict[str, str]:
        path = self._redis_url.removeprefix("unix://")
        more = {"PORT": str(self.port), "REDIS_URL": self._redis_url, "REDIS_SOCKET": path}
        return install.environment() | more

    def is_up(self) -> bool:
        with socket.socket() as end:
            return end.connect_ex(("127.0.0.1", self.port)) == 0


def installed(peers: Sequence[Peer]) -> tuple[list[Contender], list[str]]:
    """Those that can run here; and of the others, why not."""
    ready, refused = [], []
    for peer in peers:
        try:
            peer.install()
            ready.append(peer.contender())
        except install.Missing as error:
            refused.append(f"{peer.name} is left out: {error}")
    return ready, refused


def compared(found: Mapping[str, Mapping[str, Mapping[str, float]]]) -> list[list[str]]:
    """Scenario by contender: Peyk's number, divided by the other's. `found`: contender → scenario → numbers."""
    others = [name for name in found if name != PEYK.name]
    lines = [["Peyk ÷", *others]]
    for scenario, number in RATIOS:
        ours = found[PEYK.name].get(scenario, {}).get(number)
        if ours is not None:
            theirs = [found[name].get(scenario, {}).get(number) for name in others]
            lines.append([f"{scenario} {number}", *(f"{ours / value:,.2f}" if value else "–" for value in theirs)])
    return lines


def judged(found: Mapping[str, Mapping[str, Mapping[str, float]]]) -> list[str]:
    """The ratios that are asked for."""
    lines = []
    for mark in MARKS:
        pair = {mark.scenario: found[PEYK.name].get(mark.scenario, {})}
        value = mark.value(pair | {mark.than: found.get(mark.than, {}).get(mark.scenario, {})})
        if value is not None:
            lines.append(f"{mark}: {value:,.2f}, {'met' if mark.met(value) else 'not met'}")
    return lines


def main() -> int:
    """0; 1 if Peyk lost, doubled or reordered a message, or a peer could not be installed."""
    parser = argparse.ArgumentParser(prog="python -m bench.peers", description="Peyk and its peers, side by side.")
    parser.add_argument(
        "--peer", action="append", choices=[p.name for p in PEERS], help="only this one; may be repeated"
    )
    options = arguments(parser, PEERS_TOO)
    contenders, refused = installed([peer for peer in PEERS if not options.peer or peer.name in options.peer])
    print("".join(f"bench: {line}\n" for line in refused), end="", file=sys.stderr, flush=True)
    chosen = [scenario for scenario in SCENARIOS if scenario.name in options.scenario]
    try:
        runs = run_rounds([PEYK, *contenders], chosen, options.rounds, options.seconds)
    except LoadError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    kept = {name: measured(reports, chosen) for name, reports in runs.items()}
    found = {name: medians(scenarios) for name, scenarios in kept.items()}
    keep("peers", circumstances(options.rounds, options.seconds) | {"contenders": kept, "left_out": refused})
    for scenario in chosen:
        print(f"\n{scenario.name}: {scenario.meaning}")
        print(table(rows({name: s[scenario.name] for name, s in found.items() if scenario.name in s})))
    print("\n" + table(compared(found)))
    print("\n".join(["", *judged(found), f"every number: {RESULTS}", *refused]))
    return 0 if all_good(runs[PEYK.name], options.rounds) and not refused else 1


if __name__ == "__main__":
    sys.exit(main())
