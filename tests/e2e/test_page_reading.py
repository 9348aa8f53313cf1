"""What a reader's page does: what is new and where they were, who else is there, finding things; in Chromium."""

import re
from collections.abc import Iterator
from datetime import datetime, timedelta

import pytest
from playwright.sync_api import Locator, Page, WebSocketRoute, expect

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


def test_what_somebody_does(tab: Open) -> None:
    sara, arash = tab("sara", "actions"), tab("arash", "actions")
    say(sara, "/me waves")
    expect(arash.locator(".action .text")).to_have_text("waves")
    say(arash, "/me")
    expect(messages(sara)).to_have_text(["waves", "/me"])
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


class Refusing(Wire):
    """Answers publishes itself, with an error, while it is to."""

    refuses = True

    def connect(self, page: WebSocketRoute) -> None:
        super().connect(page)
        page.on_message(lambda frame: self.take(str(frame)))

    def take(self, frame: str) -> None:
        number = re.search(r'"id":(\d+),"rpc":\{"method":"publish"', frame)
        if number and self.refuses:
            self.page.send(f'{{"id":{number[1]},"error":{{"code":103,"message":"not now"}}}}')
        else:
            self.server.send(frame)


def test_a_failed_message_is_sent_again_when_asked(tab: Open) -> None:
    wire = Refusing()
    page, other = tab("sara", "again", wire=wire), tab("arash", "again")
    say(page, "stubborn")
    expect(page.locator(".failed .status")).to_have_text("Not sent: not now")
    say(other, "meanwhile")
    expect(messages(page)).to_have_text(["meanwhile", "stubborn"])  # what is unsent stays at the end
    wire.refuses = False
    page.locator(".failed .retry").click()
    expect(messages(other)).to_have_text(["meanwhile", "stubborn"])
    expect(page.locator(".failed, .pending")).to_have_count(0)


def test_drafts_are_kept_for_each_channel(tab: Open) -> None:
    page = tab("sara", "draft-a")
    page.locator("#text").fill("half of it")
    go(page, "draft-b")
    expect(page.locator("#text")).to_have_value("")
    page.locator("#text").fill("other")
    go(page, "draft-a")
    expect(page.locator("#text")).to_have_value("half of it")
    page.reload()
    expect(page.locator("#text")).to_have_value("half of it")
    go(page, "draft-b")
    expect(page.locator("#text")).to_have_value("other")


def test_drafts_outlive_reloads_without_a_server_and_other_tabs(server: PeykServer, tab: Open) -> None:
    page = tab("sara", "kept-a")
    page.locator("#text").fill("first")
    go(page, "kept-b")
    page.locator("#text").fill("second")
    page.route_web_socket(re.compile("/connection/websocket"), lambda socket: socket.close())
    for _ in range(2):
        page.reload()
        expect(page.locator("#banner-text")).to_contain_text("Reconnecting")
        expect(page.locator("#text")).to_have_value("second")
    other = page.context.new_page()
    other.goto(f"{server.url}/#kept-a")
    expect(other.locator("#text")).to_have_value("first")
    page.locator("#text").fill("second, longer")
    other.locator("#text").fill("")
    go(other, "kept-b")
    page.goto("about:blank")
    other.reload()
    expect(other.locator("#channel-title")).to_have_text("kept-b")
    expect(other.locator("#text")).to_have_value("second, longer")
    go(other, "kept-a")
    expect(other.locator("#text")).to_have_value("")


def test_the_topic_is_shown_and_changed(server: PeykServer, tab: Open) -> None:
    page = tab("sara", "topical")
    page.locator("#description").click()
    page.locator("#topic").fill("برنامه‌ریزی برای بهار")
    page.locator("#topic").press("Enter")
    expect(page.locator("#description")).to_have_text("برنامه‌ریزی برای بهار")
    other = tab("arash", "topical")
    expect(other.locator("#description")).to_have_text("برنامه‌ریزی برای بهار")


def test_a_click_is_heard_though_the_list_is_read_anew_meanwhile(server: PeykServer, tab: Open) -> None:
    page, other = tab("sara", "press-b"), tab("arash", "press-a")
    go(page, "press-a")
    row(page, "press-b").hover()
    page.mouse.down()
    other.locator("#description").click()
    other.locator("#topic").fill("new")
    other.locator("#topic").press("Enter")
    post(server, "press-b", "unseen")
    page.evaluate("dispatchEvent(new Event('focus'))")
    expect(page.locator("#description")).to_have_text("new")
    expect(row(page, "press-b").locator(".unread")).to_have_text("1")
    page.mouse.up()
    expect(page.locator("#channel-title")).to_have_text("press-b")
    expect(row(page, "press-b")).to_have_attribute("aria-current", "page")
    go(other, "press-new")  # and what is new is listed all the same
    page.evaluate("dispatchEvent(new Event('focus'))")
    expect(row(page, "press-new")).to_be_visible()


def test_what_is_left_without_a_connection_stays_left(tab: Open) -> None:
    wire = Wire()
    page = tab("sara", "stay", wire=wire)
    go(page, "parted")
    page.evaluate("""() => {
        window.Real = WebSocket;
        window.WebSocket = class { constructor() { setTimeout(() => this.onclose({})); } close() {} };
    }""")
    wire.page.close(code=3008, reason="slow")
    expect(page.locator("#banner")).to_be_visible()
    page.locator("#leave").click()
    expect(page.locator("#choose")).to_be_visible()
    page.evaluate("() => void (window.WebSocket = Real)")
    expect(page.locator("#banner")).to_be_hidden()
    expect(page.locator("#others .channel[data-channel='parted']")).to_be_visible()
    with page.expect_event("websocket", timeout=30_000):
        page.reload()
    expect(page.locator("#others .channel[data-channel='parted']")).to_be_visible()
    expect(page.locator("#channels .channel[data-channel='stay']")).to_be_visible()


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


def test_on_a_phone_a_panel_makes_room_for_what_was_chosen_in_it(server: PeykServer, tab: Open) -> None:
    for i in range(60):
        post(server, "small", f"line {i}")
    page = tab("sara", "small")
    page.locator("#who").click()
    page.locator(".person").click()
    expect(page.locator("#people")).to_be_visible()  # there is room for both
    page.set_viewport_size({"width": 390, "height": 800})
    page.locator(".person").click()
    expect(page.locator("#people")).to_be_hidden()
    expect(page.locator("#text")).to_have_value("@sara @sara ")
    expect(page.locator("#text")).to_be_focused()
    page.locator("#find").click()
    page.locator("#query").fill("line 3")
    page.locator("#query").press("Enter")
    page.locator(".result").last.click()
    expect(page.locator("#search")).to_be_hidden()
    expect(page.locator("[data-offset='4']")).to_be_in_viewport()


def test_everything_by_keyboard(server: PeykServer, tab: Open) -> None:
    post(server, "alpha", "a")
    post(server, "beta", "b")
    page = tab("typist", "alpha")
    page.keyboard.press("Control+k")
    page.keyboard.type("beta")
    expect(page.locator("#others .channel")).to_have_text(["beta"])
    page.keyboard.press("Enter")
    expect(page.locator("#channel-title")).to_have_text("beta")
    expect(page.locator("#text")).to_be_focused()
    page.keyboard.type("two")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("lines")
    page.keyboard.press("Enter")
    expect(messages(page)).to_have_text(["b", "two\nlines"], use_inner_text=True)
    post(server, "alpha", "something new")
    expect(row(page, "alpha").locator(".unread")).to_have_text("1")
    page.keyboard.press("Alt+Shift+ArrowDown")
    expect(page.locator("#channel-title")).to_have_text("alpha")
    reached = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.className"))
    assert {
        "new-channel",
        "channel",
        "go-out",
        "language",
        "description",
        "find",
        "who",
        "leave",
        "log",
        "text",
        "send",
    } <= reached


def test_shortcuts_are_where_their_letters_are_on_a_persian_keyboard(tab: Open) -> None:
    page = tab("sara", "layout")
    keys = page.context.new_cdp_session(page)

    def press(key: str, code: str, modifiers: int) -> None:
        for kind in ("rawKeyDown", "keyUp"):
            keys.send("Input.dispatchKeyEvent", {"type": kind, "key": key, "code": code, "modifiers": modifiers})

    press("ن", "KeyK", 2)  # Ctrl
    expect(page.locator("#channel-name")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator("#create")).to_be_hidden()
    press("ب", "KeyF", 10)  # and Shift
    expect(page.locator("#query")).to_be_focused()
    page.keyboard.press("Escape")
    press("k", "KeyV", 2)  # Dvorak: the letter counts, not the place
    expect(page.locator("#channel-name")).to_be_focused()
    page.keyboard.press("Escape")
    press("t", "KeyK", 2)
    expect(page.locator("#create")).to_be_hidden()


def test_the_form_for_channels_is_called_by_its_key_also_where_the_list_is_hidden(tab: Open) -> None:
    page = tab("sara", "slim")
    go(page, "slim-too")
    page.set_viewport_size({"width": 390, "height": 800})
    for leave in ("Escape", "slim-too", "slim"):
        channel = leave if leave != "Escape" else "slim-too"
        page.locator("#text").focus()
        page.keyboard.press("Control+k")
        expect(page.locator("#channel-name")).to_be_focused()
        expect(page.locator("#channel")).to_be_hidden()
        if leave == "Escape":
            page.keyboard.press(leave)
            expect(page.locator("#text")).to_be_focused()
        else:
            row(page, leave).click()
        expect(page.locator("#sidebar")).to_be_hidden()
        expect(page.locator("#composer")).to_be_visible()
        expect(page.locator("#channel-title")).to_have_text(channel)
    page.keyboard.press("Control+k")
    page.keyboard.type("slim-three")
    page.keyboard.press("Enter")
    expect(page.locator("#channel-title")).to_have_text("slim-three")
    expect(page.locator("#composer")).to_be_visible()


def test_who_closes_an_edit_stays_where_they_were(server: PeykServer, tab: Open) -> None:
    page = scrolled_up(server, tab, "undo")
    post(server, "undo", "fresh")
    expect(page.locator("#latest")).to_have_text("1 new message")
    place = page.locator("#log").evaluate("log => log.scrollTop")
    for opener, inside in (("#description", "#topic"), ("#new-channel", "#channel-name")):
        page.locator(opener).click()
        expect(page.locator(inside)).to_be_focused()
        page.keyboard.press("Escape")
        expect(page.locator(inside)).to_be_hidden()
        expect(page.locator(opener)).to_be_focused()
        assert page.locator("#log").evaluate("log => log.scrollTop") == place
        expect(page.locator("#latest")).to_have_text("1 new message")
    page.locator("#new-channel").click()
    page.locator("#cancel").press("Enter")
    expect(page.locator("#new-channel")).to_be_focused()
    page.locator("#description").click()
    page.keyboard.type("topical")
    page.keyboard.press("Enter")
    expect(page.locator("#description")).to_have_text("topical")
    expect(page.locator("#description")).to_be_focused()
    page.locator("#text").focus()
    page.keyboard.press("Control+k")
    page.keyboard.press("Escape")
    expect(page.locator("#text")).to_be_focused()  # it was called from there
    page.locator("#description").click()
    page.locator("#send").focus()  # who goes elsewhere stays there
    expect(page.locator("#topic")).to_be_hidden()
    expect(page.locator("#send")).to_be_focused()


def test_persian_is_mirrored_with_its_own_digits_and_dates(server: PeykServer, tab: Open) -> None:
    page = tab("مینا", "آینه", locale="fa-IR")
    say(page, "سلام")
    expect(page.locator(".message:not(.pending) time")).to_have_text(re.compile("^[۰-۹]{1,2}:[۰-۹]{2}$"))
    stamp = page.locator(".message time").get_attribute("title") or ""
    assert re.search("فروردین|اردیبهشت|خرداد|تیر|مرداد|شهریور|مهر|آبان|آذر|دی|بهمن|اسفند", stamp)
    assert re.search("۱[۴-۹][۰-۹]{2}", stamp)  # a Jalali year

    def left(selector: str) -> float:
        box = page.locator(selector).bounding_box()
        assert box is not None
        return box["x"]

    assert left("#sidebar") > left("#channel")
    assert left("#find") > left("#leave")
    assert left(".message .avatar") > left(".message .text")
    page.locator("#sidebar .language").click()
    expect(page.locator("html")).to_have_attribute("dir", "ltr")
    expect(messages(page)).to_have_text(["سلام"])
    assert left("#sidebar") < left("#channel")
    page.goto(f"{server.url}/#آینه")
    expect(page.locator("html")).to_have_attribute("lang", "en")  # it is remembered


def test_today_is_yesterday_once_midnight_has_passed(server: PeykServer, tab: Open) -> None:
    page = tab("sara", "night")
    post(server, "night", "before")
    expect(page.locator(".day")).to_have_text("Today")
    page.clock.set_fixed_time(datetime.now() + timedelta(days=1))
    post(server, "night", "after")
    expect(messages(page)).to_have_text(["before", "after"])
    expect(page.locator(".day")).to_have_text("Yesterday")


def test_in_persian_a_search_says_that_the_connection_is_lost(tab: Open) -> None:
    wire = Wire()
    page = tab("مینا", "قطع", locale="fa-IR", wire=wire)
    page.context.set_offline(True)
    page.route_web_socket(re.compile("/connection/websocket"), lambda socket: socket.close())
    wire.page.close(code=3008, reason="slow")
    expect(page.locator("#banner-text")).to_contain_text("ارتباط قطع شد")
    page.locator("#find").click()
    page.locator("#query").fill("سلام")
    page.locator("#query").press("Enter")
    expect(page.locator("#search-note")).to_have_text("ارتباط قطع است؛ پس از اتصال دوباره امتحان کنید")


@pytest.mark.parametrize("locale", ["en-US", "fa-IR"])
def test_nothing_is_wider_than_a_phone(server: PeykServer, tab: Open, locale: str) -> None:
    page = tab("sara", "narrow", locale=locale)
    page.set_viewport_size({"width": 360, "height": 640})
    post(server, "narrow", f"{'long' * 50} https://example.org/{'x' * 300}\n```\n{'code ' * 60}\n```")
    expect(messages(page).last).to_be_visible()
    for button in ("#who", "#find"):
        page.locator(button).click()
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        page.locator(".panel:visible .close").click()
    assert page.locator("#log").evaluate("log => log.scrollWidth <= log.clientWidth")
    for part in ("#find", "#who", "#leave", "#back", "#send"):
        box = page.locator(part).bounding_box()
        assert box is not None and box["width"] >= 32 and box["height"] >= 32, part


def test_the_open_channel_is_scrolled_to_in_a_long_list(server: PeykServer, tab: Open) -> None:
    page = tab("lena", "long-00")
    page.set_viewport_size({"width": 1000, "height": 400})
    for i in range(1, 20):
        go(page, f"long-{i:02}")
    expect(row(page, "long-19")).to_be_in_viewport(ratio=1)
    expect(row(page, "long-00")).not_to_be_in_viewport()
    page.reload()
    expect(row(page, "long-00")).to_be_attached()
    expect(row(page, "long-19")).to_be_in_viewport(ratio=1)
    page.keyboard.press("Alt+ArrowDown")  # around to the first
    expect(row(page, "long-00")).to_be_in_viewport(ratio=1)
    row(page, "long-00").focus()
    page.locator("#lists").evaluate("lists => lists.scrollTo(0, lists.scrollHeight)")
    go(tab("arash", "long-new"), "long-new")
    page.evaluate("dispatchEvent(new Event('focus'))")
    expect(row(page, "long-new")).to_be_attached()
    expect(row(page, "long-00")).not_to_be_in_viewport()  # who looks elsewhere is left there


def test_what_is_written_stands_beside_the_button_in_either_direction(server: PeykServer, tab: Open) -> None:
    page = tab("omid", "written")
    for _ in range(2):  # in English, then in Persian
        for text in ("left to right", "راست به چپ"):
            page.fill("#text", text)
            room = page.locator("#text").evaluate(
                """text => {
                  const [area, button] = [text, document.getElementById("send")].map((x) => x.getBoundingClientRect());
                  const style = getComputedStyle(text);
                  const left = area.left + parseFloat(style.paddingLeft);
                  const right = area.right - parseFloat(style.paddingRight);
                  return Math.max(left - button.right, button.left - right);
                }"""
            )
            assert room >= 0, text
        page.locator("#sidebar .language").click()
    expect(page.locator("html")).to_have_attribute("lang", "en")
