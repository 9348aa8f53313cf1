"""Coming in by the page with a name and a password, where guests are let in and where they are not."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.e2e.test_page import browser, messages, say, signed_in_elsewhere
from tests.services import PeykServer

__all__ = ["browser"]

PASSWORD = "correct horse battery"
REFUSED = "Failed to load resource"  # what the console says of every 4xx


@pytest.fixture(scope="module")
def members_only() -> Iterator[PeykServer]:
    with PeykServer({"GUESTS": "no", "AUTH_SECRET": "s" * 32, "REGISTRATION": "yes"}) as server:
        yield server


@pytest.fixture(scope="module")
def open_to_guests() -> Iterator[PeykServer]:
    with PeykServer() as server:
        yield server


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    complaints: list[str] = []
    context = browser.new_context(locale="en-GB")
    page = context.new_page()
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda said: complaints.append(said.text) if said.type != "log" else None)
    yield page
    context.close()
    assert [said for said in complaints if REFUSED not in said] == []


def fill(page: Page, name: str, password: str, button: str = "#enter") -> None:
    page.locator("#name").fill(name)
    page.locator("#password").fill(password)
    page.locator(button).click()


def complaint(page: Page, text: str) -> None:
    expect(page.locator("#name-error")).to_have_text(text)


def test_register_chat_sign_out_and_in_again(members_only: PeykServer, page: Page) -> None:
    page.goto(members_only.url)
    expect(page.locator("#password")).to_be_visible()
    expect(page.locator("#other-way")).to_be_hidden()  # no guests here
    fill(page, "two words", PASSWORD)
    complaint(page, "1 to 64 letters or digits, also _ - and . but no spaces, nothing invisible, and no dot first")
    fill(page, "Sara", "short", "#register")
    complaint(page, "A password has 8 to 256 characters")
    fill(page, "Sara", PASSWORD)
    complaint(page, "Name or password is wrong")
    fill(page, "Sara", PASSWORD, "#register")
    expect(page.locator("#me")).to_have_text("Sara")
    say(page, "in at last")
    expect(page.locator(".message.own:not(.pending)")).to_have_count(1)

    page.reload()  # the cookie knows
    expect(messages(page)).to_have_text(["in at last"])
    page.locator("#go-out").click()
    expect(page.locator("#password")).to_be_visible()
    page.reload()
    expect(page.locator("#password")).to_be_visible()

    fill(page, "sara", "not the password")
    complaint(page, "Name or password is wrong")
    fill(page, "Sara", PASSWORD, "#register")
    complaint(page, "This name is taken: choose another, or sign in")
    page.locator("#password").press("Enter")
    expect(page.locator("#me")).to_have_text("Sara")  # as it was registered
    expect(messages(page)).to_have_text(["in at last"])
    say(page, "and again")
    expect(page.locator(".message.own:not(.pending)")).to_have_count(2)


def test_a_session_that_ends_asks_again_and_keeps_what_is_unsent(members_only: PeykServer, page: Page) -> None:
    page.goto(members_only.url)
    fill(page, "Nima", PASSWORD, "#register")
    expect(page.locator("#edge")).not_to_be_empty()
    page.locator("#text").fill("half a thought")
    page.evaluate("fetch('api/session', { method: 'DELETE' })")  # another tab signed out
    complaint(page, "You were signed out: sign in again")
    expect(page.locator("#name")).to_have_value("Nima")
    fill(page, "Nima", PASSWORD)
    expect(page.locator("#text")).to_be_visible()
    expect(page.locator("#text")).to_have_value("half a thought")
    page.locator("#text").press("Enter")
    expect(page.locator(".message.own:not(.pending)")).to_have_count(1)


def test_a_guest_may_not_take_the_name_of_an_account(open_to_guests: PeykServer, page: Page) -> None:
    page.goto(open_to_guests.url)
    expect(page.locator("#password")).to_be_hidden()
    page.locator("#other-way").click()
    fill(page, "mina", PASSWORD, "#register")
    expect(page.locator("#me")).to_have_text("mina")
    expect(page.locator("#go-out")).to_have_text("Sign out")
    page.locator("#go-out").click()

    page.locator("#name").fill("Mina")
    page.locator("#enter").click()
    complaint(page, "This name has an account: sign in, or take another name")
    expect(page.locator("#name")).to_have_value("Mina")
    page.locator("#other-way").click()
    page.locator("#name").fill("someone-else")
    page.locator("#enter").click()
    expect(page.locator("#me")).to_have_text("someone-else")
    expect(page.locator("#go-out")).to_have_text("Change name")


def test_a_cookie_that_no_longer_opens_does_not_stand_in_the_way(open_to_guests: PeykServer, page: Page) -> None:
    page.context.add_cookies([{"name": "peyk", "value": "worn.out.token", "url": open_to_guests.url}])
    page.goto(open_to_guests.url)
    expect(page.locator("#password")).to_be_visible()
    page.locator("#other-way").click()
    page.locator("#name").fill("guest-of-honour")
    page.locator("#enter").click()
    expect(page.locator("#me")).to_have_text("guest-of-honour")
    assert page.context.cookies() == []


def test_a_guest_who_registers_in_another_tab_goes_on_as_who_signed_in_there(
    open_to_guests: PeykServer, page: Page
) -> None:
    page.goto(f"{open_to_guests.url}/#tabs")
    page.locator("#name").fill("two-tabs")
    page.locator("#enter").click()
    say(page, "as a guest")
    expect(page.locator(".message.own:not(.pending)")).to_have_count(1)
    account = {"username": "two-tabs", "password": PASSWORD}
    assert page.request.post(f"{open_to_guests.url}/api/accounts", data=account).status == 201
    signed_in_elsewhere(page)
    say(page, "as myself")
    expect(messages(page)).to_have_text(["as a guest", "as myself"])
    page.reload()  # the other tab's cookie is still there
    expect(page.locator("#go-out")).to_have_text("Sign out")


def test_it_asks_in_persian(members_only: PeykServer, page: Page) -> None:
    page.goto(f"{members_only.url}/?lang=fa")
    expect(page.locator("#enter")).to_have_text("ورود")
    fill(page, "سارا", PASSWORD)
    complaint(page, "نام یا گذرواژه نادرست است")
    fill(page, "سارا", PASSWORD, "#register")
    expect(page.locator("#me")).to_have_text("سارا")
    expect(page.locator("#go-out")).to_have_text("خروج")
