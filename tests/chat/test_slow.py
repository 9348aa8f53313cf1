"""Clients that read slowly or never: they cost the server little and the others nothing, and lose nothing."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import redis

from bench import load
from tests.clients import ABNORMAL, Client
from tests.services import PeykServer, RedisProcess, until

TINY = 4096  # bytes the kernel takes in for a client that does not read
MIB = 1024  # KiB
SILENT = 10  # clients; together they show more than the few MiB that a process breathes
VOLUME = 8 * 1024 * 1024  # bytes published to each of them: the kernel alone takes 4 MiB
SIZE = 60_000  # bytes of a message
ROOM = ["-n", "1000", "-r", "200", "-d", "1", "-b", "3800"]  # 1,000 subscribers of c0; over 1 MiB for each

NO_ARENA = {"MALLOC_MMAP_THRESHOLD_": "1024", "MALLOC_TRIM_THRESHOLD_": "65536"}  # what is freed, the system has back


async def silent(server: PeykServer, channel: str) -> Client:
    """A subscriber that reads nothing from now on."""
    client = await Client.open(server.port, "silent", buffer=TINY)
    await client.subscribe(channel)
    client.transport.pause_reading()
    return client


def memory(process: PeykServer) -> int:
    """KiB that a process has for itself alone, now: what it shares with others changes as they come and go."""
    found = re.search(r"^Anonymous:\s+(\d+)", Path(f"/proc/{process.pid}/smaps_rollup").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1])


def peak(process: PeykServer) -> int:
    """KiB of a process, at the most, since this was asked last."""
    found = re.search(r"^VmHWM:\s+(\d+)", Path(f"/proc/{process.pid}/status").read_text(), re.MULTILINE)
    Path(f"/proc/{process.pid}/clear_refs").write_text("5")
    assert found is not None
    return int(found[1])


async def test_who_never_reads_costs_the_server_less_than_a_mebibyte(redis_of_module: RedisProcess) -> None:
    """Each in a channel of its own, so that no two share the bytes that wait for them, beside one who reads all."""
    env = {"REDIS_URL": redis_of_module.url, "READER_TIMEOUT": "600", "CHECK_INTERVAL": "0.2", **NO_ARENA}
    with PeykServer(env) as server:
        fast = await Client.open(server.port)

        async def publish_to(channels: list[str]) -> None:
            """VOLUME to each, all of which reaches who reads."""
            for number in range(VOLUME // SIZE):
                replies = [fast.send(publish={"channel": name, "data": f"{number}:" + "x" * SIZE}) for name in channels]
                assert all("publish" in reply for reply in await asyncio.gather(*replies))
                for channel in channels:
                    await fast.reach(channel, number + 1, 60)

        channels = [f"silent-{number}" for number in range(SILENT)]
        await fast.subscribe("alone", *channels)
        await publish_to(["alone"])  # what the server needs once
        clients = [await silent(server, channel) for channel in channels]
        before = memory(server)
        await publish_to(channels)
        print(f"{memory(server) - before} KiB for {SILENT} who never read")
        await until(lambda: memory(server) - before < SILENT * MIB)  # what is under way is let go
        for client in (fast, *clients):
            client.abort()


async def test_who_reads_no_history_costs_one_page(redis_of_module: RedisProcess) -> None:
    """However many it asks for: the next is read when it has taken the last."""
    with PeykServer({"REDIS_URL": redis_of_module.url, **NO_ARENA}) as server:
        client = await Client.open(server.port, "historian")
        for _ in range(20):
            assert "publish" in await client.ask(publish={"channel": "pages", "data": "x" * SIZE})
        assert "history" in await client.ask(history={"channel": "pages", "limit": 1000})
        before = peak(server)
        asked = [client.send(history={"channel": "pages", "limit": 1000}) for _ in range(120)]
        assert min([len((await reply)["history"]["publications"]) for reply in asked]) > 3
        assert peak(server) - before < 6 * MIB  # all of them are 30 MiB
        client.abort()


@asynccontextmanager
async def overwhelmed(
    process: RedisProcess, name: str
) -> AsyncIterator[tuple[Client, list[asyncio.Future[Any]], Client]]:
    """Somebody who recovers six channels at once, and takes in less than it missed in each; what it asked; a reader."""
    with PeykServer({"REDIS_URL": process.url, "HIGH_WATER": "8192"}) as server:
        fast, slow = await Client.open(server.port), await Client.open(server.port, "slow", buffer=TINY)
        slow.transport.pause_reading()
        asked = []
        for channel in (f"{name}-{number}" for number in range(6)):
            for _ in range(6):
                assert "publish" in await fast.ask(publish={"channel": channel, "data": "x" * SIZE})
            epoch = (await fast.ask(history={"channel": channel}))["history"]["epoch"]
            asked.append({"subscribe": {"channel": channel, "recover": True, "epoch": epoch, "offset": 0}})
        replies = slow.send_together(*asked)

        async def begun() -> bool:
            found = [await fast.ask(presence={"channel": f"{name}-{number}"}) for number in range(6)]
            return any(reply["presence"]["presence"] for reply in found)

        await until(begun)
        yield slow, replies, fast
        slow.abort()
        fast.abort()


async def test_who_recovers_more_than_it_takes_is_answered_everywhere(redis_of_module: RedisProcess) -> None:
    async with overwhelmed(redis_of_module, "much") as (slow, replies, fast):
        slow.transport.resume_reading()
        async with asyncio.timeout(180):
            assert all([(await reply)["subscribe"]["recovered"] for reply in replies])
        for number in range(6):
            assert "publish" in await fast.ask(publish={"channel": f"much-{number}", "data": "the end"})
            await slow.reach(f"much-{number}", 7, 30)
            assert slow.offsets(f"much-{number}") == list(range(1, 8))


async def test_who_goes_before_it_is_answered_leaves_nothing(redis_of_module: RedisProcess) -> None:
    direct = redis.Redis(port=redis_of_module.port, decode_responses=True)
    async with overwhelmed(redis_of_module, "gone") as (slow, _, _):
        assert direct.pubsub_channels("channel:gone-*")
        slow.abort()
        await until(lambda: not direct.pubsub_channels("channel:gone-*"))


async def test_a_room_of_1000_does_not_notice_who_never_reads(redis_of_module: RedisProcess) -> None:
    """The others get every message; and so does it, in order, when it reads at last."""
    with PeykServer({"REDIS_URL": redis_of_module.url, "READER_TIMEOUT": "600"}) as server:
        last = await silent(server, "c0")
        report = await asyncio.to_thread(load.run, server.port, ROOM, [server.pid], 90)
        assert report["good"] and report["published"] > 200, report
        last.transport.resume_reading()
        await last.reach("c0", report["published"], 60)
        assert last.offsets("c0") == list(range(1, report["published"] + 1))
        last.abort()


async def test_who_reads_nothing_is_dropped_and_may_come_back() -> None:
    """Dropped without a close frame, which clients take for a reason to connect again; it recovers what it missed."""
    with PeykServer({"HIGH_WATER": "65536", "READER_TIMEOUT": "0.5"}) as server:
        slow, fast = await silent(server, "slow"), await Client.open(server.port)

        async def gone() -> bool:
            assert "publish" in await fast.ask(publish={"channel": "slow", "data": "x" * 60_000})
            return "reads nothing; dropped" in server.log.read_text()

        await until(gone)
        slow.transport.resume_reading()
        assert await asyncio.wait_for(slow.ended, 180) == ABNORMAL
        missed = len(slow.offsets("slow"))
        back = await Client.open(server.port, "silent", before=slow)
        await back.subscribe("slow")
        assert "publish" in await fast.ask(publish={"channel": "slow", "data": "the end"})
        await until(lambda: back.seen["slow"][-1][1] == "the end")
        assert back.offsets("slow") == list(range(1, len(back.seen["slow"]) + 1)) and missed < len(back.seen["slow"])
        back.abort()
        fast.abort()
