"""The page shows numbers as they were published: JavaScript itself would round the long ones."""

from playwright.sync_api import expect

from tests.e2e.test_page import Open, browser, messages, post_body, server, tab
from tests.services import PeykServer

__all__ = ["browser", "server", "tab"]

LONG = 9007199254740993
PAYLOAD = {"order": LONG, "lowest": -(2**63), "name": f'"{LONG}" \\', "few": [1, 0.5, 2**53 - 1]}


def test_long_numbers_are_shown_digit_by_digit(server: PeykServer, tab: Open) -> None:
    """Live and from history: in an event's card, in data that is no text, and where a text is expected."""
    post_body(server, "numbers", {"data": {"id": "1", "type": "paid", "payload": PAYLOAD}})
    page = tab("sara", "numbers")
    for data in (LONG, {"text": LONG}, {"id": LONG, "type": "t", "payload": 1}):
        post_body(server, "numbers", {"data": data})
    expect(messages(page)).to_have_count(4)
    for _ in ("live", "from history"):
        card, bare, text, event = messages(page).all_text_contents()
        assert str(LONG) in card and str(-(2**63)) in card and str(2**53 - 1) in card and f'"\\"{LONG}\\" ' in card
        assert bare == str(LONG) and text == f'{{"text":{LONG}}}'
        assert event == f'{{"id":{LONG},"type":"t","payload":1}}'
        page.reload()
        expect(messages(page)).to_have_count(4)
