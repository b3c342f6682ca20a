"""The checks of the records: against their own figures, against the wallets' flags."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from django.db.backends.base.base import BaseDatabaseWrapper

from mana_migration.engine import dialect
from mana_migration.engine.integrity.ledger import CONVERTED
from mana_migration.engine.integrity.scope import Scope, rows
from wishes.rates import BIGINT_MAX, COLOURS, RATE_MAX

#: What a wish of record ``r`` was worth in its run ``t``; read once a run, not once a record.
_TERMS: Final = {
    "postgresql": "WITH t AS MATERIALIZED (SELECT id, kind, (rates->>'green')::bigint AS green, "
    "(rates->>'blue')::bigint AS blue, (rates->>'red')::bigint AS red FROM mana_migration_migrationrun)",
    "sqlite": "WITH t AS MATERIALIZED (SELECT id, kind, json_extract(rates, '$.green') AS green, "
    "json_extract(rates, '$.blue') AS blue, json_extract(rates, '$.red') AS red FROM mana_migration_migrationrun)",
}

#: Figures summed over records, by name.
_FIGURES: Final = {"green": "r.green", "blue": "r.blue", "red": "r.red", "mana": "r.mana_credited"}
_REVERSED: Final = {"debited": "COALESCE(r.mana_debited, 0)", "shortfall": "COALESCE(r.shortfall, 0)"}


@dataclass(frozen=True, slots=True)
class RecordSums:
    """Records of one run that the same rollback took back (None: none did): numbers by status, exact sums.

    The sums of wishes and mana are over conversions that took place.
    """

    run: int
    reversal_run: int | None
    migrated: int
    rolled_back: int
    skipped: int
    failed: int
    sums: dict[str, int]


def mismatch_sql(vendor: str) -> str:
    """Return a condition that the figures of record ``r`` of run ``t`` contradict each other or the run's rates."""
    small = " AND ".join(f"r.{colour} BETWEEN 0 AND {BIGINT_MAX // 4 // RATE_MAX}" for colour in COLOURS)
    cast = "::numeric" if vendor == "postgresql" else ""
    fast = " + ".join(f"r.{colour} * t.{colour}" for colour in COLOURS)
    exact = " + ".join(f"r.{colour}{cast} * t.{colour}" for colour in COLOURS)
    # where rates are missing the comparison is null, and so the record a hit
    worth = f"COALESCE(r.mana_credited = CASE WHEN {small} THEN {fast} ELSE {exact} END, 1 = 0)"
    reversal = (
        "r.mana_debited >= 0 AND COALESCE(r.shortfall, 0) >= 0 AND r.reversal_run_id IS NOT NULL "
        f"AND r.reversed_at IS NOT NULL AND r.mana_debited{cast} + COALESCE(r.shortfall, 0) = r.mana_credited"
    )
    untouched = "r.reversal_run_id IS NULL AND r.reversed_at IS NULL AND r.mana_debited IS NULL"
    return (
        f"CASE WHEN r.status = 'migrated' THEN NOT ({worth} AND {untouched} AND r.shortfall IS NULL) "
        f"WHEN r.status = 'rolled_back' THEN NOT ({worth} AND COALESCE({reversal}, 1 = 0)) "
        f"ELSE NOT (r.mana_credited = 0 AND {untouched}) END"
    )


def _of_run(scope: Scope) -> str:
    """Return the condition on record ``r``; for a run: its own records, and those that it took back."""
    people = Scope(users=scope.users, after=scope.after, until=scope.until).sql("r.user_id")
    return people if scope.run is None else f"{people} AND (r.run_id = %(run)s OR r.reversal_run_id = %(run)s)"


def scan(connection: BaseDatabaseWrapper, scope: Scope) -> tuple[int, list[RecordSums]]:
    """Count conversion_mismatch and sum up the records by run and rollback, in one pass."""
    vendor = connection.vendor
    sums = [
        dialect.exact_sum(vendor, f"CASE WHEN {CONVERTED} THEN {expression} ELSE 0 END")
        for expression in _FIGURES.values()
    ]
    sums += [
        dialect.exact_sum(vendor, f"CASE WHEN r.status = 'rolled_back' THEN {expression} ELSE 0 END")
        for expression in _REVERSED.values()
    ]
    statuses = ("migrated", "rolled_back", "skipped", "failed")
    numbers = ", ".join(f"COUNT(*) FILTER (WHERE r.status = '{status}')" for status in statuses)
    found = rows(
        connection,
        f"{_TERMS[vendor]} SELECT r.run_id, r.reversal_run_id, {numbers}, "
        f"COUNT(*) FILTER (WHERE {mismatch_sql(vendor)}), {', '.join(sums)} "
        f"FROM mana_migration_usermigration r LEFT JOIN t ON t.id = r.run_id WHERE {_of_run(scope)} "
        "GROUP BY r.run_id, r.reversal_run_id",
        scope,
    )
    mismatched, result = 0, []
    for run, reversal_run, migrated, rolled_back, skipped, failed, wrong, *halves in found:
        mismatched += int(wrong)
        names = (*_FIGURES, *_REVERSED)
        exact = {
            name: dialect.combine(vendor, first, second)
            for name, first, second in zip(names, halves[::2], halves[1::2], strict=True)
        }
        result.append(RecordSums(run, reversal_run, migrated, rolled_back, skipped, failed, exact))
    return mismatched, result


def mismatch_hits_sql(vendor: str, scope: Scope) -> str:
    """Return the query of the hits of conversion_mismatch: user, record, run, ``MISMATCH_COLUMNS``."""
    columns = ", ".join(f"r.{name}" for name in MISMATCH_COLUMNS)
    return (
        f"{_TERMS[vendor]} SELECT r.user_id, r.id, r.run_id, {columns} "
        "FROM mana_migration_usermigration r LEFT JOIN t ON t.id = r.run_id "
        f"WHERE {mismatch_sql(vendor)} AND {_of_run(scope)} ORDER BY r.user_id, r.id"
    )


MISMATCH_COLUMNS: Final = ("status", "green", "blue", "red", "mana_credited", "mana_debited", "shortfall")


# --- Flags and records ------------------------------------------------------------------------------------------------


def _unrecorded(scope: Scope) -> str:
    """Return a query of migrated wallets without a live record: user, record."""
    return (
        "SELECT w.user_id, NULL AS record_id FROM wishes_wallet w WHERE w.migrated_at IS NOT NULL AND NOT EXISTS "
        "(SELECT 1 FROM mana_migration_usermigration r WHERE r.user_id = w.user_id AND r.status = 'migrated') "
        f"AND {scope.sql('w.user_id')}"
    )


def _unflagged(scope: Scope) -> str:
    """Return a query of live records without a migrated wallet: user, record."""
    return (
        "SELECT r.user_id, r.id AS record_id FROM mana_migration_usermigration r WHERE r.status = 'migrated' "
        "AND NOT EXISTS "
        "(SELECT 1 FROM wishes_wallet w WHERE w.user_id = r.user_id AND w.migrated_at IS NOT NULL) "
        f"AND {scope.sql('r.user_id')}"
    )


def _repeated(scope: Scope) -> str:
    """Return a query of users with several live records, which a unique index should make impossible: user, record."""
    return (
        "SELECT r.user_id, MAX(r.id) AS record_id FROM mana_migration_usermigration r WHERE r.status = 'migrated' "
        f"AND {scope.sql('r.user_id')} GROUP BY r.user_id HAVING COUNT(*) > 1"
    )


def count_inconsistencies(connection: BaseDatabaseWrapper, scope: Scope) -> int:
    """Count migration_inconsistency."""
    ((unrecorded, unflagged, migrated, live),) = rows(
        connection,
        f"SELECT (SELECT COUNT(*) FROM ({_unrecorded(scope)}) x), (SELECT COUNT(*) FROM ({_unflagged(scope)}) x), "
        f"(SELECT COUNT(*) FROM wishes_wallet w WHERE w.migrated_at IS NOT NULL AND {scope.sql('w.user_id')}), "
        "(SELECT COUNT(*) FROM mana_migration_usermigration r WHERE r.status = 'migrated' "
        f"AND {scope.sql('r.user_id')})",
        scope,
    )
    if int(migrated) - int(unrecorded) == int(live) - int(unflagged):
        return int(unrecorded) + int(unflagged)
    ((repeated,),) = rows(connection, f"SELECT COUNT(*) FROM ({_repeated(scope)}) x", scope)
    return int(unrecorded) + int(unflagged) + int(repeated)


def inconsistency_hits_sql(scope: Scope) -> str:
    """Return the query of the hits of migration_inconsistency: user, record."""
    return f"{_unrecorded(scope)} UNION {_unflagged(scope)} UNION {_repeated(scope)} ORDER BY 1"
