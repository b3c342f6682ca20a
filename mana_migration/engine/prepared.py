"""Statements that are prepared once a session, and what a session is known to have prepared.

See Note [Plans] in ``mana_migration.engine.batches``.
"""

from __future__ import annotations

import hashlib
from typing import Any, Final
from weakref import WeakKeyDictionary

from django.db.backends.base.base import BaseDatabaseWrapper

#: Times that a session did not know a prepared statement after which it is taken for a pooler's.
_FORGETFUL: Final = 3

#: SQLSTATEs: the statement is not there, it is there already, its plan no longer fits the table.
_UNKNOWN, _KNOWN, _OUTDATED = "26000", "42P05", "0A000"


class Prepared:
    """Statements as they are sent together: plain, to be prepared, and to be executed."""

    def __init__(self, *texts: str) -> None:
        self.plain = "; ".join(texts)
        self.name = f"mana_{hashlib.sha256(self.plain.encode()).hexdigest()[:24]}"
        prepares, executes = [], []
        for number, text in enumerate(texts):
            places = _Places()
            body = text % places
            # it becomes part of a message whose own parameters are filled in
            prepares.append(f"PREPARE {self.name}_{number} AS {body.replace('%', '%%')}; ")
            values = ", ".join(f"%({name})s" for name in places.names)
            executes.append(f"EXECUTE {self.name}_{number}" + (f" ({values})" if values else ""))
        self.prepare, self.executes = "".join(prepares), executes


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

    def mistook(self, name: str, state: str) -> bool:
        """Say whether this error only means that we were wrong about what is prepared."""
        if state == _KNOWN:
            self.known.add(name)
        elif state == _UNKNOWN and name in self.known:
            self.known.discard(name)
        elif state == _OUTDATED and name in self.known:
            self.prepares = False  # a table was changed: this session's plan is of no use any more
        else:
            return False
        self._mistakes += 1
        self.prepares = self.prepares and self._mistakes < _FORGETFUL
        return True


_sessions: WeakKeyDictionary[Any, Session] = WeakKeyDictionary()


def session_of(connection: BaseDatabaseWrapper) -> Session:
    """Return what this open connection is known to have prepared; nothing where sessions are not the site's own."""
    session = _sessions.get(connection.connection)
    if session is None:
        shared = bool(connection.settings_dict.get("DISABLE_SERVER_SIDE_CURSORS"))
        session = _sessions[connection.connection] = Session(prepares=not shared)
    return session
