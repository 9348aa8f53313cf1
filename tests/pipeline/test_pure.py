"""What needs no server: keys, wire bytes, dense runs, the merge, the sharing of partitions."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.encode import Message, from_history, from_log, publication, publication_of, push, to_log
from pipeline.fanout import RUN_BYTES, FanOut
from pipeline.keys import Keys
from pipeline.lease import share
from pipeline.replay import unseen
from redis_config import ConfigError, Settings

KEYS = Keys("channel:", "message:", 8)


def message(offset: int, channel: str = "c", epoch: str = "e", text: str = "x") -> Message:
    ms = 1000 + offset if offset else 0
    return Message(channel, offset, ms, epoch if offset else "-", "sara", "f00", json.dumps({"text": text}).encode())


# -- keys


def test_keys_are_those_of_the_design() -> None:
    assert KEYS.channel("general") == "channel:general"
    assert KEYS.history("general") == "message:general"
    assert KEYS.subscribers("general") == "channel:general:subscribers"
    assert KEYS.user_channels("sara") == "user:sara:channels"
    assert (KEYS.log(3), KEYS.lease("fanout", 3)) == ("log:3", "lease:fanout:3")
    assert KEYS.channel_of(b"channel:general") == "general"


def test_names_on_pubsub_carry_the_database_and_keys_do_not() -> None:
    other = Keys("channel:", "message:", 8, 5)
    assert (other.pubsub("x"), other.control) == ("db5:channel:x", "db5:control")
    assert (KEYS.pubsub("x"), KEYS.control) == ("channel:x", "control")
    assert other.channel("x") == KEYS.channel("x") == "channel:x"
    for keys in (KEYS, other):
        assert keys.channel_of(keys.pubsub("سلام").encode()) == "سلام"
        for name in ("channel:x_sender", "db5:channel:x_sender", "db12:channel:x_sender", "control_sender"):
            assert keys.is_taken(name)
        for name in ("laravel_database_general_sender", "db5:laravel_sender", "dbx:channel:y_sender"):
            assert not keys.is_taken(name)


def test_prefixes_change_the_first_two() -> None:
    other = Keys("c/", "m/", 8)
    assert (other.channel("x"), other.history("x"), other.log(1)) == ("c/x", "m/x", "log:1")


@pytest.mark.parametrize(
    ("channel", "message"),
    [
        ("m:", "m:"),
        ("", "m:"),
        ("c:", ""),
        ("chan", "m:"),
        ("c:", "user:"),
        ("c:", "c:m:"),
        ("log:1", "m:"),
        ("db5:channel:", "m:"),
    ],
)
def test_prefixes_that_would_meet_other_keys_are_refused(channel: str, message: str) -> None:
    with pytest.raises(ConfigError, match="_PREFIX="):
        Keys.of(Settings(channel_prefix=channel, message_prefix=message, _env_file=None))


def test_the_partition_is_redis_own_hash() -> None:
    assert Keys("", "", 16384).partition("123456789") == 0x31C3  # the check value of CRC16/XMODEM


@given(st.text(min_size=1, max_size=64), st.integers(1, 64))
def test_every_channel_has_one_partition(channel: str, partitions: int) -> None:
    assert 0 <= Keys("", "", partitions).partition(channel) < partitions


# -- wire bytes


def test_a_push_is_what_centrifugal_clients_read() -> None:
    line = push(Message("عمومی", 43, 1763683200123, "Xk2", "سارا", "f00", '{"text":"سلام"}'.encode()))
    info = {"user": "سارا", "client": "f00"}
    pub = {"offset": 43, "time": 1763683200123, "data": {"text": "سلام"}, "info": info}
    assert json.loads(line) == {"push": {"channel": "عمومی", "pub": pub}}
    assert json.loads(publication_of("عمومی", line)) == pub
    assert b"\n" not in line


def test_a_message_that_is_only_shown_has_no_offset() -> None:
    assert "offset" not in json.loads(publication(message(0)))


def test_history_and_log_entries_are_read_back() -> None:
    entry = [b"42-1763", [b"user", b"sara", b"client", b"f00", b"data", b'{"text":"a b"}']]
    expected = Message("c", 42, 1763, "e", "sara", "f00", b'{"text":"a b"}')
    assert from_history("c", "e", entry) == expected
    assert from_log(b"c", b'42-1763 e sara f00 {"text":"a b"}') == expected
    shown = from_log(b"c", b"- - sara f00 1")
    assert shown.offset == 0
    for message in (expected, shown):
        assert from_log(*to_log(message)) == message


# -- dense runs


async def runs(messages: list[Message]) -> list[tuple[str, str, int]]:
    """Channel, first line and number of lines of each PUBLISH."""
    found = []
    for name, channel, payload in await FanOut(KEYS).handle(messages):
        assert name == "PUBLISH" and isinstance(payload, bytes)
        head, *lines = payload.split(b"\n")
        found.append((str(channel), head.decode(), len(lines)))
    return found


async def test_one_publish_per_channel_and_batch() -> None:
    batch = [message(1), message(7, "d"), message(2), message(8, "d"), message(3)]
    assert await runs(batch) == [("channel:c", "e 1 3 1003", 3), ("channel:d", "e 7 8 1008", 2)]


async def test_a_jump_a_repetition_or_a_new_epoch_begins_a_new_run() -> None:
    batch = [message(1), message(3), message(3), message(4, epoch="f")]
    heads = [head for _, head, _ in await runs(batch)]
    assert heads == ["e 1 1 1001", "e 3 3 1003", "e 3 3 1003", "f 4 4 1004"]


async def test_what_has_no_position_goes_by_itself_in_its_place() -> None:
    heads = [(head, n) for _, head, n in await runs([message(1), message(0), message(0), message(2)])]
    assert heads == [("e 1 1 1001", 1), ("-", 2), ("e 2 2 1002", 1)]


async def test_a_run_ends_at_its_size() -> None:
    batch = [message(i + 1, text="x" * 60_000) for i in range(12)]
    found = await runs(batch)
    assert [n for _, _, n in found] == [5, 5, 2]
    commands = await FanOut(KEYS).handle(batch)
    assert all(len(command[2]) < RUN_BYTES + 65_000 for command in commands)  # type: ignore[arg-type]


# -- the merge


@given(st.integers(0, 50), st.integers(1, 50), st.integers(0, 20))
def test_unseen_takes_each_message_once_and_sees_each_hole(position: int, first: int, more: int) -> None:
    run = list(range(first, first + more + 1))
    known = unseen(position, run[0], run[-1])
    if first > position + 1:
        assert known is None
    else:
        assert known is not None
        taken = run[known:]
        assert taken == [offset for offset in run if offset > position]


@given(st.lists(st.tuples(st.integers(1, 30), st.integers(0, 5)), max_size=30))
def test_merging_any_runs_shows_a_dense_prefix_once(runs: list[tuple[int, int]]) -> None:
    """Live runs in any order, each hole filled from history first: what is shown is 1, 2, 3 …"""
    position = 0
    shown: list[int] = []
    for first, more in runs:
        last = first + more
        if unseen(position, first, last) is None:  # a hole: history has what is missing
            shown += range(position + 1, first)
            position = first - 1
        known = unseen(position, first, last)
        assert known is not None
        shown += list(range(first, last + 1))[known:]
        position = max(position, last)
    assert shown == list(range(1, position + 1))


# -- who plays what


@given(st.integers(1, 64), st.sets(st.text("abcdef0123456789", min_size=4, max_size=8), min_size=1, max_size=9))
def test_members_share_every_partition_evenly_and_once(partitions: int, ids: set[str]) -> None:
    members = [f"serve:{id}:fanout" for id in ids]
    shares = [share(partitions, "fanout", me, members) for me in members]
    assert sorted(p for one in shares for p in one) == list(range(partitions))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize(("me", "expected"), [("serve:a:fanout", {0, 1, 2, 3}), ("terminal:b:fanout", set())])
def test_a_terminal_plays_only_where_nobody_else_does(me: str, expected: set[int]) -> None:
    assert share(4, "fanout", me, ["terminal:b:fanout", "serve:a:fanout"]) == expected


def test_terminals_alone_share() -> None:
    members = ["terminal:a:fanout", "terminal:b:fanout", "serve:c:sql"]
    assert share(4, "fanout", "terminal:a:fanout", members) == {0, 2}
    assert share(4, "sql", "terminal:a:fanout", members) == set()
