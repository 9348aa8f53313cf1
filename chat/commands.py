"""The commands that look: `replay` and `status`."""

from collections.abc import Sequence

from chat.api import moment
from chat.events import EventStream
from chat.models import channel_id
from chat.node import Node
from chat.settings import ServerSettings
from pipeline.encode import publication
from pipeline.replay import CHUNK
from pipeline.status import group_states


async def replay(settings: ServerSettings, name: str, after: int, since: str | None, follow: bool) -> None:
    """Write a channel's history to standard output as NDJSON publications, and with `follow` go on with what comes."""
    channel = channel_id(name)
    async with Node(settings, "terminal" if follow else "tool") as node:
        if since is not None:
            after = await node.replay.since(channel, moment(since))
        while True:
            page = await node.replay.after(channel, after, CHUNK, settings.page_bytes)
            for message in page.messages:
                print(publication(message).decode(), flush=follow)
            if not page.messages:
                break
            after = page.messages[-1].offset
        if follow:
            await _follow(node, channel, (page.epoch, after))


async def _follow(node: Node, channel: str, since: tuple[str, int]) -> None:
    stream = EventStream(node, channel)
    try:
        await stream.follow(since)
        while (publications := await stream.take()) is not None:
            for line in publications:
                print(line.decode(), flush=True)
    finally:
        stream.close()


async def status(settings: ServerSettings) -> None:
    """Write a table: each consumer group on each partition, and each channel's last position."""
    async with Node(settings, "tool") as node:
        print(node.redis_server.describe())
        rows = [("partition", "group", "lag", "pending", "last entry", "owner")]
        for s in await group_states(node.link, node.keys):
            rows.append((str(s.partition), s.group, str(s.lag), str(s.pending), s.last, s.owner))
        _print_table(rows)
        channels = [("channel", "partition", "epoch", "offset")]
        for channel in await node.channels.list():
            position = await node.replay.position(channel.id) or ("-", 0)
            channels.append((channel.id, str(node.keys.partition(channel.id)), position[0], str(position[1])))
        _print_table(channels)


def _print_table(rows: Sequence[tuple[str, ...]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    print()
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
