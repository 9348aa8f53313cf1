"""The rules for names, and the models."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chat import errors
from chat.errors import BadRequest, PeykError
from chat.models import Stream, User, channel_id, is_line, user_name


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("General", "general"),
        ("عمومی", "عمومی"),
        ("برنامه‌نویسی", "برنامهنویسی"),
        ("برنامهنويسي", "برنامهنویسی"),  # Arabic ye
        ("كتاب", "کتاب"),  # Arabic kaf
        ("Cafe\u0301", "café"),
        ("cafe\u200c\u0301", "café"),
        ("STRASSE", "strasse"),
        ("Straße", "strasse"),
        ("a_b-c.d", "a_b-c.d"),
        ("日本語", "日本語"),
        ("۱۲۳", "۱۲۳"),
        ("x" * 64, "x" * 64),
    ],
)
def test_spellings_of_one_name_are_one_channel(name: str, expected: str) -> None:
    assert channel_id(name) == expected


BAD = ["", "a b", "a{b", "a}b", "*", "a*", "a?", "[a]", "\t", "a\x00", "a\nb", "\u202ea", "a\u2066b", "x" * 65]
BAD += [".hidden", "a/b", "a:b", '"', "\\", "<b>", "\u200c", "😀", "a\ud800", "$", "#a", "@a", "a,b"]


@pytest.mark.parametrize("name", BAD)
def test_bad_names_are_refused_with_the_rule(name: str) -> None:
    with pytest.raises(BadRequest, match="1 to 64 letters, digits, marks"):
        channel_id(name)
    with pytest.raises(BadRequest, match="1 to 64 letters, digits, marks"):
        user_name(name)


@given(st.text(max_size=70) | st.text("eKßſاآيیىك\u0301\u0327\u0345\u0653\u0654\u200c", max_size=8))
def test_an_id_is_its_own_id_and_needs_no_escaping(name: str) -> None:
    try:
        folded = channel_id(name)
    except BadRequest:
        return
    assert channel_id(folded) == folded
    assert 0 < len(folded) <= 64 and not set(folded) & set(' "\\{}*?[]:/\n')


def test_a_user_is_shown_as_written_and_found_as_folded() -> None:
    assert User.named("Sara") == User("sara", "Sara")
    assert User.named("بی‌بی").username == "بی‌بی"


def test_a_stream_row_has_what_the_specification_asks_for() -> None:
    assert {"id", "channel_id", "message", "timestamp", "offset", "epoch", "user"} <= Stream.model_fields.keys()


@pytest.mark.parametrize(("text", "good"), [("گفت‌وگو", True), ("a b", True), ("a\nb", False), ("\u202ea", False)])
def test_a_description_is_one_visible_line(text: str, good: bool) -> None:
    assert is_line(text) is good


def test_every_error_is_in_the_tree_of_the_docstring() -> None:
    kinds = [PeykError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    drawn = [line.split() for line in (errors.__doc__ or "").splitlines() if "──" in line]
    rows = {next(w for w in words if w.isalpha()): words for words in drawn}
    for kind in kinds[1:]:
        if kind.__module__ == "chat.errors":
            words = rows[kind.__name__]
            assert str(kind.code) in words and str(kind.status) in words, kind
            assert ("yes" in words) is kind.temporary, kind
