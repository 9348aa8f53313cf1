"""What is shown of a channel: order, days, holes, and what is on its way; whatever the order in which it came."""

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chat.source import Said
from chat.themes import THEMES
from chat.transcript import Day, Entry, Gap, Item, New, Outgoing, Transcript

DAY = 86_400_000


def said(offset: int, text: str = "", time: int = 1_795_000_000_000, client: str = "") -> Said:
    return Said({"text": text or str(offset)}, "sara", offset, time, client)


def shown(log: Transcript) -> list[object]:
    """Offsets of messages, texts of notices, and the rest as it is."""

    def short(item: Item) -> object:
        if isinstance(item, Entry):
            return item.offset if item.kind == "message" and item.order == 0 else item.text
        return item.text if isinstance(item, Outgoing) else item

    return [short(item) for item in log.items() if not isinstance(item, Day)]


@given(st.lists(st.integers(1, 30), max_size=40))
def test_messages_stand_in_order_each_once_and_every_hole_is_told(offsets: list[int]) -> None:
    log = Transcript()
    news = [log.add(said(offset)) for offset in offsets]
    assert sum(news) == len(set(offsets))
    items = shown(log)
    assert [item for item in items if isinstance(item, int)] == sorted(set(offsets))
    missing = sum(item.missing for item in items if isinstance(item, Gap))
    assert missing == (max(offsets) - min(offsets) + 1 - len(set(offsets)) if offsets else 0)


def test_a_hole_is_where_it_is() -> None:
    log = Transcript()
    for offset in (1, 2, 6):
        log.add(said(offset))
    assert shown(log) == [1, 2, Gap(3), 6]
    log.top = 8
    assert shown(log) == [1, 2, Gap(3), 6, Gap(2)]
    log.loading = True
    assert shown(log) == [1, 2, Gap(3), 6]


def test_notices_and_what_is_not_stored_stay_where_they_came() -> None:
    log = Transcript()
    log.add(said(1))
    log.note("joined")
    log.add(said(0, "shown, not stored"))
    log.add(said(2))
    log.add(said(0, "again"))
    assert shown(log) == [1, "joined", "shown, not stored", 2, "again"]


def test_each_day_has_a_line() -> None:
    log = Transcript()
    noon = 1_795_000_000_000 // DAY * DAY + DAY // 2
    for offset, time in ((1, noon), (2, noon), (3, noon + DAY), (4, 0), (5, noon + DAY)):
        log.add(said(offset, time=time))
    days = [item.day for item in log.items() if isinstance(item, Day)]
    assert days == [date.fromtimestamp(noon / 1000), date.fromtimestamp((noon + DAY) / 1000)]


def test_the_new_line_is_above_the_first_unread() -> None:
    log = Transcript()
    for offset in (1, 2, 3):
        log.add(said(offset))
    log.marker = 2
    assert shown(log) == [1, 2, New(), 3]
    log.marker = 3
    assert shown(log) == [1, 2, 3]


def test_own_messages_leave_the_queue_once() -> None:
    log = Transcript()
    for key in ("a", "b"):
        log.outgoing.append(Outgoing("same", b"", said(0, "same"), key, 0))
    assert shown(log) == ["same", "same"]
    log.take_own(said(1, "same"))
    assert [o.key for o in log.outgoing] == ["b"]
    log.take_own(said(2, "other"))
    assert [o.key for o in log.outgoing] == ["b"]


def test_what_is_let_go_can_be_read_again() -> None:
    log = Transcript(whole=True)
    for offset in range(1, 11):
        log.add(said(offset))
    assert not log.trim(10) and log.whole
    assert log.trim(4) and not log.whole
    assert (log.first, log.last) == (7, 10)


def _luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize(("theme", "ratio"), [("peyk", 4.5), ("dark", 4.5), ("contrast", 7.0)])
def test_every_text_stands_out(theme: str, ratio: float) -> None:
    for text, back in THEMES[theme].pairs:
        dark, light = sorted((_luminance(text), _luminance(back)))
        assert (light + 0.05) / (dark + 0.05) >= ratio, (theme, text, back)


def test_the_specified_colours_are_the_default() -> None:
    peyk = THEMES["peyk"]
    colours = (peyk.header, peyk.side, peyk.input, peyk.log, peyk.status)
    assert colours == ("#333333", "#666666", "#999999", "#cccccc", "#666666")
