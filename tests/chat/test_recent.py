"""What is remembered of the streams for a moment: only what is true, dense, and within its limit."""

from hypothesis import given
from hypothesis import strategies as st

from chat.recent import Recent

LIMIT = 200


def line(epoch: str, offset: int) -> bytes:
    return f"{epoch}{offset:09}".encode()


def lines(epoch: str, first: int, count: int) -> list[bytes]:
    return [line(epoch, offset) for offset in range(first, first + count)]


@given(
    adds=st.lists(st.tuples(st.sampled_from("cd"), st.sampled_from("xy"), st.integers(1, 40), st.integers(1, 30))),
    asked=st.tuples(st.sampled_from("cd"), st.sampled_from("xy"), st.integers(0, 80), st.integers(0, 80)),
)
def test_what_is_given_is_dense_true_and_bounded(
    adds: list[tuple[str, str, int, int]], asked: tuple[str, str, int, int]
) -> None:
    recent = Recent(LIMIT)
    for channel, epoch, first, count in adds:
        recent.add(channel, epoch, first, lines(epoch, first, count))
        assert recent._size == sum(len(one) for s in recent._stretches.values() for one in s.lines) <= LIMIT
    channel, epoch, offset, top = asked
    given_ = recent.between(channel, epoch, offset, top)
    assert given_ == lines(epoch, offset + 1, len(given_))
    assert len(given_) <= max(0, top - offset)


def test_what_touches_is_joined() -> None:
    recent = Recent()
    recent.add("c", "x", 11, lines("x", 11, 10))
    recent.add("c", "x", 5, lines("x", 5, 10))  # before, overlapping
    recent.add("c", "x", 21, lines("x", 21, 5))  # behind, adjoining
    recent.add("c", "x", 8, lines("x", 8, 3))  # within
    assert recent.between("c", "x", 4, 100) == lines("x", 5, 21)
    assert recent.between("c", "x", 4, 7) == lines("x", 5, 3)
    assert recent.between("c", "x", 3, 100) == recent.between("c", "x", 25, 100) == []
    recent.add("c", "x", 40, lines("x", 40, 1))  # far off: the newer counts
    assert recent.between("c", "x", 4, 100) == []
    assert "c" in recent
    recent.forget("c")
    assert "c" not in recent and recent._size == 0


def test_what_was_read_stays_its_readers() -> None:
    recent, read = Recent(LIMIT), lines("x", 1, 30)
    recent.add("c", "x", 1, read)  # more than it keeps
    assert read == lines("x", 1, 30)
    assert recent.between("c", "x", 29, 100) == lines("x", 30, 1)
