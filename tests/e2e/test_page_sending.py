"""What a page says reaches its channel once, whatever it holds and whatever becomes of the page; in Chromium."""

import json
import re

import pytest
from playwright.sync_api import Page, WebSocketRoute, expect

from tests.e2e.test_page import Open, Wire, browser, messages, offsets, say, tab
from tests.e2e.test_page_reading import server
from tests.services import ROOT, PeykServer

__all__ = ["browser", "server", "tab"]

HIGH, LOW = "\ud83d", "\udc4b"


def put(page: Page, text: str) -> None:
    """Write a text as it is, lone surrogates and all, and send it."""
    escaped = json.dumps(text)  # ASCII: what drives the browser takes no lone surrogates
    page.evaluate("""text => { document.getElementById("text").value = JSON.parse(text) }""", escaped)
    page.locator("#text").press("Enter")


def test_what_is_typed_is_cleaned_as_the_terminal_does(server: PeykServer, tab: Open) -> None:
    page = tab("sara", "cleaned")
    vectors = json.loads((ROOT / "tests/vectors/cleaned.json").read_text())
    cleaned = page.evaluate(
        """async (texts) => {
          const { cleaned } = await import(new URL("web/words.js", document.baseURI));
          return texts.map((text) => JSON.stringify(cleaned(JSON.parse(text))));
        }""",
        [json.dumps(vector["text"]) for vector in vectors],
    )
    assert [json.loads(text) for text in cleaned] == [vector["cleaned"] for vector in vectors]
    put(page, f"half {HIGH} of it\x0band {LOW}\x1b the rest")
    say(page, "and on")
    expect(messages(page)).to_have_text(["half \ufffd of it\nand \ufffd the rest", "and on"])
    expect(page.locator(".pending, .failed")).to_have_count(0)


def test_no_command_ends_the_connection_by_half_a_character(server: PeykServer, tab: Open) -> None:
    page = tab("sara", "halves")
    page.locator("#description").click()
    page.evaluate("""() => { document.getElementById("topic").value = "about \\ud83d" }""")
    page.locator("#topic").press("Enter")
    expect(page.locator("#description")).to_have_text("about \ufffd")


class Complaining(Wire):
    """Ends the connection with a complaint whenever a certain text is sent."""

    code = 3501
    count = 0

    def connect(self, page: WebSocketRoute) -> None:
        super().connect(page)
        page.on_message(lambda frame: self.take(page, str(frame)))

    def take(self, page: WebSocketRoute, frame: str) -> None:
        if "poison" in frame:
            self.count += 1
            page.close(code=self.code, reason="no such thing")
        else:
            self.server.send(frame)


@pytest.mark.parametrize("code", [3501, 1007])
def test_a_message_that_ends_connections_is_given_up(server: PeykServer, tab: Open, code: int) -> None:
    wire = Complaining()
    wire.code = code
    page = tab("sara", f"given-up-{code}", wire=wire)
    say(page, "poison")
    say(page, "and on")
    expect(page.locator(".failed .status")).to_have_text("Not sent: no such thing")
    expect(messages(page)).to_have_text(["and on", "poison"])
    expect(page.locator(".pending")).to_have_count(0)
    assert wire.count == 2


def test_a_refused_text_goes_back_to_where_it_was_written(server: PeykServer, tab: Open) -> None:
    page = tab("سارا", "edited", locale="fa-IR")
    say(page, "/me " + "long " * 20_000)
    expect(page.locator(".failed .edit")).to_have_text("ویرایش")
    page.locator("#text").fill("before")
    page.locator(".failed .edit").click()
    expect(page.locator(".failed")).to_have_count(0)
    assert page.locator("#text").input_value().startswith("before\n/me long long")
    page.reload()
    expect(page.locator("#edge")).not_to_be_empty()
    expect(page.locator(".failed, .pending")).to_have_count(0)


def offline(page: Page) -> None:
    """No connection from the next page on, nor for this one."""
    page.context.route_web_socket(re.compile("/connection/websocket"), lambda socket: socket.close())
    page.reload()
    expect(page.locator("#banner-text")).to_contain_text("Reconnecting")


def online(server: PeykServer, page: Page, channel: str) -> Page:
    """A new page of the same browser, with a connection."""
    other = page.context.new_page()
    other.route_web_socket(re.compile("/connection/websocket"), lambda socket: socket.connect_to_server() and None)
    other.goto(f"{server.url}/#{channel}")
    return other


def test_what_waits_outlives_its_page_and_is_sent_once(server: PeykServer, tab: Open) -> None:
    page, other = tab("sara", "outlives"), tab("arash", "outlives")
    offline(page)
    for text in ("first", "second", "/me waves"):
        say(page, text)
    page.evaluate("location.hash = 'elsewhere'")
    expect(page.locator("#channel-title")).to_have_text("elsewhere")
    say(page, "there")
    later = page.context.new_page()
    page.close(run_before_unload=False)
    later.goto(f"{server.url}/#outlives")  # still away
    expect(messages(later)).to_have_text(["first", "second", "waves"])
    later.close()
    back = online(server, later, "elsewhere")
    expect(messages(back)).to_have_text(["there"])
    expect(messages(other)).to_have_text(["first", "second", "waves"])
    expect(back.locator(".pending")).to_have_count(0)
    back.reload()
    expect(messages(back)).to_have_text(["there"])
    assert back.evaluate("Object.keys(localStorage).filter((key) => key.includes('unsent'))") == []


class Swallowing(Wire):
    """Messages reach the server, and its answers are lost."""

    lost = r'"id":|"pub":'

    def connect(self, page: WebSocketRoute) -> None:
        super().connect(page)
        self.lost = "(?!)"
        page.on_message(lambda frame: self.take(str(frame)))

    def take(self, frame: str) -> None:
        if '"publish"' in frame:
            self.lost = r'"id":|"pub":'
        self.server.send(frame)


@pytest.mark.parametrize("days", [0, 1])
def test_what_was_stored_without_an_answer_is_not_sent_again(server: PeykServer, tab: Open, days: int) -> None:
    """While its key is remembered the server knows; a day later, history does."""
    channel = f"answerless-{days}"
    page, other = tab("sara", channel, wire=Swallowing()), tab("arash", channel)
    say(page, "once")
    expect(messages(other)).to_have_text(["once"])
    context = page.context
    page.close(run_before_unload=False)
    again = context.new_page()
    if days:
        again.clock.install()
        again.clock.fast_forward(24 * 3600_000)
    again.goto(f"{server.url}/#{channel}")
    say(again, "twice")
    expect(messages(other)).to_have_text(["once", "twice"])
    expect(again.locator(".pending, .failed")).to_have_count(0)
    expect(messages(again)).to_have_text(["once", "twice"])


def test_of_many_pages_each_hears_once_that_one_is_gone(server: PeykServer, tab: Open) -> None:
    """They ask for its lock together, and none takes another for the page that is gone, again and again."""
    page = tab("sara", "many-pages")
    offline(page)
    say(page, "mine")
    others = [online(server, page, "many-pages") for _ in range(9)]
    for other in others:
        expect(other.locator("#log")).to_have_attribute("aria-busy", "false")
        other.evaluate("""() => {
            window.asked = 0;
            const request = navigator.locks.request.bind(navigator.locks);
            navigator.locks.request = (...words) => (window.asked++, request(...words));
        }""")
    page.close(run_before_unload=False)
    for other in others:
        expect(messages(other)).to_have_text(["mine"])
        assert other.evaluate("window.asked") <= len(others)  # those who took it over meanwhile
    assert offsets(others[0]) == [1]


def test_of_two_pages_one_sends(server: PeykServer, tab: Open) -> None:
    page = tab("sara", "two-pages")
    offline(page)
    say(page, "mine")
    second = online(server, page, "two-pages")
    expect(second.locator("#edge")).not_to_be_empty()
    expect(second.locator("#log")).to_have_attribute("aria-busy", "false")
    expect(messages(second)).to_have_count(0)  # the first page lives, and will send it
    page.close(run_before_unload=False)
    expect(messages(second)).to_have_text(["mine"], timeout=20_000)  # before it would look by itself
    expect(second.locator(".pending")).to_have_count(0)


def test_what_is_said_while_the_connection_closes_waits_for_the_next(server: PeykServer, tab: Open) -> None:
    page = tab("sara", "closing")
    page.evaluate(
        """() => {
          const { send } = WebSocket.prototype;
          WebSocket.prototype.send = function (frame) { window.socket = this; send.call(this, frame); };
        }"""
    )
    say(page, "before")
    expect(page.locator(".pending")).to_have_count(0)
    page.evaluate(
        """() => {
          window.socket.close();
          document.getElementById("text").value = "meanwhile";
          document.getElementById("composer").requestSubmit();
        }"""
    )
    say(page, "after")
    expect(messages(page)).to_have_text(["before", "meanwhile", "after"])
    expect(page.locator(".pending, .failed")).to_have_count(0)
