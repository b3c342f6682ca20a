"""Several batches in one message to PostgreSQL: an optimisation, and all of it is here.

Without it each batch is ``with transaction.atomic()`` around ``conversion.convert`` or
``reversal.reverse``, with the same rows as the result.  ``MOST = 1`` turns it off.

# Note [Several in a message]
The answer to a message takes as long as the work on a few users, so that small batches are faster when
several go in one message.  Each of them is a transaction of its own all the same, between its
``BEGIN`` and ``COMMIT``: an error undoes the batch that it comes from, leaves those before it done and
those after it untouched.  The last statement returns which of them this worker did, with their figures.

# Note [One flush]
A commit waits until the disk has the write-ahead log, which a small batch notices.  Of several in a
message only the last one waits: what it waits for is all that was logged before it, the others' commits
included.  So when a message is answered everything that it did is durable, as if each had waited; and
where the last one had nothing to commit, or an error cut the message short, one more write follows that
waits.  Until then others may see a conversion, for about a tenth of a second, that a crash of the server
would undo, whole; what they commit themselves comes after it in the log and outlives no crash that it
does not.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

from django.db import DatabaseError, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from mana_migration.engine import conversion, driver, reversal
from mana_migration.engine.batches import BatchStatements, Handled, Limits, Task, parameters_of, read, result_sql
from mana_migration.engine.conversion import ConversionTerms
from mana_migration.engine.prepared import session_of
from mana_migration.engine.reversal import ReversalTerms

#: Batches in one message at most; 1: each batch by itself.
MOST: Final = 24

#: Seconds that the batches of one message should take, by what the latest batch took.
SECONDS: Final = 0.12

#: See Note [One flush].
_COMMIT_UNFLUSHED: Final = "SET LOCAL synchronous_commit = off"


def batches_at_once(connection: BaseDatabaseWrapper, *, seconds: float) -> int:
    """Return how many batches to send in one message.

    Args:
        connection: of the worker.
        seconds: what the latest batch took.
    """
    if not driver.sends_messages(connection) or seconds <= 0:
        return 1
    return max(1, min(MOST, int(SECONDS / seconds)))


def convert_several(
    connection: BaseDatabaseWrapper, terms: ConversionTerms, tasks: Sequence[Task], limits: Limits
) -> list[Handled | None]:
    """Do with several batches what ``conversion.convert`` does, in a transaction each.

    Returns one answer for each of the first of them that were tried, at least one.

    Raises:
        django.db.Error: the database refused one of them; ``done_by`` returns which are done.
    """
    return _several(connection, conversion.statements(connection.vendor, terms), tasks, {}, limits)


def reverse_several(
    connection: BaseDatabaseWrapper, terms: ReversalTerms, tasks: Sequence[Task], limits: Limits
) -> list[Handled | None]:
    """Do with several batches what ``reversal.reverse`` does, in a transaction each.

    Returns one answer for each of the first of them that were tried, at least one.

    Raises:
        django.db.Error: the database refused one of them; ``done_by`` returns which are done.
    """
    statements = reversal.statements(connection.vendor, terms)
    return _several(connection, statements, tasks, reversal.parameters_of(connection, terms), limits)


def _several(
    connection: BaseDatabaseWrapper,
    statements: BatchStatements,
    tasks: Sequence[Task],
    parameters: Mapping[str, Any],
    limits: Limits,
) -> list[Handled | None]:
    """Handle batches of the same worker and kind in one message, where this session has their statements prepared.

    Otherwise only the first of them is handled, which prepares them; also where the site has attached something of
    its own, for then each batch is compared with what was kept of it.
    """
    message = statements.message(tasks[0], limits)
    if connection.in_atomic_block or statements.compares or message.name not in session_of(connection).known:
        with transaction.atomic(using=connection.alias, durable=True):
            return [statements.run(connection, tasks[0], parameters, limits)]
    *work, _ = message.executes
    values: dict[str, Any] = {"batches": [task.batch for task in tasks], "worker": tasks[0].worker}
    sent: list[str] = []
    for number, task in enumerate(tasks):
        own = {**parameters, **parameters_of(connection, task)}
        values |= {f"{name}_{number}": value for name, value in own.items()}
        numbered = [_numbered(text, number) for text in work]
        # the last one's transaction is that of the message, for the answer must be its last statement
        last = number == len(tasks) - 1
        sent += numbered if last else ["BEGIN", _COMMIT_UNFLUSHED, *numbered, "COMMIT"]
    sent.append(result_sql("postgresql", of_running_run=tasks[0].of_running_run, batches="= ANY(%(batches)s)"))
    with connection.cursor() as cursor:
        try:
            rows = driver.execute_message(cursor, sent, values)
        except DatabaseError:
            _leave_transaction(connection)
            raise
    done = {row[0]: read(row) for row in rows}
    if done and tasks[-1].batch not in done:
        _flush(connection, next(iter(done)))
    return [done.get(task.batch) for task in tasks]


@lru_cache(maxsize=256)
def _numbered(sql: str, number: int) -> str:
    """Return the SQL with a batch's number at the end of each parameter's name."""
    return re.sub(r"%\((\w+)\)s", rf"%(\1_{number})s", sql)


def done_by(connection: BaseDatabaseWrapper, batches: Sequence[int], worker: str) -> dict[int, Handled]:
    """Return what was done with those of these batches of a running run that this worker has done, durably by now."""
    query = result_sql("postgresql", batches="= ANY(%(batches)s)", just_now=False)
    with connection.cursor() as cursor:
        cursor.execute(query, {"batches": list(batches), "worker": worker})
        done = {row[0]: handled for row in cursor.fetchall() if (handled := read(row)) is not None}
    if done:
        _flush(connection, next(iter(done)))
    return done


def _flush(connection: BaseDatabaseWrapper, batch: int) -> None:
    """Wait until all that was committed is durable, by a write to a batch that is done; see Note [One flush]."""
    with connection.cursor() as cursor:
        cursor.execute("UPDATE mana_migration_migrationbatch SET worker = worker WHERE id = %s", [batch])


def _leave_transaction(connection: BaseDatabaseWrapper) -> None:
    """End the transaction that a failed message began and Django does not know of.

    Raises:
        django.db.Error: the connection is lost.
    """
    if driver.aborted(connection):
        with connection.wrap_database_errors, connection.connection.cursor() as cursor:
            cursor.execute("ROLLBACK")
