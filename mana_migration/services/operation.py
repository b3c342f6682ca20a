"""One operation: open a run or resume the open one, work on it, check it, close it.

What a migration and a rollback do differently is in ``migration`` and ``rollback``.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Any, Protocol

from django.db import DatabaseError, InterfaceError, connections, transaction
from django.utils import timezone

from mana_migration.domain.breaker import BreakerVerdict
from mana_migration.domain.options import Controls, RollbackOptions
from mana_migration.domain.results import BatchResult, RunSummary, Totals
from mana_migration.engine import records, totals
from mana_migration.errors import RunConflictError
from mana_migration.models import MigrationRun
from mana_migration.services import logs, preflight, runs, validation
from mana_migration.services.context import RunContext, ignore
from mana_migration.services.migration import MigrationWork
from mana_migration.services.rollback import Rollback, RollbackWork
from mana_migration.services.worker.context import Work
from mana_migration.services.worker.loop import Ending, Worker
from mana_migration.services.worker.outage import Outage
from mana_migration.services.worker.throttle import Throttle
from mana_migration.states import RunStatus, StopCause


class Operation(Protocol):
    """What is asked for: ``migration.Migration`` or ``rollback.Rollback``."""

    @property
    def selected_users(self) -> tuple[str, ...]:
        """The users that are selected one by one, empty for a mass run."""

    @property
    def controls(self) -> Controls:
        """The pace, the error threshold and the window that are asked for."""

    @property
    def reverses(self) -> bool:
        """Whether conversions may be reversed, which not every role of the database may."""

    def handle_selected(self, context: RunContext) -> RunSummary:
        """Handle the selected users at once, in one transaction."""

    def open(self, context: RunContext) -> MigrationRun:
        """Check everything that must hold before and open a run; no user is handled yet."""

    def can_resume(self, run: MigrationRun) -> bool:
        """Say whether the open run is one that this request resumes, or is refused by."""

    def refuse_to_resume(self, run: MigrationRun) -> None:
        """Refuse a request that cannot mean the open run."""

    def describe_resumed(self, run: MigrationRun, using: str) -> str:
        """Say which run is resumed."""

    def shown_run(self, run: MigrationRun) -> int:
        """Return the run whose outcome is reported."""


def execute(asked: Operation, context: RunContext) -> RunSummary:
    """Do what is asked for: with selected users at once, else by a run that the same call resumes.

    Where a run is being rolled back because its breaker tripped, a migration resumes that instead; a
    mass rollback first stops an open migration.

    Raises:
        PreflightError: the database is not fit.
        FindingsError: error-level findings block the run.
        NothingToMigrateError, NothingToRollBackError: no user is selected.
        RunConflictError: another run is open, or this one with other options or rates.
        DatabaseUnavailableError: the database cannot do the work; the run stays open.
    """
    check_database(asked, context)
    if asked.selected_users:
        return asked.handle_selected(context)
    run = open_or_resume(asked, context)
    done, shown = work_on_run(run.pk, context), asked.shown_run(run)
    if done.run == shown:
        return done
    return summary(shown, using=context.using, seconds=done.seconds, handled=done.handled)


def check_database(asked: Operation, context: RunContext) -> None:
    """Refuse a database that is not fit for what is asked for.

    Raises:
        PreflightError, DatabaseUnavailableError: it is not.
    """
    preflight.check(context.using, reverses=asked.reverses, notice=context.notice)


def open_or_resume(asked: Operation, context: RunContext) -> MigrationRun:
    """Return the run to work on: the open one, else a new one; two requests at once get the same.

    Raises:
        MigrationError: see ``execute``.
    """
    run = runs.open_run_or_none(context.using)
    if run is None or not asked.can_resume(run):
        try:
            run = asked.open(context)
            _announce_window(asked.controls.until, context)
            return run
        except RunConflictError:
            run = runs.open_run_or_none(context.using)
            if run is None or not asked.can_resume(run):
                raise
    asked.refuse_to_resume(run)
    context.notice(asked.describe_resumed(run, context.using))
    runs.set_window(run, asked.controls.until, actor=context.actor, using=context.using)
    runs.note_resumed_work(run.pk, actor=context.actor, using=context.using)
    _announce_window(asked.controls.until, context)
    return run


def _announce_window(until: str, context: RunContext) -> None:
    if until:
        end = timezone.localtime(datetime.fromisoformat(until))
        context.notice(f"the window ends at {end:%Y-%m-%d %H:%M %Z}; what is left then stays for the next time")


def work_on_run(run_id: int, context: RunContext, *, joining: bool = False) -> RunSummary:
    """Work on an open run, whatever its kind, until it ends, a signal comes or another process ends it.

    If its breaker trips, here or elsewhere, work on the rollback that it opens.

    Args:
        run_id: the run.
        context: see ``RunContext``.
        joining: other processes work on it too; if one of them has begun to check it, it also closes it.

    Returns:
        What became of the run; of a rollback that a breaker opened, what became of the run that it reverses.

    Raises:
        DatabaseUnavailableError: the database cannot do the work; the run stays open.
    """
    context = replace(context, progress=_Progress(run_id, context.progress))
    outage = Outage(run_id, context)
    while True:
        try:
            run = MigrationRun.objects.using(context.using).get(pk=run_id)
            with logs.written_to(logs.ROLLBACK if run.is_rollback else logs.MIGRATION):
                done = _work_on(run, context, joining=joining)
        except (DatabaseError, InterfaceError) as error:  # the worker waits by itself; this was before or after it
            outage.survive(error)
            if context.stop.requested:
                raise
        else:
            outage.over()
            return done


class _Progress:
    """A caller's progress function, whose errors are logged and end neither the process nor the run."""

    def __init__(self, run_id: int, report: Callable[[BatchResult], None]) -> None:
        self._run_id, self._report = run_id, report

    def __call__(self, result: BatchResult) -> None:
        try:
            self._report(result)
        except Exception as error:
            logs.write(
                logging.ERROR, "the progress function failed", run=self._run_id, error_class=type(error).__name__
            )


def _work_on(run: MigrationRun, context: RunContext, *, joining: bool) -> RunSummary:
    begun, using, run_id = time.monotonic(), context.using, run.pk
    if run.expected is not None:
        context.expecting(max(0, run.expected - totals.run_totals(run, using).selected))
    work = work_of(run)
    controls = run.controls_in_force
    worker = Worker(
        run_id, work, context, controls=controls, throttle=Throttle(run_id, context) if work.throttled else None
    )
    ending = Ending.DONE if run.status == RunStatus.CHECKING else worker.run()
    if ending is Ending.DONE:
        check(run_id, work, context, joining=joining)
    elif ending is Ending.TRIPPED:
        trip(run_id, worker.verdict, context)
    if (
        ending not in (Ending.INTERRUPTED, Ending.WINDOW_OVER)
        and (opened := runs.find_breaker_rollback(run_id, using=using)) is not None
    ):
        work_on_run(opened.pk, replace(context, expecting=ignore), joining=joining)
    seconds = time.monotonic() - begun
    return summary(run.tripped_run or run_id, using=using, seconds=seconds, handled=worker.handled)


def work_of(run: MigrationRun) -> Work:
    """Return what a worker does for a run, by its kind."""
    return RollbackWork.of(run) if run.is_rollback else MigrationWork.of(run)


def check(run_id: int, work: Work, context: RunContext, *, joining: bool = False) -> None:
    """Close a run whose users are all processed: the breaker's last verdict, the integrity checks, the status."""
    using = context.using
    if not runs.to_checking(run_id, actor=context.actor, using=using, joining=joining):
        return
    verdict = work.verdict(using, final=True)
    if verdict.tripped:
        trip(run_id, verdict, context)
        return
    work.before_check(context)
    context.notice("all users processed; running integrity checks")
    report = validation.check_run(using, run_id)
    with transaction.atomic(using=using):
        if runs.end_check(run_id, broken=report.broken, actor=context.actor, details=report.as_details(), using=using):
            work.on_close(context)


def trip(run_id: int, verdict: BreakerVerdict, context: RunContext) -> None:
    """Stop a migration that failed too many users and open the rollback of its conversions."""
    using, actor = context.using, context.actor
    with transaction.atomic(using=using):
        run = runs.lock_run(run_id, using)
        if not run.is_open:
            return  # another worker tripped it
        reason = f"{verdict.reason}, the limit is {run.controls_in_force.error_threshold} %"
        if not run.migration_options.auto_rollback:
            why = f"the breaker tripped: {reason}"
            runs.change_status(run_id, RunStatus.STOPPED, actor=actor, cause=StopCause.BREAKER, reason=why, using=using)
            context.notice(f"the breaker tripped ({reason}); nothing was rolled back, because of --no-auto-rollback")
            return
        runs.change_status(
            run_id, RunStatus.ROLLING_BACK, actor=actor, cause=StopCause.BREAKER, reason=reason, using=using
        )
        opened = Rollback(RollbackOptions(run=run_id, breaker=True, reason=reason)).open(
            replace(context, notice=ignore)
        )
    logs.write(logging.ERROR, "the breaker tripped", run=run_id, reason=reason)
    context.notice(f"the breaker tripped ({reason}): run {opened.pk} rolls back the conversions of run {run_id}")


def _window(run: MigrationRun, using: str) -> dict[str, Any]:
    """Return, for an open run whose window is over, when that was and how many users are left."""
    if not run.is_open or not run.controls_in_force.window_is_over():
        return {}
    left = None if run.expected is None else max(0, run.expected - totals.run_totals(run, using).selected)
    return {"window": {"until": run.controls_in_force.until, "users_left": left}}


def summary(run_id: int, *, using: str, seconds: float, handled: int | None = None) -> RunSummary:
    """Return what a run has done so far; for one that is rolled back, what that did as ``extra["rollback"]``."""
    run = MigrationRun.objects.using(using).get(pk=run_id)
    extra: dict[str, Any] = {}
    if run.status in (RunStatus.ROLLING_BACK, RunStatus.ROLLED_BACK):
        back = MigrationRun.objects.using(using).filter(target_run=run).order_by("-id").first()
        if back is not None:
            undone = totals.run_totals(back, using)
            extra["rollback"] = {
                "run": back.pk,
                "status": back.status,
                "rolled_back": undone.rolled_back,
                "skipped": undone.skipped,
                "failed": undone.failed,
                "mana": undone.mana,
            }
    figures = totals.folded_figures(run, using)
    if not run.is_rollback and figures["totals"]["failed"]:
        extra["failed_again"] = records.failed_again(connections[using], run.pk)
    return RunSummary(
        run=run.pk,
        kind=run.kind,
        dry_run=False,
        status=run.status,
        totals=Totals.from_dict(figures["totals"]),
        seconds=seconds,
        cause=run.stop_cause,
        reason=run.stop_reason,
        started_at=run.created_at,
        handled=handled,
        splits=totals.splits(run, using, figures),
        extra=extra | _window(run, using),
    )
