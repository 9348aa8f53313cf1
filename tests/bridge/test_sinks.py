"""The log into PostgreSQL and MongoDB, as a server does it: each message once, whatever is unplugged meanwhile."""

from collections.abc import Iterator

import pytest
from redis.asyncio import Redis

from pipeline.keys import Keys
from redis_config import Settings
from tests.bridge.outage import KILLED, RATE, outage
from tests.bridge.stage import RETURN, SINKS, Stage
from tests.services import RedisClient, until


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with Stage() as stage:
        yield stage


@pytest.mark.parametrize("who", KILLED)
async def test_a_database_killed_under_load_has_everything_once_afterwards(stage: Stage, who: str) -> None:
    """Away for 3 s: nothing is acked for it meanwhile, the other sink and the chat do not notice."""
    assert await outage(stage, who, 3) > 3 * RATE


# What stands in the log, and who can never take it. Our own doors let none of this in; other programs may write there.
POISON = {
    b'{"id":"p","type":"t","payload":"\\u0000"}': ("sql",),
    b'{"id":"p","type":"t","payload":1e200000}': SINKS,
    b'{"id":"p","type":"t","payload":18446744073709551616}': ("mongo",),
    b'"' + b"x" * 17_000_000 + b'"': ("mongo",),
    b'"\xff"': SINKS,
    b'"\0"': ("sql",),
}


async def test_what_a_database_can_never_take_is_set_aside_there_and_its_neighbours_flow(stage: Stage) -> None:
    channel, settings = "poison", Settings(_env_file=None)
    log = f"log:{Keys.of(settings).partition(channel)}"
    async with stage.direct as redis:
        entries = [b"1", *[data for poison in POISON for data in (poison, b'{"id":"ok","type":"t","payload":1}')]]
        for offset, data in enumerate(entries, 1):
            head = f"{offset}-1795000000000 e u - ".encode()
            await redis.xadd(log, {channel: head + data})
    await until(stage.acked, RETURN, "everything is stored or set aside")
    for sink, stored in (("sql", await stage.in_sql(channel)), ("mongo", await stage.in_mongo(channel))):
        poison = [2 * i for i, who in enumerate(POISON.values(), 1) if sink in who]
        assert stored == [o for o in range(1, len(entries) + 1) if o not in poison]
        letters = await _letters(stage, sink)
        assert [int(letter[b"message"].partition(b"-")[0]) for letter in letters] == poison
        assert all(letter[b"reason"] and letter[b"count"] == b"5" for letter in letters)
    async with stage.direct as redis:
        await redis.delete("dead:sql", "dead:mongo")


async def _letters(stage: Stage, sink: str) -> list[dict[bytes, bytes]]:
    raw: RedisClient
    async with Redis(port=stage.redis.port) as raw:
        return [fields for _, fields in await raw.xrange(f"dead:{sink}")]


async def test_what_is_only_shown_is_not_archived(stage: Stage) -> None:
    channel = "shown"
    async with stage.http() as http:
        assert (await http.post(f"/api/channels/{channel}/messages", json={"text": "kept"})).status_code == 201
    async with stage.direct as redis:
        log = f"log:{Keys.of(Settings(_env_file=None)).partition(channel)}"
        await redis.xadd(log, {channel: b'- - u - {"text":"shown"}'})
    assert await stage.level(channel) == [1]
