"""The terminal's lines: what others wrote can do no harm."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chat.terminal import _Publication, harmless, shown


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


def test_a_message_is_one_line() -> None:
    line = shown(_Publication({"text": "hello"}, 0, {"user": "sara"}))
    assert line == "[--:--] sara: hello"
    assert shown(_Publication({"text": "x"}, 1_795_000_000_000, {"user": "u"}))[:7].count(":") == 1


def test_an_event_is_shown_as_its_data() -> None:
    assert shown(_Publication({"type": "paid", "payload": [1]}, 0, {})) == '[--:--] ?: {"type":"paid","payload":[1]}'
