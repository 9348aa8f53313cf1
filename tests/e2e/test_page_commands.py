"""What is typed behind a slash does on the page what it does in the terminal, and is never said by mistake."""

import re

from playwright.sync_api import Page, expect

from tests.e2e.test_page import Open, browser, messages, post, post_body, read_by, say, signed_in_elsewhere, tab
from tests.e2e.test_page_reading import go, server
from tests.services import ROOT, PeykServer, wait_until

__all__ = ["browser", "server", "tab"]


def test_the_page_knows_the_terminals_commands() -> None:
    listed = re.findall(r'^  "(/\w+)": "(.*)",$', (ROOT / "chat/web/slash.js").read_text(), re.MULTILINE)
    source = (ROOT / "chat/slash.py").read_text()
    assert listed == re.findall(r'^ +"(/\w+)": Command\("([^"]+)"', source, re.MULTILINE)
    words = (ROOT / "chat/web/words.js").read_text()
    for name, _ in listed:
        assert len(re.findall(rf'^    help_{name[1:]}: "', words, re.MULTILINE)) == 2, name


def test_a_command_is_done_and_not_said(server: PeykServer, tab: Open) -> None:
    page = tab("sara", "commands")
    for line in ("/nope", "/MSG ali my password is 1234", " /secret x", "/", "/msgali x", "/usr/bin/env"):
        say(page, line)
        expect(page.locator("#note")).to_contain_text(line.split()[0])
        expect(page.locator("#text")).to_have_value(line)
    say(page, "/me")
    expect(page.locator("#note")).to_contain_text("what is missing?")
    say(page, "//usr is a directory")
    say(page, "/me waves")
    say(page, "/send said")
    expect(messages(page)).to_have_text(["/usr is a directory", "waves", "said"])
    expect(page.locator("#note")).to_be_hidden()
    say(page, "/topic About slashes")
    expect(page.locator("#description")).to_have_text("About slashes")
    say(page, "/help")
    expect(page.locator("#note dt")).to_have_count(14)
    say(page, "/search DIRECTORY")
    expect(page.locator("#results .result")).to_have_count(1)
    say(page, "/who")
    expect(page.locator("#here .person")).to_have_count(1)
    page.locator("#text").fill("/hist")
    page.locator("#text").press("Tab")
    expect(page.locator("#text")).to_have_value("/history ")
    say(page, "/join Other.Place")
    expect(page.locator("#channel-title")).to_have_text("Other.Place")
    say(page, "/leave")
    expect(page.locator("#choose")).to_be_visible()
    go(page, "commands")
    say(page, "/name sarah")
    expect(page.locator("#me")).to_have_text("sarah")
    expect(messages(page)).to_have_count(3)


def test_commands_speak_persian(server: PeykServer, tab: Open) -> None:
    page = tab("سارا", "دستورها", locale="fa-IR")
    say(page, "/نه")
    expect(page.locator("#note")).to_contain_text("وجود ندارد")
    say(page, "/msg nobody-at-all سلام")  # guests of a server may not; the text is still there
    expect(page.locator("#note")).to_be_visible()
    expect(page.locator("#text")).to_have_value("/msg nobody-at-all سلام")
    expect(messages(page)).to_have_count(0)


def with_account(page: Page, name: str) -> None:
    """Register whoever is there as a guest."""
    account = {"username": name, "password": "long enough"}
    assert page.request.post(page.url.partition("#")[0] + "api/accounts", data=account).status == 201
    signed_in_elsewhere(page)
    expect(page.locator("#log")).to_have_attribute("aria-busy", "false")


def test_a_private_message_is_private(server: PeykServer, tab: Open) -> None:
    mina, omid = tab("mina", "lobby"), tab("omid", "lobby")
    for page, name in ((mina, "mina"), (omid, "omid")):
        with_account(page, name)
    say(mina, "/msg @omid my password is 1234")
    expect(messages(mina)).to_have_text(["my password is 1234"])
    expect(mina.locator("#title")).to_have_attribute("data-kind", "private")
    say(omid, "/msg mina")
    expect(messages(omid)).to_have_text(["my password is 1234"])
    go(omid, "lobby")
    expect(messages(omid)).to_have_count(0)
    say(omid, "/name other")
    expect(omid.locator("#note")).to_contain_text("your account's")


def test_a_channel_that_was_left_is_not_joined_again_by_going_back(server: PeykServer, tab: Open) -> None:
    page = tab("nima", "first")
    go(page, "left")
    go(page, "first")
    go(page, "left")
    page.locator("#leave").click()
    expect(page.locator("#channels a")).to_have_count(1)
    for _ in range(3):
        page.go_back()
    expect(page.locator("#channels a")).to_have_text(["first"])
    page.locator("#others a", has_text="left").click()  # asked for, it is joined
    expect(page.locator("#channel-title")).to_have_text("left")
    expect(page.locator("#channels a")).to_have_count(2)


def test_an_opened_card_stays_where_it_is(server: PeykServer, tab: Open) -> None:
    for i in range(30):
        post(server, "cards", f"line {i}")
    event = {"id": "9", "type": "order.created", "payload": {f"field_{i}": i for i in range(100)}}
    post_body(server, "cards", {"data": event, "user": "shop"})
    page = tab("sara", "cards")
    summary = page.locator("details.event summary")
    summary.click()
    top = summary.evaluate("e => e.getBoundingClientRect().top")
    post(server, "cards", "and then")
    expect(messages(page).last).to_have_text("and then")
    assert abs(summary.evaluate("e => e.getBoundingClientRect().top") - top) < 2
    expect(page.locator("#latest")).to_be_visible()
    summary.click()
    page.locator("#latest").click()
    post(server, "cards", "at last")
    expect(messages(page).last).to_be_in_viewport()


def test_ones_own_words_are_read_wherever_one_said_them(server: PeykServer, tab: Open) -> None:
    page = tab("sara", "own")
    go(page, "else")
    second = page.context.new_page()
    second.goto(f"{server.url}/#own")
    say(second, "from the second tab")
    expect(messages(second)).to_have_text(["from the second tab"])
    second.close()
    post(server, "own", "by a program as oneself", user="sara")
    wait_until(lambda: read_by(server, "sara", "own") == 2, what="one's own is read")
    badge = page.locator("#channels a[data-channel=own] .unread")
    expect(badge).to_be_hidden()
    post(server, "own", "by another", user="babak")
    expect(badge).to_have_text("1")
    page.reload()
    expect(badge).to_have_text("1")
