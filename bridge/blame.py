"""Whose fault an error of a database is: the message's, the database's for now, or that of a setting.

What is decided here: a message that can never be stored is set aside, and its neighbours flow; whatever may be mended
is tried again, for as long as it takes; what waiting does not mend stops a start. In doubt it is not the message:
one that is tried again too often costs time, one that is set aside by mistake is missing. docs/operating.md has the
same table for people.
"""

import sqlite3
from collections.abc import Mapping
from enum import Enum

from sqlalchemy.exc import DBAPIError, SQLAlchemyError, StatementError


class Blame(Enum):
    """What follows from an error."""

    MESSAGE = "set aside: the message can never be stored"
    REFUSED = "tried again: the database is as it was, and takes nothing now"
    AWAY = "tried again: it may be another, or lack what it had, and is looked at anew before anything else"
    SETTING = "stops a start, later tried again: waiting does not mend it"


# Beginnings of SQLSTATE; the longest that fits counts, what is not here is AWAY.
SQLSTATES: Mapping[str, Blame] = {
    "22": Blame.MESSAGE,  # data exception: a character, a number, a text too long
    "23": Blame.MESSAGE,  # a constraint, or a trigger's, that somebody added
    "54": Blame.MESSAGE,  # program limit exceeded: too large
    "25": Blame.REFUSED,  # read-only transaction (25006), and other states of a transaction
    "40": Blame.REFUSED,  # rolled back: deadlock, serialisation
    "53": Blame.REFUSED,  # disk full (53100), out of memory, too many connections (53300)
    "55": Blame.REFUSED,  # locked, in use
    "28": Blame.SETTING,  # not let in
    "3D": Blame.SETTING,  # no such database
    "3F": Blame.SETTING,  # no such schema
    "42501": Blame.SETTING,  # no permission
}
STALE = ("08", "25006", "57P")  # a connection that says so is of no more use, nor are those opened before it

# Primary result codes of SQLite; what is not here is AWAY.
SQLITE_CODES: Mapping[int, Blame] = {
    sqlite3.SQLITE_TOOBIG: Blame.MESSAGE,
    sqlite3.SQLITE_CONSTRAINT: Blame.MESSAGE,
    sqlite3.SQLITE_MISMATCH: Blame.MESSAGE,
    sqlite3.SQLITE_BUSY: Blame.REFUSED,
    sqlite3.SQLITE_LOCKED: Blame.REFUSED,
    sqlite3.SQLITE_READONLY: Blame.REFUSED,
    sqlite3.SQLITE_FULL: Blame.REFUSED,
    sqlite3.SQLITE_CORRUPT: Blame.SETTING,
    sqlite3.SQLITE_NOTADB: Blame.SETTING,
}

# MongoDB's error codes; what is not here is REFUSED, and a connection that is lost AWAY.
MONGO_CODES: Mapping[int, Blame] = {
    **dict.fromkeys((2, 14, 15, 16, 22), Blame.MESSAGE),  # bad value or type, nested too deep, length, invalid BSON
    **dict.fromkeys((52, 55, 56, 57), Blame.MESSAGE),  # names of fields
    **dict.fromkeys((121, 10334, 17280, 17419, 17420), Blame.MESSAGE),  # a validator's, too large
    **dict.fromkeys((11, 13, 18, 8000), Blame.SETTING),  # no such user, no permission, not let in
}


def of_sql(error: BaseException) -> Blame:
    """Whose fault an error of PostgreSQL or SQLite is, that came while a statement was executed."""
    if not isinstance(error, SQLAlchemyError):
        return Blame.AWAY
    if not isinstance(error, DBAPIError):
        return Blame.MESSAGE if isinstance(error, StatementError) else Blame.AWAY  # no parameter can be made of it
    state = state_of(error)
    if state:
        return max(((len(p), blame) for p, blame in SQLSTATES.items() if state.startswith(p)), default=(0, Blame.AWAY))[
            1
        ]
    code = getattr(error.orig, "sqlite_errorcode", None)
    if code is not None:
        return SQLITE_CODES.get(code & 0xFF, Blame.AWAY)
    is_value = isinstance(error.orig, sqlite3.DataError) or isinstance(getattr(error.orig, "__cause__", 0), ValueError)
    return Blame.MESSAGE if is_value and not error.connection_invalidated else Blame.AWAY


def of_connecting(error: BaseException) -> Blame:
    """The same, of an error that came before there was a connection: never a message's."""
    if isinstance(error, DBAPIError):
        if state_of(error) or getattr(error.orig, "sqlite_errorcode", None) is not None:
            blame = of_sql(error)
            return Blame.AWAY if blame is Blame.MESSAGE else blame
        error = getattr(error.orig, "__cause__", None) or error
    # asyncpg's word for parameters that it cannot use, such as a certificate that is not there
    return Blame.SETTING if isinstance(error, ValueError) else Blame.AWAY


def is_answer(error: SQLAlchemyError) -> bool:
    """Whether the database is there: it has said itself what is wrong."""
    if not isinstance(error, DBAPIError):
        return False
    state = state_of(error)
    if state:
        return not state.startswith("08")  # asyncpg's own word for a connection that was lost
    return getattr(error.orig, "sqlite_errorcode", None) is not None


def state_of(error: DBAPIError) -> str:
    """PostgreSQL's SQLSTATE; empty: it has none."""
    return str(getattr(error.orig, "sqlstate", None) or "")


def of_mongo(code: int | None) -> Blame:
    """Whose fault an error with this code is: MongoDB is there, and has said so."""
    return MONGO_CODES.get(code or 0, Blame.REFUSED)
