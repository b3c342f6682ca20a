"""What the commands that work on runs share: execute, join, control; and rolling back, asked for by two commands."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from mana_migration.domain.options import CELERY, RollbackOptions
from mana_migration.domain.results import RunSummary
from mana_migration.domain.words import counted
from mana_migration.errors import NothingToDoError, RunConflictError, UsageError
from mana_migration.management.commands._base import DONE, PARTLY, MigrationCommand, run_code
from mana_migration.management.several import Question
from mana_migration.reports import rollback as rollback_report
from mana_migration.reports import summary as summary_report
from mana_migration.services import dry_run, runs
from mana_migration.services.approval import Approval
from mana_migration.services.context import RunContext, current_actor
from mana_migration.services.executors import celery, local
from mana_migration.services.operation import Operation
from mana_migration.services.rollback import Rollback
from mana_migration.states import Action, RunKind, RunStatus

#: What ``control_migration`` changes a run by.
CONTROLS = {Action.PAUSE: runs.pause_run, Action.RESUME: runs.resume_run, Action.STOP: runs.stop_run}

#: What is asked once for all databases before a mass rollback.
ROLL_BACK = Question(
    "Roll back {users} in {where}?",
    lambda found: 0 if found.get("blocked") else found.get("users", {}).get("rolled_back", 0),
)


class RunCommand(MigrationCommand):
    """A command that works on runs."""

    @contextmanager
    def working(self, options: Mapping[str, Any], *, verb: str) -> Iterator[RunContext]:
        """Yield how work is started from a terminal: it ends at a signal and shows progress as ``verb`` users."""
        with (
            self.stop_on_signals(following=options["executor"] == CELERY) as stop,
            self.progress(verb) as progress,
        ):
            yield RunContext(
                using=self.using, stop=stop, progress=progress, expecting=progress.expect, notice=self.notice
            )

    def print_nothing(self, nothing: NothingToDoError, kind: RunKind) -> int:
        """Print why there is nothing to do, which is a success."""
        self.print_result(summary_report.nothing_json(kind), (str(nothing),))
        return DONE

    def execute_operation(self, asked: Operation, context: RunContext, options: Mapping[str, Any]) -> RunSummary:
        """Do what is asked for, by this machine's processes or by Celery's workers."""
        workers = options["workers"] or 1
        if options["executor"] == CELERY:
            return celery.execute(asked, context, workers=workers)
        return local.execute(asked, context, workers=workers, arguments=("--log-level", options["log_level"]))

    def print_sql(self, script: str) -> int:
        """Print the statements that a run would send."""
        self.print_result({"sql": script}, script.splitlines())
        return DONE

    def join(self, run_id: int, options: Mapping[str, Any]) -> int:
        """Join the work on an open run."""
        workers = options["workers"] or 1
        with self.working(options, verb="handled") as context:
            if options["executor"] == CELERY:
                done = celery.join_run(run_id, context, workers=workers)
            else:
                arguments = ("--log-level", options["log_level"])
                done = local.join_run(run_id, context, workers=workers, arguments=arguments)
        if not done.seconds:  # the run was closed, which has been said
            self.print_result(summary_report.as_json(done), ())
            return run_code(context.stop, done)
        return self.print_run(context.stop, done, following=options["executor"] == CELERY)

    def control(self, action: Action, named: int | None, settings: Mapping[str, str], *, reason: str) -> int:
        """Pause, resume or stop a run, or change its settings."""
        using, actor = self.using, current_actor()
        run = runs.open_or_named_run(named, using=using, already=RunStatus.STOPPED if action is Action.STOP else None)
        if settings:
            controls = runs.change_controls(run.pk, settings, actor=actor, reason=reason, using=using)
            self.notice(f"run {run.pk}: {', '.join(f'{name} {value}' for name, value in controls.as_dict().items())}")
        if action in CONTROLS:
            changed = CONTROLS[action](run.pk, actor=actor, reason=reason, using=using)
            run.refresh_from_db(using=using)
            self.notice(f"run {run.pk} is {run.status_words}" + ("" if changed else " already"))
        if self.json_output:
            run.refresh_from_db(using=using)
            self.print_json({"run": run.pk, "status": run.status, "controls": run.controls})
        return DONE

    def roll_back(self, asked: RollbackOptions, options: Mapping[str, Any]) -> int:
        """Show what would happen, or ask and roll back; return the exit code."""
        refuse_idle_workers(asked, options)
        local.check_workers(options["workers"] or 1, self.using)
        forecast = None
        if options["dry_run"] or not (asked.emergency or asked.users or options["no_input"]):
            forecast = dry_run.forecast_rollback(asked, using=self.using, granted=Approval(asked.approved_by))
        if forecast is not None and options["dry_run"]:
            self.print_result(rollback_report.forecast_json(forecast), rollback_report.forecast_lines(forecast))
            refused = forecast.blocked and not forecast.nothing_to_do
            return PARTLY if forecast.totals.skipped or refused else DONE
        if forecast is not None and forecast.blocked and forecast.totals.selected:  # before the question
            raise RunConflictError(forecast.blocked)
        if forecast is not None and forecast.totals.selected:
            for line in rollback_report.forecast_lines(forecast, headline="this would happen:"):
                self.notice(line)
            self.confirm(
                f"Roll back {counted(forecast.totals.rolled_back, 'user')}?",
                options,
                on_no="not confirmed: nothing was changed",
            )
        with self.working(options, verb="rolled back") as context:
            try:
                done = self.execute_operation(Rollback(asked), context, options)
            except NothingToDoError as nothing:
                return self.print_nothing(nothing, RunKind.ROLLBACK)
        return self.print_run(context.stop, done, following=options["executor"] == CELERY, mass=not asked.users)


def refuse_idle_workers(asked: RollbackOptions, options: Mapping[str, Any]) -> None:
    """Refuse several processes, before anything is done, where there is no work for them.

    Raises:
        UsageError: that is so.
    """
    what = "--dry-run" if options["dry_run"] else "--user-id, which selects its users" if asked.users else ""
    for name in ("workers", "executor"):
        if what and options[name] is not None:
            raise UsageError(f"--{name} cannot be combined with {what}: leave it out")
