"""The one way a conversion is taken back, for one user and for ten thousand.

Every function must be called inside a transaction that its caller owns.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any, Final

from django.db.backends.base.base import BaseDatabaseWrapper

from mana_migration.domain.results import Totals
from mana_migration.engine import dialect, users
from mana_migration.engine.planning import Slice, keys_between, slices
from wishes import guards, posting

#: Why a conversion is not taken back, with the sentence kept on the record of the rollback.
PROBLEMS: Final = {
    "shortfall": "part of the mana was already spent; use --on-shortfall write-off to restore the wishes all the same",
    "opening_balance": "the old system had converted this user; there is no conversion of ours to take back",
}


@dataclass(frozen=True, slots=True)
class ReversalTerms:
    """What is frozen on a rollback run and the same for each of its batches.

    ``target_run`` limits it to one run, ``since`` and ``until`` to conversions in [since, until).
    ``named``: the users were named one by one, so that each is answered for, also those whom the old
    system had converted.
    """

    run: int
    write_off: bool = False
    preserve_logs: bool = True
    target_run: int | None = None
    since: datetime | None = None
    until: datetime | None = None
    named: bool = False


_COLUMNS: Final = ("record_id", "origin", "user_id", "green", "blue", "red", "mana", "credited", "debit", "problem")


def _selection(terms: ReversalTerms) -> tuple[str, list[Any]]:
    """Return the condition of live records ``w`` that are still to be taken back, and its parameters."""
    conditions = [
        "w.status = 'migrated'",
        "NOT EXISTS (SELECT 1 FROM mana_migration_usermigration r WHERE r.user_id = w.user_id AND r.run_id = %s)",
    ]
    parameters: list[Any] = [terms.run]
    if not terms.named:
        # users whom the old system had converted are none of a mass rollback's business
        conditions.append("w.run_id NOT IN (SELECT i.id FROM mana_migration_migrationrun i WHERE i.kind = 'import')")
    if terms.target_run is not None:
        conditions.append("w.run_id = %s")
        parameters.append(terms.target_run)
    for column, bound in (("w.created_at >= %s", terms.since), ("w.created_at < %s", terms.until)):
        if bound is not None:
            conditions.append(column)
            parameters.append(bound)
    return " AND ".join(conditions), parameters


def _parameters(connection: BaseDatabaseWrapper, values: list[Any]) -> list[Any]:
    return [
        connection.ops.adapt_datetimefield_value(value) if isinstance(value, datetime) else value for value in values
    ]


def source_sql(vendor: str, terms: ReversalTerms, *, locked: bool) -> tuple[str, list[Any]]:
    """Return the SELECT of what a rollback would do to live records from one key to another, and its parameters.

    Columns are those of ``picked``; the first two placeholders are the keys.  With ``locked`` the
    wallets are locked in key order.
    """
    condition, parameters = _selection(terms)
    lock = dialect.lock(vendor, "b") if locked else ""
    short = "WHEN l.mana < l.mana_credited THEN 'shortfall' " if not terms.write_off else ""
    return (
        "SELECT l.id AS record_id, l.run_id AS origin, l.user_id, l.green, l.blue, l.red, l.mana, "
        "l.mana_credited AS credited, CASE WHEN l.mana < l.mana_credited THEN l.mana ELSE l.mana_credited END AS debit, "
        f"CASE WHEN l.kind = 'import' THEN 'opening_balance' {short}ELSE '' END AS problem FROM ("
        "SELECT w.id, w.run_id, w.user_id, w.green, w.blue, w.red, w.mana_credited, b.mana, o.kind "
        "FROM mana_migration_usermigration w JOIN wishes_wallet b ON b.user_id = w.user_id "
        "JOIN mana_migration_migrationrun o ON o.id = w.run_id "
        f"WHERE w.user_id BETWEEN %s AND %s AND b.migrated_at IS NOT NULL AND {condition} "
        f"ORDER BY w.user_id {lock}) l",
        parameters,
    )


@lru_cache(maxsize=32)
def _statement(vendor: str, terms: ReversalTerms) -> dialect.SetStatement:
    now = dialect.now(vendor)
    source, _ = source_sql(vendor, terms, locked=True)
    messages = " ".join(f"WHEN '{name}' THEN '{text}'" for name, text in PROBLEMS.items())
    left_out = (
        "INSERT INTO mana_migration_usermigration (user_id, run_id, batch_id, status, green, blue, red, mana_before, "
        "mana_credited, error_class, error_message, shortfall, created_at) "
        "SELECT user_id, %s, %s, 'skipped', 0, 0, 0, mana, 0, problem, "
        f"CASE problem {messages} ELSE '' END, CASE WHEN problem = 'shortfall' THEN credited - mana END, {now} "
        "FROM picked WHERE problem <> '' ORDER BY user_id"
    )
    if terms.preserve_logs:
        records = (
            f"UPDATE mana_migration_usermigration SET status = 'rolled_back', reversal_run_id = %s, reversed_at = {now}, "
            "mana_debited = picked.debit, shortfall = picked.credited - picked.debit FROM picked "
            "WHERE mana_migration_usermigration.id = picked.record_id AND picked.problem = ''"
        )
    else:
        records = (
            "DELETE FROM mana_migration_usermigration WHERE id IN (SELECT record_id FROM picked WHERE problem = '')"
        )
    reference = f"'reversal:' || origin || ':' || {users.key_sql(vendor, 'user_id')}"
    sums = ", ".join(
        dialect.exact_sum(vendor, column) for column in ("green", "blue", "red", "debit", "credited - debit")
    )
    return dialect.SetStatement(
        vendor=vendor,
        columns=_COLUMNS,
        source=source,
        writes=[
            left_out,
            records,
            posting.insert_reversal_entries(reference, now),
            posting.update_reversed_wallets(now),
        ],
        result=f"SELECT problem, COUNT(*), {sums} FROM picked GROUP BY problem",
    )


def reverse(connection: BaseDatabaseWrapper, terms: ReversalTerms, *, batch: int, first: str, last: str) -> Totals:
    """Take back every selected conversion of the users from ``first`` to ``last`` (keys as text, both included).

    Locks the wallets in key order.  Debits exactly what was credited, or what is there where the
    terms write the rest off; adds the recorded wishes; clears the flag.

    Raises:
        django.db.Error: the database refused; the caller's transaction must be rolled back.
    """
    vendor = connection.vendor
    _, parameters = _selection(terms)
    with guards.announce_reversal(connection), connection.cursor() as cursor:
        rows = _statement(vendor, terms).run(
            cursor,
            source=[
                users.to_sql(connection, first),
                users.to_sql(connection, last),
                *_parameters(connection, parameters),
            ],
            writes=[[terms.run, batch], [terms.run] if terms.preserve_logs else [], [], []],
        )
    return totals_of(vendor, rows)


def totals_of(vendor: str, rows: list[tuple[Any, ...]]) -> Totals:
    """Return the totals of rows (problem, users, exact sums of green, blue, red, debit and shortfall)."""
    totals = Totals()
    for problem, count, *sums in rows:
        totals.selected += count
        if problem:
            totals.skipped += count
            totals.skips[problem] += count
            continue
        totals.rolled_back += count
        figures = (dialect.combine(vendor, *pair) for pair in zip(sums[::2], sums[1::2], strict=True))
        for name, value in zip(("green", "blue", "red", "mana", "shortfall"), figures, strict=True):
            setattr(totals, name, getattr(totals, name) + value)
    return totals


def forecast(connection: BaseDatabaseWrapper, terms: ReversalTerms, *, keys: tuple[str, str] | None = None) -> Totals:
    """Return what a rollback on these terms would do now, without locking or writing anything.

    ``keys`` limits it to users from one key to another (as text, both included).
    """
    vendor = connection.vendor
    source, parameters = source_sql(vendor, terms, locked=False)
    values = _parameters(connection, parameters)
    if keys is None:
        source = source.replace("w.user_id BETWEEN %s AND %s AND ", "")
    else:
        values = [users.to_sql(connection, keys[0]), users.to_sql(connection, keys[1]), *values]
    sums = ", ".join(
        dialect.exact_sum(vendor, column) for column in ("green", "blue", "red", "debit", "credited - debit")
    )
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT problem, COUNT(*), {sums} FROM ({source}) picked GROUP BY problem", values)
        return totals_of(vendor, list(cursor.fetchall()))


def shortfalls(
    connection: BaseDatabaseWrapper,
    terms: ReversalTerms,
    *,
    limit: int,
    keys: tuple[str, str] | None = None,
) -> list[tuple[int, int, int]]:
    """Return (record id, mana credited, mana lacking) of the largest shortfalls that a rollback would meet now."""
    vendor = connection.vendor
    source, parameters = source_sql(vendor, terms, locked=False)
    values = _parameters(connection, parameters)
    if keys is None:
        source = source.replace("w.user_id BETWEEN %s AND %s AND ", "")
    else:
        values = [users.to_sql(connection, keys[0]), users.to_sql(connection, keys[1]), *values]
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT record_id, credited, credited - mana FROM ({source}) picked "
            "WHERE credited > mana AND problem <> 'opening_balance' ORDER BY credited - mana DESC, record_id LIMIT %s",
            [*values, limit],
        )
        return [(int(record), int(credited), int(lacking)) for record, credited, lacking in cursor.fetchall()]


def plan_rollback(
    connection: BaseDatabaseWrapper, terms: ReversalTerms, *, after: str, size: int, limit: int
) -> list[Slice]:
    """Cut the next users whose conversions are still to be taken back."""
    condition, parameters = _selection(terms)
    return slices(
        connection,
        relation="mana_migration_usermigration w",
        condition=condition,
        parameters=_parameters(connection, parameters),
        after=after,
        size=size,
        limit=limit,
    )


def rollback_keys(connection: BaseDatabaseWrapper, terms: ReversalTerms, *, first: str, last: str) -> list[str]:
    """Return the keys of a range whose conversions are still to be taken back."""
    condition, parameters = _selection(terms)
    return keys_between(
        connection,
        relation="mana_migration_usermigration w",
        condition=condition,
        parameters=_parameters(connection, parameters),
        first=first,
        last=last,
    )
