"""The ways in which a server is used here, and the marks its numbers should reach."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

GROWING_CHANNELS = 10, 100, 1_000, 10_000
GROWING_CONNECTIONS = 100, 1_000, 10_000
ARCHIVED = "+archive"
GROWTH_RATE = 2_000  # messages/s, the same however many channels and connections there are


@dataclass(frozen=True)
class Scenario:
    """One way to use a server. `way` says who drives it (bench/drive.py), `options` how."""

    name: str
    meaning: str
    options: str
    way: str = "load"
    env: Mapping[str, str] = field(default_factory=lambda: {"ARCHIVE": "off"})  # settings of Peyk

    def archived(self) -> "Scenario":
        """The same while messages are stored in SQLite as well."""
        return replace(self, name=self.name + ARCHIVED, meaning="the same, archived in SQLite", env={"ARCHIVE": "on"})

    @property
    def timed(self) -> bool:
        """Whether it runs for a given time; the others end when their work is done."""
        return self.way != "recovery" and "-i" not in self.options.split()


_ALONE = [
    Scenario("S1M", "1 channel, 1,000 subscribers, 32 messages in flight", "-n 1000 -k 32"),
    Scenario("S1M-256", "1 channel, 1,000 subscribers, 256 messages in flight", "-n 1000 -k 256"),
    Scenario("S1R", "1 channel, 1,000 subscribers, 20 messages/s", "-n 1000 -r 20"),
    Scenario("S2", "200 channels × 5 subscribers, 20 publishers, 1,000 in flight", "-n 1000 -C 200 -P 20 -k 1000"),
    Scenario("S3", "1 channel, 2 subscribers, 100 messages/s", "-n 2 -r 100"),
    Scenario("S4", "5,000 idle connections", "-n 5000 -i 1"),
    Scenario("S4-10K", "10,000 idle connections", "-n 10000 -i 1"),
    Scenario("ingest", "50 clients publish to 200 channels, 5,000 unanswered", "-C 200 -P 50 -k 5000 -a", way="ingest"),
    *(
        Scenario(
            f"workers-{count}",
            f"100 clients publish to {count} process{'es' * (count > 1)}, each with a quarter of a CPU",
            "-C 200 -P 100 -k 10000 -a",
            way="workers",
            env={"ARCHIVE": "off", "HTTP_WORKERS": str(count)},
        )
        for count in (1, 2)
    ),
    Scenario("posts", "50 programs post to 50 channels, one POST at a time", "50", way="posts"),
    Scenario("replay-1", "1 client reads 10,000 messages of history, again and again", "1 10000", way="replay"),
    Scenario("replay-100", "100 clients do so", "100 10000", way="replay"),
    Scenario("recovery", "10,000 clients recover 100 messages each, all at once", "10000 100", way="recovery"),
    *(
        Scenario(
            f"channels-{count}",
            f"{count:,} channels × 5 subscribers on 1,000 connections, {GROWTH_RATE:,} messages/s",
            f"-n 1000 -C {count} -s 5 -P 10 -r {GROWTH_RATE}",
        )
        for count in GROWING_CHANNELS
    ),
    *(
        Scenario(
            f"connections-{count}",
            f"10 channels × 5 subscribers among {count:,} connections, {GROWTH_RATE:,} messages/s",
            f"-n {count} -C 10 -s 5 -P 10 -r {GROWTH_RATE}",
        )
        for count in GROWING_CONNECTIONS
    ),
]
_BOTH = "S1M", "S1M-256", "S1R", "S2", "S3", "ingest", "posts"  # with the archive as well
SCENARIOS = [scenario for s in _ALONE for scenario in ([s, s.archived()] if s.name in _BOTH else [s])]
PEERS_TOO = "S1M", "S1M-256", "S1R", "S2", "S3", "S4"  # what every server can do


@dataclass(frozen=True)
class Mark:
    """What a scenario's number should be, at least or at most; with `than`, divided by that scenario's."""

    scenario: str
    number: str
    bound: float
    at_least: bool = False
    than: str = ""

    def value(self, summaries: Mapping[str, Mapping[str, float]]) -> float | None:
        """The number, if what it needs was measured."""
        ours = summaries.get(self.scenario, {}).get(self.number)
        if ours is None or not self.than:
            return ours
        other = summaries.get(self.than, {}).get(self.number)
        return ours / other if other else None

    def met(self, value: float) -> bool:
        return value >= self.bound if self.at_least else value <= self.bound

    def __str__(self) -> str:
        over = f" / {self.than}" if self.than else ""
        return f"{self.scenario}{over} {self.number} {'≥' if self.at_least else '≤'} {self.bound:,g}"


MARKS: Sequence[Mark] = [
    Mark("S1M", "deliveries_per_s", 1_500_000, at_least=True),
    Mark("S1M-256", "deliveries_per_s", 4_500_000, at_least=True),
    Mark("S2", "publishes_per_s", 18_000, at_least=True),
    Mark("S2", "redis_us", 25),
    Mark("S3", "p50_ms", 0.9),
    Mark("S3", "p99_ms", 2.5),
    Mark("S4", "kib_per_connection", 13),
    Mark("S4-10K", "connect_s", 6),
    Mark("ingest", "publishes_per_s", 40_000, at_least=True),
    Mark("ingest", "redis_us", 15),
    Mark("workers-2", "publishes_per_s", 1.6, at_least=True, than="workers-1"),
    Mark("posts", "publishes_per_s", 4_000, at_least=True),
    Mark("replay-1", "entries_per_s", 100_000, at_least=True),
    *(
        Mark(name + ARCHIVED, number, 0.66, at_least=True, than=name)
        for number, names in (
            ("deliveries_per_s", ("S1M", "S1M-256")),
            ("publishes_per_s", ("S2", "ingest", "posts")),
        )
        for name in names
    ),
    Mark("channels-10000", "cost_us", 1.3, than="channels-100"),
    Mark("connections-10000", "cost_us", 1.2, than="connections-100"),
]
