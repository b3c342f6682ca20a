"""Several processes on one run: those of one command on this machine, or more from any other machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from django.db import connections

from mana_migration.domain.options import parse_workers
from mana_migration.domain.results import RunSummary
from mana_migration.engine import totals
from mana_migration.errors import RunConflictError, UsageError
from mana_migration.models import MigrationRun
from mana_migration.services import operation, preflight, runs
from mana_migration.services.context import RunContext, ignore
from mana_migration.services.executors import processes
from mana_migration.services.operation import Operation
from mana_migration.states import RunKind, RunStatus


def check_workers(workers: int, using: str) -> None:
    """Refuse a number of processes that this database cannot use.

    Raises:
        UsageError: it is SQLite, which has one writer, or there are too many.
    """
    if parse_workers(workers) > 1 and connections[using].vendor == "sqlite":
        raise UsageError(f"{workers} workers: SQLite has one writer at a time; leave --workers out, or use PostgreSQL")


def execute(asked: Operation, context: RunContext, *, workers: int = 1, arguments: Sequence[str] = ()) -> RunSummary:
    """Do what ``operation.execute`` does with so many processes on this machine, this one among them.

    Args:
        asked: the migration or rollback.
        context: see ``RunContext``; progress is that of all processes.
        workers: processes, this one among them.
        arguments: options added to the command lines of the other processes.

    Raises:
        UsageError: this database takes fewer workers.
        MigrationError: see ``operation.execute``.
    """
    check_workers(workers, context.using)
    if workers == 1 or asked.selected_users:
        return operation.execute(asked, context)
    operation.check_database(asked, context)
    return _work_together(
        lambda: operation.open_or_resume(asked, context),
        context,
        workers=workers,
        arguments=arguments,
        shown_run=asked.shown_run,
    )


def join_run(run_id: int, context: RunContext, *, workers: int = 1, arguments: Sequence[str] = ()) -> RunSummary:
    """Join the work on an open migration or mass rollback, from any machine; it ends when the run does.

    Any number of processes may join, at any time.  For a closed run its outcome is returned, with
    ``handled`` 0.  A run that another process is checking is left to that one; the summary says
    ``checking`` then.

    Args:
        run_id: the run.
        context: see ``RunContext``; progress is that of all processes started here.
        workers: processes to start on this machine, the calling one among them.
        arguments: options added to the command lines of the other processes.

    Raises:
        UsageError: this database takes fewer workers.
        PreflightError: the database is not fit.
        RunNotFoundError: there is no such run.
        RunConflictError: it is paused, or an import.
        DatabaseUnavailableError: the database cannot do the work; the run stays open.
    """
    using = context.using
    check_workers(workers, using)
    preflight.await_writes(context)
    preflight.check(using)
    run = find_to_join(run_id, context)
    if not run.is_open:
        return operation.summary(run.pk, using=using, seconds=0.0, handled=0)
    context.notice(f"joining {run.description}, which is {run.status_words}")
    runs.note_resumed_work(run.pk, actor=context.actor, using=using)
    if workers > 1:
        return _work_together(lambda: run, context, workers=workers, arguments=arguments)
    # the process that began to check a run may have died: joining it now can only mean to check it
    return operation.work_on_run(run.pk, context, joining=run.status != RunStatus.CHECKING)


def find_to_join(run_id: int, context: RunContext) -> MigrationRun:
    """Return the run that joining this one means: itself, or the rollback of it that its breaker opened.

    Raises:
        RunNotFoundError: there is no such run.
        RunConflictError: it is paused, or an import.
    """
    run = runs.get_run(run_id, using=context.using)
    if run.kind == RunKind.IMPORT:
        raise RunConflictError(f"run {run.pk} is an import, which is done at once: there is nothing to join")
    run = runs.find_breaker_rollback(run.pk, using=context.using) or run
    if not run.is_open:
        context.notice(f"run {run.pk} is {run.status_words}: nothing is left to do")
    runs.refuse_paused(run)
    return run


def _work_together(
    find: Callable[[], MigrationRun],
    context: RunContext,
    *,
    workers: int,
    arguments: Sequence[str],
    shown_run: Callable[[MigrationRun], int] | None = None,
) -> RunSummary:
    """Work on an open run with so many processes, this one among them; their progress is reported together.

    ``find`` opens the run or finds it, while the other processes start.  ``shown_run`` returns the
    run whose outcome is reported; default: that of ``operation.work_on_run``.
    """
    using, stop = context.using, context.stop
    with processes.helpers(workers - 1, context, arguments=arguments) as others:
        run = find()
        begun, before = time.monotonic(), totals.run_totals(run, using).selected
        others.put_to_work(run)
        joint = replace(context, progress=processes.JointProgress(others, run.pk, context))
        done = operation.work_on_run(run.pk, joint, joining=True)
        if done.status == RunStatus.CHECKING and not stop.requested:
            context.notice("all users processed; another process runs the integrity checks")
    if not stop.requested:  # the run has ended, unless the process that was to end it died
        done = operation.work_on_run(run.pk, replace(context, expecting=ignore))
    run.refresh_from_db(using=using)
    handled = totals.run_totals(run, using).selected - before
    shown = run.tripped_run or run.pk if shown_run is None else shown_run(run)
    return operation.summary(shown, using=using, seconds=time.monotonic() - begun, handled=handled)


def work_as_helper(context: RunContext) -> None:
    """Work as a helper, until the run ends or the process that started this one closes the pipe or dies.

    Raises:
        PreflightError: the database is not fit.
        RunConflictError: it is another one than that of the process that started this one.
        DatabaseUnavailableError: the database cannot do the work.
    """
    preflight.await_writes(context)
    preflight.check(context.using)
    run = processes.await_work(context.stop, using=context.using)
    if run is not None and run.status != RunStatus.CHECKING:  # else it was small, and the others did all of it
        operation.work_on_run(run.pk, context, joining=True)
