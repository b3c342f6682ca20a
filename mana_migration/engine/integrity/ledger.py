"""The checks that hold the ledger against wallets and records."""

from __future__ import annotations

from typing import Final

from django.db.backends.base.base import BaseDatabaseWrapper

from mana_migration.engine import users
from mana_migration.engine.integrity.scope import Scope, rows
from wishes.sql import block

#: Records that stand for a conversion that took place.
CONVERTED: Final = "r.status IN ('migrated', 'rolled_back')"

#: Whether some rollback has deleted its records, with --no-preserve-logs.
FORGETFUL: Final = {
    "postgresql": "o.options->>'preserve_logs' = 'false'",
    "sqlite": "json_extract(o.options, '$.preserve_logs') = 0",
}


def _sum_differs(vendor: str) -> str:
    """Return a condition over the grouped rows of ``_balances`` that the entries do not add up to the mana."""
    if vendor == "postgresql":
        return "x.total <> x.mana"
    # exact although SQLite's SUM ends at 64 bits: the upper and the lower half of the sum apart
    return "(x.upper + (x.lower >> 32) <> (x.mana >> 32) OR (x.lower & 4294967295) <> (x.mana & 4294967295))"


#: The repair by the ledger of a fix, which confirms a user's entries up to the one that was the newest then.
_CONFIRMED: Final = {
    "postgresql": "CAST(f.before->>'newest_entry' AS bigint)",
    "sqlite": "json_extract(f.before, '$.newest_entry')",
}


def broken_entries_sql(vendor: str, scope: Scope) -> str:
    """Return the query of entries whose balance does not follow from the one before: user, entry, balance, expected.

    Left out is what corrects a balance that did not follow: the first entry of a fix, and all that was there when a
    repair by the ledger confirmed their sum.
    """
    exact = "::numeric" if vendor == "postgresql" else ""
    return block(
        """
        SELECT x.user_id, x.id, x.balance_after, x.before{exact} + x.amount AS expected
        FROM (
            SELECT e.user_id, e.id, e.amount, e.balance_after,
                   COALESCE(LAG(e.balance_after) OVER (PARTITION BY e.user_id ORDER BY e.id), 0) AS before
            FROM wishes_manaentry e
            WHERE {people}
        ) x
        WHERE x.balance_after{exact} - x.before <> x.amount
          AND NOT EXISTS (
              SELECT 1 FROM mana_migration_integrityfix f
              WHERE f.user_id = x.user_id
                AND (
                    (f.check_id = 'ledger_mismatch' AND {confirmed} >= x.id)
                    OR (SELECT a.reference FROM wishes_manaentry a WHERE a.id = x.id)
                        = 'adjustment:fix:' || f.id || ':found'
                )
          )
        """,
        exact=exact,
        people=scope.sql("e.user_id"),
        confirmed=_CONFIRMED[vendor],
    )


def _balances(vendor: str, scope: Scope, *, unmigrated_only: bool) -> str:
    """Return a query with one row a wallet: what its entries say beside what it holds.

    ``agreeing`` is the newest entry whose balance is the wallet's mana: the newest of all where the two agree.
    """
    if vendor == "postgresql":
        total = "COALESCE(SUM(e.amount), 0) AS total"
    else:
        total = "COALESCE(SUM(e.amount >> 32), 0) AS upper, COALESCE(SUM(e.amount & 4294967295), 0) AS lower"
    only = "w.migrated_at IS NULL AND " if unmigrated_only else ""
    return (
        f"SELECT w.user_id, w.migrated_at, w.mana, {total}, COUNT(e.id) AS entries, MAX(e.id) AS newest, "
        "MAX(e.id) FILTER (WHERE e.balance_after = w.mana) AS agreeing "
        "FROM wishes_wallet w LEFT JOIN wishes_manaentry e ON e.user_id = w.user_id "
        f"WHERE {only}{scope.sql('w.user_id')} GROUP BY w.user_id"
    )


def _orphaned(vendor: str) -> str:
    return f"x.migrated_at IS NULL AND {_sum_differs(vendor)}"


def _mismatched(vendor: str, scope: Scope) -> str:
    # An unmigrated wallet whose sum differs is orphaned mana, and counted there.
    broken = f"SELECT y.user_id FROM ({broken_entries_sql(vendor, scope)}) y"
    return (
        f"((x.migrated_at IS NOT NULL AND {_sum_differs(vendor)}) "
        f"OR (x.entries > 0 AND (COALESCE(x.agreeing, -1) <> x.newest OR x.user_id IN ({broken})) "
        f"AND NOT ({_orphaned(vendor)})))"
    )


def count_balances(
    connection: BaseDatabaseWrapper, scope: Scope, *, unmigrated_only: bool, entries: int | None = None
) -> dict[str, int]:
    """Count orphaned_mana and, unless only unmigrated wallets are looked at, ledger_mismatch; in one pass.

    Users with entries and without a wallet count as well: among those named, or among all in a range of keys, where
    ``entries``, how many those have, are more than those with a wallet have.
    """
    vendor = connection.vendor
    joined = "COALESCE(SUM(x.entries), 0)"
    mismatched = "1 = 0" if unmigrated_only else _mismatched(vendor, scope)
    (row,) = rows(
        connection,
        f"SELECT COUNT(*) FILTER (WHERE {_orphaned(vendor)}), COUNT(*) FILTER (WHERE {mismatched}), {joined} "
        f"FROM ({_balances(vendor, scope, unmigrated_only=unmigrated_only)}) x",
        scope,
    )
    orphaned, found, seen = map(int, row)
    if unmigrated_only:
        return {"orphaned_mana": orphaned}
    if scope.users or (scope.run is None and entries not in (None, seen)):
        found += _count(connection, _strays(scope), scope)
    return {"orphaned_mana": orphaned, "ledger_mismatch": found}


def _strays(scope: Scope) -> str:
    return (
        "SELECT e.user_id FROM wishes_manaentry e WHERE NOT EXISTS "
        f"(SELECT 1 FROM wishes_wallet w WHERE w.user_id = e.user_id) AND {scope.sql('e.user_id')} GROUP BY e.user_id"
    )


def balance_hits_sql(check: str, vendor: str, scope: Scope) -> str:
    """Return the query of the hits of orphaned_mana or ledger_mismatch: user, mana, newest balance.

    The sum of the entries follows in the two columns of ``dialect.exact_sum``.
    """
    condition = _orphaned(vendor) if check == "orphaned_mana" else _mismatched(vendor, scope)
    total = "x.total, 0" if vendor == "postgresql" else "x.upper, x.lower"
    balance = "(SELECT b.balance_after FROM wishes_manaentry b WHERE b.id = x.newest)"
    balances = _balances(vendor, scope, unmigrated_only=check == "orphaned_mana")
    found = f"SELECT x.user_id, x.mana, {balance}, {total} FROM ({balances}) x WHERE {condition}"
    if check == "ledger_mismatch":
        found += f" UNION ALL SELECT y.user_id, NULL, NULL, NULL, NULL FROM ({_strays(scope)}) y"
    return f"{found} ORDER BY 1"


# --- Records and their entries ----------------------------------------------------------------------------------------


def entry_of_record(vendor: str, kind: str, alias: str, *, by_reference: bool = False) -> str:
    """Return the LEFT JOIN of record ``r`` with its own entry of a kind.

    Joined by user: the references are compared only within a user, as a filter, because hashing or sorting texts made
    of numbers costs twice as much as all the rest.  ``by_reference``: users have entries of many runs, each of which
    would be compared with each record.
    """
    same = "=" if by_reference else "IS NOT DISTINCT FROM" if vendor == "postgresql" else "IS"
    reference = f"'{kind}:' || r.run_id || ':' || {users.key_sql(vendor, 'r.user_id')}"
    return (
        f"LEFT JOIN wishes_manaentry {alias} ON {alias}.user_id = r.user_id AND {alias}.kind = '{kind}' "
        f"AND {alias}.reference {same} ({reference})"
    )


def _record_of_entry(vendor: str, kind: str, condition: str) -> str:
    """Return a condition that entry ``e`` of this kind has its record, which also meets a condition on ``r``."""
    key = users.key_sql(vendor, "r.user_id")
    return (
        "EXISTS (SELECT 1 FROM mana_migration_usermigration r WHERE r.user_id = e.user_id "
        f"AND e.reference = '{kind}:' || r.run_id || ':' || {key} AND {condition})"
    )


#: Records that have an entry of a kind, and its amount.
_HAS_ENTRY: Final = {
    "conversion": (f"{CONVERTED} AND r.mana_credited <> 0", "r.mana_credited"),
    "reversal": ("r.status = 'rolled_back' AND COALESCE(r.mana_debited, 0) <> 0", "-r.mana_debited"),
}


def _deleted(vendor: str, kind: str) -> str:
    """Return a condition that entry ``e`` lacks its record because a rollback has deleted that (--no-preserve-logs).

    The pair of entries stays.  A conversion whose mana was spent entirely has no reversal, but its wallet is unmigrated
    or migrated anew; what was written off with it is left to value_not_conserved.
    """
    if vendor == "postgresql":
        run = f"CAST(substring(e.reference FROM '^{kind}:([0-9]{{1,18}}):') AS bigint)"
    else:
        run = f"CAST(substr(e.reference, {len(kind) + 2}) AS integer)"
    unrecorded = (
        f"EXISTS (SELECT 1 FROM mana_migration_migrationrun o WHERE o.id = {run} AND o.kind = 'migration') "
        "AND NOT EXISTS (SELECT 1 FROM mana_migration_usermigration d "
        f"WHERE d.user_id = e.user_id AND d.run_id = {run})"
    )
    if kind == "conversion":
        return (
            f"{unrecorded} AND (EXISTS (SELECT 1 FROM wishes_manaentry c WHERE c.user_id = e.user_id "
            "AND c.kind = 'reversal' AND c.reference = 'reversal' || substr(e.reference, 11)) "
            "OR EXISTS (SELECT 1 FROM wishes_wallet w WHERE w.user_id = e.user_id AND w.migrated_at IS NULL) "
            "OR EXISTS (SELECT 1 FROM mana_migration_usermigration l "
            "WHERE l.user_id = e.user_id AND l.status = 'migrated'))"
        )
    return (
        f"{unrecorded} AND EXISTS (SELECT 1 FROM wishes_manaentry c WHERE c.user_id = e.user_id "
        "AND c.kind = 'conversion' AND c.reference = 'conversion' || substr(e.reference, 9) "
        "AND c.amount >= -e.amount AND c.id < e.id)"
    )


def missing_entry_sql(vendor: str, scope: Scope, *, forgetful: bool) -> str:
    """Return the query of the hits of missing_entry: user, record, reference, amount recorded, amount booked.

    ``forgetful``: some rollback has deleted its records (--no-preserve-logs), which explains entries without one.
    """
    people = scope.people()
    run = "" if scope.run is None else " AND (r.run_id = %(run)s OR r.reversal_run_id = %(run)s)"
    of_run = "" if scope.run is None else " AND e.reference LIKE 'conversion:' || CAST(%(run)s AS text) || ':%%'"
    key = users.key_sql(vendor, "r.user_id")
    parts = []
    for kind, (condition, amount) in _HAS_ENTRY.items():
        parts.append(
            f"SELECT r.user_id, r.id AS record_id, '{kind}:' || r.run_id || ':' || {key} AS reference, "
            f"{amount} AS amount, e.amount AS booked FROM mana_migration_usermigration r "
            f"{entry_of_record(vendor, kind, 'e')} WHERE {condition}{run} AND {people.sql('r.user_id')} "
            f"AND (e.id IS NULL OR e.amount <> {amount})"
        )
        deleted = f" AND NOT ({_deleted(vendor, kind)})" if forgetful else ""
        parts.append(
            "SELECT e.user_id, NULL, e.reference, NULL, e.amount FROM wishes_manaentry e "
            f"WHERE e.kind = '{kind}' AND {people.sql('e.user_id')}{of_run} "
            f"AND NOT {_record_of_entry(vendor, kind, condition)}{deleted}"
        )
    if scope.run is None:
        parts += [_openings(vendor, people), _corrections(people), _shortfalls(vendor, people, forgetful=forgetful)]
    return " UNION ALL ".join(parts)


def _openings(vendor: str, people: Scope) -> str:
    """Return the part of the query for opening balances that no import has recorded."""
    return (
        "SELECT e.user_id, NULL AS record_id, e.reference, NULL AS amount, e.amount AS booked FROM wishes_manaentry e "
        f"WHERE e.kind = 'opening' AND {people.sql('e.user_id')} "
        f"AND (e.reference <> 'opening:' || {users.key_sql(vendor, 'e.user_id')} OR NOT EXISTS "
        "(SELECT 1 FROM mana_migration_usermigration r JOIN mana_migration_migrationrun o ON o.id = r.run_id "
        "WHERE r.user_id = e.user_id AND o.kind = 'import'))"
    )


def _corrections(people: Scope) -> str:
    """Return the part of the query for entries of fixes that are not recorded."""
    return " UNION ALL ".join(
        f"SELECT e.user_id, NULL AS record_id, e.reference, NULL AS amount, e.amount AS booked FROM {table} e "
        f"WHERE e.kind = 'adjustment' AND e.reference LIKE 'adjustment:fix:%%' AND {people.sql('e.user_id')} "
        "AND NOT EXISTS (SELECT 1 FROM mana_migration_integrityfix f WHERE f.user_id = e.user_id "
        "AND e.reference LIKE 'adjustment:fix:' || f.id || ':%%')"
        for table in ("wishes_manaentry", "wishes_wishentry")
    )


def _shortfalls(vendor: str, people: Scope, *, forgetful: bool) -> str:
    """Return the part of the query for written-off shortfalls without both entries, and for such entries without one.

    Rollbacks of earlier versions did not book them.  ``forgetful``: see ``missing_entry_sql``.
    """
    booked = "o.baseline->>'shortfalls'" if vendor == "postgresql" else "json_extract(o.baseline, '$.shortfalls')"
    base = f"'adjustment:shortfall:' || r.run_id || ':' || {users.key_sql(vendor, 'r.user_id')}"
    of_record = f"(e.reference = {base} || ':written_off' OR e.reference = {base} || ':debited')"
    written_off = "r.status = 'rolled_back' AND r.shortfall > 0"
    same = f"SELECT 1 FROM mana_migration_usermigration r WHERE r.user_id = e.user_id AND {of_record}"
    deleted = f" AND EXISTS ({same})" if forgetful else ""
    return (
        f"SELECT r.user_id, r.id AS record_id, {base} AS reference, r.shortfall AS amount, NULL AS booked "
        "FROM mana_migration_usermigration r JOIN mana_migration_migrationrun o ON o.id = r.reversal_run_id "
        f"WHERE {written_off} AND {booked} = 'booked' AND {people.sql('r.user_id')} "
        "AND (SELECT COUNT(*) FROM wishes_manaentry e WHERE e.user_id = r.user_id AND e.kind = 'adjustment' "
        f"AND {of_record} AND (e.amount = r.shortfall OR e.amount = -r.shortfall)) <> 2 "
        "UNION ALL SELECT e.user_id, NULL, e.reference, NULL, e.amount FROM wishes_manaentry e "
        "WHERE e.kind = 'adjustment' AND e.reference LIKE 'adjustment:shortfall:%%' "
        f"AND {people.sql('e.user_id')}{deleted} "
        f"AND NOT EXISTS ({same} AND {written_off} AND (e.amount = r.shortfall OR e.amount = -r.shortfall))"
    )


def count_missing_entries(connection: BaseDatabaseWrapper, scope: Scope, *, forgetful: bool) -> int:
    """Count missing_entry by looking at each record and entry."""
    sql = missing_entry_sql(connection.vendor, scope, forgetful=forgetful)
    return _count(connection, sql, scope)


def count_conversions(connection: BaseDatabaseWrapper, scope: Scope) -> int:
    """Count the ledger's conversions of the run of a scope, which they name in their reference."""
    sql = (
        "SELECT 1 FROM wishes_manaentry e WHERE e.kind = 'conversion' AND e.reference LIKE %(pattern)s "
        f"AND {scope.people().sql('e.user_id')}"
    )
    return _count(connection, sql, scope, pattern=f"conversion:{scope.run}:%")


def count_unrecorded(connection: BaseDatabaseWrapper, scope: Scope, *, openings: bool) -> int:
    """Count entries of fixes that are not recorded and, if asked to, opening balances that no import has recorded."""
    sql = _corrections(scope)
    return _count(connection, f"{sql} UNION ALL {_openings(connection.vendor, scope)}" if openings else sql, scope)


def _count(connection: BaseDatabaseWrapper, sql: str, scope: Scope, **parameters: str) -> int:
    ((number,),) = rows(connection, f"SELECT COUNT(*) FROM ({sql}) x", scope, **parameters)
    return int(number)


def is_forgetful(connection: BaseDatabaseWrapper) -> bool:
    """Say whether some rollback has deleted its records."""
    condition = FORGETFUL[connection.vendor]
    found = rows(
        connection,
        f"SELECT 1 FROM mana_migration_migrationrun o WHERE o.kind = 'rollback' AND {condition} LIMIT 1",
        Scope(),
    )
    return bool(found)


def negative_balances_sql(vendor: str, scope: Scope) -> str:
    """Return the query of entries that left a negative balance, unless a repair confirmed them: user, balance."""
    return (
        "SELECT e.user_id, e.balance_after FROM wishes_manaentry e "
        f"WHERE e.balance_after < 0 AND {scope.sql('e.user_id')} "
        "AND NOT EXISTS (SELECT 1 FROM mana_migration_integrityfix f WHERE f.user_id = e.user_id "
        f"AND f.check_id = 'ledger_mismatch' AND {_CONFIRMED[vendor]} >= e.id) ORDER BY e.user_id, e.id"
    )


def count_negative_balances(connection: BaseDatabaseWrapper, scope: Scope) -> int:
    """Count entries that left a negative balance."""
    return _count(connection, negative_balances_sql(connection.vendor, scope), scope)
