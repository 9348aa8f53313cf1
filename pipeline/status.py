"""How far each consumer group is, on each partition."""

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


async def drop_group(link: Link, keys: Keys, group: str) -> None:
    """Remove a consumer group from every log."""
    await link.pipeline([["XGROUP", "DESTROY", keys.log(p), group] for p in range(keys.partitions)])


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
