"""A database of a test's own, beside that of the suite: for other processes, other schemas, other people's sites."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from django.db import connection, connections

from tests.support.driver import psycopg, sql

_numbers = itertools.count(1)

#: The first PostgreSQL that can be told how to copy a database.
TELLS_STRATEGY = 150000


def how_to_copy(server_version: int) -> str:
    """Return the end of CREATE DATABASE for a small template: its files are copied in half the time of logging them."""
    return " STRATEGY FILE_COPY" if server_version >= TELLS_STRATEGY else ""


@contextlib.contextmanager
def own_database(folder: Path, *, copy: bool = False) -> Iterator[dict[str, Any]]:
    """Create an empty database of the suite's kind and yield Django's settings for it; it is dropped afterwards.

    With ``copy`` it is a copy of the suite's own, schema and all (PostgreSQL only); the test then has no transaction
    open and the suite's connection is closed.
    """
    settings = dict(connections["default"].settings_dict)
    if connections["default"].vendor == "sqlite":
        yield {"ENGINE": settings["ENGINE"], "NAME": str(folder / "own.sqlite3"), "OPTIONS": settings["OPTIONS"]}
        return
    name = f"own_{os.getpid()}_{next(_numbers)}"
    template = sql.Identifier(settings["NAME"] if copy else "template0")
    if copy:
        connections["default"].close()
    server = psycopg.connect(
        host=settings["HOST"], port=settings["PORT"] or None, user=settings["USER"], password=settings["PASSWORD"],
        dbname="postgres",
    )  # fmt: skip
    server.autocommit = True  # CREATE DATABASE takes no transaction
    try:
        with server.cursor() as cursor:
            if copy:  # a server or a worker of an earlier test may still hold an idle session
                cursor.execute(
                    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
                    "WHERE datname = %s AND pid <> pg_backend_pid()",
                    [settings["NAME"]],
                )
            how = sql.SQL(how_to_copy(server.info.server_version))
            cursor.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {}{}").format(sql.Identifier(name), template, how))
        yield {key: settings[key] for key in ("ENGINE", "HOST", "PORT", "USER", "PASSWORD")} | {"NAME": name}
        with server.cursor() as cursor:
            cursor.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
    finally:
        server.close()


def address(settings: dict[str, Any]) -> str:
    """Return a PostgreSQL database's settings as a URL."""
    credentials = quote(settings["USER"], safe="") + (
        f":{quote(settings['PASSWORD'], safe='')}" * bool(settings["PASSWORD"])
    )
    port = f":{settings['PORT']}" if settings["PORT"] else ""
    return f"postgres://{credentials}@{quote(settings['HOST'], safe='')}{port}/{settings['NAME']}"


def call_names_equal(how: str) -> None:
    """Let the database call usernames equal that differ by case alone."""
    statements = {
        "citext": ["CREATE EXTENSION citext", "ALTER TABLE auth_user ALTER username TYPE citext"],
        "collation": [
            "CREATE COLLATION any_case (provider = icu, locale = 'und-u-ks-level2', deterministic = false)",
            "DROP INDEX auth_user_username_6821ab7c_like",
            "ALTER TABLE auth_user ALTER username TYPE varchar(150) COLLATE any_case",
        ],
        "index": ["CREATE UNIQUE INDEX any_case ON auth_user (lower(username))"],
        "nocase": ["CREATE UNIQUE INDEX any_case ON auth_user (username COLLATE NOCASE)"],
    }
    with connection.cursor() as cursor:
        for sql in statements[how]:
            cursor.execute(sql)
