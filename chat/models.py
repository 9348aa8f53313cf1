"""User, Channel and Stream: the three things Peyk knows, and the rules for their names."""

import re
import unicodedata
from datetime import datetime
from functools import lru_cache

import msgspec
from sqlalchemy import BigInteger, Column, DateTime, Index
from sqlmodel import Field, SQLModel

from chat.errors import BadRequest

NAME_LIMIT = 64
NAME_RULE = (
    f"1 to {NAME_LIMIT} letters, digits, marks, '_', '-' or '.' of any script, "
    "not starting with a dot, and no invisible characters"
)
UNSEEN = (
    "\u00ad\u034f\u061c\u115f-\u1160\u17b4-\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u2d7f\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8\U0001107f\U00016fe4\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    "\U000e0000-\U000e0fff"
)
"""A class of a regular expression: Unicode's default-ignorable code points, and three marks that are not drawn."""

_LONGEST = 4 * NAME_LIMIT  # code points that are looked at: letters may come with their marks apart
_JOINERS = "\u200c\u200d"
_OF_NAMES = frozenset(("Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Me", "Nd"))
_UNSEEN = re.compile(f"[{UNSEEN}]")
_STOPS = "_-.＿．"
_DASH = re.compile(
    "[\u058a\u05be\u1400\u1806\u2010-\u2015\u2212\u2e17\u2e1a\u2e3a\u2e3b\u2e40\u2e5d\u301c\u3030\u30a0"
    "\ufe31\ufe32\ufe58\ufe63\uff0d\U00010ead]"
)
_DIGIT = re.compile("[^\\D0-9]")
# A dot above i and j, with or without its own, is not seen (UTS 39, section 5.4): the Turkish İ; `ali` with one more.
_DOTTED = re.compile("([ijıȷ])([\u0323-\u0328\u032d-\u0331]*)\u0307+")
_DOTTED_AS = {"ı": "i", "ȷ": "j"}
# Persian letters and those of other keyboards that look like them; and the tatweel, which only makes a word longer.
_ALIKE = str.maketrans({"ي": "ی", "ى": "ی", "ك": "ک", "ە": "ه", "\u0640": None, "\u1160": None})


def fold(text: str) -> str:
    """The skeleton of a name: what different spellings of it have in common.

    NFKC and case folding, so that fullwidth and mathematical letters are letters; Persian ye, kaf and heh; the digits
    0 to 9 for those of any script; one dash; and nothing of what is not seen, such as another dot on an i. It is its
    own skeleton: who may do a thing is asked of one spelling, and the thing done by another. `chat/web/names.js` folds
    every text the same way.
    """
    if text.isascii():
        return text.lower()
    bare = unicodedata.normalize("NFKD", _UNSEEN.sub("", text)).casefold()
    bare = unicodedata.normalize("NFKD", bare).translate(_ALIKE)  # apart: a letter may stand under a mark
    bare = _DOTTED.sub(lambda dotted: _DOTTED_AS.get(dotted[1], dotted[1]) + dotted[2], bare)
    bare = _DIGIT.sub(lambda digit: str(unicodedata.decimal(digit[0])), _DASH.sub("-", bare))
    return unicodedata.normalize("NFC", bare)


def _may_name(text: str) -> bool:
    """Whether every character of `text`, in NFC, may stand where it does in a name."""
    if text.isascii():
        return all(c.isalnum() or c in "_-." for c in text)
    return all(_joins(text, at) if c in _JOINERS else may_be_named(c) for at, c in enumerate(text))


def may_be_named(character: str) -> bool:
    """Whether a name may hold it, wherever in it."""
    if character in _STOPS or _DASH.match(character):
        return True
    return unicodedata.category(character) in _OF_NAMES and not _UNSEEN.match(character)


def _joins(text: str, at: int) -> bool:
    """Whether the joiner there has a letter (with its marks) on either side."""
    around = text[at - 1 : at] + text[at + 1 : at + 2]
    return len(around) == 2 and unicodedata.category(around[0])[0] in "LM" and unicodedata.category(around[1])[0] == "L"


def is_name(text: str) -> bool:
    """Whether it can name a person or a channel."""
    return len(text) <= _LONGEST and _spelled(text) is not None


def _spelled(name: str) -> tuple[str, str] | None:
    """`name` as it is shown, in NFC, and its skeleton; None where it is no name."""
    shown = unicodedata.normalize("NFC", name)
    skeleton = fold(shown)
    if not 0 < len(shown) <= NAME_LIMIT or not 0 < len(skeleton) <= NAME_LIMIT or "." in (shown[0], skeleton[0]):
        return None
    return (shown, skeleton) if _may_name(shown) and _may_name(skeleton) else None


@lru_cache(maxsize=8192)
def channel_id(name: str) -> str:
    """The id of the channel a person calls `name`: its skeleton. Raises BadRequest naming the rule."""
    spelled = _spelled(name) if len(name) <= _LONGEST else None
    if spelled is not None:
        return spelled[1]
    if len(name) > NAME_LIMIT:
        raise BadRequest.beyond("name_length", f"a channel name has {NAME_RULE}")
    raise BadRequest(f"a channel name has {NAME_RULE}")


@lru_cache(maxsize=8192)
def user_name(name: str) -> str:
    """`name` as it is shown: NFC, with the joiners Persian needs. Raises BadRequest naming the rule."""
    spelled = _spelled(name) if len(name) <= _LONGEST else None
    if spelled is None:
        raise BadRequest(f"a user name has {NAME_RULE}")
    return spelled[0]


def is_line(text: str) -> bool:
    """Whether `text` is one line without control, bidi and other unseen characters; joiners may stand in words."""
    if text.isascii():
        return text.isprintable()
    return all(c in _JOINERS or (unicodedata.category(c)[0] != "C" and c not in "\u2028\u2029") for c in text)


class User(msgspec.Struct, frozen=True):
    """Somebody who writes: `id` is the folded username, so two spellings are one person."""

    id: str
    username: str

    @classmethod
    def named(cls, username: str) -> "User":
        name = user_name(username)
        return cls(id=channel_id(name), username=name)


class Channel(msgspec.Struct, frozen=True):
    """Where messages go: a Redis hash. `created_at` is in Unix milliseconds."""

    id: str
    name: str
    description: str = ""
    created_at: int = 0
    owner: str = ""
    kind: str = "public"


class Stream(SQLModel, table=True):
    """One stored message. `id` is its entry id `<offset>-<ms>`; (channel_id, epoch, offset) is what makes it unique."""

    __tablename__ = "stream"
    __table_args__ = (Index("stream_time", "channel_id", "epoch", "timestamp", "offset"),)

    channel_id: str = Field(primary_key=True, max_length=NAME_LIMIT)
    epoch: str = Field(primary_key=True, max_length=16)
    offset: int = Field(sa_column=Column(BigInteger, primary_key=True, autoincrement=False))
    id: str = Field(max_length=40)
    message: str  # one line of JSON
    timestamp: datetime = Field(sa_column=Column(DateTime(timezone=True), nullable=False))
    user: str = Field(max_length=NAME_LIMIT)
    client: str = Field(default="-", max_length=40)  # the connection it came by
