"""What our sessions are called in PostgreSQL's ``pg_stat_activity``, so that a DBA can stop the right one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any, Final

from django.db import DatabaseError, InterfaceError, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created

PREFIX: Final = "mana_migration: "

#: Bytes of a name that PostgreSQL keeps.
LENGTH: Final = 63

#: The name of this thread's sessions; empty: they keep the name that the site gives them.
_name: ContextVar[str] = ContextVar("mana_migration_session_name", default="")


@contextmanager
def named(what: str) -> Iterator[None]:
    """Call this thread's sessions ``mana_migration: <what>`` during the block, those that it opens there included.

    A pooler in transaction mode passes the name on: PgBouncer keeps it for each of its clients.
    """
    token = _name.set(f"{PREFIX}{what}"[:LENGTH])
    _name_open_sessions()
    try:
        yield
    finally:
        _name.reset(token)
        _name_open_sessions()


def _name_open_sessions() -> None:
    for connection in connections.all(initialized_only=True):
        if connection.connection is not None and not connection.needs_rollback:
            with suppress(DatabaseError, InterfaceError):  # lost; the next one is named when it is opened
                _apply(connection)


def _apply(connection: BaseDatabaseWrapper) -> None:
    if connection.vendor != "postgresql":
        return
    with connection.cursor() as cursor:
        if name := _name.get():
            cursor.execute("SELECT set_config('application_name', %s, false)", [name])
        else:
            cursor.execute("RESET application_name")


def name_new_session(connection: BaseDatabaseWrapper, **values: Any) -> None:
    """Name a session that was opened just now."""
    if _name.get():
        _apply(connection)


def install() -> None:
    """Name sessions when they are opened."""
    connection_created.connect(name_new_session, dispatch_uid="mana_migration.sessions")
