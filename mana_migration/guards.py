"""The refusals that the database makes for the migration's own records, beside those of ``wishes.guards``."""

from __future__ import annotations

from typing import Any, Final

from wishes import guards

RECORD_IS_FINAL: Final = (
    "a user migration is a record of what happened: only its reversal may be added; use rollback_migration"
)
NEVER_DELETED: Final = "runs, batches and events are never deleted: archive_runs copies them into files"

_KEPT = (
    "user_id",
    "run_id",
    "batch_id",
    "green",
    "blue",
    "red",
    "mana_before",
    "mana_credited",
    "error_class",
    "mark",
    "created_at",
)
_INTEGER_COLUMNS: Final = {
    "mana_migration_usermigration": ("green", "blue", "red", "mana_before", "mana_credited"),
    "mana_migration_migrationbatch": ("green", "blue", "red", "mana", "shortfall"),
}
_HISTORY = ("mana_migration_migrationrun", "mana_migration_migrationbatch", "mana_migration_runevent")


def _record_changed(differs: str) -> str:
    changed = " OR ".join(f"NEW.{column} {differs} OLD.{column}" for column in _KEPT)
    return (
        f"{changed} OR (NEW.status {differs} OLD.status "
        "AND NOT (OLD.status = 'migrated' AND NEW.status = 'rolled_back')) "
        "OR OLD.status <> 'migrated'"
    )


def statements(vendor: str) -> list[tuple[str, str, str]]:
    """Return (trigger, table, SQL) of the guards on the migration's tables."""
    found: list[tuple[str, str, str]] = []
    record = "mana_migration_usermigration"
    if vendor == "postgresql":
        found.append(
            (
                f"{record}_final",
                record,
                f"CREATE TRIGGER {record}_final BEFORE UPDATE ON {record} FOR EACH ROW "
                f"WHEN ({_record_changed('IS DISTINCT FROM')}) EXECUTE FUNCTION wishes_refuse('{RECORD_IS_FINAL}')",
            )
        )
        found += [
            (
                f"{table}_kept",
                table,
                f"CREATE TRIGGER {table}_kept BEFORE DELETE ON {table} "
                f"FOR EACH ROW EXECUTE FUNCTION wishes_refuse('{NEVER_DELETED}')",
            )
            for table in _HISTORY
        ]
        return found
    found.append(
        (
            f"{record}_final",
            record,
            f"CREATE TRIGGER {record}_final BEFORE UPDATE ON {record} WHEN {_record_changed('IS NOT')} "
            f"BEGIN SELECT RAISE(ABORT, '{RECORD_IS_FINAL}'); END",
        )
    )
    found += [
        (
            f"{table}_kept",
            table,
            f"CREATE TRIGGER {table}_kept BEFORE DELETE ON {table} BEGIN SELECT RAISE(ABORT, '{NEVER_DELETED}'); END",
        )
        for table in _HISTORY
    ]
    for table, columns in _INTEGER_COLUMNS.items():
        found += list(guards.integer_triggers(table, columns))
    return found


def install(connection: Any, execute: Any = None) -> None:
    """Create the guards on this connection's database."""
    guards.run_statements(connection, statements(connection.vendor), execute)


def uninstall(connection: Any) -> None:
    """Drop the guards; for the reverse of the Django migration and for tests that plant violations."""
    guards.drop_triggers(connection, statements(connection.vendor))


def missing(connection: Any) -> list[str]:
    """Return the names of the guards that this database lacks."""
    return guards.missing_triggers(connection, statements(connection.vendor))
