"""The commands beside the server: `pipeline`, `replay`, `status`, `dead` and `groups`."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime

from chat.errors import BadRequest, Unavailable, Unrecoverable
from chat.events import EventStream
from chat.models import channel_id, is_line
from chat.node import Join, Node
from chat.protocol import encode
from chat.requests import moment
from chat.settings import ServerSettings
from pipeline import fanout
from pipeline.dead import DeadLetters, dead_counts
from pipeline.encode import publication
from pipeline.ports import Queues
from pipeline.positions import AT_ONCE, standings
from pipeline.replay import CHUNK
from pipeline.status import GroupState, delay, group_states, stored_last
from pipeline.status import drop_group as destroy
from pipeline.system import on_stop, run
from redis_config import ConfigError

BROKER = "rabbitmq"  # as a group of dead letters: those in its dead-letter queue


def work(settings: ServerSettings, join: Join, kind: str) -> None:
    """Run the workers alone, or the bridge (`kind`), until SIGTERM or SIGINT; what is in hand is finished."""

    async def work() -> None:
        ended = asyncio.Event()
        on_stop(ended.set)
        async with Node(settings, kind, join) as node:
            if kind == "bridge" and node.parts.queues is None:
                raise ConfigError("there is nothing to bring in: set AMQP_URL")
            played = "bridge from RabbitMQ" if kind == "bridge" else f"workers of Peyk: {', '.join(node.leases.owned)}"
            print(f"{node.redis_server.describe()}\n{played}", flush=True)
            await ended.wait()

    run(work())


async def replay(settings: ServerSettings, join: Join, name: str, after: int, since: str | None, follow: bool) -> None:
    """Write a channel's history to standard output as NDJSON publications, and with `follow` go on with what comes.

    Raises UnknownChannel, and Unrecoverable where the channel began anew meanwhile.
    """
    channel = channel_id(name)
    async with Node(settings, "terminal" if follow else "tool", join) as node:
        if since is not None:
            after = await node.replay.since(channel, moment(since))
        epoch = ""
        while True:
            page = await node.replay.after(channel, after, CHUNK, settings.page_bytes)
            if page.epoch != (epoch := epoch or page.epoch):
                raise Unrecoverable(f"{channel} began anew while it was read; replay it again")
            for message in page.messages:
                print(publication(message).decode(), flush=follow)
            if not page.messages:
                break
            after = page.messages[-1].offset
        if follow:
            await _follow(node, channel, (epoch, after))


async def _follow(node: Node, channel: str, since: tuple[str, int]) -> None:
    stream = EventStream(node, channel)
    try:
        await stream.follow(since)
        while (publications := await stream.take()) is not None:
            for line in publications:
                print(line.decode(), flush=True)
    finally:
        stream.close()


async def status(settings: ServerSettings, join: Join) -> None:
    """Write tables: partitions, sinks, dead letters, the broker's queues, each channel's last position."""
    async with Node(settings, "tool", join) as node:
        print(node.redis_server.describe())
        rows = [("partition", "group", "lag", "pending", "last entry", "owner")]
        states = await group_states(node.link, node.keys)
        for s in states:
            rows.append((str(s.partition), s.group, str(s.lag), str(s.pending), s.last, s.owner))
        print_table(rows)
        print_table([("sink", "stored last", "at", "delay s"), *await _sinks(node, states)])
        counts = await dead_counts(node.link, node.keys, sorted({s.group for s in states}))
        print_table([("group", "dead letters"), *[(group, str(count)) for group, count in counts.items()]])
        await _print_queues(node)
        channels = [("channel", "partition", "epoch", "offset")]
        names = await node.channels.names(limit=AT_ONCE)
        while names:
            for name, at in zip(names, await standings(node.link, node.keys, [(n, 0) for n in names]), strict=True):
                channels.append((name, str(node.keys.partition(name)), at.epoch or "-", str(at.offset)))
            names = await node.channels.names(names[-1], AT_ONCE)
        print_table(channels)


async def _sinks(node: Node, states: Sequence[GroupState]) -> list[tuple[str, ...]]:
    """Each sink: what it stored last, how long its oldest message waits; those that are off, and what turns each on."""
    rows: list[tuple[str, ...]] = []
    seconds, micros = await node.link.call("TIME")  # the clock that gave the entries their times
    now = int(seconds) * 1000 + int(micros) // 1000
    for group in sorted({state.group for state in states} - {fanout.GROUP}):
        last = await stored_last(node.link, node.keys, group)
        at = datetime.fromtimestamp(last.ms / 1000, UTC).isoformat(timespec="seconds") if last.ms else "-"
        position = f"{last.channel} {last.epoch} {last.offset}" if last.offset else "-"
        waiting = delay([state for state in states if state.group == group], now)
        rows.append((group, position, at, f"{waiting:.1f}"))
    return rows + [(group, f"off; {setting} turns it on", "-", "-") for group, setting in node.parts.off.items()]


async def _print_queues(node: Node) -> None:
    if node.parts.queues is None:
        return
    try:
        states = await node.parts.queues.states()
    except Unavailable as error:
        print(f"\nqueues: {error}")
        return
    rows = [("queue", "ready", "unacknowledged", "consumers")]
    for s in states:
        rows.append(
            (s.name, str(s.ready), "?" if s.unacknowledged is None else str(s.unacknowledged), str(s.consumers))
        )
    overview = await node.parts.queues.overview()
    known = {state.name for state in states}
    for s in overview.queues:
        if s.name not in known:
            rows.append((_shown(s.name), str(s.ready), str(s.unacknowledged), str(s.consumers)))
    print_table(rows)
    if overview.users:
        print_table([("broker's user", "tags"), *[(_shown(user.name), user.tags) for user in overview.users]])
    if overview.connections:
        found = [("broker's connection", "user", "from", "virtual host", "channels", "state")]
        for one in overview.connections:
            texts = [_shown(text) for text in (one.name, one.user, one.peer, one.vhost)]
            found.append((texts[0], texts[1], texts[2], texts[3], str(one.channels), one.state))
        print_table(found)
    for note in overview.notes:
        print(f"\n{note}")


def _shown(text: str) -> str:
    """What others wrote, harmless on a terminal."""
    return text if is_line(text) else repr(text)


async def dead(
    settings: ServerSettings, join: Join, action: str, group: str, ids: Sequence[str], everything: bool
) -> None:
    """List the dead letters of a group, or of the broker, as JSON lines; or retry or drop those named.

    Raises BadRequest.
    """
    async with Node(settings, "tool", join) as node:
        letters: DeadLetters | Queues = DeadLetters(node.link, node.keys, group)
        if group == BROKER:
            if node.parts.queues is None:
                raise BadRequest(f"{BROKER} is off; set AMQP_URL")
            letters = node.parts.queues
        found = {letter.id: letter for letter in await letters.list()}
        if not found and group != BROKER:
            groups = {fanout.GROUP, *[state.group for state in await group_states(node.link, node.keys)]}
            if group not in groups:
                there = sorted(groups | ({BROKER} if node.parts.queues else set()))
                raise BadRequest(f"there is no group {group}; there are {', '.join(there)}")
        if action == "list":
            for letter in found.values():
                row = {"id": letter.id, "reason": letter.reason, "count": letter.count, "log": letter.log}
                texts = {"channel": letter.channel, "message": letter.message}
                print(encode(row | {name: text.decode(errors="replace") for name, text in texts.items()}).decode())
            return
        if unknown := [i for i in ids if i not in found]:
            raise BadRequest(f"group {group} has no dead letter {unknown[0]}; `dead list {group}` shows what there is")
        if not ids and not everything:
            raise BadRequest(f"which of the {len(found)} dead letters? name their ids, or say --all")
        chosen = list(found.values()) if everything else [found[i] for i in ids]
        await (letters.retry(chosen) if action == "retry" else letters.drop(chosen))
        print(f"{len(chosen)} dead letters of {group}: {'given back' if action == 'retry' else 'dropped'}")


async def revoke(settings: ServerSettings, user: str, token: str) -> None:
    """Shut out a user's tokens issued until now, or one token. Raises BadRequest."""
    async with Node(settings, "tool") as node:
        await node.doors.revoke(user=user, token=token)
        print(f"shut out on every node: {user or token}")


async def reset_password(settings: ServerSettings, user: str) -> None:
    """Give an account a new password, and print it. Raises BadRequest."""
    async with Node(settings, "tool") as node:
        print(await node.accounts.reset_password(user))


async def drop_group(settings: ServerSettings, group: str) -> None:
    """Remove a consumer group from every log, so that the logs no longer wait for it. Raises BadRequest."""
    async with Node(settings, "tool") as node:
        states = await group_states(node.link, node.keys)
        groups = sorted({s.group for s in states})
        if group not in groups:
            raise BadRequest(f"there is no group {group}; there are {', '.join(groups) or 'none'}")
        if players := sorted({s.owner for s in states if s.group == group and s.owner != "-"}):
            raise BadRequest(f"{', '.join(players)} plays {group} now; stop it first")
        await destroy(node.link, node.keys, group)
        print(f"group {group} is gone from every log")


def print_table(rows: Sequence[tuple[str, ...]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    print()
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
