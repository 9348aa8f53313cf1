"""Somebody wants to talk to one alone: the page and the terminal say so, and take the answer."""

import json
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import httpx2 as httpx
import pytest
from playwright.sync_api import Browser, Page, expect
from websockets.sync.client import connect

from tests.e2e.test_page import browser, messages, say
from tests.e2e.test_sign_in import PASSWORD, fill
from tests.services import PeykServer

__all__ = ["browser"]


@pytest.fixture(scope="module")
def server() -> Iterator[PeykServer]:
    with PeykServer({"GUESTS": "no", "AUTH_SECRET": "s" * 32, "REGISTRATION": "yes"}) as server:
        yield server


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    with closing(browser.new_context(locale="en-GB")) as context:
        yield context.new_page()


def ask(server: PeykServer, asker: str, whom: str) -> str:
    """A new account asks somebody, and says something; the channel."""
    new = {"username": asker, "password": PASSWORD}
    with httpx.Client(base_url=server.url, trust_env=False, timeout=180) as http:
        assert http.post("/api/accounts", json=new).status_code == 201
        cookie = {"cookie": f"peyk={http.cookies['peyk']}"}
    with connect(server.ws_url, proxy=None, additional_headers=cookie) as socket:

        def told(number: int, **command: Any) -> dict[str, Any]:
            socket.send(json.dumps({"id": number, **command}))
            while (reply := json.loads(socket.recv(30))).get("id") != number:
                pass
            assert "error" not in reply, reply
            return dict(reply)

        told(1, connect={})
        channel = told(2, rpc={"method": "channels.private", "data": {"user": whom}})["rpc"]["data"]["id"]
        told(3, publish={"channel": channel, "data": {"text": f"{asker} says hello"}})
        return str(channel)


def test_the_page_says_who_asks_and_takes_the_answer(server: PeykServer, page: Page) -> None:
    page.goto(server.url)
    fill(page, "Reza", PASSWORD, "#register")
    expect(page.locator("#me")).to_have_text("Reza")
    ask(server, "Sara", "reza")
    ask(server, "Spam", "reza")
    page.evaluate("dispatchEvent(new Event('focus'))")  # else within half a minute
    asks = page.get_by_test_id("ask")
    expect(asks).to_have_count(2)
    expect(asks.filter(has_text="Sara").locator("p")).to_have_text("\u2068Sara\u2069 wants to talk to you")
    asks.filter(has_text="Spam").get_by_text("Decline").click()
    expect(asks).to_have_count(1)
    asks.get_by_text("Accept").click()
    expect(page.locator("#channel-title")).to_have_text("@Sara")
    expect(messages(page)).to_have_text(["Sara says hello"])
    expect(asks).to_have_count(0)
    say(page, "hello to you")
    expect(page.locator(".message.own:not(.pending)")).to_have_count(1)
    expect(page.get_by_test_id("channel").filter(has_text="Spam")).to_have_count(0)


def test_it_says_so_in_persian(server: PeykServer, page: Page) -> None:
    page.goto(f"{server.url}/?lang=fa")
    fill(page, "رضا", PASSWORD, "#register")
    expect(page.locator("#me")).to_have_text("رضا")
    ask(server, "سارا", "رضا")
    page.evaluate("dispatchEvent(new Event('focus'))")
    expect(page.get_by_test_id("ask").locator("p")).to_have_text("\u2068سارا\u2069 می‌خواهد با شما گفت‌وگو کند")
    page.get_by_test_id("ask").get_by_text("نپذیرفتن", exact=True).click()
    expect(page.get_by_test_id("ask")).to_have_count(0)
