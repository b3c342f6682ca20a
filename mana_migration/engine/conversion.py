"""The one way wishes become mana: the same statement for one user and for ten thousand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from django.contrib.auth import get_user_model
from django.db.backends.base.base import BaseDatabaseWrapper

from mana_migration.domain.chain import OUTCOMES
from mana_migration.domain.results import Totals
from mana_migration.domain.words import gettext_noop
from mana_migration.engine import chain, dialect, users
from mana_migration.engine.batches import BatchStatements, BatchWrites, Handled, Limits, Task
from wishes import posting
from wishes.rates import BIGINT_MAX, Rates
from wishes.sql import all_of, block

#: Users read at a time where each is wanted.
PAGE: Final = 5_000

#: Why a wallet cannot be converted, with the sentence kept on its record.
PROBLEMS: Final = {
    "negative_balance": gettext_noop("a balance is negative; correct it with --auto-fix or by hand and run again"),
    "overflow": gettext_noop("the mana would be beyond the limit of BIGINT; split the balance by hand and run again"),
    "orphaned_mana": gettext_noop(
        "the mana is not backed by ledger entries; correct it with --auto-fix or by hand and run again"
    ),
    "no_user": gettext_noop(
        "the wallet belongs to no user; create the user with this primary key again, or delete the wallet"
    ),
    "migration_inconsistency": gettext_noop("an older record says that this user is migrated; see validate_migration"),
}

#: What the entries of wallet ``w`` add up to, and the balance after its newest.
_LEDGER: Final = "(SELECT COALESCE(SUM(e.amount), 0) FROM wishes_manaentry e WHERE e.user_id = w.user_id)"
_NEWEST: Final = (
    "(SELECT e.balance_after FROM wishes_manaentry e WHERE e.user_id = w.user_id ORDER BY e.id DESC LIMIT 1)"
)

#: The run of terms for which no run is open yet: no record can be of it.
NO_RUN: Final = 0


@dataclass(frozen=True, slots=True)
class ConversionTerms:
    """What is frozen on the run and the same for each of its batches.

    ``run``: ``NO_RUN`` for a forecast of a run that is not open yet.
    ``per_user``: no pre-check has read these users, so ledger and records are compared as well.
    """

    run: int
    rates: Rates
    skip_invalid: bool = False
    cohort: int | None = None
    retry_failed: bool = False
    per_user: bool = False


def problem_sql(vendor: str, rates: Rates, *, per_user: bool) -> str:
    """Return the SQL of why wallet ``w`` cannot be converted, empty text where it can.

    ``per_user`` also compares the ledger and the records, which the pre-check did for all users
    unless such users are to be left out one by one.
    """
    quarter = BIGINT_MAX // 4
    colours = rates.as_dict().items()
    negative = " OR ".join(f"w.{colour} < 0" for colour, _ in colours)
    small = " AND ".join(f"w.{colour} BETWEEN 0 AND {quarter // rate}" for colour, rate in colours)
    exact = " + ".join(f"w.{colour}::numeric * {rate}" for colour, rate in colours) + " + w.mana"
    too_much = dialect.exceeds_bigint(vendor, exact, f"{worth_sql(rates)} + w.mana")
    cases = [
        (f"{small} AND w.mana <= {quarter}", ""),  # almost all users
        (negative, "negative_balance"),
        (too_much, "overflow"),
    ]
    if per_user:
        # no EXISTS: PostgreSQL would read all live records at once where it believes that they are few, batch by batch
        recorded = (
            "(SELECT 1 FROM mana_migration_usermigration m "
            "WHERE m.user_id = w.user_id AND m.status = 'migrated' LIMIT 1) IS NOT NULL"
        )
        suspect = [
            (_no_user(), "no_user"),
            (f"w.mana <> {_LEDGER}", "orphaned_mana"),
            (recorded, "migration_inconsistency"),
        ]
        cases = [cases[1], *suspect, cases[0], cases[2]]
    whens = "\n".join(f"WHEN {condition} THEN '{problem}'" for condition, problem in cases)
    return block(
        """
        CASE
            {whens}
            ELSE ''
        END
        """,
        whens=whens,
    )


def _no_user() -> str:
    meta = get_user_model()._meta
    return f'(SELECT 1 FROM "{meta.db_table}" u WHERE u."{meta.pk.column}" = w.user_id) IS NULL'


def worth_sql(rates: Rates, alias: str = "w") -> str:
    """Return the SQL of what a wallet's wishes are worth, in mana."""
    return " + ".join(f"{alias}.{colour} * {rate}" for colour, rate in rates.as_dict().items())


def cohort_sql(column: str, permyriad: int) -> str:
    """Return a condition that holds for a stable share of users, in hundredths of a percent.

    The first eight hex digits of the key's MD5 are compared with the share of 2**32.
    """
    if permyriad >= 10_000:
        return "1 = 1"
    bound = format(permyriad * 2**32 // 10_000, "08x")
    return f"substr(md5(CAST({column} AS text)), 1, 8) < '{bound}'"


def failed_before_sql(terms: ConversionTerms) -> str:
    """Return the condition of wallets ``w`` whose user failed in an earlier run."""
    return (
        "EXISTS (SELECT 1 FROM mana_migration_usermigration f WHERE f.user_id = w.user_id AND f.status = 'failed' "
        f"AND f.run_id <> {terms.run})"
    )


def selection_sql(terms: ConversionTerms, *, within: str = "") -> str:
    """Return the condition of wallets ``w`` that the run still has to handle.

    ``within`` limits the records ``r`` that are read to those of a range of keys, as ``AND ...``.
    """
    # no NOT EXISTS: PostgreSQL may hash the records of all runs for it, where an index has the one that matters
    handled = block(
        """
        (
            SELECT 1 FROM mana_migration_usermigration r
            WHERE r.user_id = w.user_id AND r.run_id = {run}{within}
            LIMIT 1
        ) IS NULL
        """,
        run=str(terms.run),
        within=within,
    )
    failed = block(
        """
        EXISTS (
            SELECT 1 FROM mana_migration_usermigration f
            WHERE f.user_id = w.user_id AND f.status = 'failed'
        )
        """
    )
    return all_of(
        "w.migrated_at IS NULL",
        handled if terms.run != NO_RUN else "",
        cohort_sql("w.user_id", terms.cohort) if terms.cohort is not None else "",
        failed if terms.retry_failed else "",
    )


def picked_sql(vendor: str, terms: ConversionTerms, wallets: str, condition: str, *, locked: bool) -> str:
    """Return the SELECT of ``picked``: these wallets ``w``, checked, with the mana that they are worth.

    ``wallets`` is a table or a subselect with its alias ``w``.  With ``locked`` they are locked in
    the order of their keys.
    """
    worth = f"CASE WHEN w.problem = '' THEN {worth_sql(terms.rates)} ELSE 0 END"
    line = chain.record_line_sql(
        vendor,
        run=str(terms.run),
        outcome=f"CASE WHEN w.problem = '' THEN '{OUTCOMES['migrated']}' ELSE '{_rejected(terms)}' END",
        wishes=[f"w.{colour}" for colour in terms.rates.as_dict()],
        before="w.mana",
        credited=worth,
        error="w.problem",
        user=users.key_sql(vendor, "w.user_id"),
    )
    return block(
        """
        SELECT w.user_id, w.green, w.blue, w.red, w.mana,
               {worth} AS credit,
               w.problem = '' AS valid,
               w.problem{line}
        FROM (
            SELECT w.user_id, w.green, w.blue, w.red, w.mana,
                   {problem} AS problem
            FROM {wallets}
            WHERE {condition}
            {locked}
        ) w
        """,
        worth=worth,
        line=f",\n{line} AS line" if locked else "",
        problem=problem_sql(vendor, terms.rates, per_user=terms.skip_invalid or terms.per_user),
        wallets=wallets,
        condition=condition,
        locked=dialect.ordered_lock(vendor, "w.user_id", "w") if locked else "",
    )


def _rejected(terms: ConversionTerms) -> str:
    """Return the status of those who cannot be converted."""
    return "skipped" if terms.skip_invalid else "failed"


@lru_cache(maxsize=32)
def statements(vendor: str, terms: ConversionTerms) -> BatchStatements:
    """Return the statements that convert a batch on these terms."""
    now = dialect.now(vendor)
    in_range = "BETWEEN %(first)s AND %(last)s"
    selection = selection_sql(terms, within=f" AND r.user_id {in_range}")
    rejected = _rejected(terms)
    user = users.key_sql(vendor, "user_id")
    records = block(
        """
        INSERT INTO mana_migration_usermigration (
            user_id, run_id, batch_id, status, green, blue, red, mana_before, mana_credited,
            error_class, error_message, mark, created_at
        )
        SELECT user_id, {run}, %(batch)s, CASE WHEN valid THEN 'migrated' ELSE '{rejected}' END,
               green, blue, red, mana, credit, problem,
               CASE problem
                   WHEN '' THEN ''
                   {messages}
                   ELSE ''
               END,
               {mark}, {now}
        FROM picked
        """,
        run=str(terms.run),
        rejected=rejected,
        messages="\n".join(f"WHEN '{name}' THEN '{text}'" for name, text in PROBLEMS.items()),
        mark=chain.mark_sql(vendor, "line"),
        now=now,
    )
    record_kept = block(
        """
        EXISTS (
            SELECT 1 FROM mana_migration_usermigration r
            WHERE r.user_id = p.user_id AND r.run_id = {run} AND r.batch_id = %(batch)s
              AND r.status = CASE WHEN p.valid THEN 'migrated' ELSE '{rejected}' END
              AND r.green = p.green AND r.blue = p.blue AND r.red = p.red
              AND r.mana_before = p.mana AND r.mana_credited = p.credit AND r.error_class = p.problem
        )
        """,
        run=str(terms.run),
        rejected=rejected,
    )
    own_reference = f"'conversion:{terms.run}:' || {users.key_sql(vendor, 'p.user_id')}"
    reads_ledger = terms.skip_invalid or terms.per_user
    return BatchStatements(
        vendor,
        BatchWrites(
            columns=(*posting.CONVERSION_COLUMNS, "problem", "line"),
            picked=lambda claimed: picked_sql(
                vendor,
                terms,
                "wishes_wallet w",
                all_of(f"w.user_id {in_range}", claimed, selection),
                locked=True,
            ),
            writes={
                "records": records,
                "entries": posting.insert_conversion_entries(f"'conversion:{terms.run}:' || {user}", now),
                "wallets": posting.update_converted_wallets(now, f"wishes_wallet.user_id {in_range}"),
            },
            kept={"records": record_kept, **posting.conversion_kept(own_reference)},
            sums={"green": "green", "blue": "blue", "red": "red", "mana": "credit"},
            handled="migrated",
            left_out=rejected,
            lock=dialect.lock_wallets(vendor, f"w.user_id {in_range} AND w.migrated_at IS NULL"),
            # a ledger that is read before the wallet is locked may lack its newest entries
            locks_first=reads_ledger,
        ),
    )


def convert(
    connection: BaseDatabaseWrapper, terms: ConversionTerms, task: Task, limits: Limits | None = None
) -> Handled | None:
    """Convert every wallet of a batch that is still to do, inside the caller's transaction.

    Claims the batch, locks the wallets in the order of their keys, writes the records, the ledger
    entries and the wallets, and marks the batch.  Wallets with a problem get a record that says so
    and are left as they are.

    Args:
        connection: in a transaction of the caller.
        terms: what is frozen on the run.
        task: the batch.
        limits: how long to wait; None where the caller has set that for the whole transaction.

    Returns:
        What was done; None where the batch could not be claimed, or where it holds no user any more
        and the task does not want it marked then.

    Raises:
        django.db.Error: the database refused; the caller's transaction must be rolled back.
    """
    return statements(connection.vendor, terms).run(connection, task, {}, limits)


def _as_fixed(column: str) -> str:
    return f"CASE WHEN w.{column} < 0 THEN 0 ELSE w.{column} END AS {column}"


def _mana_as_fixed() -> str:
    """Return the mana that auto-fix leaves: what no entry backs is written off, if no later entry is built on it."""
    can_be = f"w.mana > {_LEDGER} AND {_LEDGER} >= 0 AND {_LEDGER} = COALESCE({_NEWEST}, 0)"
    return f"CASE WHEN w.mana > 0 AND {can_be} THEN CAST({_LEDGER} AS bigint) ELSE w.mana END AS mana"


def _would_pick(
    connection: BaseDatabaseWrapper,
    terms: ConversionTerms,
    *,
    selected_users: tuple[str, ...],
    limit: int | None,
    fixed: bool,
) -> tuple[str, dict[str, Any]]:
    """Return the SELECT of what a run on these terms would pick now, unlocked, and its parameters."""
    colours = ", ".join(_as_fixed(colour) if fixed else f"w.{colour}" for colour in terms.rates.as_dict())
    mana = _mana_as_fixed() if fixed and (terms.skip_invalid or terms.per_user) else "w.mana"
    parameters = {f"user_{place}": users.to_sql(connection, key) for place, key in enumerate(selected_users)}
    named = f" AND w.user_id IN ({', '.join(f'%({name})s' for name in parameters)})" if parameters else ""
    wallets = f"SELECT w.user_id, {colours}, {mana} FROM wishes_wallet w WHERE {selection_sql(terms)}{named}"
    if limit is not None:
        # as they are planned: those who failed earlier last
        wallets += f" ORDER BY CASE WHEN {failed_before_sql(terms)} THEN 1 ELSE 0 END, w.user_id LIMIT %(most)s"
        parameters["most"] = limit
    return picked_sql(connection.vendor, terms, f"({wallets}) w", "1 = 1", locked=False), parameters


def forecast(
    connection: BaseDatabaseWrapper,
    terms: ConversionTerms,
    *,
    selected_users: tuple[str, ...] = (),
    limit: int | None = None,
    fixed: bool = False,
) -> Totals:
    """Return what a run on these terms would do now, by the very expressions that it would use; nothing is written.

    ``fixed``: as if auto-fix had set negative balances to 0 first, and written off what mana no entry backs.
    """
    picked, parameters = _would_pick(connection, terms, selected_users=selected_users, limit=limit, fixed=fixed)
    return statements(connection.vendor, terms).forecast(connection, picked, parameters)


def largest(
    connection: BaseDatabaseWrapper,
    terms: ConversionTerms,
    *,
    count: int,
    selected_users: tuple[str, ...] = (),
    limit: int | None = None,
    fixed: bool = False,
) -> list[tuple[str, int, int, int, int]]:
    """Return (user key, green, blue, red, mana) of the conversions worth most, the largest first."""
    picked, parameters = _would_pick(connection, terms, selected_users=selected_users, limit=limit, fixed=fixed)
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT user_id, green, blue, red, credit FROM ({picked}) picked "
            "WHERE valid ORDER BY credit DESC, user_id LIMIT %(count)s",
            {**parameters, "count": count},
        )
        return [
            (users.to_text(users.from_sql(connection, key)), int(green), int(blue), int(red), int(credit))
            for key, green, blue, red, credit in cursor.fetchall()
        ]


def each(
    connection: BaseDatabaseWrapper,
    terms: ConversionTerms,
    *,
    selected_users: tuple[str, ...] = (),
    limit: int | None = None,
    fixed: bool = False,
) -> Iterator[tuple[str, int, int, int, int, str]]:
    """Yield (user key, green, blue, red, mana, problem) of every user whom a run would pick, in the order of the keys.

    ``problem`` is why the user would be left out or fail, empty for those who would be converted.  A page is read at
    a time, so that memory does not grow with the users.
    """
    picked, parameters = _would_pick(connection, terms, selected_users=selected_users, limit=limit, fixed=fixed)
    last: Any = None
    while True:
        beyond = "" if last is None else "WHERE user_id > %(last)s"
        with connection.cursor() as cursor:
            cursor.execute(
                f"SELECT user_id, green, blue, red, credit, problem FROM ({picked}) picked {beyond} "
                "ORDER BY user_id LIMIT %(page)s",
                {**parameters, "last": last, "page": PAGE},
            )
            rows = cursor.fetchall()
        for key, green, blue, red, credit, problem in rows:
            text = users.to_text(users.from_sql(connection, key))
            yield text, int(green), int(blue), int(red), int(credit), problem
        if len(rows) < PAGE:
            return
        last = rows[-1][0]
