"""How one gets about in the page: its list and panels, by keyboard, on a phone, in Persian; in Chromium."""

import re

import pytest
from playwright.sync_api import expect

from tests.e2e.test_page import Open, Wire, browser, messages, post, say, tab
from tests.e2e.test_page_reading import go, row, scrolled_up, server
from tests.services import PeykServer

__all__ = ["browser", "server", "tab"]


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
    with page.expect_event("websocket", timeout=90_000):
        page.reload()
    expect(page.locator("#others .channel[data-channel='parted']")).to_be_visible()
    expect(page.locator("#channels .channel[data-channel='stay']")).to_be_visible()


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
