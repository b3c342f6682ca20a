"""Long work that a page asks for: opened in the request, done by a worker process.

The database itself is the queue: an open run is the work, ``manage.py work_migration`` looks for one
and works on it like any command does.  Any number of such processes, on any machine, may run.
"""

from __future__ import annotations

from typing import Final

from django.db import InterfaceError, OperationalError, connections

from mana_migration.domain.options import MigrationOptions, RollbackOptions
from mana_migration.domain.results import ProgressCallback, RunSummary
from mana_migration.engine import failures
from mana_migration.models import MigrationRun
from mana_migration.services import migrate, preflight, rollback, runs
from mana_migration.services.runs import Actor
from mana_migration.services.worker import StopFlag
from mana_migration.states import OPEN_STATUSES, RunStatus

WORKER_COMMAND: Final = "python manage.py work_migration"

#: Seconds without a finished batch after which a page says that nobody seems to work on the run.
IDLE_AFTER: Final = 10.0

#: Seconds between two looks for work.
LOOK_SECONDS: Final = 2.0


def looks_idle(seconds: float | None) -> bool:
    """Say whether an open run without progress for so long seems to have no worker."""
    return seconds is not None and seconds >= IDLE_AFTER


def ask_for_migration(options: MigrationOptions, *, actor: Actor, reason: str, using: str = "default") -> MigrationRun:
    """Open a migration for a worker to take up; everything that must hold before is checked here.

    Raises:
        PreflightError, FindingsError, RunConflictError: it cannot start now.
    """
    preflight.check(using)
    return migrate.start(options, actor=actor, reason=reason, using=using)


def ask_for_rollback(options: RollbackOptions, *, actor: Actor, using: str = "default") -> MigrationRun:
    """Open a mass rollback for a worker to take up; an open migration is stopped.

    Raises:
        PreflightError, NothingToRollBackError, RunConflictError, RunNotFoundError: it cannot start now.
    """
    preflight.check(using)
    return rollback.open_rollback(options, actor=actor, using=using)


def find_work(using: str) -> MigrationRun | None:
    """Return the open run that a worker can do something about; None where there is none or it is paused."""
    run = runs.open_run_or_none(using)
    return None if run is None or run.status == RunStatus.PAUSED else run


def work(
    *,
    actor: Actor,
    using: str = "default",
    stop: StopFlag,
    once: bool = False,
    look_seconds: float = LOOK_SECONDS,
    progress: ProgressCallback | None = None,
    notice: runs.Notice = runs.silent,
) -> list[RunSummary]:
    """Work on whatever run is open, again and again, until asked to stop; ``once``: until nothing is left.

    Returns what became of the runs worked on.

    Raises:
        DatabaseUnavailableError: the database cannot do the work; the run stays open.
    """
    done: list[RunSummary] = []
    while not stop.requested:
        try:
            run = find_work(using)
        except (OperationalError, InterfaceError) as error:
            if once:
                raise
            notice(f"the database does not answer ({failures.describe(error)}); trying again")
            connections[using].close()
            stop.wait(look_seconds)
            continue
        if run is not None:
            notice(f"{run.get_kind_display().lower()} run {run.pk}: going to work on it")
            summary = migrate.work_on_run(run.pk, actor=actor, using=using, stop=stop, progress=progress, notice=notice)
            notice(f"run {run.pk} is {summary.status}: {summary.totals.selected:,} users accounted for")
            done.append(summary)
            if summary.status not in OPEN_STATUSES:
                continue
        elif once:
            break
        stop.wait(look_seconds)
    return done
