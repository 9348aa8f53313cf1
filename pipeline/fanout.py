"""Fan-out: log → Pub/Sub. Each channel's messages of a batch leave as one PUBLISH, encoded once for everybody."""

from collections.abc import Sequence

from pipeline.encode import Message, push
from pipeline.keys import Keys
from pipeline.resp import Command

GROUP = "fanout"
RUN_BYTES = 256 * 1024
UNPOSITIONED = b"-"
PRESENCE = b"@"  # joins and leaves, for those who asked for them


class Run:
    """A dense run of one channel and epoch: `first`, first + 1, … `last`; or messages without a position (epoch -)."""

    __slots__ = ("epoch", "first", "last", "lines", "ms", "size")

    def __init__(self, message: Message) -> None:
        self.epoch, self.first, self.last, self.ms = message.epoch, message.offset, message.offset - 1, message.ms
        self.lines: list[bytes] = []
        self.size = 0

    def takes(self, message: Message) -> bool:
        """Whether `message` continues this run."""
        if self.size >= RUN_BYTES or message.epoch != self.epoch:
            return False
        return message.offset == 0 or message.offset == self.last + 1

    def add(self, message: Message) -> None:
        line = push(message)
        self.lines.append(line)
        self.size += len(line) + 1
        if message.offset:
            self.last, self.ms = message.offset, message.ms

    def payload(self) -> bytes:
        """What is published: a line that says where the run stands, then the wire lines."""
        if not self.first:
            return b"\n".join([UNPOSITIONED, *self.lines])
        return b"\n".join([f"{self.epoch} {self.first} {self.last} {self.ms}".encode(), *self.lines])


class FanOut:
    """The handler of the group `fanout`."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys

    async def handle(self, messages: Sequence[Message]) -> list[Command]:
        """One PUBLISH per dense run. A message seen before, or a jump, begins a new run: hubs know what to do."""
        commands: list[Command] = []
        runs: dict[str, Run] = {}
        for message in messages:
            run = runs.get(message.channel)
            if run is None or not run.takes(message):
                if run is not None:
                    commands.append(self._publish(message.channel, run))
                runs[message.channel] = run = Run(message)
            run.add(message)
        return commands + [self._publish(channel, run) for channel, run in runs.items()]

    def _publish(self, channel: str, run: Run) -> Command:
        return ["PUBLISH", self._keys.pubsub(channel), run.payload()]
