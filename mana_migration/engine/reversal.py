"""The one way a conversion is reversed: the same statement for one user and for ten thousand."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any, Final

from django.db.backends.base.base import BaseDatabaseWrapper

from mana_migration.domain.results import Totals
from mana_migration.domain.words import gettext_noop
from mana_migration.engine import chain, dialect, users
from mana_migration.engine.batches import NOTED, BatchStatements, BatchWrites, Handled, Limits, Task
from mana_migration.engine.planning import RECORDS_BETWEEN, Slice, keys_between, slices
from wishes import posting
from wishes.moments import for_database
from wishes.sql import all_of, block

#: The record says that the user is migrated, and the wallet does not.
UNFLAGGED: Final = "migration_inconsistency"

#: Why a conversion is not reversed, with the sentence kept on the record of the rollback.
PROBLEMS: Final = {
    "shortfall": gettext_noop(
        "part of the mana was already spent; use --on-shortfall write-off to restore the wishes all the same"
    ),
    "opening_balance": gettext_noop(
        "the old system had converted this user; there is no conversion of ours to roll back"
    ),
    UNFLAGGED: gettext_noop(
        "the wallet of this user is not migrated any more, against its record; see validate_migration"
    ),
}


@dataclass(frozen=True, slots=True)
class ReversalTerms:
    """What is frozen on a rollback run and the same for each of its batches.

    ``target_run`` limits it to one run, ``since`` and ``until`` to conversions in [since, until).
    ``selected``: the users were selected one by one, so that each gets a record, also those whom the old
    system had converted.
    """

    run: int
    write_off: bool = False
    preserve_logs: bool = True
    target_run: int | None = None
    since: datetime | None = None
    until: datetime | None = None
    selected: bool = False


_COLUMNS: Final = (
    "record_id", "origin", "user_id", "green", "blue", "red", "mana", "credited", "debit", "valid", "problem", "line",
)  # fmt: skip

_MANA_BEFORE: Final = "(SELECT r.mana_before FROM mana_migration_usermigration r WHERE r.id = {picked}.record_id)"

_SUMS: Final = {"green": "green", "blue": "blue", "red": "red", "mana": "debit", "shortfall": "credited - debit"}


def selection_sql(terms: ReversalTerms, *, within: str = "") -> str:
    """Return the condition of live records ``w`` that are still to be reversed; see ``parameters_of``.

    ``within`` limits the records ``r`` that are read to those of a range of keys, as ``AND ...``.
    """
    # the record of this run by its index, as for a conversion
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
    return all_of(
        "w.status = 'migrated'",
        handled,
        # a mass rollback leaves those whom the old system had converted
        "" if terms.selected else f"w.run_id NOT IN ({_IMPORTS})",
        "" if terms.target_run is None else f"w.run_id = {terms.target_run}",
        "" if terms.since is None else "w.created_at >= %(since)s",
        "" if terms.until is None else "w.created_at < %(until)s",
    )


#: What a rollback is planned over.
RECORDS: Final = "mana_migration_usermigration w"

_IMPORTS: Final = "SELECT i.id FROM mana_migration_migrationrun i WHERE i.kind = 'import'"


def parameters_of(connection: BaseDatabaseWrapper, terms: ReversalTerms) -> dict[str, Any]:
    """Return the parameters of these terms."""
    return {
        name: connection.ops.adapt_datetimefield_value(for_database(bound, connection))
        for name, bound in (("since", terms.since), ("until", terms.until))
        if bound is not None
    }


def picked_sql(vendor: str, terms: ReversalTerms, condition: str, *, within: str = "", locked: bool) -> str:
    """Return the SELECT of ``picked``: live records ``w`` with their wallets ``b``, and what a rollback does to them.

    ``condition`` narrows them down.  With ``locked`` the wallets are locked in the order of their keys.
    """
    debit = "CASE WHEN l.mana < l.mana_credited THEN l.mana ELSE l.mana_credited END"
    return block(
        """
        SELECT l.id AS record_id, l.run_id AS origin, l.user_id, l.green, l.blue, l.red, l.mana,
               l.mana_credited AS credited,
               {debit} AS debit,
               l.problem = '' AS valid,
               l.problem{line}
        FROM (
            SELECT w.id, w.run_id, w.user_id, w.green, w.blue, w.red, w.mana_credited, b.mana,
                   {problem} AS problem
            FROM mana_migration_usermigration w
            JOIN wishes_wallet b ON b.user_id = w.user_id
            WHERE {condition}
            {locked}
        ) l
        """,
        debit=debit,
        line=f",\n{_line_sql(vendor, terms, debit)} AS line" if locked else "",
        problem=_problem_sql(terms),
        condition=all_of(condition, selection_sql(terms, within=within)),
        locked=dialect.ordered_lock(vendor, "w.user_id", "b") if locked else "",
    )


def _problem_sql(terms: ReversalTerms) -> str:
    """Return the SQL of why the conversion of a record ``w`` cannot be reversed, empty text where it can."""
    cases = {
        "b.migrated_at IS NULL": UNFLAGGED,
        f"w.run_id IN ({_IMPORTS})": "opening_balance" if terms.selected else "",
        "b.mana < w.mana_credited": "shortfall" if not terms.write_off else "",
    }
    whens = [f"WHEN {condition} THEN '{problem}'" for condition, problem in cases.items() if problem]
    return f"CASE {' '.join(whens)} ELSE '' END"


def _line_sql(vendor: str, terms: ReversalTerms, debit: str) -> str:
    """Return the SQL of the line of a reversal of ``l``, or of the record of why there is none."""
    user = users.key_sql(vendor, "l.user_id")
    reversed_line = chain.reversal_line_sql(
        vendor,
        run=str(terms.run),
        origin="l.run_id",
        wishes=("l.green", "l.blue", "l.red"),
        debited=debit,
        shortfall=f"l.mana_credited - ({debit})",
        user=user,
    )
    left_line = chain.record_line_sql(
        vendor,
        run=str(terms.run),
        outcome="'skipped'",
        wishes=("0", "0", "0"),
        before="l.mana",
        credited="0",
        error="l.problem",
        user=user,
    )
    return block(
        """
        CASE WHEN l.problem = ''
            THEN {reversed_line}
            ELSE {left_line}
        END
        """,
        reversed_line=reversed_line,
        left_line=left_line,
    )


def _records_sql(vendor: str, terms: ReversalTerms, in_range: str) -> str:
    """Return the write that closes the records of the conversions that are reversed."""
    if not terms.preserve_logs:
        return block(
            """
            DELETE FROM mana_migration_usermigration
            WHERE user_id {in_range}
              AND id IN (SELECT record_id FROM picked WHERE valid)
            """,
            in_range=in_range,
        )
    return block(
        """
        UPDATE mana_migration_usermigration
        SET status = 'rolled_back',
            reversal_run_id = {run},
            reversal_batch_id = %(batch)s,
            reversed_at = {now},
            mana_debited = handled.debit,
            shortfall = handled.credited - handled.debit,
            reversal_mark = {mark}
        FROM {handled}
        WHERE mana_migration_usermigration.user_id {in_range}
          AND mana_migration_usermigration.user_id = handled.user_id
          AND mana_migration_usermigration.id = handled.record_id
        """,
        run=str(terms.run),
        now=dialect.now(vendor),
        mark=chain.mark_sql(vendor, "handled.line"),
        handled=posting.handled_sql("user_id, record_id, debit, credited, line"),
        in_range=in_range,
    )


def _record_kept_sql(terms: ReversalTerms) -> str:
    """Return the SQL of whether the record of row ``p`` of ``picked`` is as it was written."""
    gone = "NOT EXISTS (SELECT 1 FROM mana_migration_usermigration r WHERE r.id = p.record_id)"
    closed = block(
        """
        EXISTS (
            SELECT 1 FROM mana_migration_usermigration r
            WHERE r.id = p.record_id AND r.user_id = p.user_id AND r.run_id = p.origin AND r.status = 'rolled_back'
              AND r.reversal_run_id = {run} AND r.reversal_batch_id = %(batch)s
              AND r.green = p.green AND r.blue = p.blue AND r.red = p.red AND r.mana_credited = p.credited
              AND r.mana_before = p.mana_before
              AND r.mana_debited = p.debit AND r.shortfall = p.credited - p.debit
        )
        """,
        run=str(terms.run),
    )
    return block(
        """
        CASE WHEN p.valid
            THEN {handled}
            ELSE EXISTS (
                SELECT 1 FROM mana_migration_usermigration r
                WHERE r.user_id = p.user_id AND r.run_id = {run} AND r.batch_id = %(batch)s
                  AND r.status = 'skipped' AND r.error_class = p.problem AND r.mana_before = p.mana
                  AND r.mana_credited = 0
            )
        END
        """,
        handled=closed if terms.preserve_logs else gone,
        run=str(terms.run),
    )


@lru_cache(maxsize=32)
def statements(vendor: str, terms: ReversalTerms) -> BatchStatements:
    """Return the statements that reverse the conversions of a batch on these terms."""
    now = dialect.now(vendor)
    in_range = "BETWEEN %(first)s AND %(last)s"
    left_out = block(
        """
        INSERT INTO mana_migration_usermigration (
            user_id, run_id, batch_id, status, green, blue, red, mana_before, mana_credited,
            error_class, error_message, shortfall, mark, created_at
        )
        SELECT user_id, {run}, %(batch)s, 'skipped', 0, 0, 0, mana, 0, problem,
               CASE problem
                   {messages}
                   ELSE ''
               END,
               CASE WHEN problem = 'shortfall' THEN credited - mana END,
               {mark}, {now}
        FROM picked
        WHERE NOT valid
        """,
        run=str(terms.run),
        messages="\n".join(f"WHEN '{name}' THEN '{text}'" for name, text in PROBLEMS.items()),
        mark=chain.mark_sql(vendor, "line"),
        now=now,
    )
    reference = f"'reversal:' || origin || ':' || {users.key_sql(vendor, 'user_id')}"
    shortfall = f"'adjustment:shortfall:' || origin || ':' || {users.key_sql(vendor, 'user_id')}"
    return BatchStatements(
        vendor,
        BatchWrites(
            columns=_COLUMNS,
            picked=lambda claimed: picked_sql(
                vendor,
                terms,
                all_of(f"w.user_id {in_range}", f"b.user_id {in_range}", claimed),
                within=f" AND r.user_id {in_range}",
                locked=True,
            ),
            writes={
                "skipped": left_out,
                "records": _records_sql(vendor, terms, in_range),
                "entries": posting.insert_reversal_entries(reference, now, shortfall if terms.write_off else ""),
                "wallets": posting.update_reversed_wallets(now, f"wishes_wallet.user_id {in_range}"),
            },
            kept={
                "records": _record_kept_sql(terms),
                **posting.reversal_kept(
                    f"'reversal:' || p.origin || ':' || {users.key_sql(vendor, 'p.user_id')}",
                    unflagged=f"p.problem = '{UNFLAGGED}'",
                    shortfall=f"'adjustment:shortfall:' || p.origin || ':' || {users.key_sql(vendor, 'p.user_id')}"
                    if terms.write_off
                    else "",
                ),
            },
            sums=_SUMS,
            noted={**NOTED, "mana_before": _MANA_BEFORE},
            lock=dialect.lock_wallets(vendor, f"w.user_id {in_range} AND w.migrated_at IS NOT NULL"),
            handled="rolled_back",
            left_out="skipped",
            reverses=True,
        ),
    )


def reverse(
    connection: BaseDatabaseWrapper, terms: ReversalTerms, task: Task, limits: Limits | None = None
) -> Handled | None:
    """Reverse every selected conversion of a batch, inside the caller's transaction.

    Claims the batch, locks the wallets in the order of their keys, debits exactly what was credited,
    or what is there where the terms write the rest off, adds the recorded wishes, clears the flag
    and marks the batch.

    Args:
        connection: in a transaction of the caller.
        terms: what is frozen on the run.
        task: the batch.
        limits: how long to wait; None where the caller has set that for the whole transaction.

    Returns:
        What was done; None where the batch could not be claimed, or where it holds no conversion any
        more and the task does not want it marked then.

    Raises:
        django.db.Error: the database refused; the caller's transaction must be rolled back.
    """
    return statements(connection.vendor, terms).run(connection, task, parameters_of(connection, terms), limits)


def _would_pick(
    connection: BaseDatabaseWrapper, terms: ReversalTerms, keys: tuple[str, str] | None
) -> tuple[str, dict[str, Any]]:
    """Return the SELECT of what a rollback on these terms would pick now, unlocked, and its parameters."""
    parameters, condition = parameters_of(connection, terms), "1 = 1"
    if keys is not None:
        condition = "w.user_id BETWEEN %(first)s AND %(last)s"
        parameters["first"], parameters["last"] = (users.to_sql(connection, key) for key in keys)
    return picked_sql(connection.vendor, terms, condition, locked=False), parameters


def forecast(connection: BaseDatabaseWrapper, terms: ReversalTerms, *, keys: tuple[str, str] | None = None) -> Totals:
    """Return what a rollback on these terms would do now, without locking or writing anything.

    ``keys`` limits it to users from one key to another (as text, both included).
    """
    picked, parameters = _would_pick(connection, terms, keys)
    return statements(connection.vendor, terms).forecast(connection, picked, parameters)


def shortfalls(
    connection: BaseDatabaseWrapper,
    terms: ReversalTerms,
    *,
    limit: int,
    keys: tuple[str, str] | None = None,
) -> list[tuple[int, int, int]]:
    """Return (record id, mana credited, mana lacking) of the largest shortfalls that a rollback would meet now."""
    picked, parameters = _would_pick(connection, terms, keys)
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT record_id, credited, credited - mana FROM ({picked}) picked WHERE credited > mana "
            "AND problem NOT IN ('opening_balance', 'migration_inconsistency') "
            "ORDER BY credited - mana DESC, record_id LIMIT %(limit)s",
            {**parameters, "limit": limit},
        )
        return [(int(record), int(credited), int(lacking)) for record, credited, lacking in cursor.fetchall()]


def plan_rollback(
    connection: BaseDatabaseWrapper, terms: ReversalTerms, *, after: str, size: int, limit: int
) -> list[Slice]:
    """Cut the next users whose conversions are still to be reversed."""
    return slices(
        connection,
        relation=RECORDS,
        condition=lambda within: selection_sql(terms, within=within),
        parameters=parameters_of(connection, terms),
        after=after,
        size=size,
        limit=limit,
    )


def rollback_keys(connection: BaseDatabaseWrapper, terms: ReversalTerms, *, first: str, last: str) -> list[str]:
    """Return the keys of a range whose conversions are still to be reversed."""
    return keys_between(
        connection,
        relation=RECORDS,
        condition=selection_sql(terms, within=RECORDS_BETWEEN),
        parameters=parameters_of(connection, terms),
        first=first,
        last=last,
    )
