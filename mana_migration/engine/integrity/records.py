"""The checks of the records: against their own figures, against the wallets' flags."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from django.db.backends.base.base import BaseDatabaseWrapper

from mana_migration.engine import dialect
from mana_migration.engine.integrity.ledger import entry_of_record
from mana_migration.engine.integrity.scope import Scope, rows
from mana_migration.states import UserStatus
from wishes.rates import BIGINT_MAX, COLOURS, RATE_MAX

#: Figures summed over records, by name: of conversions, and of those that were rolled back.
_CONVERTED: Final = {
    "green": "r.green",
    "blue": "r.blue",
    "red": "r.red",
    "mana": "r.mana_credited",
    "credited_entries": "CASE WHEN r.mana_credited <> 0 THEN e.amount END",
}
_REVERSED: Final = {
    "debited": "r.mana_debited",
    "shortfall": "r.shortfall",
    "debited_entries": "CASE WHEN r.mana_debited <> 0 THEN -v.amount END",
}


@dataclass(frozen=True, slots=True)
class RecordSums:
    """Records of one run with one status that the same rollback took back (None: none did): numbers, and exact sums.

    Sums are over conversions that took place.  ``credited_entries`` and ``debited_entries`` are what the records' own
    entries in the ledger say.
    """

    run: int
    reversal_run: int | None
    numbers: dict[str, int]
    sums: dict[str, int]


@dataclass(frozen=True, slots=True)
class RecordScan:
    """What one pass over the records found, each beside its entries and its wallet.

    ``mismatched`` records contradict themselves, ``lacking`` are without the entry that they should have,
    ``conversions`` and ``reversals`` have it.  ``unflagged`` are live without a migrated wallet, ``reflagged`` the
    other way round, which is wrong unless another record of that user is live.
    """

    parts: list[RecordSums]

    def total(self, name: str, *, run: int | None = None) -> int:
        """Return one of the numbers over all records, or over those of one run."""
        return sum(part.numbers[name] for part in self.parts if run is None or part.run == run)


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


def _terms(connection: BaseDatabaseWrapper) -> str:
    """Return the CTE ``t`` with what a wish was worth in each run that has rates: id, green, blue, red.

    As constants: PostgreSQL neither reads JSON for every record then, nor gives up parallel workers.
    """
    colour = "o.rates->>'{}'" if connection.vendor == "postgresql" else "json_extract(o.rates, '$.{}')"
    columns = ", ".join(colour.format(name) for name in COLOURS)
    runs = rows(connection, f"SELECT o.id, {columns} FROM mana_migration_migrationrun o ORDER BY o.id", Scope())
    values = [f"({', '.join(str(int(value)) for value in row)})" for row in runs if None not in row]
    return f"WITH t (id, green, blue, red) AS (VALUES {', '.join(values) or '(0, 0, 0, 0)'})"


def _of_run(scope: Scope) -> str:
    """Return the condition on record ``r``; for a run: its own records, and those that it took back."""
    people = scope.people().sql("r.user_id")
    if scope.run is None:
        return people
    since = "" if scope.records_after is None else " AND r.id > %(records_after)s"
    return f"{people} AND (r.run_id = %(run)s OR r.reversal_run_id = %(run)s){since}"


#: What is counted over records ``r`` of one status, their entries ``e`` and ``v`` and their migrated wallet ``w``.
_ENTERED: Final = {
    "conversions": "r.mana_credited <> 0 AND e.id IS NOT NULL",
    "lacking_conversion": "r.mana_credited <> 0 AND COALESCE(e.amount <> r.mana_credited, 1 = 1)",
}
_TAKEN_BACK: Final = {
    "reversals": "r.mana_debited <> 0 AND v.id IS NOT NULL",
    "lacking_reversal": "r.mana_debited <> 0 AND COALESCE(v.amount <> -r.mana_debited, 1 = 1)",
}


#: Mass migrations up to which a user is taken to have entries of few runs.
REPEATED: Final = 3


def _mass_migrations(connection: BaseDatabaseWrapper) -> int:
    selected = "o.options->'users' = '[]'" if connection.vendor == "postgresql" else "o.options->>'$.users' = '[]'"
    sql = f"SELECT COUNT(*) FROM mana_migration_migrationrun o WHERE o.kind = 'migration' AND {selected}"
    return int(rows(connection, sql, Scope())[0][0])


def scan(connection: BaseDatabaseWrapper, scope: Scope) -> RecordScan:
    """Compare every record with its entries and its wallet, in one pass; see ``RecordScan``.

    Grouped by status, so that no condition and no sum has to ask for it row by row.
    """
    vendor = connection.vendor
    conditions = {"flagged": "w.user_id IS NOT NULL", "mismatched": mismatch_sql(vendor)} | _ENTERED | _TAKEN_BACK
    expressions = _CONVERTED | _REVERSED
    numbers = ", ".join(f"COUNT(*) FILTER (WHERE {condition})" for condition in conditions.values())
    repeated = scope.entries_after is None and _mass_migrations(connection) > REPEATED
    found = rows(
        connection,
        f"{_terms(connection)} SELECT r.run_id, r.reversal_run_id, r.status, COUNT(*), {numbers}, "
        f"{', '.join(dialect.exact_sum(vendor, expression) for expression in expressions.values())} "
        "FROM mana_migration_usermigration r LEFT JOIN t ON t.id = r.run_id "
        f"{entry_of_record(vendor, 'conversion', 'e', by_reference=repeated)}{scope.recent('e')} "
        f"{entry_of_record(vendor, 'reversal', 'v', by_reference=repeated)}{scope.recent('v')} "
        "AND r.status = 'rolled_back' "
        "LEFT JOIN wishes_wallet w ON w.user_id = r.user_id AND w.migrated_at IS NOT NULL "
        f"WHERE {_of_run(scope)} GROUP BY r.run_id, r.reversal_run_id, r.status",
        scope,
    )
    parts = []
    for run, reversal_run, status, records, *figures in found:
        counted, split = figures[: len(conditions)], figures[len(conditions) :]
        sums = {
            name: dialect.combine(vendor, first, second)
            for name, first, second in zip(expressions, split[::2], split[1::2], strict=True)
        }
        counts = dict(zip(conditions, map(int, counted), strict=True))
        _judge(status, int(records), counts, sums)
        parts.append(RecordSums(run, reversal_run, counts, sums))
    return RecordScan(parts)


def _judge(status: str, records: int, numbers: dict[str, int], sums: dict[str, int]) -> None:
    """Complete what was counted of so many records of one status, and take out what does not count for it."""
    flagged = numbers.pop("flagged")
    live = status == UserStatus.MIGRATED
    numbers |= {name: records if name == status else 0 for name in UserStatus.values}
    numbers |= {"unflagged": records - flagged if live else 0, "reflagged": 0 if live else flagged}
    if status != UserStatus.ROLLED_BACK:
        numbers |= dict.fromkeys(_TAKEN_BACK, 0)
        sums |= dict.fromkeys(_REVERSED, 0)
        if not live:
            numbers |= dict.fromkeys(_ENTERED, 0)
            sums |= dict.fromkeys(_CONVERTED, 0)


def mismatch_hits_sql(connection: BaseDatabaseWrapper, scope: Scope) -> str:
    """Return the query of the hits of conversion_mismatch: user, record, run, ``MISMATCH_COLUMNS``."""
    columns = ", ".join(f"r.{name}" for name in MISMATCH_COLUMNS)
    return (
        f"{_terms(connection)} SELECT r.user_id, r.id, r.run_id, {columns} "
        "FROM mana_migration_usermigration r LEFT JOIN t ON t.id = r.run_id "
        f"WHERE {mismatch_sql(connection.vendor)} AND {_of_run(scope)} ORDER BY r.user_id, r.id"
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
    """Count migration_inconsistency user by user."""
    ((found,),) = rows(connection, f"SELECT COUNT(*) FROM ({_inconsistent(scope)}) x", scope)
    return int(found)


def count_live(connection: BaseDatabaseWrapper) -> tuple[int, int]:
    """Return the number of live records, and of those without a migrated wallet."""
    ((live, unflagged),) = rows(
        connection,
        "SELECT COUNT(*), COUNT(*) FILTER (WHERE w.user_id IS NULL) FROM mana_migration_usermigration r "
        "LEFT JOIN wishes_wallet w ON w.user_id = r.user_id AND w.migrated_at IS NOT NULL WHERE r.status = 'migrated'",
        Scope(),
    )
    return int(live), int(unflagged)


def one_live_record_is_kept(connection: BaseDatabaseWrapper) -> bool:
    """Say whether the unique index is there that allows a user one live record."""
    if connection.vendor == "postgresql":
        sql = (
            "SELECT 1 FROM pg_class c JOIN pg_index i ON i.indexrelid = c.oid "
            "WHERE c.relname = 'mana_migration_one_live_record' AND i.indisunique AND i.indisvalid"
        )
    else:
        sql = "SELECT 1 FROM sqlite_master WHERE type = 'index' AND name = 'mana_migration_one_live_record'"
    return bool(rows(connection, sql, Scope()))


def _inconsistent(scope: Scope) -> str:
    return f"{_unrecorded(scope)} UNION {_unflagged(scope)} UNION {_repeated(scope)}"


def inconsistency_hits_sql(scope: Scope) -> str:
    """Return the query of the hits of migration_inconsistency: user, record."""
    return f"{_inconsistent(scope)} ORDER BY 1"
