"""The rules for names, and the models."""

import json
import re
import sys
import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chat import errors
from chat.errors import BadRequest, PeykError
from chat.models import UNSEEN, Stream, User, channel_id, fold, is_line, user_name
from tests.services import ROOT

VECTORS = json.loads((ROOT / "tests/vectors/names.json").read_text())


@pytest.mark.parametrize("same", VECTORS["same"], ids=lambda same: same["id"])
def test_spellings_of_one_name_are_one_channel_and_one_person(same: dict[str, Any]) -> None:
    for name in [*same["spellings"], same["id"]]:
        assert channel_id(name) == User.named(name).id == same["id"], name


@pytest.mark.parametrize("name", [*VECTORS["refused"], "x" * 65, "ﷲ" * 17, "a" + "\u0301" * 300, "a\ud800"], ids=ascii)
def test_bad_names_are_refused_with_the_rule(name: str) -> None:
    for check in (channel_id, user_name):
        with pytest.raises(BadRequest, match=r"1 to 64 letters, digits, marks.*no invisible characters"):
            check(name)


def test_a_skeleton_is_its_own_skeleton_over_all_of_unicode() -> None:
    """Alone and between letters, where it may meet a mark; and nothing unseen is left of any."""
    unseen = re.compile(f"[{UNSEEN}]")
    for character in map(chr, range(sys.maxunicode + 1)):
        if unicodedata.category(character) in ("Co", "Cn", "Cs"):
            continue
        for text in (character, f"a{character}\u0301ب{character}\u0654"):
            folded = fold(text)
            assert fold(folded) == folded and not unseen.search(folded), ascii(text)


def test_every_dash_is_one_and_every_digit_has_its_value() -> None:
    for character in map(chr, range(sys.maxunicode + 1)):
        category = unicodedata.category(character)
        if category == "Pd":
            assert fold(character) == "-", ascii(character)
        elif category == "Nd":
            assert fold(character) == str(unicodedata.decimal(character)), ascii(character)


@given(st.text(max_size=70) | st.text("eKßſاآيیىكهەۀ\u0640۱١1-–\u200c\u200d\u0301\u0327\u0345\u0653\u0654", max_size=8))
def test_an_id_is_its_own_id_and_needs_no_escaping(name: str) -> None:
    assert fold(fold(name)) == fold(name)
    try:
        folded = channel_id(name)
    except BadRequest:
        return
    assert channel_id(folded) == User.named(name).id == folded == fold(name)
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
