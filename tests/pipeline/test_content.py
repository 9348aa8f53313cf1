"""What a message may hold, and what happens to it on the way in."""

import json
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chat.errors import BadRequest, TooLarge
from chat.models import channel_id, user_name
from chat.settings import ServerSettings
from pipeline import content
from pipeline.content import DEPTH, MARKS, cleaned, json_line
from tests.services import ROOT

LIMIT = 65536
BIDI = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


def line(data: str | bytes, depth: int = DEPTH) -> bytes:
    return json_line(data.encode() if isinstance(data, str) else data, LIMIT, depth)


def text_of(text: str) -> str:
    """How `text` is stored, sent once as it is and once escaped."""
    stored = [json_line(json.dumps({"text": text}, ensure_ascii=ascii).encode(), LIMIT) for ascii in (False, True)]
    assert stored[0] == stored[1]
    return str(json.loads(stored[0])["text"])


@pytest.mark.parametrize(
    "data",
    ["", " ", "NaN", "[Infinity]", "-Infinity", "1e999", "-1e400", "01", "1.", "+1", "'a'", "[1,]", "{a:1}", "1 2",
     "\ufeff1", "/**/1", r'"\ud800"', r'"\udc00\ud800"', r'{"\ud800":1}', r'{"text":"\ud83d"}', '"a\nb"',
     r'"\x"', '"a\x01b"'],
)  # fmt: skip
def test_what_is_not_strict_json_is_refused(data: str) -> None:
    with pytest.raises(BadRequest, match="data must be JSON"):
        line(data)


@pytest.mark.parametrize("data", [b'"\xff"', b'"\xed\xa0\x80"', b'{"\xc0\x80":1}', b'{"text":"\xf5"}'])
def test_what_is_not_utf8_is_refused(data: bytes) -> None:
    with pytest.raises(BadRequest, match="data must be JSON"):
        line(data)


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}"), ('[{"]":', "}]")])
def test_depth_is_bounded(opening: str, closing: str) -> None:
    levels = len(opening.replace('"]"', "").replace('"a"', "").replace(":", ""))
    at_limit = DEPTH // levels
    good = opening * at_limit + "1" + closing * at_limit
    assert line(good) == good.encode()
    with pytest.raises(BadRequest, match="more than 32 levels"):
        line(f"[{good}]")
    with pytest.raises(BadRequest):
        line(opening * 50_000 + closing * 50_000)
    with pytest.raises(BadRequest, match="more than 2 levels"):
        line("[[[]]]", depth=2)


def calls(work: Callable[[], object]) -> Counter[str]:
    """How often which function is called, those of C as well: what `work` costs, whatever else the machine does."""
    found: Counter[str] = Counter()

    def note(frame: FrameType, event: str, function: Any) -> None:
        if event == "call":
            found[frame.f_code.co_name] += 1
        elif event == "c_call":
            found[function.__name__] += 1

    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
    return found


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}"), ('[{"]\\"":', "}]")])
def test_depth_costs_the_same_however_deep_it_is(opening: str, closing: str) -> None:
    def nested(levels: int, times: int) -> bytes:
        return f"[{','.join([opening * levels + '1' + closing * levels] * times)}]".encode()

    costs = [calls(partial(content.is_deeper, nested(levels, 3), 1)) for levels in (31, 900, 9000)]
    assert costs[0] == costs[1] == costs[2]
    assert sum(costs[0].values()) < 30


def test_what_is_too_deep_is_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[bytes] = []
    for name in ("_decode_short", "_decode_long"):
        monkeypatch.setattr(content, name, decoded.append)
    for deep in (b"[" * 40 + b"]" * 40, b"[" + b",".join([b"[" * 900 + b"]" * 900] * 30) + b"]", b"[" * LIMIT):
        with pytest.raises(BadRequest, match="more than 32 levels"):
            line(deep)
    assert decoded == []


@given(
    st.recursive(
        st.text(alphabet='[]{}"\\a', max_size=6), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_the_depth_is_how_deep_it_is(value: Any) -> None:
    def deep(value: Any) -> int:
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
        return 0 if inner is None else 1 + max(map(deep, inner), default=0)

    data = json.dumps(value).encode()
    levels = max(1, deep(value))
    assert not content.is_deeper(data, levels)
    assert levels == 1 or content.is_deeper(data, levels - 1)


def test_numbers_of_a_long_message_are_read_the_quick_way() -> None:
    """1e308 takes msgspec 11 µs: 64 KiB of it 0.1 s."""
    many = b"[" + b",".join([b"1e308"] * 100) + b"]"
    assert calls(partial(line, many))["_float"] == 100
    assert json.loads(line(many)) == [1e308] * 100
    for size in (1, 100):
        for far in (b"1e309", b"-1e400"):
            with pytest.raises(BadRequest, match="data must be JSON: Number out of range"):
                line(b"[" + b",".join([far] * size) + b"]")


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_is_the_same_in_a_long_message_as_in_a_short_one(number: float) -> None:
    short = line(json.dumps([number]))
    long = line(json.dumps([number, "x" * 300]))
    assert long.startswith(short[:-1] + b",")


def test_many_shallow_arrays_are_not_deep() -> None:
    assert line("[[],{}," * 15 + '"[[[{{{"' + "]" * 15)
    assert line(json.dumps([[i] for i in range(1000)]))


def test_the_default_depth_is_the_settings() -> None:
    assert ServerSettings.model_fields["json_depth"].default == DEPTH


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1, 10**30])
def test_whole_numbers_have_64_bits(number: int) -> None:
    for data in (number, [1, number], {"a": number}, {"text": "x", "n": number}):
        with pytest.raises(BadRequest, match="64 bits"):
            line(json.dumps(data))
    assert line(json.dumps([str(number), 2**63 - 1, -(2**63), 1e22, 12345678901234567890.5]))
    with pytest.raises(BadRequest):
        line("1" * 5000)


def test_what_is_stored_is_what_was_understood() -> None:
    """A key given twice, an escape, white space: everybody who reads it reads the same."""
    assert line('{"text":"\\u0000","text":"b"}') == b'{"text":"b"}'
    assert line('{"te\\u0078t" : "\\u0633\\/"}') == '{"text":"س/"}'.encode()
    assert line(' [1.50,\n1e2, -0,\t"x\\ny"] ') == b'[1.5,100.0,0,"x\\ny"]'


@pytest.mark.parametrize("control", [chr(c) for c in (*range(9), *range(11, 32), *range(127, 160))])
def test_text_and_keys_hold_no_control_characters(control: str) -> None:
    for text in (control, f"a{control}b", f"\\\\{control}", f"سلام{control}"):
        with pytest.raises(BadRequest, match=f"control character U\\+{ord(control):04X}"):
            text_of(text)
        for data in ({text: 1}, [{"a": {text: 1}}], {"text": "x", text: 1}):
            with pytest.raises(BadRequest, match=r"a key of data holds a control|U\+0000"):
                line(json.dumps(data))


def test_newline_tab_and_everything_visible_may_stand_in_text() -> None:
    for text in (
        "a\nb\tc",
        "C:\\run\\new\\u001b",
        'a "quote"',
        "«سلام»\u00a0می‌روم",
        "👩‍👩‍👧",
        BIDI,
        "\u2028",
        "\ufffe",
        "\\" * 9,
    ):
        assert text_of(text) == text
        assert json.loads(line(json.dumps({"data": [text]}))) == {"data": [text]}


@pytest.mark.parametrize("data", ['"\\u0000"', '{"a":["\\u0000"]}', '{"text":5,"b":"\\\\\\u0000"}', '{"\\u0000":1}'])
def test_nowhere_is_u0000(data: str) -> None:
    with pytest.raises(BadRequest, match=r"U\+0000"):
        line(data)
    assert line('["\\\\u0000"]') == b'["\\\\u0000"]'  # a backslash and letters


def test_text_is_stored_in_one_form() -> None:
    assert text_of("cafe\u0301") == "caf\u00e9"
    assert text_of("\u0627\u0653") == "\u0622"  # Arabic alef and madda
    assert json.loads(line('{"a":1,"text":"e\\u0301","b":[1.0]}')) == {"a": 1, "text": "é", "b": [1.0]}
    assert line('{"name":"e\\u0301"}') == '{"name":"e\u0301"}'.encode()  # only text is


def test_marks_cannot_be_piled_up_to_keep_the_server_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Putting n combining marks in order takes n² steps: half a second of everybody's time for one message."""
    assert text_of("a" + "\u0301\u0316" * (MARKS // 2)).startswith("á")
    sizes: list[int] = []
    normalize = unicodedata.normalize

    def recording(form: Literal["NFC"], text: str) -> str:
        sizes.append(len(text))
        return normalize(form, text)

    monkeypatch.setattr(unicodedata, "normalize", recording)
    for many in ("a" + "\u0301\u0316" * 15_000, "\U0001d165\U0001d16d" * 7_000):
        with pytest.raises(BadRequest, match="combining marks"):
            text_of(many)
    for name in ("a" + "\u0301\u0316" * 200_000, "\u0301\u0316" * 200):
        for rule in (channel_id, user_name):
            with pytest.raises(BadRequest):
                rule(name)
    assert sizes == []


def test_the_search_for_marks_finds_every_mark() -> None:
    marks = [c for c in map(chr, range(0x110000)) if unicodedata.combining(c)]
    assert len(marks) > 900
    assert [c for c in marks if not content._NO_LETTERS.fullmatch(c * (MARKS + 1))] == []


@pytest.mark.parametrize("c", BIDI)
def test_names_hold_no_bidi_controls(c: str) -> None:
    for name in (c, f"a{c}b", f"سلام{c}"):
        for rule in (channel_id, user_name):
            with pytest.raises(BadRequest):
                rule(name)


def test_size_is_that_of_the_line() -> None:
    assert json_line(b'   "abc"   ', 5) == b'"abc"'
    assert json_line(b'"\\u0633"', 4) == '"س"'.encode()
    for data in (b'"abcd"', b" " * 31):
        with pytest.raises(TooLarge, match="at most 5 bytes"):
            json_line(data, 5)


Json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)  # fmt: skip


def controls(value: Any) -> bool:
    """Whether the plain way of asking finds what is refused: it looks at each character."""
    if isinstance(value, str):
        return "\0" in value
    if isinstance(value, list):
        return any(map(controls, value))
    if isinstance(value, dict):
        text = value.get("text")
        in_text = isinstance(text, str) and any(unicodedata.category(c) == "Cc" and c not in "\n\t" for c in text)
        in_keys = any(unicodedata.category(c) == "Cc" for key in value for c in key)
        return in_keys or any(map(controls, value.values())) or in_text
    return False


@given(Json | st.fixed_dictionaries({"text": st.text(st.characters(categories=("Cc", "L", "M", "P")))}), st.booleans())
def test_the_quick_way_and_the_plain_way_agree(value: Any, ascii: bool) -> None:
    if not isinstance(value, dict) and "text" in json.dumps(value):
        return  # only the message's own text is looked at
    try:
        stored = json_line(json.dumps(value, ensure_ascii=ascii).encode("utf-8", "surrogatepass"), LIMIT)
    except BadRequest:
        assert controls(value) or "ud" in json.dumps(value)
        return
    assert not controls(value)
    assert b"\n" not in stored and b"\r" not in stored
    decoded = msgspec.json.decode(stored)
    if isinstance(value, dict) and isinstance(value.get("text"), str):
        value["text"] = unicodedata.normalize("NFC", value["text"])
    assert decoded == value


@pytest.mark.parametrize("vector", json.loads((ROOT / "tests/vectors/cleaned.json").read_text()), ids=repr)
def test_what_is_typed_or_pasted_is_cleaned(vector: dict[str, str]) -> None:
    assert cleaned(vector["text"]) == vector["cleaned"]
    assert text_of(vector["cleaned"]) == vector["cleaned"]  # and accepted


@given(st.text(st.characters(exclude_categories=["Mn", "Mc", "Me"]), max_size=50))
def test_whatever_is_cleaned_is_accepted_and_stays(text: str) -> None:
    """Surrogates included. (Too many marks on one letter are another rule.)"""
    once = cleaned(text)
    assert cleaned(once) == once
    assert text_of(once) == unicodedata.normalize("NFC", once)
