"""How far each consumer group is, on each partition."""

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.keys import Keys
from pipeline.resp import Command, Link, ReplyError


@dataclass(frozen=True)
class GroupState:
    """One group on one partition's log. `oldest` is the time (Unix ms) of its oldest unacked entry, 0 if level."""

    partition: int
    group: str
    owner: str
    lag: int
    pending: int
    last: str
    oldest: int


async def group_states(link: Link, keys: Keys) -> list[GroupState]:
    """The state of every group that exists, by partition and name."""
    states = []
    logs = [keys.log(p) for p in range(keys.partitions)]
    for partition, reply in enumerate(await link.pipeline([["XINFO", "GROUPS", log] for log in logs])):
        if isinstance(reply, ReplyError):  # no log yet
            continue
        for fields in reply:
            group = dict(zip(fields[::2], fields[1::2], strict=True))
            states.append(await _state(link, keys, partition, group))
    return states


async def idle_groups(link: Link, keys: Keys, played: Sequence[str]) -> list[str]:
    """The groups, beside those in `played`, that exist and nobody plays: what they have not acked is never trimmed."""
    states = [state for state in await group_states(link, keys) if state.group not in played]
    return sorted({state.group for state in states} - {state.group for state in states if state.owner != "-"})


@dataclass(frozen=True)
class Stored:
    """What a sink stored last: channel, epoch, offset and the message's time (Unix ms). offset 0: nothing yet."""

    channel: str
    epoch: str
    offset: int
    ms: int


async def stored_last(link: Link, keys: Keys, group: str) -> Stored:
    """How far a sink says it is; of another group, nothing."""
    values = await link.call("HMGET", keys.archive(group), "channel", "epoch", "offset", "ms")
    channel, epoch, offset, ms = [_text(value or b"") for value in values]
    return Stored(channel, epoch, int(offset or 0), int(ms or 0))


def delay(states: Sequence[GroupState], now: int) -> float:
    """How long the oldest entry has waited for a group, in seconds, at `now` (Unix ms); 0 if it is level."""
    waiting = [state.oldest for state in states if state.oldest]
    return max(0, now - min(waiting)) / 1000 if waiting else 0.0


async def drop_group(link: Link, keys: Keys, group: str) -> None:
    """Remove a consumer group from every log, and forget which database it filled."""
    commands: list[Command] = [["XGROUP", "DESTROY", keys.log(p), group] for p in range(keys.partitions)]
    await link.pipeline([*commands, ["DEL", keys.archive(group)]])


async def _state(link: Link, keys: Keys, partition: int, group: dict[bytes, object]) -> GroupState:
    log, name, last = keys.log(partition), _text(group[b"name"]), _text(group[b"last-delivered-id"])
    commands: list[Command] = [
        ["GET", keys.lease(name, partition)],
        ["XPENDING", log, name],
        ["XRANGE", log, f"({last}", "+", "COUNT", 1],
    ]
    owner, pending, waiting = await link.pipeline(commands)
    oldest = 0
    if pending[0]:
        oldest = int(pending[1].partition(b"-")[0])
    elif waiting:
        oldest = int(waiting[0][0].partition(b"-")[0])
    lag = group.get(b"lag")
    return GroupState(
        partition, name, _text(owner or b"-"), lag if isinstance(lag, int) else 0, int(pending[0]), last, oldest
    )


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
