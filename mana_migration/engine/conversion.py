"""The one way wishes become mana: the same statement for one user and for ten thousand.

Every function must be called inside a transaction that its caller owns.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from django.db.backends.base.base import BaseDatabaseWrapper

from mana_migration.domain.results import Totals
from mana_migration.engine import dialect, users
from wishes import posting
from wishes.rates import BIGINT_MAX, Rates

#: Why a wallet cannot be converted, with the sentence kept on its record.
PROBLEMS: Final = {
    "negative_balance": "a balance is negative; correct it with --auto-fix or by hand and run again",
    "overflow": "the mana would be beyond the limit of BIGINT; split the balance by hand and run again",
    "orphaned_mana": "the mana is not backed by ledger entries; correct it with --auto-fix or by hand and run again",
    "migration_inconsistency": "an older record says that this user is migrated; see validate_migration",
}


@dataclass(frozen=True, slots=True)
class ConversionTerms:
    """What is frozen on the run and the same for each of its batches.

    ``look_closer``: nobody has checked these users before, so ledger and records are compared as well.
    """

    run: int
    rates: Rates
    skip_invalid: bool = False
    cohort: int | None = None
    retry_failed: bool = False
    look_closer: bool = False


def problem_sql(vendor: str, rates: Rates, *, look_closer: bool) -> str:
    """Return the SQL of why wallet ``w`` cannot be converted, empty text where it can.

    ``look_closer`` also compares the ledger and the records, which the pre-check did for everybody
    unless such users are to be left out one by one.
    """
    quarter = BIGINT_MAX // 4
    small = " AND ".join(
        f"w.{colour} <= {quarter // rate}" for colour, rate in rates.as_dict().items()
    ) + f" AND w.mana <= {quarter}"
    exact = " + ".join(f"w.{colour}::numeric * {rate}" for colour, rate in rates.as_dict().items()) + " + w.mana"
    approximate = f"{worth_sql(rates)} + w.mana"
    backed = "(SELECT COALESCE(SUM(e.amount), 0) FROM wishes_manaentry e WHERE e.user_id = w.user_id)"
    recorded = "EXISTS (SELECT 1 FROM mana_migration_usermigration m WHERE m.user_id = w.user_id AND m.status = 'migrated')"
    suspect = (
        f"WHEN w.mana <> {backed} THEN 'orphaned_mana' WHEN {recorded} THEN 'migration_inconsistency' "
        if look_closer
        else ""
    )
    return (
        "CASE WHEN w.green < 0 OR w.blue < 0 OR w.red < 0 THEN 'negative_balance' "
        f"{suspect}"
        f"WHEN {small} THEN '' "
        f"WHEN {dialect.exceeds_bigint(vendor, exact, approximate)} THEN 'overflow' ELSE '' END"
    )


def worth_sql(rates: Rates, alias: str = "w") -> str:
    """Return the SQL of what a wallet's wishes are worth, in mana."""
    return " + ".join(f"{alias}.{colour} * {rate}" for colour, rate in rates.as_dict().items())


def cohort_sql(column: str, permyriad: int) -> str:
    """Return a condition that holds for a stable share of users, in hundredths of a percent.

    The first eight hex digits of the key's MD5 are compared with the share of 2**32.
    """
    bound = format(min(permyriad * 2**32 // 10_000, 2**32 - 1), "08x")
    if permyriad >= 10_000:
        return "1 = 1"
    return f"substr(md5(CAST({column} AS text)), 1, 8) < '{bound}'"


def selection_sql(terms: ConversionTerms) -> str:
    """Return the condition of wallets ``w`` that the run still has to handle; takes the run's id."""
    cohort = "" if terms.cohort is None else f" AND {cohort_sql('w.user_id', terms.cohort)}"
    retry = (
        " AND EXISTS (SELECT 1 FROM mana_migration_usermigration f "
        "WHERE f.user_id = w.user_id AND f.status = 'failed')"
        if terms.retry_failed
        else ""
    )
    return (
        "w.migrated_at IS NULL AND NOT EXISTS (SELECT 1 FROM mana_migration_usermigration r "
        f"WHERE r.user_id = w.user_id AND r.run_id = %s){cohort}{retry}"
    )


def picked_sql(vendor: str, terms: ConversionTerms, wallets: str) -> str:
    """Return the SELECT of ``picked``: the wallets of this SELECT, judged, with the mana that they are worth."""
    problem = problem_sql(vendor, terms.rates, look_closer=terms.skip_invalid or terms.look_closer)
    judged = f"SELECT w.user_id, w.green, w.blue, w.red, w.mana, {problem} AS problem FROM ({wallets}) w"
    return (
        f"SELECT w.user_id, w.green, w.blue, w.red, w.mana, "
        f"CASE WHEN w.problem = '' THEN {worth_sql(terms.rates)} ELSE 0 END AS credit, w.problem FROM ({judged}) w"
    )


def result_sql(vendor: str, relation: str = "picked") -> str:
    """Return the SELECT of (problem, users, exact sums of green, blue, red and credit)."""
    sums = ", ".join(dialect.exact_sum(vendor, column) for column in ("green", "blue", "red", "credit"))
    return f"SELECT problem, COUNT(*), {sums} FROM {relation} GROUP BY problem"


@lru_cache(maxsize=32)
def _statement(vendor: str, terms: ConversionTerms) -> dialect.SetStatement:
    now = dialect.now(vendor)
    source = picked_sql(
        vendor,
        terms,
        "SELECT w.user_id, w.green, w.blue, w.red, w.mana FROM wishes_wallet w "
        f"WHERE w.user_id BETWEEN %s AND %s AND {selection_sql(terms)} "
        f"ORDER BY w.user_id {dialect.lock(vendor, 'w')}",
    )
    rejected = "skipped" if terms.skip_invalid else "failed"
    messages = " ".join(f"WHEN '{name}' THEN '{text}'" for name, text in PROBLEMS.items())
    record = (
        "INSERT INTO mana_migration_usermigration (user_id, run_id, batch_id, status, green, blue, red, "
        "mana_before, mana_credited, error_class, error_message, created_at) "
        f"SELECT user_id, %s, %s, CASE WHEN problem = '' THEN 'migrated' ELSE '{rejected}' END, green, blue, red, "
        f"mana, credit, problem, CASE problem {messages} ELSE '' END, {now} FROM picked ORDER BY user_id"
    )
    reference = f"'conversion:{terms.run}:' || {users.key_sql(vendor, 'user_id')}"
    return dialect.SetStatement(
        vendor=vendor,
        columns=posting.CONVERSION_COLUMNS,
        source=source,
        writes=[
            record,
            posting.insert_conversion_entries(reference, now),
            posting.update_converted_wallets(now),
        ],
        result=result_sql(vendor),
    )


def convert(
    connection: BaseDatabaseWrapper, terms: ConversionTerms, *, batch: int, first: str, last: str
) -> Totals:
    """Convert every wallet from ``first`` to ``last`` (keys as text, both included) that is still to do.

    Locks the wallets in key order, writes the records, the ledger entries and the wallets, and
    returns the totals.  Wallets with a problem get a record that says so and are left as they are.

    Raises:
        django.db.Error: the database refused; the caller's transaction must be rolled back.
    """
    vendor = connection.vendor
    with connection.cursor() as cursor:
        rows = _statement(vendor, terms).run(
            cursor,
            source=[users.to_sql(connection, first), users.to_sql(connection, last), terms.run],
            writes=[[terms.run, batch], [], []],
        )
    return totals_of(vendor, rows, skip_invalid=terms.skip_invalid)


def totals_of(vendor: str, rows: list[tuple[Any, ...]], *, skip_invalid: bool) -> Totals:
    """Return the totals of rows (problem, users, exact sums of green, blue, red and credit)."""
    totals = Totals()
    for problem, count, *sums in rows:
        totals.selected += count
        if problem == "":
            totals.migrated += count
            pairs = list(zip(sums[::2], sums[1::2], strict=True))
            green, blue, red, mana = (dialect.combine(vendor, *pair) for pair in pairs)
            totals.green += green
            totals.blue += blue
            totals.red += red
            totals.mana += mana
        elif skip_invalid:
            totals.skipped += count
            totals.skips[problem] += count
        else:
            totals.failed += count
            totals.errors[problem] += count
    return totals


def _as_fixed(column: str) -> str:
    return f"CASE WHEN w.{column} < 0 THEN 0 ELSE w.{column} END AS {column}"


def _would_pick(
    connection: BaseDatabaseWrapper, terms: ConversionTerms, *, users_named: tuple[str, ...], limit: int | None, fixed: bool
) -> tuple[str, list[Any]]:
    """Return the SELECT of what a run on these terms would pick now, unlocked, and its parameters."""
    colours = ", ".join(_as_fixed(colour) if fixed else f"w.{colour}" for colour in terms.rates.as_dict())
    named = f" AND w.user_id IN ({', '.join(['%s'] * len(users_named))})" if users_named else ""
    wallets = f"SELECT w.user_id, {colours}, w.mana FROM wishes_wallet w WHERE {selection_sql(terms)}{named}"
    parameters: list[Any] = [terms.run, *(users.to_sql(connection, key) for key in users_named)]
    if limit is not None:
        wallets += " ORDER BY w.user_id LIMIT %s"
        parameters.append(limit)
    return picked_sql(connection.vendor, terms, wallets), parameters


def forecast(
    connection: BaseDatabaseWrapper,
    terms: ConversionTerms,
    *,
    users_named: tuple[str, ...] = (),
    limit: int | None = None,
    fixed: bool = False,
) -> Totals:
    """Return what a run on these terms would do now, by the very expressions that it would use; nothing is written.

    ``fixed``: as if auto-fix had set negative balances to 0 first.
    """
    picked, parameters = _would_pick(connection, terms, users_named=users_named, limit=limit, fixed=fixed)
    with connection.cursor() as cursor:
        cursor.execute(result_sql(connection.vendor, f"({picked}) picked"), parameters)
        return totals_of(connection.vendor, list(cursor.fetchall()), skip_invalid=terms.skip_invalid)


def largest(
    connection: BaseDatabaseWrapper,
    terms: ConversionTerms,
    *,
    count: int,
    users_named: tuple[str, ...] = (),
    limit: int | None = None,
    fixed: bool = False,
) -> list[tuple[str, int, int, int, int]]:
    """Return (user key, green, blue, red, mana) of the conversions worth most, the largest first."""
    picked, parameters = _would_pick(connection, terms, users_named=users_named, limit=limit, fixed=fixed)
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT user_id, green, blue, red, credit FROM ({picked}) picked "
            "WHERE problem = '' ORDER BY credit DESC, user_id LIMIT %s",
            [*parameters, count],
        )
        return [
            (users.to_text(users.from_sql(connection, key)), int(green), int(blue), int(red), int(credit))
            for key, green, blue, red, credit in cursor.fetchall()
        ]
