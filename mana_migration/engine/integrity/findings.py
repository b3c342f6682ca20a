"""The offending rows of each check, as findings."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from django.db.backends.base.base import BaseDatabaseWrapper

from mana_migration.domain import repairs
from mana_migration.domain.validation import BY_ID, Finding
from mana_migration.engine import dialect, users
from mana_migration.engine.integrity import ledger, records, states, wallets
from mana_migration.engine.integrity.scope import Scope, rows
from mana_migration.engine.integrity.wallets import WalletTerms

#: Users whose state is loaded at once to say what can be done about them.
_PAGE: Final = 500


def findings_in(connection: BaseDatabaseWrapper, check: str, scope: Scope, terms: WalletTerms) -> Iterator[Finding]:
    """Yield the findings of one check about users of a scope, which should be one range: they are held together.

    The reason says why nothing can be done automatically, or what auto-fix would do.
    """
    hits = _READERS.get(check, _wallet_hits)(connection, check, scope, terms)
    if check not in repairs.FIXABLE:
        for hit in hits:
            yield Finding(check, hit.user, hit.record, hit.run, hit.figures, reason=BY_ID[check].no_fix)
        return
    found = list(hits)
    for start in range(0, len(found), _PAGE):
        page = found[start : start + _PAGE]
        keys = [hit.user for hit in page if hit.user is not None]
        state = states.load(connection, keys, with_ledger=check != "negative_balance")
        for hit in page:
            decision = repairs.decide(check, state[hit.user or ""])
            fixable = not isinstance(decision, repairs.Left)
            reason = f"auto-fix can correct it: {decision.reason}" if fixable else decision.reason
            yield Finding(check, hit.user, hit.record, hit.run, hit.figures, reason=reason)


def users_hit(connection: BaseDatabaseWrapper, check: str, scope: Scope, terms: WalletTerms) -> list[str]:
    """Return the keys, as text, of the users of a scope with a finding of this check, each once and in order."""
    hits = _READERS.get(check, _wallet_hits)(connection, check, scope, terms)
    return list(dict.fromkeys(hit.user for hit in hits if hit.user is not None))


def _hit(connection: BaseDatabaseWrapper, check: str, key: Any, **values: Any) -> Finding:
    return Finding(check, users.to_text(users.from_sql(connection, key)), **values)


def _wallet_hits(connection: BaseDatabaseWrapper, check: str, scope: Scope, terms: WalletTerms) -> Iterator[Finding]:
    if check == "no_user":
        sql = wallets.no_user_sql(connection, scope)
    else:
        sql = wallets.hits_sql(check, connection.vendor, terms, scope)
    for key, green, blue, red, mana in rows(connection, sql, scope):
        figures = {"green": green, "blue": blue, "red": red, "mana": mana}
        if check in ("overflow", "large_conversion"):
            figures["worth"] = terms.rates.worth(green, blue, red)
        yield _hit(connection, check, key, figures=figures)


def _negative_mana(connection: BaseDatabaseWrapper, check: str, scope: Scope, terms: WalletTerms) -> Iterator[Finding]:
    yield from _wallet_hits(connection, check, scope, terms)
    for key, balance in rows(connection, ledger.negative_balances_sql(connection.vendor, scope), scope):
        yield _hit(connection, check, key, figures={"balance_after": balance})


def _no_wallet(connection: BaseDatabaseWrapper, check: str, scope: Scope, terms: WalletTerms) -> Iterator[Finding]:
    for (key,) in rows(connection, wallets.no_wallet_sql(connection, scope), scope):
        yield _hit(connection, check, key)


def _balances(connection: BaseDatabaseWrapper, check: str, scope: Scope, terms: WalletTerms) -> Iterator[Finding]:
    vendor = connection.vendor
    broken = {}
    if check == "ledger_mismatch":
        sql = f"SELECT * FROM ({ledger.broken_entries_sql(vendor, scope)}) b ORDER BY user_id, id DESC"
        for key, entry, balance, expected in rows(connection, sql, scope):  # the first of a user is read last
            broken[key] = {"entry": entry, "balance_after": balance, "expected_balance": int(expected)}
    for key, mana, newest, first, second in rows(connection, ledger.balance_hits_sql(check, vendor, scope), scope):
        total = None if first is None else dialect.combine(vendor, first, second)
        figures = {"mana": mana, "entries": total, "newest_balance": newest} | broken.get(key, {})
        yield _hit(connection, check, key, figures=figures)


def _inconsistencies(
    connection: BaseDatabaseWrapper, check: str, scope: Scope, terms: WalletTerms
) -> Iterator[Finding]:
    for key, record in rows(connection, records.inconsistency_hits_sql(scope), scope):
        yield _hit(connection, check, key, record=record)


def _mismatches(connection: BaseDatabaseWrapper, check: str, scope: Scope, terms: WalletTerms) -> Iterator[Finding]:
    sql = records.mismatch_hits_sql(connection, scope)
    for key, record, run, *values in rows(connection, sql, scope):
        figures = dict(zip(records.MISMATCH_COLUMNS, values, strict=True))
        yield _hit(connection, check, key, record=record, run=run, figures=figures)


def _entries(connection: BaseDatabaseWrapper, check: str, scope: Scope, terms: WalletTerms) -> Iterator[Finding]:
    forgetful = ledger.is_forgetful(connection)
    sql = ledger.missing_entry_sql(connection.vendor, scope, forgetful=forgetful)
    for key, record, reference, amount, booked in rows(connection, f"{sql} ORDER BY 1, 3", scope):
        figures = {"reference": reference, "recorded": amount, "booked": booked}
        yield _hit(connection, check, key, record=record, figures=figures)


_READERS: Final[dict[str, Callable[..., Iterator[Finding]]]] = {
    "negative_mana": _negative_mana,
    "no_wallet": _no_wallet,
    "orphaned_mana": _balances,
    "ledger_mismatch": _balances,
    "migration_inconsistency": _inconsistencies,
    "conversion_mismatch": _mismatches,
    "missing_entry": _entries,
}
