"""Statements that PostgreSQL plans once a session, and what a session is known to have prepared.

Behind a connection pooler the next transaction may reach another session, which does not know a statement
or knows it already.  That is a transient error: nothing was done, and the batch is tried again.  After a
few of them, or where the site says that session state is not its own (``DISABLE_SERVER_SIDE_CURSORS``),
statements are sent as text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Final
from weakref import WeakKeyDictionary

from django.db import DatabaseError
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.utils import CursorWrapper

from mana_migration.engine import driver

#: Times that a session did not know a prepared statement after which it is taken for a pooler's.
_FORGETFUL: Final = 3

#: SQLSTATEs: the statement is not there, it is there already, its plan no longer fits the table.
_UNKNOWN, _KNOWN, _OUTDATED = "26000", "42P05", "0A000"


class Message:
    """Statements that are sent to PostgreSQL together, as text or prepared.

    Args:
        texts: the statements, with parameters ``%(name)s``.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = list(texts)
        self.name = f"mana_{hashlib.sha256(';'.join(texts).encode()).hexdigest()[:24]}"
        self.prepares: list[str] = []
        self.executes: list[str] = []
        for number, text in enumerate(texts):
            places = _Places()
            body = text % places
            # it becomes part of a message whose own parameters are filled in
            self.prepares.append(f"PREPARE {self.name}_{number} AS {body.replace('%', '%%')}")
            values = ", ".join(f"%({name})s" for name in places.names)
            self.executes.append(f"EXECUTE {self.name}_{number}" + (f" ({values})" if values else ""))

    def execute(
        self, connection: BaseDatabaseWrapper, cursor: CursorWrapper, values: Mapping[str, Any], *, prepare: bool
    ) -> list[tuple[Any, ...]]:
        """Execute the statements and return the rows of the last; ``prepare``: prepared, where that is possible.

        Raises:
            django.db.Error: one of them failed, see the first lines of this module.
        """
        session = session_of(connection)
        if not (prepare and session.prepares):
            return driver.execute_message(cursor, self.texts, values)
        known = self.name in session.known
        try:
            rows = driver.execute_message(cursor, [*([] if known else self.prepares), *self.executes], values)
        except DatabaseError as error:
            session.learn(self.name, driver.sqlstate(error))
            raise
        session.known.add(self.name)
        return rows


class _Places(dict[str, str]):
    """Number the parameters of a statement as they appear."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __missing__(self, name: str) -> str:
        self.names.append(name)
        self[name] = f"${len(self.names)}"
        return self[name]


class Session:
    """What a connection is known to have prepared."""

    def __init__(self, *, prepares: bool) -> None:
        self.known: set[str] = set()
        self.prepares = prepares
        self._mistakes = 0

    def learn(self, name: str, state: str) -> None:
        """Learn from an error of a message what the session has prepared; ``state``: its SQLSTATE."""
        if state == _UNKNOWN and name in self.known:
            self.known.discard(name)
        elif state == _KNOWN:
            self.known.add(name)
        elif state == _OUTDATED and name in self.known:
            self.prepares = False  # a table was changed: this session's plan is of no use any more
        else:
            if state:
                self.known.add(name)  # the statements are prepared before the first of them is executed
            return
        self._mistakes += 1
        self.prepares = self.prepares and self._mistakes < _FORGETFUL


_sessions: WeakKeyDictionary[Any, Session] = WeakKeyDictionary()


def session_of(connection: BaseDatabaseWrapper) -> Session:
    """Return what this connection is known to have prepared; nothing where sessions are not the site's own."""
    connection.ensure_connection()
    session = _sessions.get(connection.connection)
    if session is None:
        shared = bool(connection.settings_dict.get("DISABLE_SERVER_SIDE_CURSORS"))
        session = _sessions[connection.connection] = Session(prepares=not shared and driver.sends_messages(connection))
    return session
