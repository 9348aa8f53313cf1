"""What the terminal knows of a message, and the words it has for it."""

import re
from datetime import date

import pytest

from chat.channel_list import rightward
from chat.errors import PeykError
from chat.hub import KICKED, NOT_PERMITTED
from chat.source import DELETED, Said
from chat.words import ERRORS, WORDS, Words, language_of, solar_hijri
from tests.services import ROOT


def test_a_message_is_read_as_the_protocol_writes_it() -> None:
    said = Said.read(b'{"offset":7,"time":9,"data":{"text":"hi","me":true},"info":{"user":"sara","client":"c"}}')
    assert (said.text, said.user, said.offset, said.time, said.client, said.is_action) == (
        "hi",
        "sara",
        7,
        9,
        "c",
        True,
    )


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b'{"type":"paid","payload":{"sum":12,"by":"sara","items":[1]}}', "paid · sum: 12 · by: sara · items: [1]"),
        (b'{"type":"paid","payload":[1]}', "paid · [1]"),
        (b'{"type":"paid"}', '{"type":"paid"}'),
        (b'{"type":1,"payload":{}}', '{"type":1,"payload":{}}'),
        (b"[1,null]", "[1,null]"),
    ],
)
def test_an_event_is_shown_as_what_it_carries(data: bytes, text: str) -> None:
    assert Said.read(b'{"data":' + data + b"}").text == text
    assert Said.read(b'{"data":{"text":5,"me":1}}').is_action is False


@pytest.mark.parametrize("data", [b"not json", b"1e999", b'{"text":"\xff"}', b'{"text":"\\ud800"}'])
def test_a_damaged_message_keeps_its_place_and_its_writer(data: bytes) -> None:
    said = Said.read(b'{"offset":7,"time":9,"data":' + data + b',"info":{"user":"sara","client":"c"}}')
    assert (said.text, said.user, said.offset, said.client) == ("(a message that cannot be read)", "sara", 7, "c")
    assert Said.read(data).offset == 0


def test_both_languages_say_the_same_things() -> None:
    english, persian = WORDS["en"], WORDS["fa"]
    assert english.keys() == persian.keys()
    for key, text in english.items():
        assert set(re.findall("{.*?}", text)) == set(re.findall("{.*?}", persian[key])), key


def test_so_do_both_languages_of_the_page() -> None:
    said = (ROOT / "chat/web/words.js").read_text()
    tables = re.findall(r"^  (?:en|fa): \{\n(.*?)^  \},$", said, re.MULTILINE | re.DOTALL)
    english, persian = [
        {
            key: (call, set(re.findall(r"\b(?:n|name|names|all)\b", " ".join(re.findall(r"\$\{(.*?)\}", text)))))
            for key, call, text in re.findall(r"^    (\w+): (\(.*?\) => )?(.*),$", table, re.MULTILINE)
        }
        for table in tables
    ]
    assert english == persian and english["unread"] == ("(n, name) => ", {"n", "name"})
    assert [table.count("\n") for table in tables] == [len(english)] * 2, "every line was read"


def test_every_error_is_said_in_persian_and_alike_on_the_page() -> None:
    kinds = [PeykError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    assert {kind.code for kind in kinds} | {DELETED, NOT_PERMITTED[0], KICKED[0]} == ERRORS.keys()
    page = re.findall(r'^  (\d+): "(.*)",$', (ROOT / "chat/web/words.js").read_text(), re.MULTILINE)
    there = {int(code): text for code, text in page}
    assert 0 in there and DELETED in there  # 0: the page's own, of a connection that is lost
    assert {code: ERRORS[code] for code in there if code in ERRORS} == {c: t for c, t in there.items() if 0 < c < 3000}


def test_no_persian_words_begin_with_a_number() -> None:
    """Behind what is written from left to right, as a line or a name may be, it would stand at their wrong end."""
    for key, text in WORDS["fa"].items():
        if "{n}" in text:
            before = text.partition("{n}")[0]
            assert rightward(before) and "{" not in before, key
    assert rightward(WORDS["fa"]["one_missed"].partition("۱")[0])


@pytest.mark.parametrize(
    ("environment", "language"),
    [
        ({"LANG": "fa_IR.UTF-8"}, "fa"),
        ({"LANG": "fa_IR", "LC_ALL": "C"}, "en"),
        ({"LC_MESSAGES": "fa_IR", "LANG": "en_GB"}, "fa"),
        ({"LANG": "de_DE"}, "en"),
        ({}, "en"),
    ],
)
def test_the_environment_says_the_language(environment: dict[str, str], language: str) -> None:
    assert language_of(environment) == language


@pytest.mark.parametrize(
    ("day", "solar"),
    [
        (date(2026, 3, 21), (1405, 1, 1)),
        (date(2025, 3, 20), (1403, 12, 30)),
        (date(2024, 3, 20), (1403, 1, 1)),
        (date(2026, 11, 21), (1405, 8, 30)),
        (date(1979, 2, 11), (1357, 11, 22)),
    ],
)
def test_days_of_the_iranian_calendar(day: date, solar: tuple[int, int, int]) -> None:
    assert solar_hijri(day) == solar


def test_days_and_numbers_are_said_as_people_say_them() -> None:
    english, persian, today = Words("en"), Words("fa"), date(2026, 11, 21)
    assert english.day(today, today) == "Today" and persian.day(date(2026, 11, 20), today) == "دیروز"
    assert english.day(date(2026, 3, 21), today) == "Saturday 21 March"
    assert persian.day(date(2025, 3, 20), today) == "پنجشنبه ۳۰ اسفند ۱۴۰۳"
    assert english("unread", n=1200) == "1,200 unread" and persian("unread", n=1200) == "نخوانده: ۱٬۲۰۰"
    assert english.clock(0) == "--:--" == english.clock(10**18)
    assert persian.clock(1_795_000_000_000).isdecimal() is False and "۰" <= persian.clock(1_795_000_000_000)[0] <= "۹"
