"""What a reader's page does: what is new and where they were, who else is there, finding things; in Chromium."""

import re
from collections.abc import Iterator
from datetime import datetime, timedelta

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.e2e.test_page import Open, Wire, browser, messages, post, post_body, read_by, say, tab
from tests.services import PeykServer, wait_until

__all__ = ["browser", "tab"]


@pytest.fixture(scope="module")
def server() -> Iterator[PeykServer]:
    with PeykServer() as server:
        yield server


def row(page: Page, channel: str) -> Locator:
    return page.locator(f".channel[data-channel='{channel}']")


def go(page: Page, channel: str) -> None:
    page.evaluate("channel => location.hash = channel", channel)
    expect(page.locator("#channel-title")).to_have_text(channel)
    expect(page.locator("#log")).to_have_attribute("aria-busy", "false")


def top_of(item: Locator) -> float:
    box = item.bounding_box()
    assert box is not None
    return box["y"]


def test_unread_counts_and_mentions_are_the_same_in_every_tab(server: PeykServer, tab: Open) -> None:
    sara, arash = tab("sara", "news"), tab("arash", "news")
    say(arash, "seen")
    expect(messages(sara)).to_have_text(["seen"])
    go(sara, "elsewhere")
    say(arash, "one")
    expect(row(sara, "news").locator(".unread")).to_have_text("1")
    say(arash, "and two, @Sara.")
    expect(row(sara, "news").locator(".unread")).to_have_text("@2")
    expect(row(sara, "news")).to_have_attribute("aria-label", "news, 2 unread, you are mentioned")
    expect(sara).to_have_title("(2) elsewhere · Peyk")
    second = tab("sara", "elsewhere")
    expect(row(second, "news").locator(".unread")).to_have_text("@2")

    go(sara, "news")
    expect(messages(sara)).to_have_text(["seen", "one", "and two, @Sara."])
    expect(sara.locator(".message:has(.new-line) .text")).to_have_text("one")
    expect(sara.locator(".mention")).to_have_text("@Sara")
    expect(row(sara, "news").locator(".unread")).to_be_hidden()
    wait_until(lambda: read_by(server, "sara", "news") == 3)
    second.evaluate("dispatchEvent(new Event('focus'))")
    expect(row(second, "news").locator(".unread")).to_be_hidden()
    expect(second).to_have_title("elsewhere · Peyk")


def test_a_reader_comes_back_to_the_first_new_message(server: PeykServer, tab: Open) -> None:
    page = tab("sara", "resume")
    for i in range(30):
        post(server, "resume", f"read {i}")
    expect(messages(page).last).to_have_text("read 29")
    wait_until(lambda: read_by(server, "sara", "resume") == 30)
    page.goto("about:blank")
    for i in range(120):
        post(server, "resume", f"new {i}")
    page.goto(f"{server.url}/#resume")
    first = page.locator(".message:has(.new-line)")
    expect(first.locator(".text")).to_have_text("new 0")
    expect(first).to_be_in_viewport()
    expect(page.locator("#latest")).to_contain_text("new messages")
    assert 30 < read_by(server, "sara", "resume") + 30 < 150  # what was not on the screen is not read
    page.locator("#latest").click()
    expect(messages(page).last).to_have_text("new 119")
    expect(messages(page).last).to_be_in_viewport()
    expect(page.locator("#latest")).to_be_hidden()
    wait_until(lambda: read_by(server, "sara", "resume") == 150)


def scrolled_up(server: PeykServer, tab: Open, channel: str) -> Page:
    """Somebody reads far above the newest of sixty messages."""
    for i in range(60):
        post(server, channel, f"line {i}")
    page = tab("sara", channel)
    expect(messages(page).last).to_be_in_viewport()
    page.locator("#log").evaluate("log => log.scrollTo(0, 300)")
    expect(page.locator("#latest")).to_have_text("Newest messages")
    return page


def test_what_is_read_does_not_move_when_something_new_comes(server: PeykServer, tab: Open) -> None:
    page = scrolled_up(server, tab, "still")
    seen = page.locator("[data-offset='25']")
    before = top_of(seen)
    post(server, "still", "fresh")
    expect(page.locator("#latest")).to_have_text("1 new message")
    assert abs(top_of(seen) - before) < 1
    page.keyboard.press("Escape")
    expect(page.locator("#latest")).to_be_hidden()
    expect(page.locator(".message:has(.new-line) .text")).to_have_text("fresh")


HIDE = """hidden => {
    Object.defineProperty(document, "hidden", { configurable: true, get: () => hidden });
    document.dispatchEvent(new Event("visibilitychange")); }"""


@pytest.mark.parametrize("lines", [1, 14])
def test_what_is_new_is_told_above_what_is_being_written(server: PeykServer, tab: Open, lines: int) -> None:
    page = scrolled_up(server, tab, f"pill-{lines}")
    page.locator("#text").fill("\n".join(["a draft"] * lines))
    post(server, f"pill-{lines}", "news")
    expect(page.locator("#latest")).to_have_text("1 new message")
    pill, text = page.locator("#latest").bounding_box(), page.locator("#text").bounding_box()
    assert pill is not None and text is not None and 0 < text["y"] - pill["y"] - pill["height"] < 60
    page.locator("#latest").click(timeout=5000)
    expect(messages(page).last).to_be_in_viewport()
    expect(page.locator("#text")).to_have_value(re.compile("^a draft"))


def test_what_came_while_nobody_looked_is_new(server: PeykServer, tab: Open) -> None:
    page = tab("nima", "hidden")  # the title counts what is unread in all channels: this reader has no others
    post(server, "hidden", "seen")
    expect(messages(page)).to_have_text(["seen"])
    wait_until(lambda: read_by(server, "nima", "hidden") == 1)
    page.evaluate(HIDE, True)
    for i in range(40):
        post(server, "hidden", f"unseen {i}")
    expect(messages(page)).to_have_count(41)
    expect(page).to_have_title("(40) hidden · Peyk")
    assert read_by(server, "nima", "hidden") == 1
    page.evaluate(HIDE, False)
    first = page.locator(".message:has(.new-line)")
    expect(first.locator(".text")).to_have_text("unseen 0")
    expect(first).to_be_in_viewport()
    expect(page.locator("#latest")).to_contain_text("new messages")
    page.keyboard.press("Escape")
    expect(page).to_have_title("hidden · Peyk")
    wait_until(lambda: read_by(server, "nima", "hidden") == 41)


def test_our_message_that_is_known_before_others_leaves_no_hole(server: PeykServer, tab: Open) -> None:
    wire = Wire()
    page = tab("sara", "ahead", wire=wire)
    wire.lost = '"push"'
    post(server, "ahead", "theirs")
    say(page, "ours")
    expect(page.locator(".message:not(.pending) .text")).to_contain_text(["ours"])  # and theirs, if it has looked above
    go(page, "aside")
    wire.lost = Wire.lost
    go(page, "ahead")
    expect(messages(page)).to_have_text(["theirs", "ours"])


def test_who_types_and_who_is_there(tab: Open) -> None:
    sara, arash = tab("sara", "people"), tab("آرش", "people")
    sara.locator("#who").click()
    expect(sara.locator("#here .person")).to_have_text([re.compile("sara"), re.compile("آرش")])
    expect(sara.locator("#count")).to_have_text("2")
    arash.locator("#text").press_sequentially("sal")
    expect(sara.locator("#typing")).to_have_text("\u2068آرش\u2069 is typing…")
    expect(arash.locator("#typing")).to_be_empty()
    arash.locator("#text").press("Enter")
    expect(messages(sara)).to_have_text(["sal"])
    expect(sara.locator("#typing")).to_be_empty()
    sara.locator("#here .person", has_text="آرش").click()
    expect(sara.locator("#text")).to_have_value("@آرش ")
    sara.locator("#text").fill("hi @آر")
    sara.locator("#text").press("Tab")
    expect(sara.locator("#text")).to_have_value("hi @آرش ")
    sara.locator("#text").press("Tab")
    expect(sara.locator("#send")).to_be_focused()  # no name: Tab is what it always is
    arash.context.close()
    expect(sara.locator("#away .person")).to_have_text(["آآرش"])  # the letter stands for a picture
    sara.locator("#people .close").click()
    expect(sara.locator("#who")).to_be_focused()


def test_who_is_away_keeps_the_name_they_write(tab: Open) -> None:
    sara, other = tab("sara", "named"), tab("علی\u200cرضا", "named")
    expect(sara.locator("#count")).to_have_text("2")
    other.context.close()
    expect(sara.locator("#count")).to_have_text("1")
    sara.locator("#who").click()
    expect(sara.locator("#away .person bdi")).to_have_text(["علی\u200cرضا"])


def test_light_markdown_links_and_code(server: PeykServer, tab: Open) -> None:
    page = tab("sara", "format")
    text = "**bold** *slanted* ~~gone~~ snake_case_name `a*b*c` [docs](https://example.org/a_b_c) see https://example.org/x."
    post(server, "format", text)
    post(server, "format", "> quoted\n> twice\nand\n```py\nif a < b:\n    pass\n```\nafter")
    post(server, "format", "2 * 3 * 4, a@sara.org, <b>no</b>, [x](javascript:alert(1)), https://[bad")
    expect(messages(page)).to_have_count(3)
    first, second, third = messages(page).all()
    expect(first.locator("strong")).to_have_text("bold")
    expect(first.locator("em")).to_have_text("slanted")
    expect(first.locator("del")).to_have_text("gone")
    expect(first.locator("code")).to_have_text("a*b*c")
    assert [a.get_attribute("href") for a in first.locator("a").all()] == [
        "https://example.org/a_b_c",
        "https://example.org/x",
    ]
    expect(second.locator("blockquote")).to_have_text("quoted twice")
    assert second.locator("pre").text_content() == "if a < b:\n    pass"
    expect(third.locator("*")).to_have_count(0)
    # A name or a link that a line begins with does not decide its direction.
    post(server, "format", "@arash سلام، ببین")
    post(server, "format", "https://example.org را ببین")
    post(server, "format", "سلام @arash")
    expect(messages(page)).to_have_count(6)
    directions = "all => all.map(e => getComputedStyle(e).direction)"
    assert messages(page).evaluate_all(directions)[3:] == ["rtl"] * 3


def test_what_is_code_or_an_address_calls_nobody_and_a_link_says_where_it_leads(server: PeykServer, tab: Open) -> None:
    page = tab("sara", "tokens")
    post(server, "tokens", "`@sara` https://medium.com/@sara/x boss@sara\n```c++\n@sara\n```")
    post(server, "tokens", "**see [https://bank.example](https://evil.example) @Sara**")
    post(
        server, "tokens", "https://en.wikipedia.org/wiki/Stack_(abstract_data_type), HTTPS://example.org،و \ufdd0 **x**"
    )
    expect(messages(page)).to_have_count(3)
    first, second, third = messages(page).all()
    expect(first.locator(".mention, .name")).to_have_count(0)
    expect(first.locator("code")).to_have_text(["@sara", "@sara"])
    expect(second.locator("strong")).to_have_text("see https://bank.example (evil.example) @Sara")
    expect(second.locator(".mention")).to_have_text("@Sara")
    hrefs = [link.get_attribute("href") for link in third.locator("a").all()]
    assert hrefs == ["https://en.wikipedia.org/wiki/Stack_(abstract_data_type)", "HTTPS://example.org"]
    assert (third.text_content() or "").endswith("HTTPS://example.org،و \ufdd0 x")
    go(page, "elsewhere")
    post(server, "tokens", "`@sara` https://medium.com/@sara/x boss@sara")
    expect(row(page, "tokens").locator(".unread")).to_have_text("1")
    post(server, "tokens", "@sara؟")
    expect(row(page, "tokens").locator(".unread")).to_have_text("@2")


def test_what_somebody_does(tab: Open) -> None:
    sara, arash = tab("sara", "actions"), tab("arash", "actions")
    say(sara, "/me waves")
    expect(arash.locator(".action .text")).to_have_text("waves")
    say(arash, "/me")
    expect(arash.locator("#note")).to_contain_text("/me <text>")
    expect(messages(sara)).to_have_text(["waves"])
    expect(sara.locator(".action")).to_have_count(1)


def test_an_event_is_a_card_whose_payload_is_folded(server: PeykServer, tab: Open) -> None:
    page = tab("sara", "events")
    event = {"id": "7", "type": "order.created", "payload": {"total": 12, "note": "سلام"}}
    post_body(server, "events", {"data": event, "user": "shop"})
    expect(page.locator(".event summary")).to_have_text("order.created")
    expect(page.locator(".event pre")).to_be_hidden()
    page.locator(".event summary").click()
    expect(page.locator(".event pre")).to_contain_text('"note": "سلام"')


def test_a_large_payload_is_read_to_its_end(server: PeykServer, tab: Open) -> None:
    page = tab("sara", "large")
    event = {"id": "8", "type": "order.created", "payload": {f"field_{i}": i for i in range(60)}}
    post_body(server, "large", {"data": event, "user": "shop"})
    page.locator(".event summary").click()
    # The last character is there to be seen once one has scrolled to it: what is cut off is hit by nobody.
    assert page.locator(".event pre").evaluate("""pre => {
        const last = document.createRange(), end = pre.firstChild.length;
        last.setStart(pre.firstChild, end - 1);
        last.setEnd(pre.firstChild, end);
        pre.scrollIntoView({ block: "end" });
        const { left, top } = last.getBoundingClientRect();
        return last.toString() === "}" && document.elementFromPoint(left + 1, top + 1) === pre; }""")


def test_search_finds_what_is_far_up_and_goes_there(server: PeykServer, tab: Open) -> None:
    post(server, "haystack", "می‌گویند the نيدل is here")  # with a joiner before, and an Arabic ye
    for i in range(150):
        post(server, "haystack", f"hay {i}")
    page = tab("sara", "haystack")
    page.keyboard.press("Control+Shift+F")
    page.locator("#query").fill("نیدل")
    page.locator("#query").press("Enter")
    expect(page.locator("#search-note")).to_have_text("1 found in the latest 151 messages")
    expect(page.locator(".result mark")).to_have_text("نيدل")
    page.locator(".result").click()
    expect(page.locator("[data-offset='1']")).to_be_in_viewport()
    page.locator("#query").fill("hay 1")
    page.locator("#query").press("Enter")
    expect(page.locator(".result")).to_have_count(61)
    page.keyboard.press("Escape")
    expect(page.locator("#search")).to_be_hidden()


def test_today_is_yesterday_once_midnight_has_passed(server: PeykServer, tab: Open) -> None:
    page = tab("sara", "night")
    post(server, "night", "before")
    expect(page.locator(".day")).to_have_text("Today")
    page.clock.set_fixed_time(datetime.now() + timedelta(days=1))
    post(server, "night", "after")
    expect(messages(page)).to_have_text(["before", "after"])
    expect(page.locator(".day")).to_have_text("Yesterday")
