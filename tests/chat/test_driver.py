"""What a terminal sends reaches Textual's parser without escape sequences inside a paste, wherever it is cut."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from chat.driver import Pastes

START, END = "\x1b[200~", "\x1b[201~"


def passed(*parts: str) -> str:
    pastes = Pastes()
    return "".join([pastes.feed(part) for part in parts])


def test_keys_go_on_at_once() -> None:
    pastes = Pastes()
    for keys in ("a", "\x1b", "[A", "\x1b[20", "0", "x", "\x1b\x1b"):
        assert pastes.feed(keys) == keys


PIECES = st.sampled_from(["a", "س", "\x1b", "\x1b[31m", "\x1b[20", "[201~", "0~", "\r", "\x1bOP", START])


@given(st.lists(PIECES), st.lists(PIECES), st.lists(st.integers(0, 80), max_size=6))
def test_a_paste_holds_no_escape_wherever_it_is_cut(inside: list[str], behind: list[str], cuts: list[int]) -> None:
    pasted = "".join(inside).replace(END, "")
    after = "".join(behind).replace(START, "").replace(END, "").removesuffix("\x1b[20")
    whole = "k" + START + pasted + END + after
    at = sorted({0, len(whole), *[cut for cut in cuts if cut < len(whole)]})
    parts = [whole[a:b] for a, b in pairwise(at)]
    first, _, rest = whole.removeprefix("k" + START).partition(END)
    assert passed(*parts) == "k" + START + first.replace("\x1b", "") + END + passed(rest)
