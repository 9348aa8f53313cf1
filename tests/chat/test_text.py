"""What is found in a message's text: as the vectors say it, and in time that grows as the text does."""

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chat.text import Token, mentions, tokens, with_hosts
from tests.services import ROOT

VECTORS = json.loads((ROOT / "tests/vectors/text.json").read_text())
SIGNS = ["@", "[", "`", "(", ")", "~", "_*", "a.b", "```\n", "~~~a\n", "`a", " `` ", "`\n``\n", "@a", "@a.", "@a/"]
FLOODS = [*SIGNS, "[x](", "https://", "https://a(", "https://a@", "[x](https://a", "[a.b](https://c)", "www.a.b("]


def short(token: Token) -> list[str]:
    if token.kind == "link":
        return [token.kind, token.target, token.shown, token.host]
    return [token.kind, token.shown]


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: ascii(vector["text"]))
def test_what_is_found_in_a_text(vector: dict[str, Any]) -> None:
    text = vector["text"]
    found = list(tokens(text))
    assert list(map(short, found)) == vector["tokens"]
    assert mentions(text) == [token.shown for token in found if token.kind == "mention"]
    for token in found:
        assert token.shown.strip() in text[token.start : token.end]


@given(st.text("@`[]()~ \n.-/:#ahttpsw\u0645\u200c\u060c", max_size=60))
def test_tokens_stand_in_order_and_none_in_another(text: str) -> None:
    end = 0
    for token in tokens(text):
        assert end <= token.start < token.end <= len(text)
        end = token.end


def test_the_host_stands_behind_a_link_that_does_not_say_it() -> None:
    text = "a [https://bank.example](https://evil.example), https://bank.example@evil.example/x https://example.org"
    expected = text.replace("evil.example),", "evil.example) (evil.example),").replace("/x ", "/x (evil.example) ")
    assert with_hosts(text) == expected
    assert with_hosts("`https://bank.example@evil.example`") == "`https://bank.example@evil.example`"


@pytest.mark.parametrize("sign", FLOODS, ids=ascii)
def test_a_flood_of_signs_is_read_in_one_go(sign: str) -> None:
    """Sixteen times as much may take 80 times the CPU, if nothing disturbs one of the attempts; never 256 times."""

    def took(size: int) -> float:
        text = sign * (size // len(sign))
        start = time.process_time()
        list(tokens(text))
        return time.process_time() - start

    least = 1.0
    for _ in range(20):
        least = min(least, took(4096))
        if took(65536) < 80 * max(least, 0.0002):
            return
    pytest.fail("it takes more than linear time")
