"""Sums over a run's records and ledger entries, read from the rows themselves: the other side of its batches' figures.

Each function is one pass of the database over its rows, grouped there, with exact sums: at a million users it is the
passes that take time.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

from django.db.backends.base.base import BaseDatabaseWrapper

from mana_migration.domain.report import RecordSum, SizeClass, UserDetail
from mana_migration.engine import dialect
from mana_migration.models import MigrationRun
from mana_migration.selectors.details import TABLE, columns, records_of
from mana_migration.states import UserStatus

#: Conversions of 10**DIGITS mana and more are one class.
DIGITS: Final = 9

_MONEY: Final = ("green", "blue", "red", "mana_before", "mana_credited", "mana_debited", "shortfall")

#: The position of the mana credited, after the number of users.
_CREDITED: Final = 1 + _MONEY.index("mana_credited")


class RecordFigures(NamedTuple):
    """What the records of a run come to: by run, outcome and rollback; its conversions by the digits of their mana,
    from the first class in use to the last; and how many records have a shortfall.
    """

    sums: list[RecordSum]
    sizes: list[SizeClass]
    shortfalls: int


def record_sums(connection: BaseDatabaseWrapper, run: MigrationRun, since: datetime | None = None) -> RecordFigures:
    """Sum up the records that a run is about, in one pass; ``since``: of the users handled or reversed from then on."""
    return sums_where(connection, *records_of(run, connection.alias, since))


def sums_where(connection: BaseDatabaseWrapper, condition: str, parameters: Sequence[Any]) -> RecordFigures:
    """Sum up the records of a condition, in one pass."""
    sums = ", ".join(dialect.exact_sum(connection.vendor, column) for column in _MONEY)
    cases = " ".join(f"WHEN mana_credited < {10**digits} THEN {digits}" for digits in range(1, DIGITS + 1))
    digits = f"CASE WHEN mana_credited = 0 THEN 0 {cases} ELSE {DIGITS + 1} END"
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT run_id, status, reversal_run_id, {digits} AS digits, COUNT(*), "
            f"COUNT(*) FILTER (WHERE shortfall > 0), {sums} FROM {TABLE} WHERE {condition} "
            "GROUP BY run_id, status, reversal_run_id, digits ORDER BY run_id, status, reversal_run_id, digits",
            parameters,
        )
        rows = cursor.fetchall()
    found: dict[tuple[int, str, int | None], list[int]] = {}
    sizes: dict[int, list[int]] = {}
    lacking = 0
    for run_id, status, reversal, size, users, short, *parts in rows:
        figures = [users, *_combined(connection.vendor, parts)]
        _add(found, (run_id, status, reversal), figures)
        if status in (UserStatus.MIGRATED, UserStatus.ROLLED_BACK):
            _add(sizes, size, [users, figures[_CREDITED]])
        lacking += short
    return RecordFigures([RecordSum(*key, *figures) for key, figures in found.items()], _size_classes(sizes), lacking)


def _add(found: dict[Any, list[int]], key: Any, figures: list[int]) -> None:
    before = found.get(key)
    found[key] = figures if before is None else [one + other for one, other in zip(before, figures, strict=True)]


def _size_classes(found: dict[int, list[int]]) -> list[SizeClass]:
    if not found:
        return []
    return [_size_class(place, *found.get(place, (0, 0))) for place in range(min(found), max(found) + 1)]


def ledger_sums(connection: BaseDatabaseWrapper, run_id: int) -> tuple[int, int]:
    """Return what the ledger says a migration run credited, and what rollbacks debited of it since; in one pass."""
    vendor = connection.vendor
    credited, debited = (_of_kind(vendor, kind, run_id) for kind in ("conversion", "reversal"))
    sums = (dialect.exact_sum(vendor, f"CASE WHEN {kind} THEN amount ELSE 0 END") for kind in (credited, debited))
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {', '.join(sums)} FROM wishes_manaentry WHERE {credited} OR {debited}")
        first, second = _combined(vendor, cursor.fetchone())
    return first, -second


def _of_kind(vendor: str, kind: str, run_id: int) -> str:
    """Return the condition that an entry is of a kind and names the run; ``run_id`` is a number of ours, no text."""
    # ';' follows ':' in ASCII; PostgreSQL finds LIKE in the index that Django makes for it, whatever the collation
    prefix = f"{kind}:{run_id:d}:"
    if vendor == "postgresql":
        return f"reference LIKE '{prefix}%'"
    return f"(reference >= '{prefix}' AND reference < '{prefix[:-1]};')"


def largest_shortfalls(connection: BaseDatabaseWrapper, run: MigrationRun, limit: int) -> list[UserDetail]:
    """Return those of a run's records with the largest shortfalls."""
    condition, parameters = records_of(run, connection.alias)
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT {columns(connection.vendor)} FROM {TABLE} "
            f"WHERE {condition} AND shortfall > 0 ORDER BY shortfall DESC, id LIMIT %s",
            [*parameters, limit],
        )
        return [UserDetail._make(row) for row in cursor.fetchall()]


def _combined(vendor: str, money: Sequence[Any]) -> list[int]:
    return [dialect.combine(vendor, *pair) for pair in zip(money[::2], money[1::2], strict=True)]


def _size_class(digits: int, users: int, mana: int) -> SizeClass:
    if digits == 0:
        return SizeClass(0, 0, users, mana)
    return SizeClass(10 ** (digits - 1), 10**digits - 1 if digits <= DIGITS else None, users, mana)
