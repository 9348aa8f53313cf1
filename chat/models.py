"""User, Channel and Stream: the three things Peyk knows, and the rules for their names."""

import unicodedata
from datetime import datetime
from functools import lru_cache

import msgspec
from sqlalchemy import BigInteger, Column, DateTime, Index
from sqlmodel import Field, SQLModel

from chat.errors import BadRequest

NAME_LIMIT = 64
NAME_RULE = f"1 to {NAME_LIMIT} letters, digits, marks, '_', '-' or '.' of any script, not starting with a dot"

_ZWNJ = "\u200c"
_JOINERS = "\u200c\u200d"
_ARABIC_TO_PERSIAN = str.maketrans({"ي": "ی", "ك": "ک"})


def _is_name(text: str) -> bool:
    if not 0 < len(text) <= NAME_LIMIT or text[0] == ".":
        return False
    return all(c in "_-." or unicodedata.category(c)[0] in "LM" or unicodedata.category(c) == "Nd" for c in text)


def fold(name: str) -> str:
    """What different spellings of `name` have in common. It is its own: who may do a thing is asked of one spelling,
    and the thing done by another."""
    bare = unicodedata.normalize("NFC", name.replace(_ZWNJ, ""))  # first: a letter and its mark may meet
    return unicodedata.normalize("NFC", bare.casefold()).translate(_ARABIC_TO_PERSIAN)


@lru_cache(maxsize=8192)
def channel_id(name: str) -> str:
    """The id of the channel a person calls `name`: what different spellings of one name have in common.

    Folds case, Unicode form (NFC), the Arabic and Persian forms of ye and kaf, and drops the zero-width
    non-joiner, so `/join برنامه‌نویسی` and `/join برنامهنویسي` meet. Raises BadRequest naming the rule.
    """
    if len(name) <= NAME_LIMIT:  # first: putting n combining marks in order takes n² steps
        folded = fold(name)
        if _is_name(folded):
            return folded
        raise BadRequest(f"a channel name has {NAME_RULE}")
    raise BadRequest.beyond("name_length", f"a channel name has {NAME_RULE}")


@lru_cache(maxsize=8192)
def user_name(name: str) -> str:
    """`name` as it is shown: NFC, with the joiners Persian needs. Raises BadRequest naming the rule."""
    if len(name) <= 4 * NAME_LIMIT:  # letters may come with their marks apart
        name = unicodedata.normalize("NFC", name)
        if len(name) <= NAME_LIMIT and _is_name(name.replace(_ZWNJ, "")):
            return name
    raise BadRequest(f"a user name has {NAME_RULE}")


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
