"""The page with much in it: ten thousand messages to scroll through, a hundred a second, many channels; and whether an
accessibility checker finds anything. In Chromium."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from tests.clients import Client
from tests.e2e.test_page import Open, away, back, browser, messages, offsets, post, post_body, say, tab
from tests.services import PeykServer, wait_until

__all__ = ["browser", "tab"]

MANY = 10_000
ROWS = 520  # of the log at most: 500 messages, and marks
RATE, SECONDS = 100, 4
WATCH = "window.long = []; new PerformanceObserver(l => long.push(...l.getEntries().map(e => e.duration)))"
WATCH += ".observe({ type: 'longtask' })"


@pytest.fixture(scope="module")
def server() -> Iterator[PeykServer]:
    with PeykServer({"HISTORY_LENGTH": "20000"}) as server:
        yield server


def publish(server: PeykServer, channel: str, count: int, pause: float = 0.0) -> None:
    """Publish `count` messages; with a `pause` one by one, that many seconds apart."""

    async def work() -> None:
        client = await Client.open(server.port, "crowd")
        sent = []
        for i in range(count):
            sent.append(client.send(publish={"channel": channel, "data": {"text": f"message number {i}"}}))
            if pause:
                await asyncio.sleep(pause)
            elif len(sent) == 500:
                await asyncio.gather(*sent)
                sent.clear()
        await asyncio.gather(*sent)
        client.abort()

    with ThreadPoolExecutor(1) as pool:  # Playwright has its own loop in this thread
        pool.submit(asyncio.run, work()).result()


def test_ten_thousand_messages_are_scrolled_through_without_a_jump(server: PeykServer, tab: Open) -> None:
    publish(server, "many", MANY)
    page = tab("sara", "many")
    expect(messages(page).last).to_have_text(f"message number {MANY - 1}")
    # Go up, as fast as pages come; each time look where a message on the screen stood before and after it.
    result: dict[str, Any] = page.evaluate("""async () => {
        const log = document.querySelector("#log");
        const first = () => Number(log.querySelector("[data-offset]").dataset.offset);
        const frame = () => new Promise(requestAnimationFrame);
        let [jump, rows, seen] = [0, 0, new Set()];
        while (first() > 1) {
            log.scrollTop = 200;
            const mark = [...log.querySelectorAll("[data-offset]")].find((e) => e.getBoundingClientRect().top > 100);
            const [before, oldest] = [mark.getBoundingClientRect().top, first()];
            for (let i = 0; i < 600 && first() === oldest; i++) await frame();
            if (first() === oldest) return { stuck: oldest };
            jump = Math.max(jump, Math.abs(mark.getBoundingClientRect().top - before));
            const shown = [...log.querySelectorAll("[data-offset]")].map((e) => Number(e.dataset.offset));
            if (shown.some((offset, i) => i && offset !== shown[i - 1] + 1)) return { hole: shown };
            rows = Math.max(rows, shown.length);
        }
        return { jump, rows };
    }""")
    print(f"{MANY} messages scrolled through: farthest jump {result['jump']} px, at most {result['rows']} rows")
    assert result["jump"] < 2 and result["rows"] <= ROWS, result
    expect(page.locator("#edge-text")).to_have_text("The channel begins here")
    assert offsets(page)[0] == 1
    page.locator("#latest").click()
    expect(messages(page).last).to_have_text(f"message number {MANY - 1}")
    post(server, "many", "and one more")
    expect(messages(page).last).to_have_text("and one more")
    expect(messages(page).last).to_be_in_viewport()
    shown = offsets(page)
    assert shown == list(range(shown[0], MANY + 2))


def test_a_hundred_messages_a_second_are_all_shown(server: PeykServer, tab: Open) -> None:
    publish(server, "fast", 500)
    page = tab("sara", "fast")
    # Up to the first: all 500 are loaded, so that each new message takes one off the log.
    page.evaluate("""async () => {
        const log = document.querySelector("#log");
        while (log.querySelector("[data-offset]").dataset.offset !== "1") {
            log.scrollTop = 0;
            await new Promise(requestAnimationFrame);
        }
    }""")
    page.evaluate(WATCH)
    page.keyboard.press("Escape")
    expect(messages(page).last).to_be_in_viewport()
    publish(server, "fast", RATE * SECONDS, 1 / RATE)
    expect(page.locator("[data-offset]").last).to_have_attribute("data-offset", str(500 + RATE * SECONDS))
    shown = offsets(page)
    assert shown == list(range(shown[0], 501 + RATE * SECONDS))
    expect(messages(page).last).to_be_in_viewport()
    longest = page.evaluate("Math.max(0, ...long)")
    print(f"longest task at {RATE} messages a second, {len(shown)} in the log: {longest:.0f} ms (0: none of 50 ms)")


def test_somebody_who_was_away_for_long_is_not_shown_all_of_it(server: PeykServer, tab: Open) -> None:
    page = tab("sara", "away")
    say(page, "before")
    expect(page.locator(".message:not(.pending)")).to_have_count(1)
    away(server, page)
    publish(server, "away", 3000)
    back(page)
    expect(messages(page).last).to_have_text("message number 2999")
    shown = offsets(page)
    assert shown == list(range(shown[0], 3002)) and len(shown) <= ROWS
    say(page, "after")
    expect(page.locator(".message:not(.pending)").last).to_contain_text("after")


def furnish(server: PeykServer, channel: str) -> None:
    """Something of everything that a log can show."""
    post(server, channel, "Hello @sara, see https://example.org and `code`\n> quoted\n```\nmore\n```", "mina")
    post(server, channel, "سلام، **مهم** است", "آرش")
    post(server, channel, "", "quiet")
    post_body(server, channel, {"data": {"id": "1", "type": "order.created", "payload": {"n": 1}}, "user": "shop"})
    post_body(server, channel, {"data": [1, 2, {"a": "b"}], "user": "raw"})
    for i in range(8):
        post(server, channel, f"line {i}", f"person-{i}")


def violations(page: Page) -> list[str]:
    """What axe-core finds that is serious or critical."""
    found = Axe().run(page).response["violations"]
    return [
        f"{rule['id']}: {node['html'][:120]} {node['any'][0]['message'] if node['any'] else ''}"
        for rule in found
        if rule["impact"] in ("serious", "critical")
        for node in rule["nodes"]
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("locale", ["en-GB", "fa-IR"])
def test_an_accessibility_checker_finds_nothing_serious(
    server: PeykServer, browser: Browser, scheme: Any, locale: str
) -> None:
    channel = f"axe-{scheme}-{locale.lower()}"
    furnish(server, channel)
    context = browser.new_context(locale=locale, color_scheme=scheme, reduced_motion="reduce")
    page = context.new_page()
    page.goto(f"{server.url}/#{channel}")
    assert violations(page) == []
    page.locator("#other-way").click()
    assert violations(page) == []
    page.locator("#other-way").click()
    page.locator("#name").fill("sara")
    page.locator("#enter").click()
    expect(messages(page).last).to_have_text("line 7")
    post(server, "axe-other", "x")
    page.locator("#who").click()
    expect(page.locator("#here .person")).to_have_count(1)
    page.locator(".event summary").click()
    assert violations(page) == []
    page.locator("#find").click()
    page.locator("#query").fill("line")
    page.locator("#query").press("Enter")
    expect(page.locator(".result")).to_have_count(8)
    page.locator("#new-channel").click()
    assert violations(page) == []
    page.set_viewport_size({"width": 390, "height": 800})
    page.locator("#search .close").click()
    assert violations(page) == []
    context.close()


def test_the_checker_can_find_something(server: PeykServer, tab: Open) -> None:
    page = tab("sara", "axe-watch")
    page.locator("#text").evaluate("e => ['aria-label', 'placeholder'].forEach((name) => e.removeAttribute(name))")
    assert any(found.startswith("label") for found in violations(page))


def test_the_log_of_a_tab_that_was_open_for_long_stays_small(server: PeykServer, tab: Open) -> None:
    page = tab("sara", "long")
    publish(server, "long", 2000)
    expect(messages(page).last).to_have_text("message number 1999")
    wait_until(lambda: page.locator("#log li").count() <= ROWS)
    for channel in range(6):
        page.evaluate("name => location.hash = name", f"long-{channel}")
        expect(page.locator("#channel-title")).to_have_text(f"long-{channel}")
    publish(server, "long", 2000)
    expect(page.locator(".channel[data-channel=long] .unread")).to_have_text("999")
    page.go_back()
    assert page.locator("#log li").count() <= ROWS
