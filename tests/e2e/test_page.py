"""The page in headless Chromium against a real server: what two people see, also when the server dies between them."""

import json
import re
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any
from urllib.parse import quote

import pytest
import redis
from playwright.sync_api import Browser, Locator, Page, WebSocketRoute, expect, sync_playwright

from tests.services import PeykServer, wait_until

CHROMIUM = "/usr/bin/chromium"
OFF = ("quic", "background-networking", "component-update", "sync", "gpu")
FLAGS = ["--no-sandbox", "--no-first-run", *(f"--disable-{feature}" for feature in OFF)]
# So small that a few messages reach them: beyond 10 missed a client pages history, which keeps 100 to 200; no archive.
LIMITS = {"RECOVERY_LIMIT": "10", "HISTORY_LENGTH": "100", "ARCHIVE": "0"}
KEPT = 500  # messages the page shows at most
NO_SERVER = "WebSocket connection to"  # what the console says of every try while the server is away

Open = Callable[..., Page]


@pytest.fixture(scope="module")
def server() -> Iterator[PeykServer]:
    with PeykServer(env=LIMITS) as server:
        yield server


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    expect.set_options(timeout=90_000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def tab(server: PeykServer, browser: Browser) -> Iterator[Open]:
    """Opens the page as somebody, in a browser profile of their own, and joins a channel.

    Afterwards none may have complained in the console, of which a violated content security policy is a case.
    """
    complaints: list[str] = []
    contexts = []

    def open_tab(name: str, channel: str, locale: str = "en-GB", wire: "Wire | None" = None) -> Page:
        context = browser.new_context(locale=locale)
        contexts.append(context)
        page = context.new_page()
        if wire:
            page.route_web_socket(re.compile("/connection/websocket"), wire.connect)
        page.on("pageerror", lambda error: complaints.append(f"{name}: {error}"))
        page.on("console", lambda said: complaints.append(f"{name}: {said.text}") if said.type != "log" else None)
        page.goto(f"{server.url}/#{quote(channel)}")
        page.locator("#name").fill(name)
        page.locator("#enter").click()
        expect(page.locator("#edge")).not_to_be_empty()
        expect(page.locator("#log")).to_have_attribute("aria-busy", "false")
        return page

    yield open_tab
    for context in contexts:
        context.close()
    assert [said for said in complaints if NO_SERVER not in said] == []


class Wire:
    """A page's connection with a hand on it: lines from the server that match `lost` never arrive."""

    lost = "(?!)"

    def connect(self, page: WebSocketRoute) -> None:
        self.page, self.server = page, page.connect_to_server()
        self.server.on_message(lambda frame: page.send(self.spared(str(frame))))

    def spared(self, frame: str) -> str:
        return "\n".join(line for line in frame.split("\n") if not re.search(self.lost, line))


def post(server: PeykServer, channel: str, text: str, user: str = "curl") -> int:
    """POST a message as curl would; its offset."""
    return int(post_body(server, channel, {"text": text, "user": user})["offset"])


def post_body(server: PeykServer, channel: str, body: dict[str, Any]) -> dict[str, Any]:
    url = f"{server.url}/api/channels/{quote(channel)}/messages"
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=180) as reply:
        return dict(json.load(reply))


def read_by(server: PeykServer, user: str, channel: str) -> int:
    """How far the server says somebody has read."""
    with closing(redis.Redis(unix_socket_path=str(server.dir / "valkey.sock"))) as client:
        return int(client.hget(f"user:{user}:read", channel) or 0)


def say(page: Page, text: str) -> None:
    page.locator("#text").fill(text)
    page.locator("#text").press("Enter")


def messages(page: Page) -> Locator:
    return page.get_by_test_id("message-text")


def offsets(page: Page) -> list[int]:
    """The offsets shown, in the order they are shown."""
    return [int(o) for o in page.locator("#log [data-offset]").evaluate_all("all => all.map(e => e.dataset.offset)")]


@contextmanager
def killed(server: PeykServer) -> Iterator[None]:
    """The server is not there meanwhile; it comes back also when a test fails, for the next."""
    server.kill()
    try:
        yield
    finally:
        server.start()


def away(server: PeykServer, *pages: Page) -> None:
    """The server is killed and comes back, the pages stay offline until back()."""
    with killed(server):
        for page in pages:
            expect(page.locator("#banner-text")).to_contain_text("Reconnecting")
            page.context.set_offline(True)  # not before: an offline Chromium may not tell that a socket ended


def signed_in_elsewhere(page: Page) -> None:
    """Back from another tab that signed in: its cookie lets this one in."""

    def looked() -> bool:
        page.evaluate("dispatchEvent(new Event('focus'))")
        return page.locator("#go-out").text_content() == "Sign out"

    wait_until(looked)


def back(page: Page) -> None:
    page.context.set_offline(False)
    expect(page.locator("#banner")).to_be_hidden()


def test_two_tabs_chat_in_two_scripts(tab: Open) -> None:
    sara, arash = tab("sara", "two"), tab("آرش", "two")
    say(sara, "Good morning")
    expect(messages(arash)).to_have_text(["Good morning"])
    say(arash, "سلام سارا، صبح به‌خیر")
    expect(messages(sara)).to_have_text(["Good morning", "سلام سارا، صبح به‌خیر"])
    for page in (sara, arash):
        expect(messages(page).nth(0)).to_have_css("direction", "ltr")
        expect(messages(page).nth(1)).to_have_css("direction", "rtl")
        expect(page.locator(".pending")).to_have_count(0)
        assert offsets(page) == [1, 2]
    expect(sara.locator(".message").nth(1).locator(".author")).to_have_text("آرش")
    expect(sara.locator(".message.own")).to_have_count(1)


def test_both_write_at_once(tab: Open) -> None:
    sara, arash = tab("sara", "burst"), tab("arash", "burst")
    for i in range(20):
        say(sara, f"sara {i}")
        say(arash, f"arash {i}")
    for page in (sara, arash):
        expect(messages(page)).to_have_count(40)
        expect(page.locator(".pending")).to_have_count(0)
        assert offsets(page) == list(range(1, 41))
    seen = messages(sara).all_text_contents()
    assert seen == messages(arash).all_text_contents()
    assert [text for text in seen if text.startswith("sara")] == [f"sara {i}" for i in range(20)]


def test_messages_from_elsewhere(server: PeykServer, tab: Open) -> None:
    page = tab("sara", "elsewhere")
    post(server, "elsewhere", "from curl", "nima")
    expect(messages(page)).to_have_text(["from curl"])
    expect(page.locator(".author")).to_have_text("nima")
    post_body(server, "elsewhere", {"data": {"type": "deployed", "payload": {"ok": True}}, "user": "ci"})
    expect(messages(page).nth(1)).to_have_text('{"type":"deployed","payload":{"ok":true}}')


def test_markup_is_text(server: PeykServer, tab: Open) -> None:
    page = tab("sara", "markup")
    attack = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
    post(server, "markup", attack)
    say(page, "<b>not bold</b>")
    expect(messages(page)).to_have_text([attack, "<b>not bold</b>"])
    expect(page.locator("#log img, #log script, #log b")).to_have_count(0)
    expect(page).to_have_title(re.compile("markup · Peyk$"))  # before it, what is unread elsewhere


def test_killed_server_loses_and_doubles_nothing(server: PeykServer, tab: Open) -> None:
    sara, arash = tab("sara", "killed"), tab("arash", "killed")
    say(sara, "before")
    expect(messages(arash)).to_have_text(["before"])
    away(server, sara, arash)
    say(sara, "written while away")
    expect(sara.locator(".pending")).to_have_count(1)
    for i in range(5):
        post(server, "killed", f"missed {i}")
    back(sara)
    back(arash)
    said = ["before", *(f"missed {i}" for i in range(5)), "written while away"]
    for page in (sara, arash):
        expect(messages(page)).to_have_text(said)
        expect(page.locator(".pending, .gap")).to_have_count(0)
        assert offsets(page) == list(range(1, 8))
    say(arash, "and on")
    expect(messages(sara)).to_have_text([*said, "and on"])


def test_more_missed_than_recovery_sends_is_paged(server: PeykServer, tab: Open) -> None:
    page = tab("sara", "paged")
    post(server, "paged", "before")
    expect(messages(page)).to_have_count(1)
    away(server, page)
    for i in range(30):
        post(server, "paged", f"missed {i}")
    back(page)
    expect(messages(page)).to_have_text(["before", *(f"missed {i}" for i in range(30))])
    expect(page.locator(".gap")).to_have_count(0)


def test_what_history_lost_is_marked(server: PeykServer, tab: Open) -> None:
    page = tab("sara", "gap")
    post(server, "gap", "before")
    expect(messages(page)).to_have_count(1)
    away(server, page)
    top = [post(server, "gap", f"missed {i}") for i in range(400)][-1]
    back(page)
    expect(page.locator(f"[data-offset='{top}']")).to_be_visible()
    before, *rest = offsets(page)
    assert before == 1
    assert rest == list(range(rest[0], top + 1))
    expect(page.get_by_test_id("gap")).to_have_text(f"{rest[0] - 2} messages here are no longer kept")


def test_a_lost_push_is_repaired(server: PeykServer, tab: Open) -> None:
    wire = Wire()
    page = tab("sara", "hole", wire=wire)
    wire.lost = '"push".*unseen'
    post(server, "hole", "unseen")
    say(page, "next")
    expect(messages(page)).to_have_text(["unseen", "next"])
    # The same when the server itself ends the subscription and says to come back.
    wire.server.send('{"id":9001,"unsubscribe":{"channel":"hole"}}')
    post(server, "hole", "unseen too")
    wire.page.send('{"push":{"channel":"hole","unsubscribe":{"code":2500,"reason":"insufficient state"}}}')
    expect(messages(page)).to_have_text(["unseen", "next", "unseen too"])


def test_a_lost_reply_publishes_nothing_twice(tab: Open) -> None:
    wire = Wire()
    page, other = tab("sara", "reply", wire=wire), tab("arash", "reply")
    wire.lost = 'precious|"duplicate"'
    say(page, "precious")
    expect(messages(other)).to_have_text(["precious"])
    expect(page.locator(".pending")).to_have_count(1)
    wire.lost = Wire.lost
    wire.page.close(code=3008, reason="slow")
    expect(page.locator(".message:not(.pending)")).to_have_count(1)
    say(page, "after")
    expect(messages(other)).to_have_text(["precious", "after"])
    assert offsets(page) == [1, 2]


def test_a_final_close_code_is_final_until_asked(tab: Open) -> None:
    wire = Wire()
    page = tab("sara", "final", wire=wire)
    ended = wire.page
    ended.close(code=3503, reason="force disconnect")
    expect(page.locator("#banner-text")).to_have_text("The server ended the connection: force disconnect")
    page.locator("#banner-action").click()
    expect(page.locator("#banner")).to_be_hidden()
    assert wire.page is not ended


def test_reload_shows_the_latest_and_earlier_ones_when_scrolled_to(server: PeykServer, tab: Open) -> None:
    page = tab("sara", "reload")
    for i in range(60):
        post(server, "reload", f"line {i}")
    wait_until(lambda: read_by(server, "sara", "reload") == 60)
    page.reload()
    expect(messages(page).last).to_have_text("line 59")
    expect(page.locator(".message").last).to_be_in_viewport()
    page.locator("#log").evaluate("log => log.scrollTo(0, 0)")
    expect(messages(page)).to_have_text([f"line {i}" for i in range(60)])
    expect(page.locator("#edge-text")).to_have_text("The channel begins here")


def test_the_log_is_bounded(server: PeykServer, tab: Open) -> None:
    page = tab("sara", "bounded")
    for i in range(KEPT + 20):
        post(server, "bounded", f"line {i}")
    expect(messages(page).last).to_have_text(f"line {KEPT + 19}")
    assert offsets(page) == list(range(21, KEPT + 21))
    expect(page.locator(".message").last).to_be_in_viewport()


def test_channels_are_created_joined_and_left(tab: Open) -> None:
    sara, arash = tab("sara", "lobby"), tab("arash", "lobby")
    sara.locator("#new-channel").click()
    sara.locator("#channel-name").fill("bad name")
    sara.locator("#create-channel").click()
    expect(sara.locator("#create-error")).to_be_visible()
    sara.locator("#channel-name").fill("برنامه\u200cنویسی")
    sara.locator("#channel-description").fill("کد و گفت‌وگو")
    sara.locator("#create-channel").click()
    expect(sara.locator("#channel-title")).to_have_text("برنامه\u200cنویسی")
    expect(sara.locator("#description")).to_have_text("کد و گفت‌وگو")
    say(sara, "سلام")
    arash.reload()
    arash.get_by_test_id("channel").filter(has_text="نویسی").click()
    expect(messages(arash)).to_have_text(["سلام"])
    say(arash, "درود")
    expect(messages(sara)).to_have_text(["سلام", "درود"])
    sara.go_back()
    expect(sara.locator("#channel-title")).to_have_text("lobby")
    say(arash, "نخوانده")
    expect(sara.get_by_test_id("channel").filter(has_text="نویسی").locator(".unread")).to_have_text("1")
    sara.locator("#leave").click()
    expect(sara.locator("#choose")).to_be_visible()
    for _ in range(2):  # and it does not come back
        expect(sara.locator("#others .channel[data-channel='lobby']")).to_be_visible()
        expect(sara.locator("#channels .channel[data-channel='lobby']")).to_have_count(0)
        with sara.expect_event("websocket", timeout=90_000):
            sara.reload()
        expect(sara.locator("#channels .channel").first).to_be_visible()


def test_a_link_makes_a_channel_as_it_spells_it(server: PeykServer, tab: Open) -> None:
    page = tab("sara", "New.Room")
    expect(page.locator("#channel-title")).to_have_text("New.Room")
    expect(page.locator("#channels .channel[data-channel='new.room']")).to_have_text("New.Room")
    with urllib.request.urlopen(f"{server.url}/api/channels/new.room", timeout=180) as reply:
        assert json.load(reply)["name"] == "New.Room"
    other = tab("arash", "NEW.room")  # it is there: its name is what it was given first
    expect(other.locator("#channel-title")).to_have_text("New.Room")
    say(other, "hello")
    expect(messages(page)).to_have_text(["hello"])


@pytest.mark.parametrize(
    ("person", "channel", "channel_id"),
    [
        ("Groß", "Straße", "strasse"),
        ("ΝΙΚΟΣ", "ｇｅｎｅｒａｌ２", "general2"),
        ("علی١", "كتاب‌خانهٔ۲", "کتابخانه\u06542"),
    ],
)
def test_a_name_in_any_spelling_is_joined_and_counted_once(
    tab: Open, person: str, channel: str, channel_id: str
) -> None:
    page = tab(person, channel)
    say(page, "hello")
    expect(page.locator(".message.own:not(.pending) .text")).to_have_text(["hello"])
    expect(page.locator(f"#channels .channel[data-channel='{channel_id}']")).to_have_count(1)
    page.locator("#who").click()
    expect(page.locator("#here .person bdi")).to_have_text([person])
    expect(page.locator("#away .person")).to_have_count(0)


def test_a_refused_message_says_why(tab: Open) -> None:
    page = tab("sara", "refused")
    say(page, "x" * 70_000)
    expect(page.locator(".failed .status")).to_contain_text("65536 bytes")
    page.locator(".failed .discard").click()
    expect(page.locator(".message")).to_have_count(0)
    say(page, "short")
    expect(page.locator(".message:not(.pending)")).to_have_count(1)


def test_a_deleted_channel_is_not_made_again(server: PeykServer, tab: Open) -> None:
    page = tab("sara", "doomed")
    say(page, "last words")
    expect(page.locator(".message:not(.pending)")).to_have_count(1)
    with urllib.request.urlopen(urllib.request.Request(f"{server.url}/api/channels/doomed", method="DELETE")):
        expect(page.locator("#banner-text")).to_have_text("This channel was deleted.")
    with killed(server):
        expect(page.locator("#banner-text")).to_contain_text("Reconnecting")
    expect(page.locator("#banner-text")).to_have_text("This channel was deleted.")
    with urllib.request.urlopen(f"{server.url}/api/channels", timeout=180) as reply:
        assert b'"doomed"' not in reply.read()
    page.locator("#banner-action").click()
    expect(page.locator("#edge-text")).to_have_text("Nothing here yet. Say hello.")


def test_the_page_speaks_persian(tab: Open) -> None:
    page = tab("مینا", "عمومی", locale="fa-IR")
    expect(page.locator("html")).to_have_attribute("lang", "fa")
    expect(page.locator("html")).to_have_css("direction", "rtl")
    expect(page.locator("#send")).to_have_attribute("aria-label", "فرستادن")
    page.locator("#sidebar .language").click()
    expect(page.locator("html")).to_have_css("direction", "ltr")
    expect(page.locator("#channel-title")).to_have_text("عمومی")
    expect(page.locator("#send")).to_have_attribute("aria-label", "Send")


def test_in_persian_an_error_names_its_cause(server: PeykServer, tab: Open) -> None:
    wire = Wire()
    page = tab("مینا", "خطا", locale="fa-IR", wire=wire)
    say(page, "خ" * 40_000)
    expect(page.locator(".failed .status")).to_contain_text("فرستاده نشد: پذیرفتنی نیست (\u2068")
    expect(page.locator(".failed .status")).to_contain_text("65536 bytes")
    expect(page.locator(".failed .retry")).to_have_text("تلاش دوباره")
    expect(page.locator(".failed .discard")).to_have_text("دور انداختن")
    page.locator(".failed .discard").click()
    page.goto(f"{server.url}/#bad name")
    expect(page.locator("#banner-text")).to_contain_text("۱ تا ۶۴ حرف یا رقم")
    wire.page.close(code=3503, reason="too many requests")
    refused = "سرور ارتباط را پایان داد: بیش از اندازه تند؛ کمی صبر کنید"
    expect(page.locator("#banner-text")).to_have_text(refused)
    expect(page.locator("#banner-action")).to_have_text("تلاش دوباره")
    page.locator("#banner-action").click()
    expect(page.locator("#banner-text")).to_contain_text("۱ تا ۶۴ حرف یا رقم")
    wire.page.close(code=3999, reason="of another server")
    expect(page.locator("#banner-text")).to_have_text("سرور ارتباط را پایان داد: \u2068of another server\u2069")


def test_a_name_is_asked_once(server: PeykServer, tab: Open) -> None:
    page = tab("sara", "names")
    page.reload()
    expect(page.locator("#me")).to_have_text("sara")
    page.locator("#go-out").click()
    page.locator("#name").fill("two words")
    page.locator("#enter").click()
    expect(page.locator("#name-error")).to_be_visible()
    page.locator("#name").fill("سارا")
    page.locator("#enter").click()
    say(page, "hello")
    expect(page.locator(".message.own:not(.pending) .author")).to_have_text("سارا")


def test_it_fits_a_phone(tab: Open) -> None:
    page = tab("sara", "phone")
    page.set_viewport_size({"width": 360, "height": 640})
    say(page, "a-very-long-word-" * 30)
    expect(page.locator(".message:not(.pending)")).to_have_count(1)
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    expect(page.locator("#sidebar")).to_be_hidden()
    page.locator("#back").click()
    expect(page.locator("#sidebar")).to_be_visible()
    expect(page.locator("#composer")).to_be_hidden()
