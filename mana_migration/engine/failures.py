"""What a database error means for the work: try again, isolate the user, wait, or stop."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from django.db import DatabaseError, DataError, IntegrityError, InterfaceError, OperationalError

from mana_migration.engine import driver


class Failure(enum.Enum):
    """What to do about a database error."""

    TRANSIENT = "transient"
    """Another session interfered (deadlock, serialization, lock timeout): try again later."""
    CONNECTION = "connection"
    """The database is gone for now: wait for it; no user failed."""
    ENVIRONMENT = "environment"
    """The database cannot do the work at all (disk full, read-only, table missing): stop and say so."""
    DATA = "data"
    """Something about these users: isolate the one that causes it."""


class NotKeptError(DataError):
    """Rows in the tables are not those that were written for a batch; its transaction must be rolled back."""


class NothingKeptError(DatabaseError):
    """The database drops what the run itself needs, for any user."""


@contextmanager
def keeping_rows(table: str) -> Iterator[None]:
    """Insert rows of a table through Django, which expects each back: a trigger of the site's own may drop them.

    Raises:
        NothingKeptError: one was dropped.
    """
    try:
        yield
    except (TypeError, AssertionError) as error:
        raise NothingKeptError(
            f"the database did not keep a new row of {table}: a trigger or a rule of the site's own drops it"
        ) from error


#: Deadlock, serialization, lock timeout; a prepared statement that another session of a pooler has, or has not; a
#: statement that the server does not execute any more since a rule was made, or since a table was changed.
_TRANSIENT: Final = {"40001", "40P01", "55P03", "26000", "42P05", "0A000"}
_TRANSIENT_WORDS: Final = ("database is locked", "database table is locked")
_CONNECTION: Final = {"57P01", "57P02", "57P03", "57P05", "25P03", "53300"}
_ENVIRONMENT_CLASSES: Final = ("53", "58", "28", "3D", "3F")
_ENVIRONMENT: Final = {"25006", "42P01", "42703", "42501", "XX001", "XX002"}
_SQLITE_ENVIRONMENT: Final = (
    "disk is full",
    "readonly",
    "read-only",
    "no such table",
    "no such column",
    "malformed",
    "unable to open",
    "disk I/O",
)
_LOST: Final = (
    "server closed the connection",
    "connection already closed",
    "could not connect",
    "connection refused",
    "connection not open",
    "terminating connection",
    "no connection to the server",
    "SSL connection has been closed",
    "server unexpectedly closed",
    "Connection timed out",
    "starting up",
    "shutting down",
    "could not receive data",
    "could not send data",
    "No such file or directory",
    "query_wait_timeout",
    "server login",
    "server_login_retry",
)

#: Tables whose keys a sequence gives: one that is taken is no user's fault, the sequence is behind.
_NUMBERED: Final = {
    "wishes_manaentry",
    "mana_migration_usermigration",
    "mana_migration_migrationbatch",
    "mana_migration_migrationrun",
    "mana_migration_runevent",
}

#: Words of a server that refuses the connection, and will do so again.
_REFUSED: Final = ("authentication failed", "does not exist", "pg_hba.conf", "not permitted to log in")

#: The record's error class for a database error about one user.
_CLASSES: Final = {"22003": "overflow", "23505": "duplicate", "23514": "constraint", "57014": "statement_timeout"}

_CLASSES_BY_WORD: Final = {
    "whole numbers only": "overflow",
    "integer overflow": "overflow",
    "out of range": "overflow",
    "UNIQUE constraint": "duplicate",
    "CHECK constraint": "constraint",
    "locked": "locked",
}


def kind_of(error: BaseException) -> Failure:
    """Return what a database error means for the work."""
    state = driver.sqlstate(error)
    text = str(error)
    if isinstance(error, NothingKeptError) or driver.table_of_taken_key(error) in _NUMBERED:
        return Failure.ENVIRONMENT
    if state in _TRANSIENT or any(word in text for word in _TRANSIENT_WORDS):
        return Failure.TRANSIENT
    if state in _CONNECTION or state.startswith("08") or isinstance(error, InterfaceError):
        return Failure.CONNECTION
    if state in _ENVIRONMENT or state.startswith(_ENVIRONMENT_CLASSES):
        return Failure.ENVIRONMENT
    if isinstance(error, DataError | IntegrityError):
        return Failure.DATA
    return _kind_by_words(error, text, of_server=bool(state))


def _kind_by_words(error: BaseException, text: str, *, of_server: bool) -> Failure:
    """Go by the words: SQLite's errors have no codes, nor have those of libpq, which are about the connection."""
    of_libpq = not of_server and _is_of_libpq(error)
    if of_libpq and any(word in text for word in _REFUSED):
        return Failure.ENVIRONMENT
    if of_libpq or (not of_server and any(word in text for word in _LOST)):
        return Failure.CONNECTION
    return Failure.ENVIRONMENT if any(word in text for word in _SQLITE_ENVIRONMENT) else Failure.DATA


def _is_of_libpq(error: BaseException) -> bool:
    """Say whether the client library made this error: one without SQLSTATE, hence about the connection."""
    wrapped = isinstance(error, OperationalError) or type(error) is DatabaseError
    return wrapped and driver.is_of_client(error)


#: Characters of a message that are kept: whole, but for a trigger that writes a book.
LONGEST: Final = 10_000


def classify(error: BaseException) -> str:
    """Return the error class kept on the record of the one user that a database error is about."""
    if isinstance(error, NotKeptError):
        return "not_kept"
    state, text = driver.sqlstate(error), str(error)
    if state in _CLASSES:
        return _CLASSES[state]
    for word, name in _CLASSES_BY_WORD.items():
        if word in text:
            return name
    if state in _TRANSIENT:
        return "locked"
    return "integrity" if isinstance(error, IntegrityError) else "database_error"


def describe(error: BaseException) -> str:
    """Return one line about a database error, without the row's contents that DETAIL would show."""
    if (table := driver.table_of_taken_key(error)) in _NUMBERED:
        return f"the sequence of {table} is behind its table, as after a restore (the same command prints the cure)"
    said = driver.message_of(error) or str(error).strip() or type(error).__name__
    line = said.splitlines()[0]
    return line if len(line) <= LONGEST else f"{line[:LONGEST]}… ({len(line):,} characters in all)"
