"""Everything about some users that a repair is decided by, read in a handful of queries."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper

from mana_migration.domain.repairs import Balances, LedgerState, LiveRecord, UserState
from mana_migration.engine import dialect, users
from mana_migration.engine.integrity import ledger
from mana_migration.engine.integrity.scope import Scope, rows


def lock_wallets(connection: BaseDatabaseWrapper, keys: Sequence[str], *, wait: bool = True) -> list[str]:
    """Lock the wallets of these users in key order; the caller is in a transaction.

    A statement of its own, so that what is read next was committed before the locks were had.  Without ``wait`` those
    that another session holds are left out.  Returns whose wallets are not locked: all of those.
    """
    scope = Scope(users=tuple(keys))
    lock = dialect.lock(connection.vendor, "w", skip_locked=not wait)
    if not lock:
        return []
    locked = rows(
        connection,
        f"SELECT w.user_id FROM wishes_wallet w WHERE {scope.sql('w.user_id')} ORDER BY w.user_id {lock}",
        scope,
    )
    had = {_text(connection, key) for (key,) in locked}
    there = (
        had
        if wait
        else {
            _text(connection, key)
            for (key,) in rows(
                connection, f"SELECT w.user_id FROM wishes_wallet w WHERE {scope.sql('w.user_id')}", scope
            )
        }
    )
    return [key for key in keys if key in there - had]


def load(connection: BaseDatabaseWrapper, keys: Sequence[str], *, with_ledger: bool = True) -> dict[str, UserState]:
    """Return the state of each of these users (keys as text), also of those without a wallet."""
    scope = Scope(users=tuple(keys))
    wallets = {
        _text(connection, key): (Balances(green, blue, red, mana), _moment(migrated_at))
        for key, green, blue, red, mana, migrated_at in rows(
            connection,
            "SELECT w.user_id, w.green, w.blue, w.red, w.mana, w.migrated_at FROM wishes_wallet w "
            f"WHERE {scope.sql('w.user_id')}",
            scope,
        )
    }
    ledgers = _ledgers(connection, scope) if with_ledger else {}
    live = _live(connection, scope) if with_ledger else {}
    found = {}
    for key in keys:
        wallet, migrated_at = wallets.get(key, (None, ""))
        found[key] = UserState(
            wallet, bool(migrated_at), ledgers.get(key, LedgerState()), tuple(live.get(key, ())), migrated_at
        )
    return found


def _moment(value: Any) -> str:
    """Return a moment of raw SQL as text: SQLite has no other."""
    return value.isoformat() if isinstance(value, datetime) else value or ""


def _text(connection: BaseDatabaseWrapper, value: Any) -> str:
    return users.to_text(users.from_sql(connection, value))


def _ledgers(connection: BaseDatabaseWrapper, scope: Scope) -> dict[str, LedgerState]:
    vendor = connection.vendor
    condition = scope.sql("e.user_id")
    totals = rows(
        connection,
        f"SELECT e.user_id, {dialect.exact_sum(vendor, 'e.amount')} FROM wishes_manaentry e "
        f"WHERE {condition} GROUP BY e.user_id",
        scope,
    )
    newest = rows(
        connection,
        "SELECT n.user_id, n.balance_after, n.kind, n.id FROM wishes_manaentry n WHERE n.id IN "
        f"(SELECT MAX(e.id) FROM wishes_manaentry e WHERE {condition} GROUP BY e.user_id)",
        scope,
    )
    migration = rows(
        connection,
        "SELECT e.user_id, e.kind, e.reference, e.amount FROM wishes_manaentry e "
        f"WHERE {condition} AND e.kind IN ('conversion', 'reversal', 'opening') ORDER BY e.id",
        scope,
    )
    conversions: dict[str, dict[int, int]] = defaultdict(dict)
    opening = set()
    for key, kind, reference, amount in migration:
        user = _text(connection, key)
        if kind == "opening":
            opening.add(user)
        elif kind == "conversion":
            conversions[user][_run_of(reference)] = int(amount)
        else:
            conversions[user].pop(_run_of(reference), None)
    balances = {_text(connection, key): (int(balance), kind, int(entry)) for key, balance, kind, entry in newest}
    broken = {_text(connection, key) for key, *_ in rows(connection, ledger.broken_entries_sql(vendor, scope), scope)}
    found = {}
    for key, first, second in totals:
        user = _text(connection, key)
        found[user] = LedgerState(
            total=dialect.combine(vendor, first, second),
            newest_balance=balances[user][0],
            newest_kind=balances[user][1],
            open_conversions=tuple(conversions[user].items()),
            opening=user in opening,
            newest_entry=balances[user][2],
            broken=user in broken,
        )
    return found


def _run_of(reference: str) -> int:
    """Return the run in ``conversion:<run>:<user>`` or ``reversal:<run>:<user>``; -1 where there is none."""
    parts = reference.split(":")
    return int(parts[1]) if len(parts) > 1 and parts[1].isdigit() else -1


def _live(connection: BaseDatabaseWrapper, scope: Scope) -> dict[str, list[LiveRecord]]:
    found: dict[str, list[LiveRecord]] = defaultdict(list)
    for key, record, run, green, blue, red, mana, credited in rows(
        connection,
        "SELECT r.user_id, r.id, r.run_id, r.green, r.blue, r.red, r.mana_before, r.mana_credited "
        f"FROM mana_migration_usermigration r WHERE r.status = 'migrated' AND {scope.sql('r.user_id')} ORDER BY r.id",
        scope,
    ):
        found[_text(connection, key)].append(LiveRecord(record, run, Balances(green, blue, red, mana), credited))
    return found
