"""Several processes on one run: those of one command on this machine, or a hand lent from any other."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Unpack

from django.db import connections

from mana_migration.domain.options import MigrationOptions, RollbackOptions, parse_workers
from mana_migration.domain.results import RunSummary
from mana_migration.engine import totals
from mana_migration.errors import RunConflictError, UsageError
from mana_migration.models import MigrationRun
from mana_migration.services import migration, preflight, rollback, runs
from mana_migration.services.context import RunContext, StopFlag
from mana_migration.services.executors import processes
from mana_migration.services.runs import Actor
from mana_migration.states import RunKind, RunStatus


def check_workers(workers: int, using: str) -> None:
    """Refuse a number of processes that this database cannot use.

    Raises:
        UsageError: it is SQLite, which has one writer, or there are too many.
    """
    if parse_workers(workers) > 1 and connections[using].vendor == "sqlite":
        raise UsageError(f"{workers} workers: SQLite has one writer at a time; leave --workers out, or use PostgreSQL")


def migrate_together(
    options: MigrationOptions,
    workers: int,
    *,
    actor: Actor,
    reason: str = "",
    arguments: Sequence[str] = (),
    **context: Unpack[RunContext],
) -> RunSummary:
    """Do what ``migration.migrate`` does with so many processes on this machine, this one among them.

    ``arguments`` are added to the command lines of the others.

    Raises:
        UsageError: this database takes fewer workers.
        MigrationError: as ``migration.migrate`` does.
    """
    using, notice = context.get("using", "default"), context.get("notice", runs.silent)
    check_workers(workers, using)
    if workers == 1 or options.users:
        return migration.migrate(options, actor=actor, reason=reason, **context)
    preflight.check(using, reverses=True, notice=notice)
    return work_together(
        lambda: migration.open_or_join(options, actor=actor, reason=reason, using=using, notice=notice),
        workers,
        actor=actor,
        arguments=arguments,
        **context,
    )


def roll_back_together(
    options: RollbackOptions,
    workers: int,
    *,
    actor: Actor,
    arguments: Sequence[str] = (),
    **context: Unpack[RunContext],
) -> RunSummary:
    """Do what ``rollback.roll_back`` does with so many processes on this machine, this one among them.

    ``arguments`` are added to the command lines of the others.

    Raises:
        UsageError: this database takes fewer workers.
        MigrationError: as ``rollback.roll_back`` does.
    """
    using, notice = context.get("using", "default"), context.get("notice", runs.silent)
    check_workers(workers, using)
    if workers == 1 or options.users:
        return rollback.roll_back(options, actor=actor, **context)
    preflight.check(using, reverses=True, notice=notice)
    return work_together(
        lambda: rollback.open_or_join(options, actor=actor, using=using, notice=notice),
        workers,
        actor=actor,
        arguments=arguments,
        **context,
    )


def work_together(
    find: Callable[[], MigrationRun],
    workers: int,
    *,
    actor: Actor,
    arguments: Sequence[str] = (),
    **context: Unpack[RunContext],
) -> RunSummary:
    """Work on an open run with so many processes, this one among them; their progress is told together.

    ``find`` opens the run or finds it, while the other processes start.  ``arguments`` are added to
    their command lines.
    """
    using, notice = context.get("using", "default"), context.get("notice", runs.silent)
    stop = context["stop"] = context.get("stop") or StopFlag()
    with processes.helpers(workers - 1, using=using, stop=stop, arguments=arguments, notice=notice) as others:
        run = find()
        begun, before = time.monotonic(), totals.run_totals(run, using).selected
        others.put_to_work(run)
        joint = context | {"progress": processes.JointProgress(others, run.pk, context.get("progress"))}
        done = migration.work_on_run(run.pk, actor=actor, joining=True, **joint)
        if done.status == RunStatus.CHECKING and not stop.requested:
            notice("everybody is accounted for: another process checks the books")
    if not stop.requested:  # has ended, unless whoever was to end it died
        context.pop("expecting", None)
        done = migration.work_on_run(run.pk, actor=actor, **context)
    run.refresh_from_db(using=using)
    handled = totals.run_totals(run, using).selected - before
    shown = done.run if done.run is not None else run.pk  # for a breaker's rollback the run that it takes back
    return migration.summary(shown, using=using, seconds=time.monotonic() - begun, handled=handled)


def join_run(
    run_id: int,
    workers: int = 1,
    *,
    actor: Actor,
    arguments: Sequence[str] = (),
    **context: Unpack[RunContext],
) -> RunSummary:
    """Lend a hand to an open migration or mass rollback, from whatever machine; it ends when the run does.

    Any number may join, at any time and any number of times.  Of a closed run nothing but its outcome
    is told, with ``handled`` 0.  A run that others are checking is theirs; the summary says
    ``checking`` then.

    Args:
        run_id: the run.
        workers: processes to start on this machine, the calling one among them.
        actor: who lends a hand.
        arguments: options added to the command lines of the other processes.
        context: see ``RunContext``; progress is that of all processes started here.

    Raises:
        UsageError: this database takes fewer workers.
        PreflightError: the database is not fit.
        RunNotFoundError: there is no such run.
        RunConflictError: it is paused, or an import.
        DatabaseUnavailableError: the database cannot do the work; the run stays open.
    """
    using, notice = context.get("using", "default"), context.get("notice", runs.silent)
    check_workers(workers, using)
    preflight.check(using)
    run = find_to_join(run_id, using=using, notice=notice)
    if not run.is_open:
        return migration.summary(run.pk, using=using, seconds=0.0, handled=0)
    notice(f"run {run.pk}, a {run.get_kind_display().lower()}, is {run.get_status_display().lower()}: joining a hand")
    runs.note_resumed_work(run.pk, actor=actor, using=using)
    if workers > 1:
        return work_together(lambda: run, workers, actor=actor, arguments=arguments, **context)
    # whoever began to check a run may have died: nobody else can have been meant by joining it now
    return migration.work_on_run(run.pk, actor=actor, joining=run.status != RunStatus.CHECKING, **context)


def find_to_join(run_id: int, *, using: str, notice: runs.Notice) -> MigrationRun:
    """Return the run that joining this one means: itself, or that which takes it back; of a closed one it is told.

    Raises:
        RunNotFoundError: there is no such run.
        RunConflictError: it is paused, or an import.
    """
    run = runs.get_run(run_id, using=using)
    if run.kind == RunKind.IMPORT:
        raise RunConflictError(f"run {run.pk} is an import, which is done at once: there is nothing to join")
    if run.status == RunStatus.ROLLING_BACK:
        run = runs.find_takeback(run.pk, using=using) or run
    if not run.is_open:
        notice(f"run {run.pk} is {run.get_status_display().lower()}: nothing is left to do")
    elif run.status == RunStatus.PAUSED:
        raise RunConflictError(f"run {run.pk} is paused; let it go on with migrate_users --resume {run.pk}")
    return run


def help_out(
    *, actor: Actor, using: str = "default", stop: StopFlag | None = None, notice: runs.Notice = runs.silent
) -> None:
    """Work as a helper, until the run ends or the process that started this one closes the pipe or dies.

    Raises:
        PreflightError: the database is not fit.
        RunConflictError: it is another one than that of the process that started this one.
        DatabaseUnavailableError: the database cannot do the work.
    """
    stop = stop or StopFlag()
    preflight.check(using)
    run = processes.await_work(stop, using=using)
    if run is not None and run.status != RunStatus.CHECKING:  # it was small: the others were through first
        migration.work_on_run(run.pk, actor=actor, using=using, stop=stop, notice=notice, joining=True)
