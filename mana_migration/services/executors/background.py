"""Long work that a page asks for: opened in the request, done by a worker process.

The database itself is the queue: an open run is the work, ``manage.py work_migration`` looks for one
and works on it like any command does.  Any number of such processes, on any machine, may run.  A site
with Celery may have its workers do it instead (``MANA_MIGRATION_EXECUTOR``): then they are sent a message.
"""

from __future__ import annotations

from typing import Final

from django.db import DEFAULT_DB_ALIAS, InterfaceError, OperationalError, connections, transaction

from mana_migration import conf
from mana_migration.domain.options import CELERY, MigrationOptions, RollbackOptions
from mana_migration.domain.results import ProgressCallback, RunSummary
from mana_migration.engine import failures
from mana_migration.errors import RunConflictError
from mana_migration.models import MigrationRun
from mana_migration.services import migration, preflight, rollback, runs
from mana_migration.services.context import StopFlag
from mana_migration.services.executors import celery_broker
from mana_migration.services.runs import Actor
from mana_migration.states import EventKind, RunStatus

WORKER_COMMAND: Final = "python manage.py work_migration"

#: Seconds without a finished batch after which a page says that nobody seems to work on the run.
IDLE_AFTER: Final = 10.0

#: Seconds between two looks for work.
LOOK_SECONDS: Final = 2.0


def looks_idle(seconds: float | None) -> bool:
    """Say whether an open run without progress for so long seems to have no worker."""
    return seconds is not None and seconds >= IDLE_AFTER


def ask_for_migration(
    options: MigrationOptions, *, actor: Actor, reason: str, using: str = "default", workers: int | None = None
) -> MigrationRun:
    """Open a migration for a worker to take up; everything that must hold before is checked here.

    ``workers``: the Celery tasks that share it, None for the setting's.

    Raises:
        PreflightError, FindingsError, RunConflictError, BrokerUnavailableError: it cannot start now.
    """
    _check(using)
    return _hand_over(migration.start(options, actor=actor, reason=reason, using=using), using, workers)


def ask_for_rollback(options: RollbackOptions, *, actor: Actor, using: str = "default") -> MigrationRun:
    """Open a mass rollback for a worker to take up; an open migration is stopped.

    Raises:
        PreflightError, NothingToRollBackError, RunConflictError, RunNotFoundError, BrokerUnavailableError: it cannot
            start now.
    """
    _check(using)
    return _hand_over(rollback.open_rollback(options, actor=actor, using=using), using)


def check_send_again(run_id: int, using: str = "default") -> MigrationRun:
    """Return the open run whose message can be sent once more.

    Raises:
        RunNotFoundError: there is no such run.
        RunConflictError: workers here look for runs themselves, or the run is closed or paused.
    """
    run = runs.get_run(run_id, using=using)
    if conf.executor() != CELERY:
        raise RunConflictError(f"workers find run {run.pk} by themselves: start one with {worker_command(using)}")
    if not run.is_open:
        raise RunConflictError(f"run {run.pk} is {run.status_words}: nothing is left to do")
    if run.status == RunStatus.PAUSED:
        raise RunConflictError(f"run {run.pk} is paused: resume it, and its workers go on")
    return run


def send_again(run_id: int, *, actor: Actor, reason: str, using: str = "default") -> MigrationRun:
    """Send the workers the message of an open run once more, in case it was lost; one too many does no harm.

    Raises:
        RunNotFoundError, RunConflictError: see ``check_send_again``.
        PreflightError, UsageError, BrokerUnavailableError: it cannot be sent now.
    """
    run = check_send_again(run_id, using)
    _check(using)
    message = f"sent to the workers again: {reason}" if reason else "sent to the workers again"
    _hand_over(run, using)
    runs.add_event(run.pk, EventKind.RESUMED_WORK, actor=actor, message=message, using=using)
    return run


def worker_command(using: str = "default") -> str:
    """Return how to start a worker that takes up what pages ask for."""
    if conf.executor() == CELERY:
        return celery_broker.worker_command()
    return WORKER_COMMAND if using == DEFAULT_DB_ALIAS else f"{WORKER_COMMAND} --database {using}"


def hand_over_command(run_id: int, using: str = "default") -> str:
    """Return how to send the workers a run once more, whose message is lost; empty where no messages are sent."""
    if conf.executor() != CELERY:
        return ""
    database = "" if using == DEFAULT_DB_ALIAS else f" --database {using}"
    return f"python manage.py migrate_users{database} --join {run_id} --executor celery"


def _check(using: str) -> None:
    preflight.check(using)
    if conf.executor() == CELERY:
        celery_broker.check()


def _hand_over(run: MigrationRun, using: str, workers: int | None = None) -> MigrationRun:
    """Send a run to the workers, once it can be seen by them; a page does not follow it."""
    if conf.executor() == CELERY:
        times = workers or conf.celery_workers()
        transaction.on_commit(lambda: celery_broker.send(run, using=using, times=times), using=using)
    return run


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
            notice(f"{run.description}: going to work on it")
            summary = migration.work_on_run(
                run.pk, actor=actor, using=using, stop=stop, progress=progress, notice=notice
            )
            how = f"is {summary.status.replace('_', ' ')}"
            if RunStatus(summary.status).is_open:  # this process was asked to end, or others check the books
                how = "stays open, any worker goes on with it"
            notice(f"run {run.pk} {how}: {summary.totals.selected:,} users accounted for")
            done.append(summary)
            if not RunStatus(summary.status).is_open:
                continue
        elif once:
            break
        stop.wait(look_seconds)
    return done
