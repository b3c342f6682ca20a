"""Runs that a page starts: opened in the request, done by a worker process.

The database itself is the queue: ``manage.py work_migration`` polls for an open run and works on it.
Any number of such processes, on any machine, may run.  A site with Celery may have its workers do it
instead (``MANA_MIGRATION_EXECUTOR``): then they are sent a message.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from django.db import DEFAULT_DB_ALIAS, InterfaceError, OperationalError, transaction
from django.utils.translation import gettext as _

from mana_migration import conf
from mana_migration.domain.options import CELERY, MigrationOptions, RollbackOptions
from mana_migration.domain.results import RunSummary
from mana_migration.domain.words import counted
from mana_migration.engine import failures
from mana_migration.errors import RunConflictError
from mana_migration.models import MigrationRun, ReportFile, RunRequest
from mana_migration.services import approval, operation, preflight, report_files, runs
from mana_migration.services.approval import Approval
from mana_migration.services.context import Actor, RunContext
from mana_migration.services.executors import celery_broker
from mana_migration.services.migration import Migration
from mana_migration.services.operation import Operation
from mana_migration.services.rollback import Rollback
from mana_migration.states import Action, EventKind, RunKind, RunStatus

WORKER_COMMAND: Final = "python manage.py work_migration"

#: Seconds without a finished batch after which a page says that no worker seems to work on the run.
IDLE_AFTER: Final = 10.0

#: Seconds between two polls for work.
POLL_SECONDS: Final = 2.0


def looks_idle(seconds: float | None) -> bool:
    """Say whether an open run without progress for so long seems to have no worker."""
    return seconds is not None and seconds >= IDLE_AFTER


def open_run(asked: Operation, context: RunContext, *, workers: int | None = None) -> MigrationRun:
    """Open a run for a worker process; everything that must hold before is checked here.

    ``workers``: the Celery tasks that share it, None for the setting's.

    Raises:
        MigrationError: it cannot start now; see ``operation.execute``.
    """
    _check(context.using)
    return _send(asked.open(context), context.using, workers)


def approve(request_id: int, context: RunContext, *, reason: str) -> MigrationRun:
    """Open the run that another person asks for, for a worker process, as the second person who approves it.

    Raises:
        ApprovalError: the request is decided on, has expired or is the approver's own.
        MigrationError: the run cannot start now; the request waits on.
    """
    request = approval.get_waiting(request_id, by=context.actor.name, using=context.using)
    granted = Approval(context.actor.name, reason, request.pk)
    author = replace(context, actor=Actor(request.actor, request.host))
    return open_run(_requested(request, granted), author, workers=request.workers)


def _requested(request: RunRequest, granted: Approval) -> Operation:
    if request.kind == RunKind.ROLLBACK:
        options = RollbackOptions.from_dict(request.options, request.controls)
        return Rollback(replace(options, reason=request.reason, approved_by=granted.by), granted)
    return Migration(MigrationOptions.from_dict(request.options, request.controls), request.reason, granted)


def ask_for_report(run_id: int | None, kind: str, *, actor: str, again: bool, using: str = "default") -> ReportFile:
    """Ask a worker for a report of a run, None for the whole migration; ``again``: check the run again for it.

    Raises:
        RunNotFoundError: there is no such run.
        UsageError, PreflightError, BrokerUnavailableError: workers cannot be reached now.
    """
    if conf.executor() == CELERY:
        celery_broker.check()
    file = report_files.ask(run_id, kind, actor=actor, again=again, using=using)
    if conf.executor() == CELERY:
        transaction.on_commit(lambda: celery_broker.send_reports(using), using=using)
    return file


def check_send_again(run_id: int, using: str = "default") -> MigrationRun:
    """Return the open run whose message can be sent once more.

    Raises:
        RunNotFoundError: there is no such run.
        RunConflictError: workers here look for runs themselves, or the run is closed or paused.
    """
    run = runs.get_run(run_id, using=using)
    if conf.executor() != CELERY:
        raise RunConflictError(
            _("workers find run {run} by themselves: start one with {command}").format(
                run=run.pk, command=worker_command(using)
            )
        )
    if not run.is_open:
        raise RunConflictError(
            _("run {run} is {status}: nothing is left to do").format(run=run.pk, status=run.status_words)
        )
    if run.status == RunStatus.PAUSED:
        raise RunConflictError(_("run {run} is paused: resume it, and its workers continue").format(run=run.pk))
    return run


def send_again(run_id: int, context: RunContext, *, reason: str) -> MigrationRun:
    """Send the workers the message of an open run once more, in case it was lost; one too many does no harm.

    Raises:
        RunNotFoundError, RunConflictError: see ``check_send_again``.
        PreflightError, UsageError, BrokerUnavailableError: it cannot be sent now.
    """
    run = check_send_again(run_id, context.using)
    _check(context.using)
    message = f"sent to the workers again: {reason}" if reason else "sent to the workers again"
    _send(run, context.using)
    runs.add_event(run.pk, EventKind.RESUMED_WORK, actor=context.actor, message=message, using=context.using)
    return run


def worker_command(using: str = "default") -> str:
    """Return how to start a worker for the runs that pages start."""
    if conf.executor() == CELERY:
        return celery_broker.worker_command()
    return WORKER_COMMAND if using == DEFAULT_DB_ALIAS else f"{WORKER_COMMAND} --database {using}"


def send_again_command(run_id: int, using: str = "default") -> str:
    """Return how to send a run whose message is lost once more; empty where no messages are sent."""
    if conf.executor() != CELERY:
        return ""
    database = "" if using == DEFAULT_DB_ALIAS else f" --database {using}"
    return f"python manage.py work_migration{database} --run {run_id} --executor celery"


def _check(using: str) -> None:
    preflight.check(using)
    if conf.executor() == CELERY:
        celery_broker.check()


def _send(run: MigrationRun, using: str, workers: int | None = None) -> MigrationRun:
    """Send a run to the workers, once they can see it; a page does not follow it."""
    if conf.executor() == CELERY:
        times = workers or conf.celery_workers()
        transaction.on_commit(lambda: celery_broker.send(run, using=using, times=times), using=using)
    return run


def find_work(using: str) -> MigrationRun | None:
    """Return the open run that a worker can work on; None where there is none, it is paused or its window is over."""
    run = runs.open_run_or_none(using)
    ready = run is not None and run.allows(Action.WORK) and not run.controls_in_force.window_is_over()
    return run if ready else None


def work(context: RunContext, *, once: bool = False, poll_seconds: float = POLL_SECONDS) -> list[RunSummary]:
    """Work on the open run, and on the next one, until asked to stop; ``once``: until no run is open.

    Returns what became of the runs worked on.

    Raises:
        DatabaseUnavailableError: the database cannot do the work; the run stays open.
    """
    done: list[RunSummary] = []
    while not context.stop.requested:
        try:
            run = find_work(context.using)
        except (OperationalError, InterfaceError) as error:
            if once:
                raise
            context.notice(f"the database does not answer ({failures.describe(error)}); trying again")
            context.connection.close()
            context.stop.wait(poll_seconds)
            continue
        if run is not None:
            context.notice(f"working on {run.description}")
            summary = operation.work_on_run(run.pk, context)
            still_open = RunStatus(summary.status).is_open  # this process was asked to end, or another one checks it
            how = "stays open, any worker can continue it" if still_open else f"is {summary.status.replace('_', ' ')}"
            context.notice(f"run {run.pk} {how}: {counted(summary.totals.selected, 'user')} processed")
            done.append(summary)
            if not still_open:
                continue
        elif once:
            break
        context.stop.wait(poll_seconds)
    return done
