"""What the database and this process have to work with: the first thing to check when a run is slow.

Statistics of the server only; no text of a statement and no value of a row is read.  A role without the privilege
``pg_read_all_stats`` sees the times of its own sessions alone.
"""

from __future__ import annotations

import resource
import shutil
import sys
from pathlib import Path
from typing import Any, Final

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper

from mana_migration.domain.report import Figure

#: Sessions that wait for a lock, listed one by one.
WAITS: Final = 10

TABLES: Final = (
    "wishes_wallet",
    "wishes_manaentry",
    "mana_migration_usermigration",
    "mana_migration_migrationbatch",
)


def resources(using: str = "default") -> list[Figure]:
    """Return the figures of the database and of this process, as (what, value, unit)."""
    connection = connections[using]
    found = _postgresql(connection) if connection.vendor == "postgresql" else _sqlite(connection)
    return [*found, *_process()]


def _postgresql(connection: BaseDatabaseWrapper) -> list[Figure]:
    _rows(connection, "SELECT pg_stat_clear_snapshot()")  # sessions are seen once in a transaction otherwise
    ((used, limit, waiting, size),) = _rows(
        connection,
        """
        SELECT COUNT(*) FILTER (WHERE backend_type = 'client backend'),
               current_setting('max_connections')::int,
               COUNT(*) FILTER (WHERE wait_event_type = 'Lock'),
               pg_database_size(current_database())
        FROM pg_stat_activity
        """,
    )
    found = [
        Figure("connections", used, f"of {limit:,}"),
        Figure("sessions that wait for a lock", waiting, ""),
    ]
    for waits, holds, seconds in _rows(
        connection,
        """
        SELECT w.application_name, h.application_name,
               EXTRACT(EPOCH FROM statement_timestamp() - w.query_start)::float
        FROM pg_stat_activity w
        CROSS JOIN LATERAL unnest(pg_blocking_pids(w.pid)) AS held (pid)
        LEFT JOIN pg_stat_activity h ON h.pid = held.pid
        WHERE w.wait_event_type = 'Lock'
        ORDER BY w.query_start
        LIMIT %s
        """,
        WAITS,
    ):
        found.append(Figure(f"{waits or 'a session'} waits for {holds or 'a session'}", _rounded(seconds), "seconds"))
    for name, seconds in _rows(
        connection,
        """
        SELECT application_name, EXTRACT(EPOCH FROM statement_timestamp() - xact_start)::float
        FROM pg_stat_activity
        WHERE xact_start IS NOT NULL AND pid <> pg_backend_pid() AND backend_type = 'client backend'
        ORDER BY xact_start
        LIMIT 1
        """,
    ):
        found.append(Figure(f"longest transaction ({name or 'no application name'})", _rounded(seconds), "seconds"))
    ((replicas, lag),) = _rows(
        connection, "SELECT COUNT(*), EXTRACT(EPOCH FROM MAX(replay_lag))::float FROM pg_stat_replication"
    )
    found.append(Figure("replicas", replicas, ""))
    if replicas:
        found.append(Figure("replication lag", _rounded(lag), "seconds"))
    for table, live, dead, vacuumed in _rows(
        connection,
        """
        SELECT relname, n_live_tup, n_dead_tup, GREATEST(last_vacuum, last_autovacuum)
        FROM pg_stat_user_tables
        WHERE relname = ANY(%s)
        ORDER BY relname
        """,
        list(TABLES),
    ):
        last = "never vacuumed" if vacuumed is None else f"last vacuum {vacuumed:%Y-%m-%d %H:%M:%S %Z}"
        found.append(Figure(f"dead rows of {table}", dead, f"beside {live:,} live ones, {last}"))
    timed, requested = _checkpoints(connection)
    found.append(Figure("checkpoints", timed + requested, f"{requested:,} of them requested, not timed"))
    return [*found, Figure("size of the database", size, "bytes")]


def _checkpoints(connection: BaseDatabaseWrapper) -> tuple[int, int]:
    modern = int(getattr(connection, "pg_version", 0)) >= 170_000
    source = (
        "SELECT num_timed, num_requested FROM pg_stat_checkpointer"
        if modern
        else "SELECT checkpoints_timed, checkpoints_req FROM pg_stat_bgwriter"
    )
    ((timed, requested),) = _rows(connection, source)
    return int(timed), int(requested)


def _sqlite(connection: BaseDatabaseWrapper) -> list[Figure]:
    path = Path(str(connection.settings_dict["NAME"]))
    if not path.is_file():
        return []
    return [
        Figure("size of the database", path.stat().st_size, "bytes"),
        Figure("room on its disk", shutil.disk_usage(path.parent).free, "bytes"),
    ]


def _process() -> list[Figure]:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    unit = 1 if sys.platform == "darwin" else 1024
    return [
        Figure("memory of this process at its peak", usage.ru_maxrss * unit, "bytes"),
        Figure("processor time of this process", _rounded(usage.ru_utime + usage.ru_stime), "seconds"),
    ]


def _rows(connection: BaseDatabaseWrapper, sql: str, *values: Any) -> list[Any]:
    with connection.cursor() as cursor:
        cursor.execute(sql, values)
        return list(cursor.fetchall())


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 1)
