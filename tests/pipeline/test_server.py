"""The Redis in use: what the start refuses, and says about it in one line."""

import asyncio
import os
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pipeline.rights import _COMMANDS
from pipeline.server import check, open_redis
from redis_config import Address, ConfigError, Settings, command_client
from tests.services import ROOT, RedisClient, RedisProcess, free_port, run_app


@pytest.fixture
def address(redis_process: RedisProcess) -> Address:
    return Address("127.0.0.1", redis_process.port)


@pytest.fixture
async def client(address: Address) -> AsyncIterator[RedisClient]:
    async with command_client(address) as client:
        await client.flushall()
        yield client


def given(**values: object) -> Settings:
    return Settings(_env_file=None, **values)  # type: ignore[arg-type]


async def test_a_server_that_evicts_is_refused(client: RedisClient, address: Address) -> None:
    await client.config_set("maxmemory-policy", "allkeys-lru")
    try:
        with pytest.raises(ConfigError, match="CONFIG SET maxmemory-policy noeviction"):
            await check(address, given())
    finally:
        await client.config_set("maxmemory-policy", "noeviction")
    await check(address, given())


async def test_another_number_of_partitions_is_refused(client: RedisClient, address: Address) -> None:
    await check(address, given(partitions=4))
    with pytest.raises(ConfigError, match="set PARTITIONS=4"):
        await check(address, given(partitions=8))
    await check(address, given(partitions=4))


async def test_a_wrong_password_is_refused(redis_process: RedisProcess, client: RedisClient) -> None:
    await client.config_set("requirepass", "sesame")
    try:
        for url in (redis_process.url, redis_process.url.replace("//", "//:wrong@")):
            with pytest.raises(ConfigError, match="REDIS_PASSWORD") as caught:
                await open_redis(given(redis_url=url))
            assert "wrong@" not in str(caught.value)
        server = await open_redis(given(redis_url=redis_process.url.replace("//", "//:sesame@")))
        await server.close()
    finally:
        await client.config_set("requirepass", "")


async def test_a_database_that_is_not_there_is_refused(redis_process: RedisProcess) -> None:
    with pytest.raises(ConfigError, match="REDIS_DB"):
        await open_redis(given(redis_url=redis_process.url.removesuffix("0") + "99"))


async def test_nothing_at_the_given_place_is_an_error(data_dir: Path) -> None:
    port = free_port()
    with pytest.raises(ConfigError, match=f"no Redis at localhost:{port}.*REDIS_HOST"):
        await open_redis(given(redis_port=port, data_dir=data_dir))
    assert os.listdir(data_dir) == []  # nothing was started instead


@pytest.mark.parametrize("kind", ["redis", "valkey"])
async def test_a_server_that_reads_its_data_back_is_waited_for(kind: str) -> None:
    """It answers INFO meanwhile, and refuses all else with LOADING."""
    with RedisProcess(kind) as process:
        async with command_client(Address(port=process.port)) as client:
            pipe = client.pipeline(transaction=False)
            for i in range(20_000):
                pipe.set(f"key-{i}", i)
            await pipe.execute()
        process.args += ["--key-load-delay", "10"]  # microseconds a key, and what it takes to sleep them
        process.kill()
        starting = asyncio.create_task(asyncio.to_thread(process.start))
        while True:
            try:
                server = await open_redis(given(redis_url=process.url))
                break
            except ConfigError as error:
                assert "no Redis at" in str(error)
        await server.close()
        await starting


# -- what the user of Redis may do


FULL = ["on", ">p", "~*", "+@all", "&*"]
NARROW = [
    *("on", ">p", "+@all", "-@dangerous", "+info", "&control", "&channel:*"),
    *(f"~{name}:*" for name in ("channel", "message", "presence", "node", "user", "account", "attempts", "places")),
    *(
        f"~{name}:*"
        for name in ("log", "lease", "dead", "archive", "idem", "batch", "event", "rpc", "made", "asks", "asked")
    ),
    *("~nodes", "~channels", "~revoked", "~revoked:order", "~secret", "~accounts", "~partitions", "~ready", "~demo"),
]


@pytest.mark.parametrize(
    ("rules", "named"),
    [
        (["on", ">p", "~*", "+@all", "resetchannels"], "ACL SETUSER app &*"),
        ([*FULL, "resetchannels", "&control"], "ACL SETUSER app &*"),
        ([*FULL, "-@scripting"], "ACL SETUSER app +script|load +eval +evalsha"),
        ([*FULL, "-eval"], "ACL SETUSER app +eval"),
        ([*FULL, "-xreadgroup"], "ACL SETUSER app +xreadgroup"),
        ([*FULL, "-publish"], "ACL SETUSER app +publish"),
        ([*FULL, "resetkeys", "~foo:*"], "~*"),
        ([*NARROW, "resetkeys", *(rule for rule in NARROW if rule.startswith("~") and rule != "~log:*")], "~log:*"),
        ([*FULL, "-@write"], "+@all"),
        ([*FULL, "-@all", "+ping"], "+@all"),
        ([*FULL, "off"], "does not know the user and password of REDIS_URL"),
        ([*FULL, "resetpass", ">other"], "does not know the user and password of REDIS_URL"),
    ],
)
async def test_a_right_that_is_missing_is_named(
    client: RedisClient, address: Address, rules: list[str], named: str
) -> None:
    await client.set("partitions", 8)
    await client.acl_deluser("app")
    await client.execute_command("ACL", "SETUSER", "app", *rules)
    try:
        url = f"redis://app:p@{address.host}:{address.port}"
        with pytest.raises(ConfigError) as caught:
            await open_redis(given(redis_url=url))
    finally:
        await client.acl_deluser("app")
    assert named in str(caught.value) and "\n" not in str(caught.value)
    assert await client.keys("*") == ["partitions"] or set(await client.keys("*")) == {"partitions", "batch:0:probe"}


@pytest.mark.parametrize("rules", [FULL, NARROW, [*FULL, "-config", "-acl"], [*FULL, "nopass"], [*FULL, "-info"]])
async def test_enough_rights_are_enough(
    client: RedisClient, address: Address, rules: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    await client.execute_command("ACL", "SETUSER", "app", "reset", *rules)
    try:
        server = await open_redis(given(redis_url=f"redis://app:p@{address.host}:{address.port}"))
        await server.close()
    finally:
        await client.acl_deluser("app")
    assert ("does not say how it is set up" in caplog.text) == ("-info" in rules)


async def test_a_user_without_a_password_is_let_in(client: RedisClient, address: Address) -> None:
    await client.execute_command("ACL", "SETUSER", "app", "reset", *FULL, "resetpass", "nopass")
    try:
        server = await open_redis(given(redis_url=f"redis://app@{address.host}:{address.port}"))
        await server.close()
    finally:
        await client.acl_deluser("app")


async def test_the_probe_of_the_rights_leaves_what_is_there_alone(client: RedisClient, address: Address) -> None:
    await client.hset("channel:?", "id", "?")
    await client.zadd("channels", {"general": 0})
    await client.zadd("nodes", {"serve:a:": 1})
    await client.set("secret", "s")
    before = {key: await client.dump(key) for key in await client.keys("*")}
    await check(address, given())
    after = {
        key: await client.dump(key) for key in await client.keys("*") if key not in ("partitions", "batch:0:probe")
    }
    assert after == before


# -- what Redis is


async def test_a_password_that_redis_does_not_have(address: Address) -> None:
    where = {"redis_host": address.host, "redis_port": address.port}
    with pytest.raises(ConfigError, match="has no password, but REDIS_PASSWORD gives one"):
        await open_redis(given(**where, redis_password="p"))
    with pytest.raises(ConfigError, match="has no password, but REDIS_URL gives one"):
        await open_redis(given(redis_url=f"redis://:p@{address.host}:{address.port}"))
    with pytest.raises(ConfigError, match="does not know the user and password of REDIS_URL"):
        await open_redis(given(redis_url=f"redis://nobody:p@{address.host}:{address.port}"))


@pytest.mark.parametrize("command", ["status", "serve"])
def test_every_command_says_so_in_one_line(address: Address, tmp_path: Path, command: str) -> None:
    redis = {"REDIS_PORT": str(address.port), "REDIS_HOST": address.host, "REDIS_PASSWORD": "p"}
    done = run_app(command, DATA_DIR=str(tmp_path), **redis)
    assert done.returncode == 1
    assert done.stderr.startswith("peyk: Redis refuses us") and done.stderr.count("\n") == 1


async def test_a_replica_is_refused_by_name(client: RedisClient, address: Address) -> None:
    await client.replicaof("127.0.0.1", "1")
    try:
        with pytest.raises(ConfigError, match="is a read-only replica; if it stays so, set REDIS_URL to its primary"):
            await open_redis(given(redis_url=f"redis://{address.host}:{address.port}"))
    finally:
        await client.replicaof("NO", "ONE")


@pytest.mark.parametrize("kind", ["redis", "valkey"])
async def test_a_cluster_is_refused_by_name(kind: str) -> None:
    with RedisProcess(kind, ["--cluster-enabled", "yes"]) as process:
        with pytest.raises(ConfigError, match="is a cluster"):
            await open_redis(given(redis_url=process.url))
        async with command_client(Address(port=process.port)) as client:
            await client.execute_command("ACL", "SETUSER", "app", *FULL, "-info")  # type: ignore[no-untyped-call]
        with pytest.raises(ConfigError, match="is a cluster"):
            await open_redis(given(redis_url=process.url.replace("//", "//app:p@")))


async def test_without_an_append_only_file_there_is_a_warning(
    client: RedisClient, address: Address, caplog: pytest.LogCaptureFixture
) -> None:
    await check(address, given())
    assert "append-only" not in caplog.text
    await client.config_set("appendonly", "no")
    try:
        await check(address, given())
    finally:
        await client.config_set("appendonly", "yes")
    assert "CONFIG SET appendonly yes" in caplog.text and "lost when it crashes" in caplog.text


async def test_a_redis_that_is_full_is_no_reason_not_to_start(
    client: RedisClient, address: Address, caplog: pytest.LogCaptureFixture
) -> None:
    await check(address, given())
    await client.config_set("maxmemory", 1)
    try:
        await check(address, given())
    finally:
        await client.config_set("maxmemory", 0)
    assert "Redis is full" in caplog.text


def test_every_command_that_is_used_is_tried() -> None:
    """Those of scripts, of the connections of our own, and of redis-py's methods."""
    methods = {"DELETE", "EXECUTE", "PIPELINE", "ACLOSE"}
    used = {"SET", "PUBLISH", "SUBSCRIBE", "SREM"}  # tried apart
    optional = {"AUTH", "SELECT", "PING", "INFO", "CLIENT UNBLOCK", "UNSUBSCRIBE", "PSUBSCRIBE", "XGROUP DESTROY"}
    found = set()
    for path in [*ROOT.glob("pipeline/*"), *ROOT.glob("chat/*.py"), *ROOT.glob("bridge/*.py")]:
        if path.suffix in (".py", ".lua"):
            text = path.read_text()
            found |= set(re.findall(r"redis\.p?call\('([A-Z]{3,})'", text))
            found |= {word.upper() for word in re.findall(r"\b(?:_redis|pipe)\.([a-z]+)\(", text)} - methods
            if "link" in text.lower():
                found |= set(re.findall(r'(?:\.call\(|\[)"([A-Z]{3,})"[,\]]', text))
    tried = {line.split()[0] for line in _COMMANDS.split("\n") if line}
    assert found - tried - used - {name.split()[0] for name in optional} - {"BLOCK"} == set()
    assert len(found) > 25
