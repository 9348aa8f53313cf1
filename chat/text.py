"""A message's text: the code, the links and the names in it. Terminal and page find the same ones.

`chat/web/text.js` is this file in the page's language; `tests/vectors/text.json` holds both to it. Each looks at a
character a bounded number of times, whatever somebody wrote.
"""

import re
import unicodedata
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

from chat.models import UNSEEN, fold, is_name, may_be_named


class Token(NamedTuple):
    """What stands at text[start:end]: a `kind` of fence, code, link or mention, and what is shown of it.

    A link leads to `target`. `host` is where that is, if the link does not say so itself: its text names another place,
    or one that looks like another.
    """

    kind: str
    start: int
    end: int
    shown: str
    target: str = ""
    host: str = ""


_JOINERS = "\u200c\u200d"
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})(.*)")
_START = re.compile(r"`+|\[|@|https?://|www\.", re.I)
_TITLE = re.compile(r"\[([^\[\]\n]+)\]\(")
_RUN = re.compile(r"`+|\n")
_SCHEME = re.compile(r"https?://", re.I)
_PORT = re.compile(r":[0-9]{1,5}(?![0-9])")
_ADDRESS6 = re.compile(r"\[[0-9a-f:.]+\]", re.I)
_NOT_SEEN = re.compile(f"[{UNSEEN}]")
_WORD = frozenset(("Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Me", "Nd"))
_ENDS = frozenset('<>"`\\')  # besides white space; a browser takes a backslash for a slash
_DOTS = "·・"  # of names in Catalan and Japanese
_AUTHORITY = 512  # characters in which an address has named its host
_PATH = re.compile("[/?#]")
_BETWEEN = f".-{_JOINERS}"
_TRAILING = frozenset(".,;:!?'*_~")
_OPENED = {")": "(", "]": "[", "}": "{"}
_LATIN = re.compile("[a-zA-Z\u00aa\u00ba\u00c0-\u024f\u1e00-\u1eff]")
_BESIDE_LATIN = re.compile(
    "[\u2e80-\u30ff\u3100-\u318f\u31a0-\u31ff\u3400-\u9fff\ua960-\ua97f\uac00-\ud7ff\uf900-\ufaff\U00020000-\U000323af]"
)
_LIKE_LATIN = frozenset("асԁеҽһіꙇӏјорԛгѕѵѡԝхуүьαινορσυγϳքցհոռօգսա")


def mentions(text: str) -> list[str]:
    """The names that are called, as they are written."""
    return [token.shown for token in tokens(text) if token.kind == "mention"] if "@" in text else []


def with_hosts(text: str) -> str:
    """`text`, and behind each link that does not say where it leads, in brackets, the host it leads to."""
    if "://" not in text:
        return text
    parts, end = [], 0
    for token in tokens(text):
        if token.host:
            parts.append(f"{text[end : token.end]} ({token.host})")
            end = token.end
    return "".join(parts) + text[end:]


def tokens(text: str) -> Iterator[Token]:
    """What is no plain text in `text`, in order."""
    end = 0
    for fence in _fences(text):
        yield from _Passage(text, end, fence.start).tokens()
        yield fence
        end = fence.end
    yield from _Passage(text, end, len(text)).tokens()


def _fences(text: str) -> Iterator[Token]:
    """Blocks between two lines of backticks or tildes, of which the second is no shorter and holds nothing else."""
    lines: list[tuple[int, int, str, int, str]] = []  # where one begins and ends, of what it is, how many, what follows
    start = 0
    for line in text.split("\n"):
        if fence := _FENCE.match(line):
            lines.append((start, start + len(line), fence[1][0], len(fence[1]), fence[2].strip(" \t")))
        start += len(line) + 1
    endless: dict[str, int] = {}  # so many and more close nothing in the rest of the text
    end = 0
    for at, (start, after, sign, length, info) in enumerate(lines):
        if start < end or (sign == "`" and "`" in info) or length >= endless.get(sign, length + 1):
            continue
        for begins, ends, other, as_long, more in map(lines.__getitem__, range(at + 1, len(lines))):
            if other == sign and as_long >= length and not more:
                end = ends
                yield Token("fence", start, end, text[after + 1 : begins].removesuffix("\n"))
                break
        else:
            endless[sign] = length


class _Passage:
    """The text between two fences, which is looked at from left to right."""

    def __init__(self, text: str, start: int, end: int) -> None:
        self._text = text[start:end]
        self._offset = start
        self._called = -1  # where the last name ended
        self._until = 0  # where the word ends in which a link was found
        self._runs: dict[tuple[int, int], list[int]] | None = None  # of backticks: by line and length, where they are
        self._lines: list[int] = []  # where a line ends
        self._closing: dict[int, int] | None = None  # of each bracket in a word, where it is closed

    def tokens(self) -> Iterator[Token]:
        """The mentions, links and pieces of code of the text, in order; what stands between them is plain."""
        at = 0
        while start := _START.search(self._text, at):
            at = start.end()
            sign = start[0][0]
            if sign == "`":
                token = self._code(start.start(), len(start[0]))
            elif sign == "[":
                token = self._titled(start.start())
            elif sign == "@":
                token = self._mention(start.start())
            else:
                token = self._link(start.start(), start[0].lower())
                at = max(at, self._until if token is None else 0)
            if token is not None:
                at = token.end
                yield token._replace(start=token.start + self._offset, end=token.end + self._offset)

    # -- code

    def _code(self, start: int, length: int) -> Token | None:
        """Up to as many backticks in the same line."""
        if self._runs is None:
            self._runs = defaultdict(list)
            for run in _RUN.finditer(self._text):
                if run[0] == "\n":
                    self._lines.append(run.start())
                else:
                    self._runs[len(self._lines), len(run[0])].append(run.start())
        runs = self._runs.get((bisect_right(self._lines, start), length), [])
        behind = bisect_right(runs, start)
        if behind == len(runs):
            return None
        code = self._text[start + length : runs[behind]]
        if code[0] == code[-1] == " " and code.strip(" "):
            code = code[1:-1]
        return Token("code", start, runs[behind] + length, code)

    # -- links

    def _titled(self, start: int) -> Token | None:
        """[text](https://…)"""
        title = _TITLE.match(self._text, start)
        if title is None:
            return None
        if self._closing is None:
            self._closing = self._pairs()
        end = self._closing.get(title.end() - 1)
        scheme = _SCHEME.match(self._text, title.end())
        place = _Place.of(self._text, scheme.end(), end) if scheme and end else None
        if end is None or place is None or place.end != end:
            return None
        return Token("link", start, end + 1, title[1], self._text[title.end() : end], place.beside(title[1]))

    def _pairs(self) -> dict[int, int]:
        pairs: dict[int, int] = {}
        opened: list[int] = []
        for at, character in enumerate(self._text):
            if character == "(":
                opened.append(at)
            elif character == ")" and opened:
                pairs[opened.pop()] = at
            elif _ends(character, True):
                opened.clear()
        return pairs

    def _link(self, start: int, scheme: str) -> Token | None:
        """https://… or www.…; where it is none, the word up to `_until` holds none either."""
        before = self._text[start - 1 : start]
        bare = scheme == "www."
        if (before.isascii() and before.isalnum()) or (bare and before and (before in "_.-/@:" or _in_name(before))):
            return None
        if start >= self._until:
            self._until = start
            while self._until < len(self._text) and not _ends(self._text[self._until]):
                self._until += 1
        place = _Place.of(self._text, start if bare else start + len(scheme), self._until)
        if place is None or (bare and place.host.strip(".").count(".") < 2):
            return None
        shown = _trimmed(self._text[start : place.end])
        target = f"http://{shown}" if bare else shown
        return Token("link", start, start + len(shown), shown, target, place.beside())

    # -- names

    def _mention(self, start: int) -> Token | None:
        """@name; not in an address, neither of mail nor of the web."""
        before = self._text[start - 1 : start]
        if before and (before in "\\.-" or _in_name(before)):
            return None
        if before == "/" and start - 1 != self._called and _in_name(self._text[start - 2 : start - 1]):
            return None
        end = start + 1
        while end < len(self._text) and (self._text[end] in _JOINERS or may_be_named(self._text[end])):
            end += 1
        if self._text[end : end + 1] == "@" and _in_name(self._text[end + 1 : end + 2]):
            return None
        while end > start + 1 and (self._text[end - 1] in _JOINERS or fold(self._text[end - 1]) in (".", "-")):
            end -= 1
        name = self._text[start + 1 : end]
        if not name or not _in_name(name[0]) or not is_name(name):
            return None
        self._called = end
        return Token("mention", start, end, name)


class _Place(NamedTuple):
    """Where an address leads: its host, whether a name stands before it, and how far it goes."""

    host: str
    named: bool
    end: int

    @classmethod
    def of(cls, text: str, start: int, until: int) -> "_Place | None":
        """The place of an address whose scheme ends at `start`; None where that is none.

        It ends where a host cannot go on: https://example.org,x.
        """
        head = text[start : min(until, start + _AUTHORITY)]
        authority = _PATH.split(head, maxsplit=1)[0]
        first = end = authority.rfind("@") + 1
        if number := _ADDRESS6.match(authority, end):
            end = number.end()
        else:
            while end < len(authority) and (authority[end] in _BETWEEN or _in_name(authority[end])):
                end += 1
        host = authority[first:end]
        if not host or (host[0] != "[" and not _in_name(host[0])) or ".." in host:
            return None
        if port := _PORT.match(authority, end):
            end = port.end()
        whole = end == len(authority) and (end < len(head) or start + end == until)
        return cls(host.lower(), first > 0, until if whole else start + end)

    def beside(self, title: str | None = None) -> str:
        """What is shown beside a link with this title (None: its address), so that nobody is led elsewhere."""
        plain = all(map(_is_plain, self.host.split(".")))
        shown = self.host.strip(".") if plain else _encoded(self.host.strip("."))
        if title is None:
            return shown if self.named or not plain else ""
        said = list(_places(title))
        if not said:
            return shown if _odd(title) else ""
        same = {_bare(self.host), _bare(_encoded(self.host))}
        if all(_bare(place) in same for place in said) and not self.named and plain and not _odd(title):
            return ""
        return shown


def _places(title: str) -> Iterator[str]:
    """The hosts that a link's text names."""
    for word in unicodedata.normalize("NFKC", title).replace("。", ".").split():
        _, scheme, address = word.partition("://")
        authority = re.split(r"[/?#\\]", address if scheme else word, maxsplit=1)[0]
        for part in "".join(c if c in ".-" or _in_name(c) else " " for c in authority).split():
            host = part.strip(".-")
            if host and (scheme or _is_host(host.split("."))):
                yield host


def _is_host(labels: list[str]) -> bool:
    if len(labels) == 4 and all(map(str.isdecimal, labels)):
        return True
    return len(labels) > 1 and len(labels[-1]) > 1 and any(map(str.isalpha, labels[-1]))


def _bare(host: str) -> str:
    return fold(host).strip(".").removeprefix("www.")


def _odd(title: str) -> bool:
    """Whether something in it is not seen and may turn it around."""
    return any(c not in _JOINERS for c in _NOT_SEEN.findall(title))


def _is_plain(label: str) -> bool:
    """Whether a part of a host looks like nothing else: of one script, and not of letters that look Latin."""
    if label.isascii():
        return True
    if any(c in _JOINERS for c in label):
        return False
    letters = [c for c in label if c.isalpha()]
    others = [c for c in letters if not _LATIN.match(c)]
    if len(others) < len(letters) and not all(map(_BESIDE_LATIN.match, others)):
        return False
    return not letters or not all(c in _LIKE_LATIN for c in letters)


def _encoded(host: str) -> str:
    """A host as it is asked for on the network (RFC 3492)."""
    labels = unicodedata.normalize("NFKC", host.lower()).split(".")
    return ".".join(label if label.isascii() else "xn--" + label.encode("punycode").decode() for label in labels)


def _trimmed(link: str) -> str:
    """Without what belongs to the sentence: a stop, or a bracket that was opened before the link."""
    end = len(link)
    count = {sign: link.count(sign) for sign in "()[]{}"}
    while end:
        sign = link[end - 1]
        if sign in _OPENED and count[sign] > count[_OPENED[sign]]:
            count[sign] -= 1
        elif sign not in _TRAILING:
            break
        end -= 1
    return link[:end]


def _ends(character: str, enclosed: bool = False) -> bool:
    """Whether a link cannot go on with it. In brackets of its own, only space and what is not seen ends it."""
    if character in _ENDS:
        return True
    category = unicodedata.category(character)
    if category[0] == "Z" or category in ("Cc", "Cs"):
        return True
    if character.isascii() or character in _JOINERS:
        return False
    if _NOT_SEEN.match(character):
        return True
    return not enclosed and category[0] == "P" and category not in ("Pd", "Pc") and character not in _DOTS


def _in_name(character: str) -> bool:
    """A letter, a mark, a digit or an underscore."""
    return character == "_" or (character != "" and unicodedata.category(character) in _WORD)
