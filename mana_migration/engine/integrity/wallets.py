"""The checks that need the wallets alone, and the sums over them: one scan."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from django.contrib.auth import get_user_model
from django.db.backends.base.base import BaseDatabaseWrapper

from mana_migration.engine import dialect
from mana_migration.engine.conversion import worth_sql
from mana_migration.engine.integrity.scope import Scope, rows
from wishes.rates import BIGINT_MAX, COLOURS, Rates

#: Checks that are conditions on one wallet.
WALLET_CHECKS: Final = (
    "negative_balance",
    "overflow",
    "large_conversion",
    "already_migrated",
    "zero_balance",
    "negative_mana",
    "late_wishes",
    "unmigrated_remaining",
)

_NEGATIVE: Final = "(w.green < 0 OR w.blue < 0 OR w.red < 0)"
_NO_WISHES: Final = "w.green = 0 AND w.blue = 0 AND w.red = 0"


@dataclass(frozen=True, slots=True)
class WalletTerms:
    """What the conditions depend on: the rates, and the worth in mana above which a conversion is large."""

    rates: Rates
    large: int


@dataclass(frozen=True, slots=True)
class WalletScan:
    """What one scan over the wallets found: findings by check, and exact sums by name."""

    counts: dict[str, int]
    totals: dict[str, int]


def _small(rates: Rates) -> str:
    """Return a condition under which worth and mana together are far below the limit of BIGINT: the fast way out."""
    quarter = BIGINT_MAX // 4
    bounds = [f"w.{colour} <= {quarter // rate}" for colour, rate in rates.as_dict().items()]
    return " AND ".join([*bounds, f"w.mana <= {quarter}"])


def overflow_sql(vendor: str, rates: Rates) -> str:
    """Return a condition that wallet ``w`` cannot be converted because of its size, negative colours left aside."""
    larger = "GREATEST" if vendor == "postgresql" else "MAX"
    clipped = {colour: f"{larger}(w.{colour}, 0)" for colour in COLOURS}
    exact = " + ".join(f"{clipped[colour]}::numeric * {rates.of(colour)}" for colour in COLOURS)
    approximate = " + ".join(f"{clipped[colour]} * {rates.of(colour)}" for colour in COLOURS)
    mana = f"{larger}(w.mana, 0)"
    return (
        f"CASE WHEN {_small(rates)} THEN 1 = 0 "
        f"ELSE {dialect.exceeds_bigint(vendor, f'{exact} + {mana}', f'{approximate} + {mana}')} END"
    )


def convertible_sql(vendor: str, rates: Rates) -> str:
    """Return a condition that the figures of wallet ``w`` allow its conversion."""
    return f"w.migrated_at IS NULL AND NOT {_NEGATIVE} AND NOT ({overflow_sql(vendor, rates)})"


def _large_sql(vendor: str, terms: WalletTerms) -> str:
    cast = "::numeric" if vendor == "postgresql" else ""
    exact = " + ".join(f"w.{colour}{cast} * {terms.rates.of(colour)}" for colour in COLOURS)
    return (
        f"CASE WHEN NOT ({convertible_sql(vendor, terms.rates)}) THEN 1 = 0 "
        f"WHEN {_small(terms.rates)} THEN {worth_sql(terms.rates)} > {terms.large} ELSE {exact} > {terms.large} END"
    )


def condition(check: str, vendor: str, terms: WalletTerms) -> str:
    """Return the condition on wallet ``w`` under which it is a hit of one of ``WALLET_CHECKS``."""
    return {
        "negative_balance": f"w.migrated_at IS NULL AND {_NEGATIVE}",
        "overflow": f"w.migrated_at IS NULL AND {overflow_sql(vendor, terms.rates)}",
        "large_conversion": _large_sql(vendor, terms),
        "already_migrated": "w.migrated_at IS NOT NULL",
        "zero_balance": f"w.migrated_at IS NULL AND {_NO_WISHES}",
        "negative_mana": "w.mana < 0",
        "late_wishes": f"w.migrated_at IS NOT NULL AND NOT ({_NO_WISHES})",
        "unmigrated_remaining": "w.migrated_at IS NULL",
    }[check]


def scan(connection: BaseDatabaseWrapper, terms: WalletTerms, scope: Scope) -> WalletScan:
    """Count the hits of every wallet check and sum up the wallets, in one pass."""
    vendor = connection.vendor
    counts = ", ".join(f"COUNT(*) FILTER (WHERE {condition(check, vendor, terms)})" for check in WALLET_CHECKS)
    sums = ", ".join(dialect.exact_sum(vendor, f"w.{column}") for column in (*COLOURS, "mana"))
    ((wallets, *figures),) = rows(
        connection, f"SELECT COUNT(*), {counts}, {sums} FROM wishes_wallet w WHERE {scope.sql('w.user_id')}", scope
    )
    found = dict(zip(WALLET_CHECKS, map(int, figures), strict=False))
    parts = figures[len(WALLET_CHECKS) :]
    totals = {
        "wallets": int(wallets),
        "migrated": found["already_migrated"],
        "unmigrated": found["unmigrated_remaining"],
    }
    for name, first, second in zip((*COLOURS, "mana"), parts[::2], parts[1::2], strict=True):
        totals[name] = dialect.combine(vendor, first, second)
    totals["worth"] = terms.rates.worth(*(totals[colour] for colour in COLOURS))
    totals["value"] = totals["worth"] + totals["mana"]
    return WalletScan(found, totals)


def hits_sql(check: str, vendor: str, terms: WalletTerms, scope: Scope) -> str:
    """Return the query of the wallets that one of ``WALLET_CHECKS`` hits: user, green, blue, red, mana."""
    return (
        "SELECT w.user_id, w.green, w.blue, w.red, w.mana FROM wishes_wallet w "
        f"WHERE {condition(check, vendor, terms)} AND {scope.sql('w.user_id')} ORDER BY w.user_id"
    )


def count_users(connection: BaseDatabaseWrapper, scope: Scope) -> int:
    """Return the number of users, with and without a wallet."""
    table, key = users_table(connection)
    (row,) = rows(connection, f"SELECT COUNT(*) FROM {table} u WHERE {scope.sql(f'u.{key}')}", scope)
    return int(row[0])


def no_wallet_sql(connection: BaseDatabaseWrapper, scope: Scope) -> str:
    """Return the query of users without a wallet: user."""
    table, key = users_table(connection)
    return (
        f"SELECT u.{key} FROM {table} u WHERE {scope.sql(f'u.{key}')} "
        f"AND NOT EXISTS (SELECT 1 FROM wishes_wallet w WHERE w.user_id = u.{key}) ORDER BY u.{key}"
    )


def count_without_user(connection: BaseDatabaseWrapper, scope: Scope) -> int:
    """Return the number of wallets whose user is not there, which a foreign key can have let through.

    SQLite does not enforce it for every session, PostgreSQL not while a dump is restored without triggers.
    """
    (row,) = rows(connection, f"SELECT COUNT(*) FROM wishes_wallet w WHERE {_without_user(connection, scope)}", scope)
    return int(row[0])


def no_user_sql(connection: BaseDatabaseWrapper, scope: Scope) -> str:
    """Return the query of wallets whose user is not there: user, green, blue, red, mana."""
    return (
        "SELECT w.user_id, w.green, w.blue, w.red, w.mana FROM wishes_wallet w "
        f"WHERE {_without_user(connection, scope)} ORDER BY w.user_id"
    )


def _without_user(connection: BaseDatabaseWrapper, scope: Scope) -> str:
    table, key = users_table(connection)
    return f"{scope.sql('w.user_id')} AND NOT EXISTS (SELECT 1 FROM {table} u WHERE u.{key} = w.user_id)"


def users_table(connection: BaseDatabaseWrapper) -> tuple[str, str]:
    """Return the quoted names of the table of users and of its primary key."""
    meta = get_user_model()._meta
    return connection.ops.quote_name(meta.db_table), connection.ops.quote_name(str(meta.pk.column))
