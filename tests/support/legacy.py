"""Legacy PostgreSQL databases beside the test database, to import from."""

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from tests.support.driver import psycopg

SCRIPT = Path(__file__).with_name("legacy_users.sql")

_numbers = itertools.count(1)


@contextmanager
def legacy_database(server: str, *, users: int = 0, dirty: bool = False, sql: str = "") -> Iterator[str]:
    """Create a database on the server of this address and yield its own address; it is dropped at the end.

    With ``users`` it holds a table of so many legacy users; ``sql`` is run afterwards.
    """
    name = f"legacy_{os.getpid()}_{next(_numbers)}"
    address = urlunsplit(urlsplit(server)._replace(path=f"/{name}"))
    _execute(server, f"CREATE DATABASE {name}")
    try:
        if users:
            script = SCRIPT.read_text(encoding="utf-8")
            _execute(address, script.replace("{users}", str(users)).replace("{dirty}", str(dirty).lower()))
        if sql:
            _execute(address, sql)
        yield address
    finally:
        _execute(server, f"DROP DATABASE {name} WITH (FORCE)")


def legacy_rows(address: str, query: str) -> list[tuple[object, ...]]:
    """Return what a query on a legacy database gives."""
    connection = psycopg.connect(address)
    try:
        with connection.cursor() as cursor:
            cursor.execute(query)
            return list(cursor.fetchall())
    finally:
        connection.close()


def _execute(address: str, sql: str) -> None:
    connection = psycopg.connect(address)
    connection.autocommit = True
    try:
        with connection.cursor() as cursor:
            cursor.execute(sql)
    finally:
        connection.close()
