"""The checks that hold the ledger against wallets and records."""

from __future__ import annotations

from typing import Final

from django.db.backends.base.base import BaseDatabaseWrapper

from mana_migration.engine import dialect, users
from mana_migration.engine.integrity.scope import Scope, rows

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


def _mismatched(vendor: str) -> str:
    # An unmigrated wallet whose sum differs is orphaned mana, and counted there.
    return (
        f"((x.migrated_at IS NOT NULL AND {_sum_differs(vendor)}) "
        f"OR (x.entries > 0 AND COALESCE(x.agreeing, -1) <> x.newest AND NOT ({_orphaned(vendor)})))"
    )


def count_balances(connection: BaseDatabaseWrapper, scope: Scope, *, unmigrated_only: bool) -> dict[str, int]:
    """Count orphaned_mana and, unless only unmigrated wallets are looked at, ledger_mismatch; in one pass."""
    vendor = connection.vendor
    joined = "COALESCE(SUM(x.entries), 0)"
    (row,) = rows(
        connection,
        f"SELECT COUNT(*) FILTER (WHERE {_orphaned(vendor)}), COUNT(*) FILTER (WHERE {_mismatched(vendor)}), {joined} "
        f"FROM ({_balances(vendor, scope, unmigrated_only=unmigrated_only)}) x",
        scope,
    )
    orphaned, mismatched, entries = map(int, row)
    if unmigrated_only:
        return {"orphaned_mana": orphaned}
    if scope.everybody:
        ((everything,),) = rows(connection, "SELECT COUNT(*) FROM wishes_manaentry", scope)
        if int(everything) != entries:  # entries of users who have no wallet
            ((strays,),) = rows(connection, f"SELECT COUNT(*) FROM ({_strays(scope)}) y", scope)
            mismatched += int(strays)
    return {"orphaned_mana": orphaned, "ledger_mismatch": mismatched}


def _strays(scope: Scope) -> str:
    return (
        "SELECT e.user_id FROM wishes_manaentry e WHERE NOT EXISTS "
        f"(SELECT 1 FROM wishes_wallet w WHERE w.user_id = e.user_id) AND {scope.sql('e.user_id')} GROUP BY e.user_id"
    )


def balance_hits_sql(check: str, vendor: str, scope: Scope) -> str:
    """Return the query of the hits of orphaned_mana or ledger_mismatch: user, mana, newest balance.

    The sum of the entries follows in the two columns of ``dialect.exact_sum``.
    """
    condition = _orphaned(vendor) if check == "orphaned_mana" else _mismatched(vendor)
    halves = "x.total, 0" if vendor == "postgresql" else "x.upper, x.lower"
    balance = "(SELECT b.balance_after FROM wishes_manaentry b WHERE b.id = x.newest)"
    balances = _balances(vendor, scope, unmigrated_only=check == "orphaned_mana")
    found = f"SELECT x.user_id, x.mana, {balance}, {halves} FROM ({balances}) x WHERE {condition}"
    if check == "ledger_mismatch":
        found += f" UNION ALL SELECT y.user_id, NULL, NULL, NULL, NULL FROM ({_strays(scope)}) y"
    return f"{found} ORDER BY 1"


# --- Records and their entries ----------------------------------------------------------------------------------------


def _expected(vendor: str, scope: Scope, run: str) -> str:
    """Return a query of the entries that the records stand for: record, user, reference, amount."""
    key = users.key_sql(vendor, "r.user_id")
    only = f"AND {scope.sql('r.user_id')}"
    return (
        f"SELECT r.id, r.user_id, 'conversion:' || r.run_id || ':' || {key} AS reference, r.mana_credited AS amount "
        f"FROM mana_migration_usermigration r WHERE {CONVERTED} AND r.mana_credited <> 0{run} {only} UNION ALL "
        f"SELECT r.id, r.user_id, 'reversal:' || r.run_id || ':' || {key}, -r.mana_debited "
        f"FROM mana_migration_usermigration r WHERE r.status = 'rolled_back' AND r.mana_debited <> 0{run} {only}"
    )


def _booked(scope: Scope) -> str:
    """Return a query of the entries that conversions and reversals have: entry, user, reference, amount."""
    return (
        "SELECT e.id, e.user_id, e.reference, e.amount FROM wishes_manaentry e "
        f"WHERE e.kind IN ('conversion', 'reversal') AND {scope.sql('e.user_id')}"
    )


def _explained() -> str:
    """Return a condition that entry ``e`` without a record is one whose record a rollback has deleted.

    The pair of conversion and reversal stays; a conversion whose mana was spent entirely has no reversal entry, so
    that its sum is left to value_not_conserved.
    """
    return (
        "(e.reference LIKE 'conversion:%%' OR EXISTS (SELECT 1 FROM wishes_manaentry c WHERE c.user_id = e.user_id "
        "AND c.reference = 'conversion' || substr(e.reference, 9) AND c.amount >= -e.amount AND c.id < e.id))"
    )


def missing_entry_sql(vendor: str, scope: Scope, *, forgetful: bool) -> str:
    """Return the query of the hits of missing_entry: user, record, reference, amount recorded, amount booked.

    ``forgetful``: some rollback has deleted its records (--no-preserve-logs), which explains entries without one.
    """
    people = Scope(users=scope.users, after=scope.after, until=scope.until)
    run = "" if scope.run is None else " AND (r.run_id = %(run)s OR r.reversal_run_id = %(run)s)"
    lacking = (
        f"SELECT r.user_id, r.id AS record_id, r.reference, r.amount, e.amount AS booked "
        f"FROM ({_expected(vendor, people, run)}) r LEFT JOIN ({_booked(people)}) e "
        "ON e.user_id = r.user_id AND e.reference = r.reference WHERE e.id IS NULL OR e.amount <> r.amount"
    )
    explained = f" AND NOT {_explained()}" if forgetful else ""
    of_run = "" if scope.run is None else " AND e.reference LIKE 'conversion:' || CAST(%(run)s AS text) || ':%%'"
    stray = (
        "SELECT e.user_id, NULL, e.reference, NULL, e.amount "
        f"FROM ({_booked(people)}) e LEFT JOIN ({_expected(vendor, people, run)}) r "
        f"ON r.user_id = e.user_id AND r.reference = e.reference WHERE r.id IS NULL{explained}{of_run}"
    )
    found = f"{lacking} UNION ALL {stray}"
    if scope.run is None:
        found += (
            " UNION ALL SELECT e.user_id, NULL, e.reference, NULL, e.amount FROM wishes_manaentry e "
            f"WHERE e.kind = 'opening' AND {people.sql('e.user_id')} AND NOT EXISTS "
            "(SELECT 1 FROM mana_migration_usermigration r JOIN mana_migration_migrationrun o ON o.id = r.run_id "
            "WHERE r.user_id = e.user_id AND o.kind = 'import')"
        )
    return found


def is_forgetful(connection: BaseDatabaseWrapper) -> bool:
    """Say whether some rollback has deleted its records."""
    condition = FORGETFUL[connection.vendor]
    found = rows(
        connection,
        f"SELECT 1 FROM mana_migration_migrationrun o WHERE o.kind = 'rollback' AND {condition} LIMIT 1",
        Scope(),
    )
    return bool(found)


# --- Sums -------------------------------------------------------------------------------------------------------------


def booked_value(connection: BaseDatabaseWrapper, rates: dict[str, int]) -> int:
    """Return what the site's services, write-offs and fixes have added to all wallets, in mana at these rates."""
    vendor = connection.vendor
    mana = _sum(connection, "amount", "wishes_manaentry WHERE kind IN ('earn', 'spend', 'adjustment')")
    wishes = rows(
        connection,
        f"SELECT colour, {dialect.exact_sum(vendor, 'amount')} FROM wishes_wishentry GROUP BY colour",
        Scope(),
    )
    written_off = _sum(
        connection,
        "b.shortfall",
        "mana_migration_migrationbatch b JOIN mana_migration_migrationrun o ON o.id = b.run_id "
        "WHERE o.kind = 'rollback' AND b.status = 'done'",
    )
    fixes = _sum(connection, "mana_change", "mana_migration_integrityfix") + sum(
        rate * _sum(connection, f"{colour}_change", "mana_migration_integrityfix") for colour, rate in rates.items()
    )
    return (
        mana
        + sum(rates[colour] * dialect.combine(vendor, first, second) for colour, first, second in wishes)
        + written_off
        + fixes
    )


def _sum(connection: BaseDatabaseWrapper, expression: str, source: str) -> int:
    ((first, second),) = rows(
        connection, f"SELECT {dialect.exact_sum(connection.vendor, expression)} FROM {source}", Scope()
    )
    return dialect.combine(connection.vendor, first, second)
