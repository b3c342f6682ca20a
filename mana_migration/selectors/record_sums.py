"""Sums over a run's records and ledger entries, read from the rows themselves: the other side of its batches' figures.

Each function is one pass of the database over its rows, grouped there, with exact sums.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from django.db.backends.base.base import BaseDatabaseWrapper

from mana_migration.domain.report import RecordSum, SizeClass, UserDetail
from mana_migration.engine import dialect
from mana_migration.models import MigrationRun
from mana_migration.selectors.details import COLUMNS, TABLE, records_of

#: Conversions of 10**DIGITS mana and more are one class.
DIGITS: Final = 9

_MONEY: Final = ("green", "blue", "red", "mana_before", "mana_credited", "mana_debited", "shortfall")


def record_sums(connection: BaseDatabaseWrapper, run: MigrationRun) -> list[RecordSum]:
    """Return the sums of the records that a run is about, by run, outcome and rollback."""
    condition, parameters = records_of(run)
    sums = ", ".join(dialect.exact_sum(connection.vendor, f"COALESCE({column}, 0)") for column in _MONEY)
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT run_id, status, reversal_run_id, COUNT(*), {sums} FROM {TABLE} WHERE {condition} "
            "GROUP BY run_id, status, reversal_run_id ORDER BY run_id, status, reversal_run_id",
            parameters,
        )
        rows = cursor.fetchall()
    return [
        RecordSum(run_id, status, reversal, users, *_combined(connection.vendor, money))
        for run_id, status, reversal, users, *money in rows
    ]


def size_classes(connection: BaseDatabaseWrapper, run: MigrationRun) -> list[SizeClass]:
    """Return a run's conversions by the number of digits of their mana, from the first class in use to the last."""
    condition, parameters = records_of(run)
    cases = " ".join(f"WHEN mana_credited < {10**digits} THEN {digits}" for digits in range(1, DIGITS + 1))
    digits = f"CASE WHEN mana_credited = 0 THEN 0 {cases} ELSE {DIGITS + 1} END"
    total = dialect.exact_sum(connection.vendor, "mana_credited")
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT {digits}, COUNT(*), {total} FROM {TABLE} WHERE {condition} "
            "AND status IN ('migrated', 'rolled_back') GROUP BY 1",
            parameters,
        )
        found = {row[0]: (row[1], dialect.combine(connection.vendor, *row[2:])) for row in cursor.fetchall()}
    if not found:
        return []
    return [_size_class(place, *found.get(place, (0, 0))) for place in range(min(found), max(found) + 1)]


def ledger_sums(connection: BaseDatabaseWrapper, run_id: int) -> tuple[int, int]:
    """Return what the ledger says a migration run credited, and what rollbacks debited of it since."""
    return _ledger_sum(connection, "conversion", run_id), -_ledger_sum(connection, "reversal", run_id)


def largest_shortfalls(connection: BaseDatabaseWrapper, run: MigrationRun, limit: int) -> tuple[int, list[UserDetail]]:
    """Return how many of a run's records have a shortfall, and the largest ones."""
    condition, parameters = records_of(run)
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT COUNT(*) FROM {TABLE} WHERE {condition} AND shortfall > 0", parameters)
        (users,) = cursor.fetchone()
        cursor.execute(
            f"SELECT {COLUMNS} FROM {TABLE} WHERE {condition} AND shortfall > 0 ORDER BY shortfall DESC, id LIMIT %s",
            [*parameters, limit],
        )
        return int(users), [UserDetail._make(row) for row in cursor.fetchall()]


def _ledger_sum(connection: BaseDatabaseWrapper, kind: str, run_id: int) -> int:
    # ';' follows ':' in ASCII; PostgreSQL finds LIKE in the index that Django makes for it, whatever the collation
    prefix = f"{kind}:{run_id}:"
    if connection.vendor == "postgresql":
        condition, parameters = "reference LIKE %s", [f"{prefix}%"]
    else:
        condition, parameters = "reference >= %s AND reference < %s", [prefix, f"{prefix[:-1]};"]
    total = dialect.exact_sum(connection.vendor, "amount")
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {total} FROM wishes_manaentry WHERE {condition}", parameters)
        return dialect.combine(connection.vendor, *cursor.fetchone())


def _combined(vendor: str, money: Sequence[Any]) -> list[int]:
    return [dialect.combine(vendor, *pair) for pair in zip(money[::2], money[1::2], strict=True)]


def _size_class(digits: int, users: int, mana: int) -> SizeClass:
    if digits == 0:
        return SizeClass(0, 0, users, mana)
    return SizeClass(10 ** (digits - 1), 10**digits - 1 if digits <= DIGITS else None, users, mana)
