"""What Python and the page's own modules must agree on (tests/vectors/), in the browser the page is tried in."""

import json
import subprocess
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Route

from chat.assets import WEB
from chat.lookalikes import SCRIPTS
from chat.models import fold, is_name
from tests.chat.test_text import FLOODS
from tests.e2e.test_page import browser
from tests.services import ROOT
from tests.vectors.tables import unassigned, unseen

__all__ = ["browser"]

NAMES = json.loads((ROOT / "tests/vectors/names.json").read_text())
TEXTS = json.loads((ROOT / "tests/vectors/text.json").read_text())
AROUND = ("{}", "a{}ب\u0654")  # alone, and between letters that a mark may meet


@pytest.fixture(scope="module")
def page(browser: Browser) -> Iterator[Page]:
    """An empty page that may import the modules of ours."""

    def file(route: Route) -> None:
        path = WEB / Path(route.request.url).name
        if path.suffix == ".js":
            route.fulfill(path=path, content_type="text/javascript")
        else:
            route.fulfill(body="<!doctype html>", content_type="text/html")

    page = browser.new_page()
    page.route("http://peyk.test/**", file)
    page.goto("http://peyk.test/")
    yield page
    page.close()


def test_the_page_folds_names_as_the_server_does(page: Page) -> None:
    same = NAMES["same"]
    found = page.evaluate(
        """async (same) => {
            const { folded, isName } = await import("./names.js");
            return same.map(({ id, spellings }) => [...spellings, id].map((name) => [folded(name), isName(name)]));
        }""",
        same,
    )
    assert found == [[[one["id"], True]] * (len(one["spellings"]) + 1) for one in same]


def test_the_page_refuses_the_names_the_server_refuses(page: Page) -> None:
    refused = [*NAMES["refused"], "x" * 65, "ﷲ" * 17]
    script = 'async (names) => { const { isName } = await import("./names.js"); return names.filter(isName); }'
    assert page.evaluate(script, refused) == []


def test_every_code_point_means_the_same_on_both_sides(page: Page) -> None:
    """All that are characters to either side, whichever Unicode the browser has; what stays as it is is not sent."""
    theirs = page.evaluate("() => [...Array(0x110000).keys()].filter((c) => !/\\p{C}/u.test(String.fromCodePoint(c)))")
    ours = {code for code in range(sys.maxunicode + 1) if unicodedata.category(chr(code)) not in ("Cn", "Co", "Cs")}
    codes = sorted(ours.union(theirs))
    assert len(codes) > 140_000
    script = """async ([codes, around]) => {
        const { folded, isName } = await import("./names.js");
        const found = [];
        for (const code of codes) {
            for (const [at, text] of around.entries()) {
                const name = text.replace("{}", () => String.fromCodePoint(code));
                const [skeleton, good] = [folded(name), at === 0 && isName(name)];
                if (good || skeleton !== name) found.push(`${code} ${at} ${good} ${skeleton}`);
            }
        }
        return found.join("\\n\\n");
    }"""
    found = set(page.evaluate(script, [codes, AROUND]).split("\n\n"))
    expected = set()
    for code in codes:
        for at, text in enumerate(AROUND):
            name = text.format(chr(code))
            skeleton, good = fold(name), at == 0 and is_name(name)
            if good or skeleton != name:
                expected.add(f"{code} {at} {str(good).lower()} {skeleton}")
    assert sorted(expected ^ found)[:20] == []


def test_the_page_has_the_tables_of_this_python() -> None:
    """Else: python -m tests.vectors.tables."""
    page = (WEB / "names.js").read_text()
    assert unassigned() in page and unseen() in page


def test_the_page_finds_in_a_text_what_the_terminal_finds(page: Page) -> None:
    script = """async (texts) => {
        const { tokens } = await import("./text.js");
        const short = ({ kind, shown, target, host }) => kind === "link" ? [kind, target, shown, host] : [kind, shown];
        return texts.map((text) => tokens(text).map(short));
    }"""
    found = page.evaluate(script, [vector["text"] for vector in TEXTS])
    for vector, tokens in zip(TEXTS, found, strict=True):
        assert tokens == vector["tokens"], vector["text"]


LINEAR = """
import { tokens } from %s;
const took = (sign, size) => {
  const [text, start] = [sign.repeat(size / sign.length), process.cpuUsage()];
  tokens(text);
  const { user, system } = process.cpuUsage(start);
  return user + system;
};
const slow = (sign) => {
  let least = Infinity;
  for (let i = 0; i < 20; i++) {
    least = Math.min(least, took(sign, 4096));
    if (took(sign, 65536) < 80 * Math.max(least, 200)) return false;
  }
  return true;
};
console.log(JSON.stringify(%s.filter(slow)));
"""


def test_a_flood_of_signs_is_read_in_one_go() -> None:
    """Sixteen times as much may take 80 times the CPU, if nothing disturbs one of the attempts; never 256 times.

    In Node, which has Chromium's engine and says what it used of the CPU.
    """
    script = LINEAR % (json.dumps((WEB / "text.js").as_uri()), json.dumps(FLOODS))
    node = subprocess.run(["node", "--input-type=module", "-e", script], capture_output=True, text=True, check=True)
    assert json.loads(node.stdout) == []


def test_the_scripts_of_letters_are_those_the_browser_knows(page: Page) -> None:
    """chat/lookalikes.py; only the code points that are characters to both are compared."""
    scripts = [script for script in SCRIPTS if script != "Other"]
    codes = [code for code in range(sys.maxunicode + 1) if unicodedata.category(chr(code))[0] in "LM"]
    script = """([scripts, codes]) => {
        const all = scripts.map((name) => new RegExp(`\\\\p{Script=${name}}`, "u"));
        return codes.map((code) => all.findIndex((known) => known.test(String.fromCodePoint(code))));
    }"""
    found = page.evaluate(script, [scripts, codes])
    ranges = [(script, *part.split("-")) for script in scripts for part in SCRIPTS[script].split()]
    known = {code: script for script, *ends in ranges for code in range(int(ends[0], 16), int(ends[-1], 16) + 1)}
    assert [
        hex(code) for code, at in zip(codes, found, strict=True) if at >= 0 and known.get(code) != scripts[at]
    ] == []
