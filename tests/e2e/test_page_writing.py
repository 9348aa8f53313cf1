"""What a writer's page does: messages that fail, drafts, the topic, the box they are written in; in Chromium."""

import re

from playwright.sync_api import WebSocketRoute, expect

from tests.e2e.test_page import Open, Wire, browser, messages, say, tab
from tests.e2e.test_page_reading import go, server
from tests.services import PeykServer

__all__ = ["browser", "server", "tab"]


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
