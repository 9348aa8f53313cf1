"""The list of channels in the page: what others make and delete shows by itself, and so many channels are no burden."""

import asyncio
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from playwright.sync_api import Page, WebSocket, expect

from tests.clients import Client
from tests.e2e.test_page import Open, browser, post, tab
from tests.services import PeykServer

__all__ = ["browser", "tab"]

MANY = 1300


@pytest.fixture(scope="module")
def server() -> Iterator[PeykServer]:
    with PeykServer({}) as server:
        yield server


def listed(page: Page) -> list[str]:
    """Writes down what the page asks of the list, from its next connection on."""
    asked: list[str] = []

    def watch(socket: WebSocket) -> None:
        socket.on("framesent", lambda frame: asked.append(str(frame)) if "channels.list" in str(frame) else None)

    page.on("websocket", watch)
    return asked


def test_what_others_make_and_delete_shows_without_a_question(server: PeykServer, tab: Open) -> None:
    page = tab("sara", "home")
    asked = listed(page)
    page.reload()
    expect(page.locator("#channels .channel[data-channel='home']")).to_be_visible()
    post(server, "fresh", "hello", "arash")
    others = page.locator("#others .channel[data-channel='fresh']")
    expect(others).to_be_visible()
    before = len(asked)
    post(server, "fresher", "hello", "arash")
    expect(page.locator("#others .channel[data-channel='fresher']")).to_be_visible()
    with urllib.request.urlopen(urllib.request.Request(f"{server.url}/api/channels/fresh", method="DELETE")):
        expect(others).to_have_count(0)
    assert len(asked) == before > 0


def test_a_channel_of_very_many_is_found_by_how_it_begins(server: PeykServer, tab: Open) -> None:
    async def work() -> None:
        client = await Client.open(server.port, "crowd")
        names = [f"of-many-{number:04}" for number in range(MANY)] + ["zz-the-last"]
        for start in range(0, len(names), 100):
            sent = [client.send(publish={"channel": name, "data": 1}) for name in names[start : start + 100]]
            await asyncio.gather(*sent)
        client.abort()

    with ThreadPoolExecutor(1) as pool:  # Playwright has its own loop in this thread
        pool.submit(asyncio.run, work()).result()
    page = tab("sara", "of-many-1299")  # one of one's own, beyond those that are listed
    expect(page.locator("#channels .channel[data-channel='of-many-1299']")).to_be_visible()
    expect(page.locator("#channels-note")).to_be_visible()
    page.locator("#new-channel").click()
    page.locator("#channel-name").fill("zz-the")
    page.locator("#others .channel[data-channel='zz-the-last']").click()
    expect(page.locator("#channel-title")).to_have_text("zz-the-last")
