"""The work on one batch: claim it, pick and lock its users, write, mark it with its figures.

# Note [One statement]
On PostgreSQL the work on a batch is one statement, whose parts are named in its ``WITH``: one round trip,
one snapshot, rows locked in the order of their keys as they are picked.  SQLite has no data-modifying
``WITH``; there ``picked`` is a temporary table, and the same parts follow one another in the same
transaction.

# Note [When a batch ends]
PostgreSQL performs the writes of a ``WITH`` after all else, unless a part of the statement reads their
rows, which is slower; and of several it begins with the one that was written last.  So the batch's own
row is the first of them, and the clock that it reads is that of the end.  A
batch begins when it is claimed: PostgreSQL's time of a statement is that at which the message arrived.

# Note [What is kept]
A trigger or a rule of the site's own can drop, double or change what is written while the statement
reports success.  So a batch is claimed by the one statement only while nothing is attached to the tables
that it writes, which costs the reading of a few rows of the catalogue; otherwise the statements follow one
another on a temporary table, and before the transaction ends every record, entry and wallet is compared
with what was picked.  A difference fails the batch, which is then split down to the user.  On SQLite,
which has one writer at a time, the schema is read before each batch.

# Note [Plans]
To plan the statement takes as long as to convert a small batch, so it is prepared once a session, with a
plan for any batch.  A plan that is made while a table is empty must not be one that reads the whole table
later, nor find its rows one by one: sequential scans, hash joins and nested loops are switched off for
the statement, whose every table is read by a range of keys, in the keys' order, and merged.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Final

from django.db import DatabaseError
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.utils import CursorWrapper

from mana_migration.domain.results import FIGURES, Totals
from mana_migration.engine import chain, dialect, driver, foreign, users
from mana_migration.engine.failures import NothingKeptError, NotKeptError
from mana_migration.engine.prepared import Message
from mana_migration.engine.sql import Statement
from wishes import guards
from wishes.sql import all_of, block, listed

#: Column of the batch for the classes of those who were not handled, by the figure that counts them.
_REASONS: Final = {"failed": "errors", "skipped": "skips"}

#: The clock at the moment; PostgreSQL's statement time is that of the message's arrival.
_CLOCK: Final = {"postgresql": "clock_timestamp()", "sqlite": dialect.now("sqlite")}

#: SQLSTATE of a statement that a rule makes impossible.
_UNSUPPORTED: Final = "0A000"

#: The planner's settings, see Note [Plans].
PLANNER: Final = {**dialect.KEYED_PLANS, "enable_nestloop": "off", "plan_cache_mode": "force_generic_plan"}


@dataclass(frozen=True, slots=True)
class Task:
    """A batch to be handled: its id and its keys as text, both ends included, and by whom.

    ``of_running_run``: only while its run is running; otherwise the caller holds the run.
    ``even_if_empty``: mark it done although it holds no user any more.
    """

    batch: int
    first: str
    last: str
    worker: str
    of_running_run: bool = True
    even_if_empty: bool = True


@dataclass(frozen=True, slots=True)
class Limits:
    """How long a batch waits for a lock and how long its statement may take, in milliseconds; 0: for ever."""

    lock_ms: int
    statement_ms: int


@dataclass(frozen=True, slots=True)
class Handled:
    """What was done with a batch, and the controls of its run as they are now (JSON or its text)."""

    totals: Totals
    controls: str | Mapping[str, Any] | None


#: What is noted of every user whose rows are compared later.
NOTED: Final = {"entries": "(SELECT COUNT(*) FROM wishes_manaentry e WHERE e.user_id = {picked}.user_id)"}


@dataclass(frozen=True, slots=True)
class BatchWrites:
    """How the users of a batch are picked and what is written for them; SQL with ``%(name)s`` parameters.

    Args:
        columns: the columns of ``picked`` in their order; among them ``problem``, text, ``valid``, whether
            the user is handled, and ``line``, what the batch's digest is made of.
        picked: returns the SELECT that picks, locks and checks them, limited by one more condition.
        writes: INSERT, UPDATE or DELETE statements over ``picked``, by what they write.
        kept: SQL of whether the tables hold what was written for row ``p`` of ``picked``, by what was
            written; see Note [What is kept].
        sums: SQL over the valid rows of ``picked`` by the column of the batch that keeps their sum.
        handled: the figure that counts the valid: migrated or rolled_back.
        left_out: the figure that counts the others: failed or skipped.
        noted: SQL of what is compared and would be overwritten, by its column in ``picked``, as ``{picked}``.
        lock: PostgreSQL's statement that locks the users before they are picked; empty on SQLite.
        locks_first: checking the users reads more than the locked row, so that picking cannot lock.
        reverses: conversions are reversed, so that the guard of the wallets must be lifted.
    """

    columns: Sequence[str]
    picked: Callable[[str], str]
    writes: Mapping[str, str]
    kept: Mapping[str, str]
    sums: Mapping[str, str]
    handled: str
    left_out: str
    noted: Mapping[str, str] = field(default_factory=lambda: dict(NOTED))
    lock: str = ""
    locks_first: bool = False
    reverses: bool = False


class BatchStatements:
    """The statements for all batches of a run; see Note [One statement]."""

    def __init__(self, vendor: str, writes: BatchWrites) -> None:
        self.vendor, self.writes = vendor, writes
        self._messages: dict[tuple[bool, bool, Limits | None], Message] = {}
        self.compares = False  # something of the site's own is attached, see Note [What is kept]

    def run(
        self, connection: BaseDatabaseWrapper, task: Task, parameters: Mapping[str, Any], limits: Limits | None
    ) -> Handled | None:
        """Handle a batch inside the caller's transaction; None where it could not be claimed.

        ``limits``: None where the caller has set them for the whole transaction.

        Raises:
            NotKeptError: the tables do not hold what was written.
            django.db.Error: the database refused; the caller's transaction must be rolled back.
        """
        values = {**parameters, **parameters_of(connection, task)}
        announce = self.writes.reverses and (limits is None or self.vendor == "sqlite")
        lifted = guards.announce_reversal(connection) if announce else nullcontext()
        if self.vendor == "sqlite" or limits is None:
            self.compares = foreign.is_attached(connection)
        with lifted, connection.cursor() as cursor:
            if self.vendor == "sqlite" or self.compares:
                return self._one_after_another(cursor, task, values, limits)
            try:
                rows = self.message(task, limits).execute(connection, cursor, values, prepare=limits is not None)
            except DatabaseError as error:
                self.compares = driver.sqlstate(error) == _UNSUPPORTED  # a rule was made since the latest batch
                raise
            if rows or not foreign.is_attached(connection):
                return read(next(iter(rows), None))
            self.compares = True
            return self._one_after_another(cursor, task, values, limits)

    def _one_after_another(
        self, cursor: CursorWrapper, task: Task, values: Mapping[str, Any], limits: Limits | None
    ) -> Handled | None:
        before, claim, steps = self._in_sequence(task, limits)
        for step in before:
            cursor.execute(step.sql, values)
        cursor.execute(claim.sql, values)
        if cursor.fetchone() is None:
            return None
        for step in steps:
            cursor.execute(step.sql, values)
        cursor.execute(self._result(task).sql, values)
        handled = read(cursor.fetchone())
        if self.compares:
            self._compare(cursor, task, values, handled)
        return handled

    def _compare(self, cursor: CursorWrapper, task: Task, values: Mapping[str, Any], handled: Handled | None) -> None:
        """Compare what was picked with the rows in the tables; see Note [What is kept].

        Raises:
            NotKeptError: they differ.
        """
        cursor.execute(self._comparison().sql, values)
        row = cursor.fetchone()
        (picked, valid), differ, sums = row[:2], row[2 : 2 + len(self.writes.kept)], row[2 + len(self.writes.kept) :]
        found = [f"{count} of the {name}" for name, count in zip(self.writes.kept, differ, strict=True) if count]
        totals = handled.totals if handled is not None else Totals()
        marked = (totals.selected, *(getattr(totals, name) for name in (self.writes.handled, *self.writes.sums)))
        exact = (dialect.combine(self.vendor, *pair) for pair in zip(sums[::2], sums[1::2], strict=True))
        if marked != (picked, valid, *exact) or (handled is None and task.even_if_empty):
            found.append("the batch")
        if found:
            raise NotKeptError(
                f"the database did not keep {', '.join(found)} as written: a trigger or a rule of the site's own on "
                f"{', '.join(foreign.WRITTEN)} drops or changes rows"
            )

    def message(self, task: Task, limits: Limits | None) -> Message:
        """Return PostgreSQL's statements for a batch as they are sent together."""
        key = (task.of_running_run, task.even_if_empty, limits)
        if key not in self._messages:
            self._messages[key] = Message([step.sql for step in self.steps(task, limits)])
        return self._messages[key]

    def steps(self, task: Task, limits: Limits | None) -> list[Statement]:
        """Return the statements for a batch in their order; the last returns what was done."""
        if self.vendor == "postgresql":
            return [*self._at_once(task, limits), self._result(task)]
        before, claim, steps = self._in_sequence(task, limits)
        return [*before, claim, *steps, self._result(task)]

    def _result(self, task: Task) -> Statement:
        return Statement(
            "return what was done, with the controls of the run as they are now",
            result_sql(self.vendor, of_running_run=task.of_running_run),
        )

    def _limits(self, limits: Limits | None) -> list[Statement]:
        if limits is None or self.vendor == "sqlite":  # there the connection's own apply
            return []
        settings = {"lock_timeout": limits.lock_ms, "statement_timeout": limits.statement_ms, **PLANNER}
        if self.writes.reverses:
            settings[guards.ANNOUNCEMENT] = "on"
        return [Statement("limit waits, and read every table by its keys", dialect.settings_sql(settings))]

    def _lock(self) -> Statement:
        return Statement("lock the wallets before their ledger is read", self.writes.lock)

    def _at_once(self, task: Task, limits: Limits | None) -> list[Statement]:
        """Return the one statement that does all of a batch, after what must precede it."""
        writes = {"marked": self._mark_sql(task), **self.writes.writes}  # see Note [When a batch ends]
        parts = [block("{name} AS (\n    {sql}\n)", name=name, sql=sql) for name, sql in writes.items()]
        work = block(
            """
            WITH claimed AS MATERIALIZED (
                {claim}
            ),
            picked AS MATERIALIZED (
                {picked}
            ),
            {writes}
            SELECT id FROM claimed
            """,
            claim=claim_sql("postgresql", of_running_run=task.of_running_run, unless_attached=True),
            picked=self.writes.picked("EXISTS (SELECT 1 FROM claimed)"),
            writes=listed(*parts),
        )
        names = ", ".join(self.writes.writes)
        return [
            *self._limits(limits),
            *([self._lock()] if self.writes.locks_first else []),
            Statement(f"claim the batch, pick and lock its users, write {names}, mark the batch", work),
        ]

    def _in_sequence(self, task: Task, limits: Limits | None) -> tuple[list[Statement], Statement, list[Statement]]:
        """Return what comes before the claim, the claim, and the statements that follow it."""
        on_postgresql = self.vendor == "postgresql"
        columns = ", ".join(_empty_column(column) for column in (*self.writes.columns, *self.writes.noted))
        steps = [
            Statement(
                "note when it begins",
                f"UPDATE mana_migration_migrationbatch\nSET started_at = {_CLOCK[self.vendor]}\nWHERE id = %(batch)s",
            )
        ]
        if on_postgresql:  # a WITH cannot be rewritten by a rule of the site's
            table, name, picked = "pg_temp.picked", "picked", ""
            steps += [
                self._lock(),
                Statement("remove the users of the batch before", f"DROP TABLE IF EXISTS {table}"),
                Statement(
                    "make room for the users",
                    f"CREATE TEMPORARY TABLE picked ON COMMIT DROP AS\nSELECT {columns}\nFROM wishes_wallet LIMIT 0",
                ),
            ]
        else:
            name = f"picked_{self.writes.handled}"  # one for each set of columns
            table, picked = f"temp.{name}", f"WITH picked AS (SELECT * FROM temp.{name})\n"
            steps += [
                Statement(
                    "make room for the users",
                    f"CREATE TEMPORARY TABLE IF NOT EXISTS {name} AS\nSELECT {columns}\nFROM wishes_wallet LIMIT 0",
                ),
                Statement("remove the users of the batch before", f"DELETE FROM {table}"),
            ]
        steps.append(
            Statement(
                "pick and check the users",
                f"INSERT INTO {table} ({', '.join(self.writes.columns)})\n{self.writes.picked('1 = 1')}",
            )
        )
        if self.compares:
            noted = listed(*(f"{column} = {sql.format(picked=name)}" for column, sql in self.writes.noted.items()))
            steps.append(Statement("note what is there before", f"UPDATE {table} SET {noted}"))
        steps += [Statement(f"write {what}", f"{picked}{sql}") for what, sql in self.writes.writes.items()]
        steps.append(Statement("mark the batch", f"{picked}{self._mark_sql(task, claimed=False)}"))
        claim = claim_sql(self.vendor, of_running_run=task.of_running_run)
        return self._limits(limits), Statement("claim the batch", claim), steps

    def _comparison(self) -> Statement:
        kept = self.writes.kept
        query = block(
            """
            SELECT COUNT(*), COUNT(*) FILTER (WHERE valid),
                   {counts},
                   {sums}
            FROM (
                SELECT
                    p.*,
                    {conditions}
                FROM {picked} p
            ) compared
            """,
            counts=listed(*(f"COUNT(*) FILTER (WHERE NOT {name}_kept)" for name in kept)),
            sums=listed(
                *(
                    dialect.exact_sum(self.vendor, f"CASE WHEN valid THEN {sql} ELSE 0 END")
                    for sql in self.writes.sums.values()
                )
            ),
            conditions=listed(
                *(block("(\n    {sql}\n) AS {name}_kept", sql=sql, name=name) for name, sql in kept.items())
            ),
            picked="pg_temp.picked" if self.vendor == "postgresql" else f"temp.picked_{self.writes.handled}",
        )
        return Statement("compare what was picked with the rows in the tables", query)

    def _mark_sql(self, task: Task, *, claimed: bool = True) -> str:
        """Return the UPDATE of the batch by the figures of ``picked``; ``claimed``: by the same statement."""
        on_postgresql = self.vendor == "postgresql"
        wanted = self.writes
        figures = {
            "selected": "COUNT(*)",
            wanted.handled: "COUNT(*) FILTER (WHERE valid)",
            wanted.left_out: "COUNT(*) FILTER (WHERE NOT valid)",
            **{name: f"COALESCE(SUM({sql}) FILTER (WHERE valid), 0)" for name, sql in wanted.sums.items()},
            "digest": chain.picked_digest_sql(self.vendor),
        }
        assignments = {
            **{name: f"f.{name}" for name in figures},
            _REASONS[wanted.left_out]: block(
                """
                CASE WHEN f.{left_out} = 0 THEN '{{}}' ELSE (
                    SELECT {as_object}(problem, users)
                    FROM (SELECT problem, COUNT(*) AS users FROM picked WHERE NOT valid GROUP BY problem) p
                ) END
                """,
                left_out=wanted.left_out,
                as_object="jsonb_object_agg" if on_postgresql else "json_group_object",
            ),
            **({"started_at": "(SELECT begun FROM claimed)"} if claimed else {}),
            "finished_at": _end(self.vendor, "(SELECT begun FROM claimed)" if claimed else "b.started_at"),
            "worker": "%(worker)s",
        }
        return block(
            """
            UPDATE mana_migration_migrationbatch AS b
            SET status = 'done',
                {assignments}
            FROM (
                SELECT
                    {figures}
                FROM picked
            ) f
            WHERE b.id = %(batch)s
              {claimed}
              {found}
            """,
            assignments=listed(*(f"{name} = {value}" for name, value in assignments.items())),
            figures=listed(*(f"{sql} AS {name}" for name, sql in figures.items())),
            claimed="AND EXISTS (SELECT 1 FROM claimed)" if claimed else "",
            found="" if task.even_if_empty else "AND f.selected > 0",
        )

    # Without a batch

    def forecast(self, connection: BaseDatabaseWrapper, picked: str, parameters: Mapping[str, Any]) -> Totals:
        """Return what would be done with the rows of this SELECT, which has the columns of ``picked``."""
        sums = [dialect.exact_sum(self.vendor, sql) for sql in self.writes.sums.values()]
        query = block(
            """
            SELECT problem, COUNT(*),
                   {sums}
            FROM (
                {picked}
            ) picked
            GROUP BY problem
            """,
            sums=listed(*sums),
            picked=picked,
        )
        with connection.cursor() as cursor:
            cursor.execute(query, parameters)
            return self._totals_of(cursor.fetchall())

    def _totals_of(self, rows: Sequence[tuple[Any, ...]]) -> Totals:
        """Return the totals of rows (problem, users, exact sums in two columns each)."""
        wanted, totals = self.writes, Totals()
        for problem, count, *sums in rows:
            totals.selected += count
            if problem:
                setattr(totals, wanted.left_out, getattr(totals, wanted.left_out) + count)
                getattr(totals, _REASONS[wanted.left_out])[problem] += count
                continue
            setattr(totals, wanted.handled, count)
            for name, pair in zip(wanted.sums, zip(sums[::2], sums[1::2], strict=True), strict=True):
                setattr(totals, name, dialect.combine(self.vendor, *pair))
        return totals


def _end(vendor: str, begun: str) -> str:
    """Return the SQL of when a batch ends: never before it begins, although the clock may be set back."""
    return f"{'GREATEST' if vendor == 'postgresql' else 'MAX'}({_CLOCK[vendor]}, {begun})"


def _empty_column(name: str) -> str:
    """Return the column of a table like ``picked``; that of the key has the type of the wallet's."""
    kind = {"problem": "text", "line": "text", "valid": "boolean"}.get(name, "bigint")
    return name if name == "user_id" else f"CAST(NULL AS {kind}) AS {name}"


# --- Claiming and marking ---------------------------------------------------------------------------------------------


def claim_sql(vendor: str, *, of_running_run: bool, unless_attached: bool = False) -> str:
    """Return the SELECT that claims a batch: on PostgreSQL its row is locked; no row where it is held or done.

    ``unless_attached``: only while nothing of the site's own is attached to the tables; see Note [What is kept].
    """
    # the run by a subselect: a merge join would read all runs; a batch that was split meanwhile is another one
    running = "(SELECT r.status FROM mana_migration_migrationrun r WHERE r.id = b.run_id) = 'running'"
    return block(
        """
        SELECT b.id, {clock} AS begun
        FROM mana_migration_migrationbatch b
        WHERE {condition}
        {lock}
        """,
        clock=_CLOCK[vendor],
        condition=all_of(
            "b.id = %(batch)s AND b.status = 'planned'",
            "b.last_user = %(upto)s" if of_running_run else "",
            running if of_running_run else "",
            foreign.nothing_attached_sql() if unless_attached else "",
        ),
        lock=dialect.lock(vendor, "b", skip_locked=of_running_run),
    )


def result_sql(vendor: str, *, of_running_run: bool = True, batches: str = "= %(batch)s", just_now: bool = True) -> str:
    """Return the SELECT of what this worker has done with batches, in the columns of ``read``.

    ``just_now``: since the beginning of this transaction, or of the message.
    """
    return block(
        """
        SELECT b.id, {figures}, b.errors, b.skips,
               {controls} AS controls
        FROM mana_migration_migrationbatch b
        WHERE b.id {batches} AND b.status = 'done' AND b.worker = %(worker)s
          {now}
        """,
        figures=", ".join(f"b.{name}" for name in FIGURES),
        controls="(SELECT r.controls FROM mana_migration_migrationrun r WHERE r.id = b.run_id)"
        if of_running_run
        else "NULL",
        batches=batches,
        now="AND b.started_at >= transaction_timestamp()" if just_now and vendor == "postgresql" else "",
    )


def read(row: Sequence[Any] | None) -> Handled | None:
    """Return what a row of ``result_sql`` says; None without a row."""
    if row is None:
        return None
    _, *figures, errors, skips, controls = row
    totals = Totals(*figures)
    if errors != "{}":
        totals.errors.update(json.loads(errors))
    if skips != "{}":
        totals.skips.update(json.loads(skips))
    return Handled(totals, controls)


def parameters_of(connection: BaseDatabaseWrapper, task: Task) -> dict[str, Any]:
    """Return the parameters of a batch."""
    return {
        "batch": task.batch,
        "first": users.to_sql(connection, task.first),
        "last": users.to_sql(connection, task.last),
        "upto": task.last,
        "worker": task.worker,
    }


def mark(connection: BaseDatabaseWrapper, batch: int, totals: Totals, *, worker: str) -> None:
    """Mark a planned batch as handled with figures that are known here; the caller holds it in its transaction.

    Raises:
        django.db.DatabaseError: it is not planned any more.
        NothingKeptError: the database changed the figures.
    """
    query = block(
        """
        UPDATE mana_migration_migrationbatch
        SET status = 'done',
            {figures},
            errors = %(errors)s,
            skips = %(skips)s,
            digest = %(digest)s,
            started_at = {now},
            finished_at = {end},
            worker = %(worker)s
        WHERE id = %(batch)s AND status = 'planned'
        """,
        figures=listed(*(f"{name} = %({name})s" for name in FIGURES)),
        now=dialect.now(connection.vendor),
        end=_end(connection.vendor, dialect.now(connection.vendor)),
    )
    values = {
        **{name: getattr(totals, name) for name in FIGURES},
        "errors": json.dumps(dict(totals.errors)),
        "skips": json.dumps(dict(totals.skips)),
        "digest": chain.digest_of(connection, batch),
        "batch": batch,
        "worker": worker,
    }
    with connection.cursor() as cursor:
        cursor.execute(query, values)
        if cursor.rowcount != 1:
            raise DatabaseError(f"batch {batch} was no longer planned when it was to be marked")
        cursor.execute(
            f"SELECT {', '.join(FIGURES)}, digest FROM mana_migration_migrationbatch WHERE id = %(batch)s", values
        )
        if list(cursor.fetchone()) != [values[name] for name in (*FIGURES, "digest")]:
            raise NothingKeptError(
                f"the database did not keep the figures of batch {batch}: a trigger or a rule of the site's own on "
                "mana_migration_migrationbatch changes them"
            )
