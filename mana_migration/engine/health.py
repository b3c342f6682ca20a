"""How the database is: a few figures that cost next to nothing to read."""

from __future__ import annotations

from django.db.backends.base.base import BaseDatabaseWrapper

from mana_migration.domain.pressure import Health

# Only what any role may read: figures hidden from this role count as healthy.
_QUERY = """
    SELECT
        (SELECT COALESCE(MAX(EXTRACT(EPOCH FROM replay_lag)), 0) FROM pg_stat_replication),
        (SELECT COUNT(*) FROM pg_stat_activity
          WHERE datname = current_database() AND wait_event_type = 'Lock' AND pid <> pg_backend_pid()),
        (SELECT COUNT(*) FROM pg_stat_activity
          WHERE datname = current_database() AND state = 'active' AND pid <> pg_backend_pid()),
        (SELECT COALESCE(last_failed_time > COALESCE(last_archived_time, 'epoch'), false) FROM pg_stat_archiver)
"""


def read_health(connection: BaseDatabaseWrapper) -> Health:
    """Return how the database is now; SQLite has no such figures and is always well."""
    if connection.vendor != "postgresql":
        return Health()
    with connection.cursor() as cursor:
        cursor.execute(_QUERY)
        lag, waiting, active, archiving_fails = cursor.fetchone()
    return Health(float(lag), int(waiting), int(active), bool(archiving_fails))
