"""A second database of the site, under an alias of its own, beside that of the suite."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper

from config.settings import SQLITE_OPTIONS
from tests.support.databases import own_database

POSTGRES, SQLITE = "postgresql", "sqlite"


def _allowed(alias: str) -> contextlib.AbstractContextManager[object]:
    """Let tests connect to it: Django's test cases refuse what was no alias when they began."""
    before = BaseDatabaseWrapper.ensure_connection

    def ensure_connection(self: BaseDatabaseWrapper) -> None:
        if self.alias != alias:
            before(self)
        elif self.connection is None:
            with self.wrap_database_errors:
                self.connect()

    return mock.patch.object(BaseDatabaseWrapper, "ensure_connection", ensure_connection)


@contextlib.contextmanager
def known_as(alias: str, settings: dict[str, Any]) -> Iterator[str]:
    """Give the site a database that exists under this alias; forks that tests start see it as well."""
    default = dict(connections.settings["default"])
    connections.settings[alias] = connections.configure_settings({"default": default, alias: settings})[alias]
    with _allowed(alias):
        try:
            yield alias
        finally:
            connections[alias].close()
            del connections[alias]
            del connections.settings[alias]


@contextlib.contextmanager
def second_database(alias: str, vendor: str, folder: Path, *, copy: bool = False) -> Iterator[str]:
    """Give the site an empty database under this alias; commands that tests start see it as well.

    A PostgreSQL database is on the suite's own server, and with ``copy`` has its schema.  For SQLite the file is
    ALIAS.sqlite3 in the folder, which may be there already.
    """
    with contextlib.ExitStack() as stack:
        if vendor == SQLITE:
            path = folder / f"{alias}.sqlite3"
            own = {"ENGINE": "django.db.backends.sqlite3", "NAME": str(path), "OPTIONS": dict(SQLITE_OPTIONS)}
        else:
            own = stack.enter_context(own_database(folder, copy=copy))
        yield stack.enter_context(known_as(alias, own))
