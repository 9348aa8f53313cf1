"""Text that others wrote: it can do no harm, and takes the cells we think it takes."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chat.plain import CUT, MARKS, clip, fit, glyphs, harmless, paragraphs, width, wrap


@pytest.mark.parametrize(
    "text",
    [
        "\x1b[2J\x1b[31mred",
        "\x1b]52;c;aGk=\x07",
        "\x9b31m",
        "a\rb",
        "a\nb",
        "\u202egnp.exe",
        "\x00",
        "\u2066a",
        "\u2028",
    ],
)
def test_nothing_moves_the_cursor_or_turns_the_line(text: str) -> None:
    for c in harmless(text):
        assert unicodedata.category(c)[0] != "C" and unicodedata.category(c) not in ("Zl", "Zp")
    assert "\u202e" not in harmless(text)


@given(st.text())
def test_any_text_is_harmless_and_as_long(text: str) -> None:
    safe = harmless(text)
    assert len(safe) == len(text)
    assert all(c in "\u200c\u200d" or unicodedata.category(c)[0] != "C" for c in safe)


def test_persian_words_keep_their_joiners() -> None:
    assert harmless("برنامه‌نویسی سلام") == "برنامه‌نویسی سلام"


JOINED = ["👨\u200d👩\u200d👧", "❤\ufe0f👍🏽", "\u200d\u200c"]
HOSTILE = [
    "\x1b[2J\x1b[31mred",
    "a\rb",
    "\u202egnp.exe",
    "z" + "\u0301" * 500,
    "👨\u200d👩\u200d👧",
    "❤\ufe0f👍🏽",
    "\u200d\u200c",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_glyphs_have_a_width_and_no_power(text: str) -> None:
    shown = glyphs(text)
    assert harmless(shown) == shown
    assert "\ufe0f" not in shown and "🏽" not in shown and not shown.startswith(("\u200c", "\u200d"))
    assert "\u0301" * (MARKS + 1) not in shown


def test_emoji_are_shown_apart_and_persian_whole() -> None:
    assert glyphs("👨\u200d👩\u200d👧 ❤\ufe0f") == "👨👩👧 ❤"
    assert glyphs("می\u200cخواهم") == "می\u200cخواهم" and width("می\u200cخواهم") == 7
    assert width("日本") == 4 and width("a\u0301") == 1


@given(st.text(max_size=300), st.integers(2, 40))
def test_wrapped_lines_fit_and_hold_every_word(text: str, cells: int) -> None:
    line = glyphs(text)
    rows = wrap(line, cells)
    assert all(width(row) <= cells for row in rows)
    assert "".join("".join(rows).split()) == "".join(line.split())


@pytest.mark.parametrize("cells", [1, 0, -30])
def test_where_there_is_no_room_a_line_has_one_letter(cells: int) -> None:
    assert wrap("ab 日", cells) == ["a", "b", "日"]


def test_words_stay_whole_where_they_fit() -> None:
    assert wrap("hello brave new world", 9) == ["hello", "brave new", "world"]
    assert wrap("abcdefgh", 3) == ["abc", "def", "gh"]
    assert wrap("", 5) == [""] and wrap("日本語", 4) == ["日本", "語"]


@given(st.text(max_size=60), st.integers(0, 30))
def test_what_is_fitted_has_exactly_its_cells(text: str, cells: int) -> None:
    assert width(fit(glyphs(text), cells)) == cells
    assert width(clip(glyphs(text), cells)) <= cells


def test_a_message_has_paragraphs_and_an_end() -> None:
    assert paragraphs("a\n\tb\r\n") == ["a", "    b ", ""]
    (line,) = paragraphs("x" * (CUT + 5))
    assert line.endswith("x … (+5)")
