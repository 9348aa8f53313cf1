"""The check finds each kind of error: fed with one broken sequence, it names exactly that."""

import argparse
import dataclasses
import json

import pytest

from tests.faults.__main__ import loopback
from tests.faults.checker import (
    ACKED_MISSING,
    DUPLICATED,
    LOST,
    PHANTOM,
    REORDERED,
    Bad,
    History,
    Message,
    Position,
    Published,
    Received,
    check,
    check_history,
    check_received,
    data_of,
)
from tests.faults.run import BROKEN, Report

EPOCH = "e"


def message(offset: int, number: int, producer: str = "p") -> Message:
    return Message(offset, json.dumps(data_of(producer, number)).encode())


def history(*numbers: int, top: int = 0, epoch: str = EPOCH) -> History:
    """A channel in which `p` said `numbers`, densely from offset 1."""
    messages = [message(offset, number) for offset, number in enumerate(numbers, 1)]
    return History("general", epoch, top or len(numbers), messages)


def received(*offsets: int, start: int = 0, epoch: str = EPOCH, told: bool = False) -> Received:
    """What a client saw of a history in which each message's number is its offset."""
    return Received("c", "general", Position(epoch, start), [message(o, o) for o in offsets], told)


def acked(**where: int) -> Published:
    """`p`, who was acked number n at offset o for each n=o; it sent up to the highest."""
    numbers = {int(n[1:]): Position(EPOCH, o) for n, o in where.items()}
    return Published("p", "general", max(numbers, default=0), numbers)


def kinds(found: list[Bad]) -> list[tuple[str, int]]:
    return [(bad.kind, bad.offset) for bad in found]


def test_a_whole_sequence_is_clean() -> None:
    truth = history(1, 2, 3, 4, 5)
    for start in range(6):
        assert list(check_received(received(*range(start + 1, 6), start=start), truth)) == []


@pytest.mark.parametrize(
    ("offsets", "found"),
    [
        ((1, 2, 4, 5), [(LOST, 3)]),
        ((2, 3, 4, 5), [(LOST, 1)]),
        ((1, 2, 3, 4), [(LOST, 5)]),
        ((), [(LOST, 1), (LOST, 2), (LOST, 3), (LOST, 4), (LOST, 5)]),
        ((1, 2, 2, 3, 4, 5), [(DUPLICATED, 2)]),
        ((1, 2, 3, 4, 5, 1), [(DUPLICATED, 1)]),
        ((1, 3, 2, 4, 5), [(REORDERED, 2)]),
        ((5, 4, 3, 2, 1), [(REORDERED, 4), (REORDERED, 3), (REORDERED, 2), (REORDERED, 1)]),
        ((1, 3, 2, 2, 4, 5), [(REORDERED, 2), (DUPLICATED, 2)]),
        ((1, 2, 3, 4, 5, 6), [(PHANTOM, 6)]),
        ((1, 2, 0, 3, 4, 5), [(PHANTOM, 0)]),
        ((1, 2, 10**12, 3, 4, 5), [(PHANTOM, 10**12)]),
    ],
)
def test_what_a_client_saw(offsets: tuple[int, ...], found: list[tuple[str, int]]) -> None:
    assert kinds(list(check_received(received(*offsets), history(1, 2, 3, 4, 5)))) == found


def test_what_came_before_its_first_position_is_doubled() -> None:
    assert kinds(list(check_received(received(2, 3, start=2), history(1, 2, 3)))) == [(DUPLICATED, 2)]


def test_other_data_at_a_known_offset_is_a_phantom() -> None:
    seen = received(1, 2, 3)
    for wrong in (message(2, 3), message(2, 2, "q"), Message(2, b"null"), Message(2, message(2, 2).data + b" ")):
        seen.messages[1] = wrong
        assert kinds(list(check_received(seen, history(1, 2, 3)))) == [(PHANTOM, 2)]


def test_what_is_gone_from_the_history_is_not_lost_to_whom_received_it() -> None:
    hole = History("general", EPOCH, 3, [message(1, 1), message(3, 3)])
    assert kinds(list(check_received(received(1, 2, 3), hole))) == [(PHANTOM, 2)]


def test_another_epoch_is_a_phantom() -> None:
    assert kinds(list(check_received(received(1, epoch="old"), history(1)))) == [(PHANTOM, 0)]


def test_who_was_told_lost_nothing_behind_that_but_before_it() -> None:
    assert kinds(list(check_received(received(1, 3, told=True), history(1, 2, 3, 4, 5)))) == [(LOST, 2)]


def test_a_whole_history_is_clean() -> None:
    assert list(check_history(history(1, 2, 3), [acked(n1=1, n2=2, n3=3)])) == []


def test_what_was_never_acked_may_be_there_once_or_not() -> None:
    producer = dataclasses.replace(acked(n1=1), sent=2)
    assert list(check_history(history(1, 2), [producer])) == []
    assert list(check_history(history(1), [producer])) == []
    assert kinds(list(check_history(history(1, 2, 2), [producer]))) == [(DUPLICATED, 3)]


@pytest.mark.parametrize(
    ("truth", "found"),
    [
        (history(1, 2), [(ACKED_MISSING, 3)]),
        (history(1, 2, 3, 3), [(DUPLICATED, 4)]),
        (history(1, 2, 3, 4), [(PHANTOM, 4)]),
        (history(1, 2, 3, 0), [(PHANTOM, 4)]),
        (history(1, 3, 2), [(REORDERED, 3), (ACKED_MISSING, 2), (ACKED_MISSING, 3)]),
        (history(1, 2, 3, top=4), [(LOST, 4)]),
        (history(1, 2, 3, epoch="new"), [(ACKED_MISSING, 1), (ACKED_MISSING, 2), (ACKED_MISSING, 3)]),
        (History("general", EPOCH, 3, [message(1, 1), message(3, 3)]), [(LOST, 2), (ACKED_MISSING, 2)]),
        (History("general", EPOCH, 3, [message(2, 2), message(3, 3)]), [(LOST, 1), (ACKED_MISSING, 1)]),
    ],
)
def test_what_the_history_holds(truth: History, found: list[tuple[str, int]]) -> None:
    assert kinds(list(check_history(truth, [acked(n1=1, n2=2, n3=3)]))) == found


def test_what_nobody_said_is_a_phantom() -> None:
    for strange in (message(1, 1, "stranger"), Message(1, b'"hello"'), Message(1, b"{")):
        assert kinds(list(check_history(History("general", EPOCH, 1, [strange]), [acked()]))) == [(PHANTOM, 1)]


def test_the_first_bad_message_is_named_and_all_are_counted() -> None:
    verdict = check([received(1, 2, 3, 3, 5), received(1, 3, 4, 5)], [history(1, 2, 3, 4, 5)], [acked(n1=1, n5=4)])
    assert verdict.counts == {LOST: 2, DUPLICATED: 1, REORDERED: 0, PHANTOM: 0, ACKED_MISSING: 1}
    assert verdict.deliveries == 9
    assert verdict.first is not None
    assert str(verdict.first) == "lost: c in general at offset 2: expected p number 2, came nothing"


@pytest.mark.parametrize("name", BROKEN)
def test_a_report_with_any_of_them_is_not_clean(name: str) -> None:
    report = Report(1, 1, {}, 1, 1, 1, {}, {}, 0, dict.fromkeys(BROKEN, 0), None)
    assert report.clean
    broken = dataclasses.replace(
        report, broken={**report.broken, name: 1}, first_bad=Bad("lost", "c", "x", 1, "a", "b")
    )
    assert not broken.clean and json.loads(broken.json())["broken"][name] == 1
    assert "first bad: lost: c in x at offset 1: expected a, came b" in broken.text()


def test_only_servers_on_this_machine() -> None:
    assert loopback("http://127.0.0.1:5000,http://localhost:5001/") == [
        "http://127.0.0.1:5000",
        "http://localhost:5001",
    ]
    for url in ("http://example.org", "http://127.0.0.1.example.org:5000", "https://127.0.0.1", "127.0.0.1:5000", ""):
        with pytest.raises(argparse.ArgumentTypeError, match="only servers on this machine"):
            loopback(f"http://127.0.0.1:5000,{url}")
