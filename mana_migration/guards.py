"""The refusals that the database makes for the migration's own records, beside those of ``wishes.guards``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from wishes import guards
from wishes.guards import Guard

RECORD_IS_FINAL: Final = (
    "a user migration is a record of what happened: only its reversal may be added; use rollback_migration"
)
FIX_IS_FINAL: Final = "an integrity fix is never changed: the rollback of its run undoes it by another one"
EVENT_IS_FINAL: Final = "an event is a record of what happened and is never changed"
NEVER_DELETED: Final = "runs, batches, events and fixes are never deleted: archive_runs copies them into files"

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
    "error_message",
    "mark",
    "created_at",
)
_INTEGER_COLUMNS: Final = {
    "mana_migration_usermigration": ("green", "blue", "red", "mana_before", "mana_credited"),
    "mana_migration_migrationbatch": ("green", "blue", "red", "mana", "shortfall"),
    "mana_migration_integrityfix": ("green_change", "blue_change", "red_change", "mana_change"),
}
_HISTORY = (
    "mana_migration_migrationrun",
    "mana_migration_migrationbatch",
    "mana_migration_runevent",
    "mana_migration_integrityfix",
)
#: All columns of an integrity fix but its run, which may be opened after it.
_FIX = (
    "id",
    "check_id",
    "user_id",
    "before",
    "after",
    "green_change",
    "blue_change",
    "red_change",
    "mana_change",
    "undoes_id",
    "link",
    "actor",
    "created_at",
)


def _record_changed(differs: str) -> str:
    changed = " OR ".join(f"NEW.{column} {differs} OLD.{column}" for column in _KEPT)
    return (
        f"{changed} OR (NEW.status {differs} OLD.status "
        "AND NOT (OLD.status = 'migrated' AND NEW.status = 'rolled_back')) "
        "OR OLD.status <> 'migrated'"
    )


def _fix_changed(differs: str) -> str:
    changed = " OR ".join(f"NEW.{column} {differs} OLD.{column}" for column in _FIX)
    return f"{changed} OR (OLD.run_id IS NOT NULL AND NEW.run_id {differs} OLD.run_id)"


def statements(vendor: str) -> list[Guard]:
    """Return the guards on the migration's tables."""
    differs = "IS DISTINCT FROM" if vendor == "postgresql" else "IS NOT"
    finals = [
        ("mana_migration_usermigration", RECORD_IS_FINAL, _record_changed(differs)),
        ("mana_migration_integrityfix", FIX_IS_FINAL, _fix_changed(differs)),
        ("mana_migration_runevent", EVENT_IS_FINAL, ""),
    ]
    make = guards.row_guard if vendor == "postgresql" else guards.sqlite_guard
    found = [
        *(make(f"{table}_final", table, "UPDATE", message, condition) for table, message, condition in finals),
        *(make(f"{table}_kept", table, "DELETE", NEVER_DELETED) for table in _HISTORY),
    ]
    if vendor == "postgresql":
        return found
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
