"""Which databases this works on, and why not on another: one line that says what to do instead."""

from __future__ import annotations

import re
import sqlite3
from typing import Final

from django.db.backends.base.base import BaseDatabaseWrapper

#: The oldest releases that are tested: PostgreSQL's server_version_num, SQLite's version.
OLDEST_POSTGRESQL: Final = 14
OLDEST_SQLITE: Final = (3, 33)

#: Servers that speak PostgreSQL's protocol and answer its version(), but lock and commit in another way.
_LOOK_ALIKES: Final = re.compile(
    r"cockroach(?:DB)?|yugabyte|-YB-|redshift|greenplum|materialize|cratedb|questdb|opengauss|gaussdb|ydb|spanner|risingwave",
    re.IGNORECASE,
)
INSTEAD: Final = "use one PostgreSQL server, or several with --database all"


def unsupported(connection: BaseDatabaseWrapper) -> str:
    """Return why runs are refused on this connection's database, empty where they are not."""
    if connection.vendor == "postgresql":
        return _unsupported_server(connection)
    if connection.vendor != "sqlite":
        return f"it is {connection.display_name}; this works on PostgreSQL and SQLite only"
    if sqlite3.sqlite_version_info[:2] < OLDEST_SQLITE:
        return f"it is SQLite {sqlite3.sqlite_version}; upgrade to {'.'.join(map(str, OLDEST_SQLITE))} or later"
    return ""


def _unsupported_server(connection: BaseDatabaseWrapper) -> str:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT version(), CAST(current_setting('server_version_num') AS integer) / 10000, "
            "to_regclass('pg_dist_partition') IS NOT NULL"
        )
        version, major, citus = cursor.fetchone()
        if name := look_alike(version):
            return f"it is {name}, which is not PostgreSQL: locks and transactions differ; {INSTEAD}"
        if major < OLDEST_POSTGRESQL:
            return f"it is PostgreSQL {major}; upgrade to {OLDEST_POSTGRESQL} or later"
        if citus:
            cursor.execute(
                """
                SELECT CAST(logicalrelid AS text)
                FROM pg_dist_partition
                WHERE logicalrelid IN (
                    to_regclass('wishes_wallet'), to_regclass('wishes_manaentry'),
                    to_regclass('mana_migration_usermigration')
                )
                ORDER BY 1
                """
            )
            tables = [table for (table,) in cursor.fetchall()]
            if tables:
                return f"its tables {', '.join(tables)} are distributed, on which runs fail or are slow; {INSTEAD}"
    return ""


def look_alike(version: str) -> str:
    """Return the name of the server that is no PostgreSQL, read off its ``version()``; empty for PostgreSQL."""
    found = _LOOK_ALIKES.search(version)
    if found:
        return "YugabyteDB" if found[0] == "-YB-" else found[0]
    return "" if version.startswith("PostgreSQL ") else version.partition(" ")[0]
