"""Names of mixed scripts that look like another's: `sаra` with a Cyrillic а beside `sara`. People do not get them.

The rule is UTS 39's "moderately restrictive": letters of one script, of Latin and one other of those in everyday use
but Cyrillic and Greek, or of those that Chinese, Japanese and Korean are written with. And no letter among Latin ones
may be there only to look like one of them.
"""

import re
from functools import lru_cache

from chat.errors import BadRequest, PermissionDenied
from chat.models import User, fold

# Scripts.txt of Unicode 17: where the letters and marks of a script begin and end, what is unassigned left out.
SCRIPTS = {
    "Arabic": "610-6ff 750-77f 870-8ff fb50-fdfb fe70-fefc 10ec2-10eff 1ee00-1eebb",
    "Armenian": "531-588 fb13-fb17",
    "Bengali": "980-9fe",
    "Bopomofo": "3105-312f 31a0-31bf",
    "Devanagari": "900-97f a8e0-a8ff",
    "Ethiopic": "1200-138f 2d80-2dde ab01-ab2e 1e7e0-1e7fe",
    "Georgian": "10a0-10ff 1c90-1cbf 2d00-2d2d",
    "Gujarati": "a81-aff",
    "Gurmukhi": "a01-a75",
    "Hangul": "1100-11ff 302e-302f 3131-318e a960-a97c ac00-d7fb ffa0-ffdc",
    "Han": "3005 303b 3400-9fff f900-fad9 16fe3 16ff0-16ff3 20000-33479",
    "Hebrew": "591-5f2 fb1d-fb4f",
    "Hiragana": "3041-309f 1b001-1b11f 1b132-1b152",
    "Kannada": "c80-cf3",
    "Katakana": "30a1-30ff 31f0-31ff ff66-ff9d 1aff0-1b000 1b120-1b122 1b155-1b167",
    "Khmer": "1780-17dd",
    "Lao": "e81-edf",
    "Latin": "41-2e4 1d00-1d25 1d2c-1d5c 1d62-1d65 1d6b-1d77 1d79-1dbe 1e00-1eff 2071-209c 212a-2184 2c60-2c7f "
    "a722-a7ff ab30-ab64 ab66-ab69 fb00-fb06 ff21-ff5a 10780-107ba 1df00-1df2a",
    "Malayalam": "d00-d7f",
    "Myanmar": "1000-109d a9e0-a9fe aa60-aa7f",
    "Oriya": "b01-b71",
    "Sinhala": "d81-df3",
    "Tamil": "b82-bd7",
    "Telugu": "c00-c63",
    "Thaana": "780-7b1",
    "Thai": "e01-e4e",
    "Tibetan": "f00-fc6",
    "Cyrillic": "400-52f 1c80-1c8a 1d2b 1d78 2de0-2dff a640-a69f fe2e-fe2f 1e030-1e08f",
    "Greek": "370-3e1 3f0-3ff 1d26-1d2a 1d5d-1d61 1d66-1d6a 1dbf 1f00-1ffc 2126 ab65 1d242-1d244",
    "Cherokee": "13a0-13fd ab70-abbf",
    "Coptic": "3e2-3ef 2c80-2cf3",
    "Other": "800-85b 1401-1773 18b0-1c7d 2c00-2c5f 2d30-2d7f a000-a62b a6a0-a6f1 a800-a8c5 a90a-a953 a980-a9c0 "
    "aa00-aa4d aa80-aaf6 abc0-abed 10000-10767 10800-10eb1 10f00-16fe1 16fe4 17000-18df2 1b170-1bc9e "
    "1da00-1daaf 1e000-1e02a 1e100-1e6ff 1e800-1e8d6 710-74f 860-86a 7ca-7fd 180b-18aa 1e900-1e94b",
}
_TOGETHER = (
    {"Latin", "Han", "Hiragana", "Katakana"},
    {"Latin", "Han", "Bopomofo"},
    {"Latin", "Han", "Hangul"},
)
_NOT_BESIDE_LATIN = {"Cyrillic", "Greek", "Cherokee", "Coptic", "Other"}
# Letters of other scripts that confusables.txt of Unicode 17 takes for a Latin one.
_LIKE_LATIN = frozenset("ՍՏՕագզհոռսցւքօוטןסװاهھہଠടഠငဝၚყჿሀዐ")
_JOINED = re.compile(
    "[\u0610-\u06ff\u0750-\u077f\u0870-\u08ff]{2}"
)  # Arabic letters that stand together look like themselves


def _classes() -> dict[str, "re.Pattern[str]"]:
    ranges = {
        script: "".join("-".join(f"\\U{int(end, 16):08x}" for end in part.split("-")) for part in parts.split())
        for script, parts in SCRIPTS.items()
    }
    return {script: re.compile(f"[{parts}]") for script, parts in ranges.items()}


_CLASSES = _classes()


@lru_cache(maxsize=8192)
def looks_like_another(name: str) -> bool:
    """Whether the letters of `name` are of scripts that are mixed only to be taken for another."""
    name = fold(name)
    if name.isascii():
        return False
    scripts = {script for script, letters in _CLASSES.items() if letters.search(name)}
    if len(scripts) < 2:
        return False
    if "Latin" not in scripts or len(scripts) > 2 or scripts & _NOT_BESIDE_LATIN:
        return not any(scripts <= together for together in _TOGETHER)
    others = [c for c in name if c.isalpha() and not _CLASSES["Latin"].match(c)]
    return all(c in _LIKE_LATIN for c in others) and not _JOINED.search(name)


def chosen(name: str) -> User:
    """Somebody by the name they chose. Raises BadRequest."""
    user = User.named(name)
    if looks_like_another(user.id.removeprefix("guest-")):
        raise BadRequest("this name mixes scripts whose letters look alike; write it in one script")
    return user


def check_chosen(channel: str) -> None:
    """May people make a channel of this id? Raises PermissionDenied."""
    if looks_like_another(channel):
        raise PermissionDenied(
            f"the name {channel} mixes scripts whose letters look alike; write it in one script, "
            "or let a program with an API key make the channel"
        )
