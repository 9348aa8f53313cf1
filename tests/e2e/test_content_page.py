"""What hostile people write is text on the page: it runs no script, loads nothing, and stays in its own row."""

import json
import tempfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from playwright.sync_api import Browser, Dialog, Page, expect

from tests.e2e.test_content_terminal import Writer
from tests.e2e.test_page import browser, messages, post_body, say
from tests.services import PeykServer

__all__ = ["browser"]

SCRIPT = "window.__xss=1"
XSS = [
    f"<script>{SCRIPT}</script>",
    f"</p></li></ol></div><script>{SCRIPT}</script>",
    f'<img src=x onerror="{SCRIPT}">',
    f"<svg/onload={SCRIPT}>",
    f'<svg><animate onbegin="{SCRIPT}" attributeName=x dur=1s>',
    f'<iframe srcdoc="<script>parent.{SCRIPT}</script>">',
    f"<details open ontoggle={SCRIPT}>",
    f"<body onload={SCRIPT}><input autofocus onfocus={SCRIPT}>",
    f"<a href=\"javascript:{SCRIPT}\">click</a>",
    f"javascript:{SCRIPT}",
    f"https://example.org/\" onmouseover=\"{SCRIPT}",
    f"[click](javascript:{SCRIPT}) ![x](x\" onerror=\"{SCRIPT})",
    f"data:text/html,<script>{SCRIPT}</script>",
    f"\"'><script>{SCRIPT}</script>",
    f"`${{{SCRIPT}}}` {{{{constructor.constructor('{SCRIPT}')()}}}}",
    f"<math><mtext><table><mglyph><style><img src=x onerror={SCRIPT}>",
    f"<noscript><p title=\"</noscript><img src=x onerror={SCRIPT}>\">",
    "<style>*{display:none!important}</style><link rel=stylesheet href=//example.org/x.css>",
    "<meta http-equiv=refresh content='0;url=//example.org'><base href=//example.org/>",
    f"\u2028{SCRIPT}\u2029//",
    "&lt;script&gt;&#60;img src=x onerror=alert(1)&#62;",
    "<template><slot></template></template><form id=composer><input name=attributes>",
    "constructor", "__proto__", "hasOwnProperty",
]  # fmt: skip
FORMATS = "ol,li,p,div,bdi,span,button,time,a,strong,em,del,code,pre,blockquote,details,summary"  # and no more
UNRULY = {
    "turned around": "\u202e\u2067\u202egnp.exe",
    "opened and not closed": "\u2066\u2066\u2066\u202d\u202e" * 20 + "abc",
    "closed and not opened": "\u2069\u202c" * 50 + "abc",
    "one long word": "W" * 5000,
    "one long Persian word": "ب" * 5000,
    "a wide character": "\ufdfd" * 300 + "\U00012031" * 50,
    "piled marks": "z" + "\u0316\u0317" * 200,
    "blank lines": "\n" * 300 + "x",
    "tabs": "\t" * 500 + "x",
    "nothing to see": "\u3164\u200b\u2800" * 50,
    "no break": "\u00a0" * 3000,
}


@pytest.fixture(scope="module")
def data_dir() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="pk-") as name:
        yield Path(name)


@pytest.fixture(scope="module")
def server(data_dir: Path) -> Iterator[PeykServer]:
    with PeykServer({"DATA_DIR": str(data_dir)}) as server:
        yield server


WATCH = """
window.complaints = [];
addEventListener("securitypolicyviolation", (e) => complaints.push(`${e.violatedDirective} ${e.blockedURI}`));
addEventListener("error", (e) => complaints.push(e.message));
"""


class Guarded:
    """A page whose every sign of a foreign script is kept: a flag, a dialog, a violated policy, a request elsewhere."""

    def __init__(self, browser: Browser, server: PeykServer) -> None:
        self.context = browser.new_context(viewport={"width": 900, "height": 700}, locale="en-GB")
        self.page, self.server = self.context.new_page(), server
        self.signs: list[str] = []
        self.page.add_init_script(WATCH)
        self.page.on("dialog", self._asked)
        self.page.on("pageerror", lambda error: self.signs.append(str(error)))
        self.page.on("console", lambda said: self.signs.append(said.text) if said.type != "log" else None)
        self.page.on("request", lambda request: self._requested(request.url))
        self.page.on("popup", lambda popup: self.signs.append(popup.url))

    def _asked(self, dialog: Dialog) -> None:
        self.signs.append(dialog.message)
        dialog.dismiss()

    def _requested(self, url: str) -> None:
        if not url.startswith((self.server.url, self.server.url.replace("http", "ws"))):
            self.signs.append(url)

    def enter(self, channel: str) -> Page:
        page = self.page
        page.goto(f"{self.server.url}/#{quote(channel)}")
        page.locator("#name").fill("sara")
        page.locator("#enter").click()
        expect(page.locator("#log")).to_have_attribute("aria-busy", "false")
        return page

    def assert_harmless(self) -> None:
        assert not self.page.evaluate("window.__xss")
        assert self.page.evaluate("window.complaints") == []
        assert self.signs == []
        strange = f"#log :not({FORMATS}), #lists :not(ul,h2,p,li,a,bdi,span), body > :not(main,div,noscript,template)"
        assert self.page.locator(strange).count() == 0
        assert self.page.locator("[onerror],[onload],[onclick],[onfocus],[style],a[href^='javascript']").count() == 0
        assert self.page.locator("#log a").evaluate_all(
            "all => all.every(a => /^https?:$/.test(a.protocol) && a.rel.includes('noopener') && a.target === '_blank')"
        )


@pytest.fixture
def guarded(browser: Browser, server: PeykServer) -> Iterator[Guarded]:
    guarded = Guarded(browser, server)
    yield guarded
    guarded.context.close()


def assert_layout(page: Page) -> None:
    """Nothing is wider than the window or outside its row, no two rows overlap, and the rest of the page stands."""
    width = page.viewport_size["width"] if page.viewport_size else 0
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("document.querySelector('#log').scrollWidth <= document.querySelector('#log').clientWidth")
    rows: list[dict[str, float]] = page.locator("#log .message").evaluate_all(
        "all => all.map(e => e.getBoundingClientRect()).map(({top, bottom}) => ({top, bottom}))"
    )
    for before, after in pairwise(rows):
        assert before["bottom"] <= after["top"] + 1
    inside = "all => all.every(e => { const b = e.getBoundingClientRect(), r = e.closest('li').getBoundingClientRect();"
    inside += (
        " return b.left >= r.left - 1 && b.right <= r.right + 1 && b.top >= r.top - 1 && b.bottom <= r.bottom + 1 })"
    )
    assert page.locator("#log .text").evaluate_all(inside)
    assert page.locator("#log .text").evaluate_all(
        "all => all.every(e => ['clip', 'hidden'].includes(getComputedStyle(e).overflowX))"
    )
    for part in ("#composer", "#title", "#send"):
        expect(page.locator(part)).to_be_in_viewport()


def test_text_runs_no_script(server: PeykServer, guarded: Guarded) -> None:
    page = guarded.enter("xss")
    for text in XSS:
        post_body(server, "xss", {"text": text})
    expect(messages(page)).to_have_count(len(XSS))
    assert messages(page).all_text_contents() == [text.replace("`", "") for text in XSS]  # which makes it code
    for text in XSS[:3]:
        say(page, text)
    expect(page.locator(".message.own:not(.pending)")).to_have_count(3)
    page.reload()  # the same from history
    expect(messages(page)).to_have_count(len(XSS) + 3)
    for message in messages(page).all()[:12]:
        message.click()
    guarded.assert_harmless()
    assert_layout(page)


def test_data_that_is_no_text_runs_no_script(server: PeykServer, guarded: Guarded) -> None:
    page = guarded.enter("xss-data")
    data: list[Any] = [{"text": {"toString": text}, text: [text]} for text in XSS[:8]] + [
        XSS[0],
        None,
        5,
        [],
        {"__proto__": {"text": XSS[0]}},
    ]
    for value in data:
        post_body(server, "xss-data", {"data": value})
    expect(messages(page)).to_have_count(len(data))
    assert [json.loads(text) for text in messages(page).all_text_contents()] == data
    guarded.assert_harmless()
    assert_layout(page)


def test_names_and_descriptions_run_no_script(server: PeykServer, guarded: Guarded, data_dir: Path) -> None:
    """The doors refuse such names; here they are in Redis already."""
    post_body(server, "xss-name", {"text": "before"})
    writer = Writer(data_dir)
    for text in XSS[:12]:
        writer.say("hello", user=json.dumps(text)[1:-1], channel="xss-name")
        writer.redis.hset(f"channel:{quote(text)}", mapping={"id": text, "name": text, "description": text})
        writer.redis.zadd("channels", {quote(text): 0})
    writer.redis.hset("channel:xss-name", mapping={"name": XSS[2], "description": " ".join(XSS)})
    page = guarded.enter("xss-name")
    expect(messages(page)).to_have_count(13)
    expect(page.locator("#channel-title")).to_have_text(XSS[2])
    expect(page.locator("#description")).to_contain_text(XSS[0])
    names = page.locator("#lists .channel-name").all_text_contents()
    assert set(XSS[:12]) <= set(names)
    authors = page.locator("#log .author").all_text_contents()
    assert authors[1:] == XSS[:12]
    assert_layout(page)
    page.locator("#lists").get_by_text(XSS[9], exact=True).click()
    expect(page.locator("#channel-title")).to_have_text(XSS[9])
    guarded.assert_harmless()
    writer.redis.delete("channels")


@pytest.mark.parametrize("width", [900, 360])
def test_unruly_text_stays_in_its_row(server: PeykServer, guarded: Guarded, width: int) -> None:
    channel = f"unruly-{width}"
    guarded.page.set_viewport_size({"width": width, "height": 700})
    page = guarded.enter(channel)
    for n, text in enumerate(UNRULY.values()):
        post_body(server, channel, {"text": text, "user": f"u{n}"})
        post_body(server, channel, {"text": "an ordinary line", "user": "arash"})
    expect(messages(page)).to_have_count(2 * len(UNRULY))
    assert messages(page).all_text_contents()[::2] == list(UNRULY.values())
    assert_layout(page)
    guarded.assert_harmless()


def test_bidi_controls_do_not_leak_out_of_their_message(server: PeykServer, guarded: Guarded) -> None:
    """The ordinary lines and the times are where they would be without the unruly ones."""
    page = guarded.enter("leak")
    post_body(server, "leak", {"text": "abc 123", "user": "arash"})
    for n, text in enumerate(UNRULY.values()):
        post_body(server, "leak", {"text": text[:200], "user": f"u{n}"})
    post_body(server, "leak", {"text": "abc 123", "user": "arash"})
    expect(messages(page)).to_have_count(len(UNRULY) + 2)
    place = """all => [all.at(0), all.at(-1)].map((e) => {
        const range = document.createRange(), node = e.querySelector(".text").firstChild;
        const left = (i) => {
            range.setStart(node, i); range.setEnd(node, i + 1); return range.getBoundingClientRect().left };
        return [...Array(7).keys()].map(left).concat(e.querySelector("time").getBoundingClientRect().left) })"""
    first, last = page.locator("#log .message").evaluate_all(place)
    assert first == last == sorted(first)
    for selector in (".text", ".author"):
        assert page.locator(f"#log {selector}").evaluate_all(
            "all => all.every(e => e.dir === 'auto' && /isolate|plaintext/.test(getComputedStyle(e).unicodeBidi))"
        )
    guarded.assert_harmless()


def test_the_watch_sees_what_it_should(guarded: Guarded) -> None:
    """A test that cannot fail is a defect: the policy stops markup and handlers, and the watch notices what gets by."""
    page = guarded.enter("watch")
    for attempt in (
        "document.body.innerHTML = '<b>x</b>'",
        "document.body.setAttribute('onclick', 'window.__xss = 1')",
    ):
        assert page.evaluate(f"() => {{ try {{ {attempt} }} catch (e) {{ return e.name }} }}") == "TypeError"
    page.wait_for_function("window.complaints.length >= 2")
    assert page.evaluate("window.complaints.splice(0)")[0].startswith("require-trusted-types-for")
    guarded.signs.clear()
    guarded.assert_harmless()
    for harm in (
        "window.__xss = 1",
        "window.__xss = undefined; document.querySelector('#log').append(document.createElement('i'))",
        "document.querySelector('#log i').remove(); document.body.append(new Image())",
        "document.body.lastChild.remove(); document.body.style.color = 'red'",
    ):
        page.evaluate(harm)
        with pytest.raises(AssertionError):
            guarded.assert_harmless()
