"""What a message may hold: the rules for its JSON and its text, pure, and quick because every publish pays for them.

What is stored is what was understood: JSON is decoded, checked and encoded again, so that a key given twice, an escape
or a number means the same to whoever reads it. Each rule is behind a search for the bytes without which it cannot be
broken; none looks at ordinary text character by character in Python.
"""

import math
import re
import unicodedata
from itertools import accumulate
from typing import Any

import msgspec

from chat.errors import BadRequest, TooLarge

DEPTH = 32  # levels of arrays and objects, where nobody set JSON_DEPTH
MARKS = 30  # combining marks in a row (UAX 15, Stream-Safe Text); putting n of them in order takes n² steps
_LONGER = 6  # times a JSON text may be longer than its line: \u0061 is one letter
_INTEGERS = range(-(2**63), 2**63)

UNREADABLE = msgspec.DecodeError, UnicodeDecodeError, RecursionError  # what decoding JSON may raise

_SHORT = 256  # bytes of JSON in which few numbers have room
_DOUBTFUL = 16  # a float of fewer characters has at most 15 digits, and every double holds these
_TINY = 1e-300  # a double near 0 has fewer
_FLOAT_DIGITS = 767  # no double has more, written out whole


def _float(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError("Number out of range")
    if (len(text) > _DOUBTFUL or abs(number) < _TINY) and repr(number) != text and not _is_whole(text, number):
        raise BadRequest(
            f"data holds the number {text[:60]}, which a 64-bit float would change to {number!r}; send it as a string"
        )
    return number


def _is_whole(text: str, number: float) -> bool:
    """Whether a float says all that the JSON number `text` says: rounded to as many digits it is the same.

    So 0.10000000000000001, as languages write 0.1 that show 17 digits, is one; 12345678901234567.89 is none.
    """
    digits = text.lower().partition("e")[0].replace("-", "").replace(".", "").strip("0")
    if not digits or not number or len(digits) > _FLOAT_DIGITS:
        return not digits
    rounded = f"{abs(number):.{len(digits) - 1}e}".partition("e")[0]
    return rounded.replace(".", "") == digits


_decode_short = msgspec.json.Decoder().decode
_decode_long = msgspec.json.Decoder(float_hook=_float).decode  # msgspec's own way takes 11 µs for 1e308, this 0.5
_encode = msgspec.json.Encoder().encode

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # C0 without tab and newline, DEL, C1
_BREAK = re.compile("\r\n?|[\x0b\x0c\x85]")  # ways to end a line; word processors' soft one is U+000B
_SURROGATE = re.compile("[\ud800-\udfff]")  # bytes that were no text, as Python reads them
_NO_LETTERS = re.compile(rf"(?<![^\w\s\x00-\x7f])[^\w\s\x00-\x7f]{{{MARKS + 1},}}")  # combining marks are among these
_C1 = re.compile(rb"\xc2[\x80-\x9f]")
_ONLY_DIGITS = bytes(48 if c in b"0123456789" else 32 for c in range(256))
_LONG_INTEGER = re.compile(rb"-?[0-9]{19,}(?![0-9.e])")
_DIGITS = b"0" * _DOUBTFUL
_BRACKETS = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def json_line(data: bytes | msgspec.Raw, limit: int, depth: int = DEPTH) -> bytes:
    """`data` as one compact line of strict JSON with clean text.

    Raises BadRequest for what is not JSON (RFC 8259), deeper than `depth`, not text; TooLarge over `limit` bytes.
    """
    raw = bytes(data)
    size = len(raw)
    if size > limit * _LONGER:
        raise TooLarge(f"a message has at most {limit} bytes; this one has {size}")
    if size > 2 * depth and is_deeper(raw, depth):  # before it is decoded: what is too deep costs nothing more
        raise BadRequest.beyond("json_depth", f"data has arrays and objects more than {depth} levels deep")
    try:
        value = _decode_short(raw) if size <= _SHORT else _decode_long(raw)
    except UNREADABLE as error:
        raise BadRequest(f"data must be JSON: {error}") from None
    line = _encode(value)
    if len(line) > limit:
        raise TooLarge(f"a message has at most {limit} bytes; this one has {len(line)}")
    text = value.get("text") if type(value) is dict else None
    if type(text) is not str:
        _check(line, raw)
        return line
    if len(value) > 1:
        _check(line, raw)
    return _with_clean_text(value, text, line)


def _with_clean_text(value: dict[str, Any], text: str, line: bytes) -> bytes:
    """`line`, which encodes `value`, with its text in Unicode's form NFC. Raises BadRequest for control characters."""
    if _suspect(line) and (found := _CONTROL.search(text)):
        raise BadRequest(
            f"text holds the control character U+{ord(found[0]):04X}; of those only newline and tab are allowed"
        )
    if text.isascii() or unicodedata.is_normalized("NFC", text):
        return line
    value["text"] = normal(text)
    return _encode(value)


def cleaned(text: str) -> str:
    """What somebody typed, pasted or piped, as the rules for text have it: in order, and nothing to refuse.

    Every way to end a line is a newline, other control characters are gone, and what is no character is U+FFFD.
    The page does the same (chat/web/words.js), by the same vectors.
    """
    return _SURROGATE.sub("\ufffd", _CONTROL.sub("", _BREAK.sub("\n", text)))


def normal(text: str) -> str:
    """`text` in Unicode's form NFC. Raises BadRequest where that would take long."""
    if any(_stacks(run) for run in _NO_LETTERS.findall(text)):
        raise BadRequest(f"text has more than {MARKS} combining marks on one letter")
    return unicodedata.normalize("NFC", text)


def _stacks(run: str) -> bool:
    """Whether more than MARKS combining marks stand in a row."""
    count = 0
    for c in run:
        count = count + 1 if unicodedata.combining(c) else 0
        if count > MARKS:
            return True
    return False


def _check(line: bytes, raw: bytes) -> None:
    """What holds for any JSON, which came as `raw`: its numbers, its keys, no U+0000 (databases cannot store it)."""
    has_many_digits = _DIGITS in raw.translate(_ONLY_DIGITS, b".")
    if len(raw) <= _SHORT and (has_many_digits or b"e-" in raw or b"E-" in raw):
        _decode_long(raw)  # the quick way is used for short ones, and sees no digit that gets lost
    if has_many_digits:
        for number in _LONG_INTEGER.findall(b"".join(_at_quotes(line)[::2])):
            if int(number) not in _INTEGERS:
                raise BadRequest("data holds a whole number beyond 64 bits; send it as a string")
    if b"\\u0000" in line and b"\\u0000" in line.replace(b"\\\\", b""):
        raise BadRequest("data holds the character U+0000")
    if _suspect(line):
        parts = _at_quotes(line)
        keys = b"".join([key for key, behind in zip(parts[1::2], parts[2::2], strict=True) if behind[:1] == b":"])
        if b"\\" in keys or b"\x7f" in keys or _C1.search(keys):  # no backslash is left but a control character's
            raise BadRequest("a key of data holds a control character")


def _suspect(line: bytes) -> bool:
    """Whether a line may hold control characters: C0 is escaped, DEL is itself, C1 begins with 0xC2."""
    return b"\\" in line or b"\x7f" in line or b"\xc2" in line


def _at_quotes(line: bytes) -> list[bytes]:
    """JSON cut at the quotes of its strings: what is outside and what is inside in turns, without \\\\ and \\"."""
    if b"\\" in line:
        line = line.replace(b"\\\\", b"").replace(b'\\"', b"")
    return line.split(b'"')


def is_deeper(line: bytes, depth: int) -> bool:
    """Whether the arrays and objects of JSON have more than `depth` levels: one pass, however deep they are.

    Only where an opening bracket stands before a closing one can it be deepest: so the brackets between two such
    places are looked at together.
    """
    if line.count(b"[") + line.count(b"{") <= depth:
        return False
    brackets = b"".join(_at_quotes(line)[::2]).translate(_BRACKETS, _NO_BRACKETS)
    steps = [2 * piece.count(b"[") - len(piece) for piece in brackets.split(b"[]") if piece]
    return max(accumulate(steps, initial=0)) >= depth
