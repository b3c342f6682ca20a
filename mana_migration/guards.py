"""The refusals that the database makes for the migration's own records, beside those of ``wishes.guards``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from wishes import guards
from wishes.guards import Guard

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


def statements(vendor: str) -> list[Guard]:
    """Return the guards on the migration's tables."""
    record = "mana_migration_usermigration"
    if vendor == "postgresql":
        changed = _record_changed("IS DISTINCT FROM")
        return [
            guards.row_guard(f"{record}_final", record, "UPDATE", RECORD_IS_FINAL, changed),
            *(guards.row_guard(f"{table}_kept", table, "DELETE", NEVER_DELETED) for table in _HISTORY),
        ]
    found = [
        guards.sqlite_guard(f"{record}_final", record, "UPDATE", RECORD_IS_FINAL, _record_changed("IS NOT")),
        *(guards.sqlite_guard(f"{table}_kept", table, "DELETE", NEVER_DELETED) for table in _HISTORY),
    ]
    for table, columns in _INTEGER_COLUMNS.items():
        found += guards.integer_guards(table, columns)
    return found


def install(connection: Any, execute: Callable[[str], Any] | None = None) -> None:
    """Create the guards on this connection's database."""
    guards.run_statements(connection, statements(connection.vendor), execute)


def uninstall(connection: Any) -> None:
    """Drop the guards; for the reverse of the Django migration and for tests that plant violations."""
    guards.drop_triggers(connection, statements(connection.vendor))


def faults(connection: Any) -> dict[str, str]:
    """Return what keeps a guard from being in force, by its name; empty when all are."""
    return guards.faulty_triggers(connection, statements(connection.vendor))
