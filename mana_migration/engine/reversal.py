"""The one way a conversion is taken back, for one user and for ten thousand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any, Final

from django.db.backends.base.base import BaseDatabaseWrapper

from mana_migration.domain.results import Totals
from mana_migration.engine import chain, dialect, users
from mana_migration.engine.batches import BatchStatement, BatchWrites, Handled, Limits, Task
from mana_migration.engine.planning import RECORDS_BETWEEN, Slice, keys_between, slices
from wishes import posting
from wishes.moments import for_database

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


_COLUMNS: Final = (
    "record_id", "origin", "user_id", "green", "blue", "red", "mana", "credited", "debit", "sound", "problem", "line",
)  # fmt: skip

_SUMS: Final = {"green": "green", "blue": "blue", "red": "red", "mana": "debit", "shortfall": "credited - debit"}


def _selection(terms: ReversalTerms, *, within: str = "") -> str:
    """Return the condition of live records ``w`` that are still to be taken back; see ``_parameters``.

    ``within`` limits the records ``r`` that are looked at to those of a range of keys, as ``AND ...``.
    """
    conditions = [
        "w.status = 'migrated'",
        "(SELECT 1 FROM mana_migration_usermigration r "  # by the index, as for a conversion
        f"WHERE r.user_id = w.user_id AND r.run_id = {terms.run}{within} LIMIT 1) IS NULL",
    ]
    if not terms.named:
        # users whom the old system had converted are none of a mass rollback's business
        conditions.append(f"w.run_id NOT IN ({_IMPORTS})")
    if terms.target_run is not None:
        conditions.append(f"w.run_id = {terms.target_run}")
    if terms.since is not None:
        conditions.append("w.created_at >= %(since)s")
    if terms.until is not None:
        conditions.append("w.created_at < %(until)s")
    return " AND ".join(conditions)


_IMPORTS: Final = "SELECT i.id FROM mana_migration_migrationrun i WHERE i.kind = 'import'"


def _parameters(connection: BaseDatabaseWrapper, terms: ReversalTerms) -> dict[str, Any]:
    return {
        name: connection.ops.adapt_datetimefield_value(for_database(bound, connection))
        for name, bound in (("since", terms.since), ("until", terms.until))
        if bound is not None
    }


def picked_sql(vendor: str, terms: ReversalTerms, condition: str, *, within: str = "", locked: bool) -> str:
    """Return the SELECT of ``picked``: live records ``w`` with their wallets ``b``, and what a rollback does to them.

    ``condition`` narrows them down.  With ``locked`` the wallets are locked in the order of their keys.
    """
    order = f"ORDER BY w.user_id {dialect.lock(vendor, 'b')}{' OFFSET 0' * (vendor == 'postgresql')}" if locked else ""
    imported = f"WHEN w.run_id IN ({_IMPORTS}) THEN 'opening_balance' " if terms.named else ""
    short = "WHEN b.mana < w.mana_credited THEN 'shortfall' " if not terms.write_off else ""
    problem = f"CASE {imported}{short}ELSE '' END" if imported or short else "''"
    debit = "CASE WHEN l.mana < l.mana_credited THEN l.mana ELSE l.mana_credited END"
    line = f", {_line_sql(vendor, terms, debit)} AS line" if locked else ""
    return (
        "SELECT l.id AS record_id, l.run_id AS origin, l.user_id, l.green, l.blue, l.red, l.mana, "
        f"l.mana_credited AS credited, {debit} AS debit, l.problem = '' AS sound, l.problem{line} FROM ("
        f"SELECT w.id, w.run_id, w.user_id, w.green, w.blue, w.red, w.mana_credited, b.mana, {problem} AS problem "
        "FROM mana_migration_usermigration w JOIN wishes_wallet b ON b.user_id = w.user_id "
        f"WHERE {condition} AND b.migrated_at IS NOT NULL AND {_selection(terms, within=within)} {order}) l"
    )


def _line_sql(vendor: str, terms: ReversalTerms, debit: str) -> str:
    """Return the SQL of the line of a reversal of ``l``, or of the record of why there is none."""
    user = users.key_sql(vendor, "l.user_id")
    taken_back = chain.reversal_line_sql(
        vendor,
        run=str(terms.run),
        origin="l.run_id",
        wishes=("l.green", "l.blue", "l.red"),
        debited=debit,
        shortfall=f"l.mana_credited - ({debit})",
        user=user,
    )
    left = chain.record_line_sql(
        vendor,
        run=str(terms.run),
        outcome="'skipped'",
        wishes=("0", "0", "0"),
        before="l.mana",
        credited="0",
        error="l.problem",
        user=user,
    )
    return f"CASE WHEN l.problem = '' THEN {taken_back} ELSE {left} END"


@lru_cache(maxsize=32)
def _statement(vendor: str, terms: ReversalTerms) -> BatchStatement:
    now = dialect.now(vendor)
    in_range = "BETWEEN %(first)s AND %(last)s"
    messages = " ".join(f"WHEN '{name}' THEN '{text}'" for name, text in PROBLEMS.items())
    left_out = (
        "INSERT INTO mana_migration_usermigration (user_id, run_id, batch_id, status, green, blue, red, mana_before, "
        "mana_credited, error_class, error_message, shortfall, mark, created_at) "
        f"SELECT user_id, {terms.run}, %(batch)s, 'skipped', 0, 0, 0, mana, 0, problem, "
        f"CASE problem {messages} ELSE '' END, CASE WHEN problem = 'shortfall' THEN credited - mana END, "
        f"{chain.mark_sql(vendor, 'line')}, {now} FROM picked WHERE NOT sound"
    )
    handled = posting.handled_sql("user_id, record_id, debit, credited, line")
    theirs = (
        f"mana_migration_usermigration.user_id {in_range} AND mana_migration_usermigration.user_id = handled.user_id "
        "AND mana_migration_usermigration.id = handled.record_id"
    )
    if terms.preserve_logs:
        records = (
            f"UPDATE mana_migration_usermigration SET status = 'rolled_back', reversal_run_id = {terms.run}, "
            f"reversed_at = {now}, mana_debited = handled.debit, shortfall = handled.credited - handled.debit, "
            f"reversal_batch_id = %(batch)s, reversal_mark = {chain.mark_sql(vendor, 'handled.line')} "
            f"FROM {handled} WHERE {theirs}"
        )
    else:
        records = (
            f"DELETE FROM mana_migration_usermigration WHERE user_id {in_range} "
            "AND id IN (SELECT record_id FROM picked WHERE sound)"
        )
    reference = f"'reversal:' || origin || ':' || {users.key_sql(vendor, 'user_id')}"
    return BatchStatement(
        vendor,
        BatchWrites(
            columns=_COLUMNS,
            picked=picked_sql(
                vendor,
                terms,
                f"w.user_id {in_range} AND b.user_id {in_range} AND {{claimed}}",
                within=f" AND r.user_id {in_range}",
                locked=True,
            ),
            writes=(
                left_out,
                records,
                posting.insert_reversal_entries(reference, now),
                posting.update_reversed_wallets(now, f"wishes_wallet.user_id {in_range}"),
            ),
            sums=_SUMS,
            handled="rolled_back",
            left_out="skipped",
            reverses=True,
        ),
    )


def reverse(connection: BaseDatabaseWrapper, terms: ReversalTerms, task: Task) -> Handled | None:
    """Take back every selected conversion of a batch, inside the caller's transaction.

    Claims the batch, locks the wallets in the order of their keys, debits exactly what was credited,
    or what is there where the terms write the rest off, adds the recorded wishes, clears the flag
    and marks the batch.  Returns None where the batch could not be claimed, or where nobody was
    found and the task does not want it marked then.

    Raises:
        django.db.Error: the database refused; the caller's transaction must be rolled back.
    """
    return _statement(connection.vendor, terms).run(connection, task, _parameters(connection, terms))


def reverse_alone(connection: BaseDatabaseWrapper, terms: ReversalTerms, task: Task, limits: Limits) -> Handled | None:
    """Do what ``reverse`` does, in a transaction of its own.

    Raises:
        django.db.Error: the database refused; nothing was done.
    """
    return _statement(connection.vendor, terms).run_alone(connection, task, _parameters(connection, terms), limits)


def reverse_each(
    connection: BaseDatabaseWrapper, terms: ReversalTerms, tasks: Sequence[Task], limits: Limits
) -> list[Handled | None]:
    """Do what ``reverse_alone`` does with several batches, in a transaction each, as many as one message takes.

    Returns one answer for each of the first of them that were tried, at least one.

    Raises:
        django.db.Error: the database refused one of them; ``batches.done_by`` tells which are done.
    """
    return _statement(connection.vendor, terms).run_each(connection, tasks, _parameters(connection, terms), limits)


def _would_pick(
    connection: BaseDatabaseWrapper, terms: ReversalTerms, keys: tuple[str, str] | None
) -> tuple[str, dict[str, Any]]:
    """Return the SELECT of what a rollback on these terms would pick now, unlocked, and its parameters."""
    parameters, condition = _parameters(connection, terms), "1 = 1"
    if keys is not None:
        condition = "w.user_id BETWEEN %(first)s AND %(last)s"
        parameters["first"], parameters["last"] = (users.to_sql(connection, key) for key in keys)
    return picked_sql(connection.vendor, terms, condition, locked=False), parameters


def forecast(connection: BaseDatabaseWrapper, terms: ReversalTerms, *, keys: tuple[str, str] | None = None) -> Totals:
    """Return what a rollback on these terms would do now, without locking or writing anything.

    ``keys`` limits it to users from one key to another (as text, both included).
    """
    picked, parameters = _would_pick(connection, terms, keys)
    return _statement(connection.vendor, terms).forecast(connection, picked, parameters)


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
            "AND problem <> 'opening_balance' ORDER BY credited - mana DESC, record_id LIMIT %(limit)s",
            {**parameters, "limit": limit},
        )
        return [(int(record), int(credited), int(lacking)) for record, credited, lacking in cursor.fetchall()]


def plan_rollback(
    connection: BaseDatabaseWrapper, terms: ReversalTerms, *, after: str, size: int, limit: int
) -> list[Slice]:
    """Cut the next users whose conversions are still to be taken back."""
    return slices(
        connection,
        relation="mana_migration_usermigration w",
        condition=lambda within: _selection(terms, within=within),
        parameters=_parameters(connection, terms),
        after=after,
        size=size,
        limit=limit,
    )


def rollback_keys(connection: BaseDatabaseWrapper, terms: ReversalTerms, *, first: str, last: str) -> list[str]:
    """Return the keys of a range whose conversions are still to be taken back."""
    return keys_between(
        connection,
        relation="mana_migration_usermigration w",
        condition=_selection(terms, within=RECORDS_BETWEEN),
        parameters=_parameters(connection, terms),
        first=first,
        last=last,
    )
