"""publish.lua by itself, in an imitation of Redis: what it answers and what it leaves. Faults: test_producer.py."""

import fakeredis
import pytest
from redis.exceptions import ResponseError

from pipeline.producer import SCRIPT
from tests.services import RedisClient


class Script:
    """Calls the script for messages of one channel `c`."""

    def __init__(self) -> None:
        self.redis: RedisClient = fakeredis.FakeRedis(decode_responses=True)

    def __call__(
        self, *messages: tuple[str, str], batch: str = "b", seen: tuple[str, int] = ("", 0), limit: int = 0
    ) -> list[str]:
        """`messages` are (idempotency key or "", data); data beginning with ~ is only shown."""
        keys = ["log:0", f"batch:0:{batch}", "channels", "channel:c", "message:c"]
        args: list[str | int] = [1000, 10, 300_000, 30_000, f"epoch-{batch}", limit, 1, "control", "c", *seen]
        for key, data in messages:
            place = 0
            if key:
                keys.append(f"idem:c:sara:{key}")
                place = len(keys)
            args += [1, place, 0 if data.startswith("~") else 1, "sara", "f00", data]
        return str(self.redis.eval(SCRIPT, len(keys), *keys, *args)).split("\n")


@pytest.fixture
def script() -> Script:
    return Script()


def offsets(lines: list[str]) -> list[int]:
    return [int(line.split()[0]) for line in lines]


def test_a_batch_is_dense_and_one_log_entry(script: Script) -> None:
    assert offsets(script(("", "1"), ("", "2"), ("", "3"))) == [1, 2, 3]
    ((_, fields),) = script.redis.xrange("log:0")
    assert list(fields) == ["c"]  # field names repeat: a dict shows the last
    assert [entry[1]["data"] for entry in script.redis.xrange("message:c")] == ["1", "2", "3"]
    assert script.redis.hgetall("channel:c")["offset"] == "3"


def test_the_same_batch_again_answers_the_same_and_writes_nothing(script: Script) -> None:
    first = script(("", "1"), ("", "2"))
    assert script(("", "1"), ("", "2")) == first
    assert script.redis.xlen("message:c") == 2 and script.redis.xlen("log:0") == 1


def test_a_known_key_answers_its_position(script: Script) -> None:
    (first,) = script(("k", "1"))
    assert script(("k", "1"), ("", "2"), batch="b2") == [f"{first} dup", script.redis.get("batch:0:b2").split("\n")[1]]
    assert script.redis.xlen("message:c") == 2


def test_what_is_only_shown_takes_no_offset(script: Script) -> None:
    lines = script(("", "1"), ("", "~2"), ("", "3"))
    assert offsets(lines) == [1, 0, 2] and lines[1].endswith(" -")


def test_an_unknown_channel_is_named_and_not_made(script: Script) -> None:
    assert script(("", "1"), limit=-1) == ["! UNKNOWN"]
    assert script.redis.keys("*") == ["batch:0:b"]


def test_there_are_not_more_channels_than_may_be(script: Script) -> None:
    script.redis.zadd("channels", {"other": 0})
    assert script(("", "1"), limit=1) == ["! LIMIT"]
    assert sorted(script.redis.keys("*")) == ["batch:0:b", "channels"]
    assert offsets(script(("", "1"), batch="one more", limit=2)) == [1]
    assert script.redis.zrange("channels", 0, -1) == ["c", "other"]
    assert offsets(script(("", "1"), batch="it is there", limit=1)) == [2]


def test_a_full_log_refuses_before_anything_is_written(script: Script) -> None:
    for i in range(10):
        script(("", "1"), batch=str(i))
    with pytest.raises(ResponseError, match="FULL the log of this partition holds 10"):
        script(("", "1"), batch="one more")
    assert script.redis.xlen("message:c") == 10


@pytest.mark.parametrize(
    ("seen", "expected"),
    [(("epoch-b", 9), (10, "epoch-later")), (("other", 9), (3, "epoch-b")), (("epoch-b", 2), (3, "epoch-b"))],
)
def test_a_hash_behind_what_was_seen_begins_a_new_epoch(
    script: Script, seen: tuple[str, int], expected: tuple[int, str]
) -> None:
    script(("", "1"), ("", "2"))
    (line,) = script(("", "3"), batch="later", seen=seen)
    offset, _, epoch = line.split()
    assert (int(offset), epoch) == expected
