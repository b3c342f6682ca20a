"""What the database and this process have to work with: the first thing to check when a run is slow.

Statistics of the server only; no text of a statement and no value of a row is read.  A role without the privilege
``pg_read_all_stats`` sees the times of its own sessions alone.
"""

from __future__ import annotations

import os
import resource
import shutil
import sys
from pathlib import Path
from typing import Any, Final

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper

from mana_migration.domain.resources import LockWait, Resources, Server, Table

#: Sessions that wait for a lock, listed one by one.
WAITS: Final = 10

TABLES: Final = (
    "wishes_wallet",
    "wishes_manaentry",
    "mana_migration_usermigration",
    "mana_migration_migrationbatch",
)


def resources(using: str = "default") -> Resources:
    """Return the state of the database and of this process as of now."""
    connection = connections[using]
    on_postgresql, folder = connection.vendor == "postgresql", data_folder(using)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return Resources(
        server=_server(connection) if on_postgresql else None,
        size=_size(connection),
        room=None if folder is None else shutil.disk_usage(folder).free,
        memory=usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024),
        processor=usage.ru_utime + usage.ru_stime,
    )


def data_folder(using: str) -> Path | None:
    """Return the folder that holds the database's files; None where it cannot be seen from here."""
    connection = connections[using]
    if connection.vendor == "sqlite":
        path = Path(str(connection.settings_dict["NAME"]))
        return path.resolve().parent if path.is_file() else None
    host = connection.settings_dict["HOST"]
    if host and not host.startswith("/"):
        return None  # another machine
    # no row for a role that may not read it
    rows = _rows(connection, "SELECT setting FROM pg_settings WHERE name = 'data_directory'")
    folder = Path(rows[0][0]) if rows and rows[0][0] else None
    return folder if folder is not None and os.access(folder, os.R_OK) else None


def _size(connection: BaseDatabaseWrapper) -> int | None:
    if connection.vendor == "postgresql":
        ((size,),) = _rows(connection, "SELECT pg_database_size(current_database())")
        return int(size)
    path = Path(str(connection.settings_dict["NAME"]))
    return path.stat().st_size if path.is_file() else None


def _server(connection: BaseDatabaseWrapper) -> Server:
    _rows(connection, "SELECT pg_stat_clear_snapshot()")  # sessions are seen once in a transaction otherwise
    ((used, limit, waiting),) = _rows(
        connection,
        """
        SELECT COUNT(*) FILTER (WHERE backend_type = 'client backend'),
               current_setting('max_connections')::int,
               COUNT(*) FILTER (WHERE wait_event_type = 'Lock')
        FROM pg_stat_activity
        """,
    )
    waits = _rows(
        connection,
        """
        SELECT COALESCE(NULLIF(w.application_name, ''), 'a session'),
               COALESCE(NULLIF(h.application_name, ''), 'a session'),
               EXTRACT(EPOCH FROM statement_timestamp() - w.query_start)::float
        FROM pg_stat_activity w
        CROSS JOIN LATERAL unnest(pg_blocking_pids(w.pid)) AS held (pid)
        LEFT JOIN pg_stat_activity h ON h.pid = held.pid
        WHERE w.wait_event_type = 'Lock'
        ORDER BY w.query_start
        LIMIT %s
        """,
        WAITS,
    )
    longest = _rows(
        connection,
        """
        SELECT COALESCE(NULLIF(application_name, ''), 'no application name'),
               EXTRACT(EPOCH FROM statement_timestamp() - xact_start)::float
        FROM pg_stat_activity
        WHERE xact_start IS NOT NULL AND pid <> pg_backend_pid() AND backend_type = 'client backend'
        ORDER BY xact_start
        LIMIT 1
        """,
    )
    ((replicas, lag),) = _rows(
        connection, "SELECT COUNT(*), EXTRACT(EPOCH FROM MAX(replay_lag))::float FROM pg_stat_replication"
    )
    tables = _rows(
        connection,
        """
        SELECT relname, n_live_tup, n_dead_tup, GREATEST(last_vacuum, last_autovacuum)
        FROM pg_stat_user_tables
        WHERE relname = ANY(%s)
        ORDER BY relname
        """,
        list(TABLES),
    )
    timed, requested = _checkpoints(connection)
    return Server(
        connections=used,
        limit=limit,
        waiting=waiting,
        waits=[LockWait(*row) for row in waits],
        longest=longest[0] if longest else None,
        replicas=replicas,
        lag=lag,
        tables=[Table(*row) for row in tables],
        checkpoints=timed + requested,
        requested=requested,
    )


def _checkpoints(connection: BaseDatabaseWrapper) -> tuple[int, int]:
    modern = int(getattr(connection, "pg_version", 0)) >= 170_000
    source = (
        "SELECT num_timed, num_requested FROM pg_stat_checkpointer"
        if modern
        else "SELECT checkpoints_timed, checkpoints_req FROM pg_stat_bgwriter"
    )
    ((timed, requested),) = _rows(connection, source)
    return int(timed), int(requested)


def _rows(connection: BaseDatabaseWrapper, sql: str, *values: Any) -> list[Any]:
    with connection.cursor() as cursor:
        cursor.execute(sql, values)
        return list(cursor.fetchall())
