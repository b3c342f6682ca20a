"""The work on one batch as one statement: claim it, pick and lock its users, write, mark it with its figures.

# Note [One message]
A round trip costs as much as the conversion of five users.  So on PostgreSQL a worker sends a batch
as one message of several statements outside any transaction block, which the server executes as one
transaction: either all of it is committed or nothing.  The limits on waiting and the planner's
settings are those of that transaction alone.

# Note [Several in a message]
An answer to a message takes as long as the work on a dozen users, so that small batches gain a fifth
when several go in one message.  Each of them is a transaction of its own all the same, between its
``BEGIN`` and ``COMMIT``: an error undoes the batch that it comes from, leaves those before it done and
those after it untouched.  The last statement tells which of them this worker did, with their figures.

# Note [One flush]
A commit waits until the disk has the write-ahead log, which costs a small batch up to a seventh of its
time.
Of several in a message only the last one waits: what it waits for is all that was logged before it, the
others' commits included.  So when a message is answered everything that it did is durable, as if each
had waited; and where the last one had nothing to commit, or an error cut the message short, one more
write follows that waits.  Until then others may see a conversion, for about a tenth of a second, that
a crash of the server would undo, whole; what they commit themselves comes after it in the log and
outlives no crash that it does not.

# Note [When a batch ends]
PostgreSQL performs the writes of a ``WITH`` after all else, unless somebody asks for their rows, which
costs more than a microsecond a user; and of several it begins with the one that was written last.  So
the batch's own row is the first of them, and the clock that it reads is that of the end.  A message's
last statement reads what was done.  A batch's beginning is the moment at which it is claimed: what
PostgreSQL calls the time of a statement is that of the message.

# Note [Plans]
To plan the statement takes longer than to convert fifty users, so it is prepared once a session,
with a plan for any batch.  A plan that is made while a table is empty must not be one that reads
the whole table later, nor look up its rows one by one: sequential scans, hash joins and nested loops
are switched off for the statement, whose every table is read by a range of keys, in the keys' order,
and merged.  Behind a connection pooler the next message may reach another session: the server then
says that it does not know the statement, which nothing has happened in, and it is sent again with its
text.  Where the site has said that session state is not its own (``DISABLE_SERVER_SIDE_CURSORS``),
nothing is prepared at all.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from django.db import DatabaseError, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.utils import CursorWrapper

from mana_migration.domain import chain as encoding
from mana_migration.domain.results import FIGURES, Totals
from mana_migration.engine import chain, dialect, driver, users
from mana_migration.engine.prepared import Prepared, session_of
from wishes import guards
from wishes.rates import BIGINT_MAX

_MONEY: Final = ("green", "blue", "red", "mana", "shortfall")

#: Column of the batch for the classes of those who were not handled, by the figure that counts them.
_REASONS: Final = {"failed": "errors", "skipped": "skips"}

#: The clock at the moment; PostgreSQL's statement time is that of the message's arrival.
_CLOCK: Final = {"postgresql": "clock_timestamp()", "sqlite": dialect.now("sqlite")}

#: The planner's settings, see Note [Plans].
_PLANNER: Final = {**dialect.KEYED_PLANS, "enable_nestloop": "off", "plan_cache_mode": "force_generic_plan"}

#: See Note [One flush].
_COMMIT_UNFLUSHED: Final = "SET LOCAL synchronous_commit = off; "


class BatchTooLargeError(DatabaseError):
    """The sums of a batch would leave the range of BIGINT: it must be halved."""


@dataclass(frozen=True, slots=True)
class Task:
    """A batch to be handled: its id and its keys as text, both ends included, and by whom.

    ``of_running_run``: only while its run is running; otherwise the caller holds the run.
    ``even_if_empty``: mark it done although nobody was found in it.
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


@dataclass(frozen=True, slots=True)
class BatchWrites:
    """How the users of a batch are picked and what is written for them; SQL with ``%(name)s`` parameters.

    Args:
        columns: the columns of ``picked`` in the order of ``picked``; among them ``problem``, text,
            ``sound``, whether the user is handled, and ``line``, what the batch's digest is made of.
        picked: the SELECT that picks, locks and judges them; its condition holds ``{claimed}``.
        writes: INSERT, UPDATE or DELETE statements over ``picked``.
        sums: SQL over ``picked`` by the money column of the batch that it is summed up in, for the sound.
        handled: the figure that counts the sound: migrated or rolled_back.
        left_out: the figure that counts the others: failed or skipped.
        locks_first: the statement that locks the users before they are picked, where their
            judgement reads more than the locked row; empty: picking locks.
        reverses: conversions are taken back, so that the guard of the wallets must be lifted.
    """

    columns: Sequence[str]
    picked: str
    writes: Sequence[str]
    sums: Mapping[str, str]
    handled: str
    left_out: str
    locks_first: str = ""
    reverses: bool = False


class BatchStatement:
    """The statement for all batches of a run; see Note [One message]."""

    def __init__(self, vendor: str, writes: BatchWrites) -> None:
        self._vendor, self._writes = vendor, writes
        self._texts: dict[tuple[bool, bool], str] = {}
        self._messages: dict[tuple[bool, bool, Limits], Prepared] = {}
        self._sequence = dialect.SetStatement(
            vendor=vendor,
            columns=writes.columns,
            source=writes.picked.format(claimed="1 = 1"),
            writes=writes.writes,
            result=self._result("picked"),
        )

    def run(self, connection: BaseDatabaseWrapper, task: Task, parameters: Mapping[str, Any]) -> Handled | None:
        """Handle a batch inside the caller's transaction; None where it could not be claimed.

        Raises:
            django.db.Error: the database refused; the caller's transaction must be rolled back.
        """
        values = {**parameters, **_parameters(connection, task)}
        lifted = guards.announce_reversal(connection) if self._writes.reverses else nullcontext()
        with lifted, connection.cursor() as cursor:
            if self._vendor != "postgresql":
                return self._in_sequence(connection, cursor, task, values)
            if self._writes.locks_first:
                cursor.execute(self._writes.locks_first, values)
            cursor.execute(self._text(task), values)
            if cursor.fetchone() is None:
                return None
            told = _told_sql(of_running_run=task.of_running_run, by_message=False)
            cursor.execute(told, {**values, "batches": [task.batch]})
            return _read(cursor.fetchone())

    def run_alone(
        self, connection: BaseDatabaseWrapper, task: Task, parameters: Mapping[str, Any], limits: Limits
    ) -> Handled | None:
        """Handle a batch in a transaction of its own; None where it could not be claimed.

        Raises:
            django.db.Error: the database refused; nothing was done.
        """
        if driver.sends_messages(connection) and not connection.in_atomic_block:
            return self._as_message(connection, task, {**parameters, **_parameters(connection, task)}, limits)
        with transaction.atomic(using=connection.alias, durable=True):
            dialect.set_timeouts(connection, lock_ms=limits.lock_ms, statement_ms=limits.statement_ms)
            return self.run(connection, task, parameters)

    def run_each(
        self, connection: BaseDatabaseWrapper, tasks: Sequence[Task], parameters: Mapping[str, Any], limits: Limits
    ) -> list[Handled | None]:
        """Handle batches in a transaction each; None for those that could not be claimed.

        In one message where this session has the statements prepared, see Note [Several in a message];
        otherwise only the first of them is handled, and the answer is for it alone.  All tasks are by
        the same worker and of the same kind.

        Raises:
            django.db.Error: the database refused one of them; ``done_by`` tells which are done.
        """
        if len(tasks) > 1 and driver.sends_messages(connection) and not connection.in_atomic_block:
            message = self._message(tasks[0], limits)
            connection.ensure_connection()
            session = session_of(connection)
            if session.prepares and message.name in session.known:
                return self._in_one_message(connection, message, tasks, parameters)
        return [self.run_alone(connection, tasks[0], parameters, limits)]

    # PostgreSQL

    def _in_one_message(
        self,
        connection: BaseDatabaseWrapper,
        message: Prepared,
        tasks: Sequence[Task],
        parameters: Mapping[str, Any],
    ) -> list[Handled | None]:
        values: dict[str, Any] = {}
        for number, task in enumerate(tasks):
            own = {**parameters, **_parameters(connection, task)}
            values |= {f"{name}_{number}": value for name, value in own.items()}
        values |= {"batches": [task.batch for task in tasks], "worker": tasks[0].worker}
        *work, told_by = message.executes
        works = [_numbered("; ".join(work), number) for number in range(len(tasks))]
        each = "".join(f"BEGIN; {_COMMIT_UNFLUSHED}{one}; COMMIT; " for one in works[:-1])
        with connection.cursor() as cursor:
            try:
                # the last one's transaction is that of the message, for the answer must be its last statement
                rows = driver.execute_message(cursor, f"{each}{works[-1]}; {told_by}", values)
            except DatabaseError:
                _leave_transaction(connection)
                raise
            told = {row[0]: _read(row) for row in rows}
        if told and tasks[-1].batch not in told:
            _flush(connection, next(iter(told)))
        return [told.get(task.batch) for task in tasks]

    def _as_message(
        self, connection: BaseDatabaseWrapper, task: Task, values: Mapping[str, Any], limits: Limits
    ) -> Handled | None:
        message = self._message(task, limits)
        values = {**values, "batches": [task.batch]}
        connection.ensure_connection()
        session = session_of(connection)
        with connection.cursor() as cursor:
            while session.prepares:
                known = message.name in session.known
                try:
                    text = f"{'' if known else message.prepare}{'; '.join(message.executes)}"
                    rows = driver.execute_message(cursor, text, values)
                except DatabaseError as error:
                    if not session.mistook(message.name, driver.sqlstate(error)):
                        raise
                else:
                    session.known.add(message.name)
                    return _read(next(iter(rows), None))
            return _read(next(iter(driver.execute_message(cursor, message.plain, values)), None))

    def _message(self, task: Task, limits: Limits) -> Prepared:
        """Return all statements of a batch in a transaction of its own, its limits and settings among them."""
        key = (task.of_running_run, task.even_if_empty, limits)
        if key not in self._messages:
            settings = {"lock_timeout": limits.lock_ms, "statement_timeout": limits.statement_ms, **_PLANNER}
            if self._writes.reverses:
                settings[guards.ANNOUNCEMENT] = "on"
            statements = (dialect.settings_sql(settings), self._writes.locks_first, self._text(task))
            told = _told_sql(of_running_run=task.of_running_run)
            self._messages[key] = Prepared(*filter(None, statements), told)
        return self._messages[key]

    def _text(self, task: Task) -> str:
        """Return the statement that does all of a batch."""
        key = (task.of_running_run, task.even_if_empty)
        if key not in self._texts:
            self._texts[key] = self._work(*key)
        return self._texts[key]

    def _work(self, of_running_run: bool, even_if_empty: bool) -> str:
        wanted = self._writes
        classes = (
            f"CASE WHEN f.{wanted.left_out} = 0 THEN '{{}}' ELSE (SELECT jsonb_object_agg(problem, users) FROM "
            "(SELECT problem, COUNT(*) AS users FROM picked WHERE NOT sound GROUP BY problem) p) END"
        )
        sums = {name: f"COALESCE(SUM({sql}) FILTER (WHERE sound), 0)" for name, sql in wanted.sums.items()}
        figures = {
            "selected": "COUNT(*)",
            wanted.handled: "COUNT(*) FILTER (WHERE sound)",
            wanted.left_out: "COUNT(*) FILTER (WHERE NOT sound)",
            **sums,
            "digest": chain.picked_digest_sql(),
        }
        marked = (
            "UPDATE mana_migration_migrationbatch b SET status = 'done', "
            f"{', '.join(f'{name} = f.{name}' for name in figures)}, {_REASONS[wanted.left_out]} = {classes}, "
            f"started_at = (SELECT begun FROM claimed), finished_at = {_CLOCK[self._vendor]}, worker = %(worker)s "
            f"FROM (SELECT {', '.join(f'{sql} AS {name}' for name, sql in figures.items())} FROM picked) f "
            "WHERE b.id = %(batch)s AND EXISTS (SELECT 1 FROM claimed)"
            f"{'' if even_if_empty else ' AND f.selected > 0'}"
        )
        parts = [
            f"claimed AS MATERIALIZED ({claim_sql(self._vendor, of_running_run=of_running_run)})",
            f"picked AS MATERIALIZED ({wanted.picked.format(claimed='EXISTS (SELECT 1 FROM claimed)')})",
            f"marked AS ({marked})",  # see Note [When a batch ends]
            *(f"write_{number} AS ({write})" for number, write in enumerate(wanted.writes, 1)),
        ]
        return f"WITH {', '.join(parts)} SELECT id FROM claimed"

    # SQLite

    def _in_sequence(
        self, connection: BaseDatabaseWrapper, cursor: CursorWrapper, task: Task, values: Mapping[str, Any]
    ) -> Handled | None:
        cursor.execute(claim_sql(self._vendor, of_running_run=task.of_running_run), values)
        claimed = cursor.fetchone()
        if claimed is None:
            return None
        _, controls, started = claimed
        rows = self._sequence.run(cursor, source=values, writes=[values] * len(self._writes.writes))
        totals = self.totals_of(rows)
        if not totals.selected and not task.even_if_empty:
            return None
        lines = self._sequence.read(cursor, "SELECT line FROM picked ORDER BY user_id")
        digest = encoding.digest(line for (line,) in lines)
        mark(connection, task.batch, totals, worker=task.worker, started=started, digest=digest)
        return Handled(totals, controls)

    # Without a batch

    def _result(self, relation: str) -> str:
        sums = ", ".join(dialect.exact_sum(self._vendor, sql) for sql in self._writes.sums.values())
        return f"SELECT problem, COUNT(*), {sums} FROM {relation} GROUP BY problem"

    def forecast(self, connection: BaseDatabaseWrapper, picked: str, parameters: Mapping[str, Any]) -> Totals:
        """Return what would be done with the rows of this SELECT, which has the columns of ``picked``."""
        with connection.cursor() as cursor:
            cursor.execute(self._result(f"({picked}) picked"), parameters)
            return self.totals_of(cursor.fetchall())

    def totals_of(self, rows: Sequence[tuple[Any, ...]]) -> Totals:
        """Return the totals of rows (problem, users, exact sums in two columns each)."""
        wanted, totals = self._writes, Totals()
        for problem, count, *sums in rows:
            totals.selected += count
            if problem:
                setattr(totals, wanted.left_out, getattr(totals, wanted.left_out) + count)
                getattr(totals, _REASONS[wanted.left_out])[problem] += count
                continue
            setattr(totals, wanted.handled, count)
            for name, pair in zip(wanted.sums, zip(sums[::2], sums[1::2], strict=True), strict=True):
                setattr(totals, name, dialect.combine(self._vendor, *pair))
        return totals


def claim_sql(vendor: str, *, of_running_run: bool) -> str:
    """Return the SELECT that claims the batch: its row locked, nothing where somebody holds it or it is done with."""
    if not of_running_run:
        own = f"SELECT b.id, NULL AS controls, {_CLOCK[vendor]} AS begun FROM mana_migration_migrationbatch b"
        return f"{own} WHERE b.id = %(batch)s AND b.status = 'planned' {dialect.lock(vendor, 'b')}"
    run = "FROM mana_migration_migrationrun r WHERE r.id = b.run_id"
    return (
        # subselects: a merge join would read all runs
        f"SELECT b.id, (SELECT r.controls {run}) AS controls, {_CLOCK[vendor]} AS begun "
        "FROM mana_migration_migrationbatch b "
        # a batch that was halved meanwhile is another one
        "WHERE b.id = %(batch)s AND b.last_user = %(upto)s AND b.status = 'planned' "
        f"AND (SELECT r.status {run}) = 'running' "
        f"{dialect.lock(vendor, 'b', skip_locked=True)}"
    )


def mark(
    connection: BaseDatabaseWrapper,
    batch: int,
    totals: Totals,
    *,
    worker: str,
    started: Any = None,
    digest: str | None = None,
) -> None:
    """Mark a planned batch as handled with figures that are known here; the caller holds it in its transaction.

    ``started``: when it was begun, by the database's clock; None: now.  ``digest``: that of its
    users' lines; None: of its records, which are read.

    Raises:
        BatchTooLargeError: a sum would leave the range of BIGINT; the batch must be halved.
    """
    if max(getattr(totals, name) for name in _MONEY) > BIGINT_MAX:
        raise BatchTooLargeError("integer overflow in the sums of a batch")
    vendor = connection.vendor
    begun = dialect.now(vendor) if started is None else "%(started)s"
    with connection.cursor() as cursor:
        cursor.execute(
            f"UPDATE mana_migration_migrationbatch SET status = 'done', started_at = {begun}, "
            f"finished_at = {_CLOCK[vendor]}, worker = %(worker)s, errors = %(errors)s, skips = %(skips)s, "
            "digest = %(digest)s, "
            f"{', '.join(f'{name} = %({name})s' for name in FIGURES)} WHERE id = %(batch)s AND status = 'planned'",
            {
                **{name: getattr(totals, name) for name in FIGURES},
                "errors": json.dumps(dict(totals.errors)),
                "skips": json.dumps(dict(totals.skips)),
                "batch": batch,
                "worker": worker,
                "started": started,
                "digest": chain.digest_of(connection, batch) if digest is None else digest,
            },
        )
        if cursor.rowcount != 1:
            raise DatabaseError(f"batch {batch} was no longer planned when it was to be marked")


def done_by(connection: BaseDatabaseWrapper, batches: Sequence[int], worker: str) -> dict[int, Handled]:
    """Return what was done with those of these batches of a running run that this worker has done, durably by now."""
    with connection.cursor() as cursor:
        cursor.execute(_told_sql(of_running_run=True, by_message=False), {"batches": list(batches), "worker": worker})
        done = {row[0]: handled for row in cursor.fetchall() if (handled := _read(row)) is not None}
    if done:
        _flush(connection, next(iter(done)))
    return done


def _flush(connection: BaseDatabaseWrapper, batch: int) -> None:
    """Wait until all that was committed is durable, by a write to a batch that is done; see Note [One flush]."""
    with connection.cursor() as cursor:
        cursor.execute("UPDATE mana_migration_migrationbatch SET worker = worker WHERE id = %s", [batch])


def _told_sql(*, of_running_run: bool, by_message: bool = True) -> str:
    """Return the statement that tells what this worker has done with batches, in the columns that ``_read`` takes.

    ``by_message``: only those that were begun since the message arrived of which the statement is part.
    """
    controls = "(SELECT r.controls FROM mana_migration_migrationrun r WHERE r.id = b.run_id)"
    return (
        f"SELECT b.id, {', '.join(f'b.{name}' for name in FIGURES)}, b.errors, b.skips, "
        f"{controls if of_running_run else 'NULL'} FROM mana_migration_migrationbatch b "
        "WHERE b.id = ANY(%(batches)s) AND b.status = 'done' AND b.worker = %(worker)s"
        + " AND b.started_at >= statement_timestamp()"
        * by_message
    )


@lru_cache(maxsize=64)
def _numbered(sql: str, number: int) -> str:
    """Return the SQL with a batch's number at the end of each parameter's name, for a message of several."""
    return re.sub(r"%\((\w+)\)s", rf"%(\1_{number})s", sql)


def _leave_transaction(connection: BaseDatabaseWrapper) -> None:
    """End the transaction that a failed message began and Django does not know of.

    Raises:
        django.db.Error: the connection is lost.
    """
    if driver.aborted(connection):
        with connection.wrap_database_errors, connection.connection.cursor() as cursor:
            cursor.execute("ROLLBACK")


def _parameters(connection: BaseDatabaseWrapper, task: Task) -> dict[str, Any]:
    return {
        "batch": task.batch,
        "first": users.to_sql(connection, task.first),
        "last": users.to_sql(connection, task.last),
        "upto": task.last,
        "worker": task.worker,
    }


def _read(row: Sequence[Any] | None) -> Handled | None:
    if row is None:
        return None
    _, *figures, errors, skips, controls = row
    totals = Totals(*figures)
    if errors != "{}":
        totals.errors.update(json.loads(errors))
    if skips != "{}":
        totals.skips.update(json.loads(skips))
    return Handled(totals, controls)
