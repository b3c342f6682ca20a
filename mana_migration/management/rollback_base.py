"""Taking conversions back from the command line: ``rollback_migration``, and ``migrate_users --rollback``."""

from __future__ import annotations

from functools import partial
from typing import Any

from mana_migration.domain.options import CELERY, RollbackOptions
from mana_migration.errors import RunConflictError, UsageError
from mana_migration.management.commands._base import DONE, PARTLY, MigrationCommand
from mana_migration.reports import rollback as rollback_report
from mana_migration.services import rollback, runs
from mana_migration.services.executors import celery, local


def refuse_idle_workers(asked: RollbackOptions, options: dict[str, Any]) -> None:
    """Refuse several processes, before anything is done, where there is no work for them.

    Raises:
        UsageError: that is so, or the database takes fewer.
    """
    what = "--dry-run" if options["dry_run"] else "--user-id, which names its users" if asked.users else ""
    for name in ("workers", "executor"):
        if what and options[name] is not None:
            raise UsageError(f"--{name} cannot be combined with {what}: leave it out")
    if options["workers"] is not None:
        local.check_workers(options["workers"], options["database"])


class RollbackCommand(MigrationCommand):
    """A command that can take conversions back."""

    def take_back(self, asked: RollbackOptions, options: dict[str, Any]) -> int:
        """Tell what would happen, or ask and take back; return the exit code."""
        using = options["database"]
        refuse_idle_workers(asked, options)
        told = None
        if options["dry_run"] or not (asked.emergency or asked.users or options["no_input"]):
            told = rollback.forecast_rollback(asked, using=using)
        if told is not None and options["dry_run"]:
            self.print_result(rollback_report.forecast_json(told), rollback_report.forecast_lines(told))
            return PARTLY if told.totals.skipped or told.blocked else DONE
        if told is not None and told.blocked and told.totals.selected:  # before anybody is asked
            raise RunConflictError(told.blocked)
        if told is not None and told.totals.selected:
            for line in rollback_report.forecast_lines(told, headline="this would happen:"):
                self.notice(line)
            self.confirm(
                f"Take the conversions of {told.totals.rolled_back:,} users back?",
                options,
                on_no="not confirmed: nothing was changed",
            )
        elsewhere = options["executor"] == CELERY
        here = partial(local.roll_back_together, arguments=("--log-level", options["log_level"]))
        work = celery.roll_back_elsewhere if elsewhere else here
        with (
            self.stop_on_signals(following=elsewhere) as stop,
            self.progress("rolled back") as progress,
        ):
            done = work(
                asked,
                options["workers"] or 1,
                actor=runs.current_actor(),
                using=using,
                stop=stop,
                progress=progress,
                expecting=progress.expect,
                notice=self.notice,
            )
        return self.print_run(stop, done, following=elsewhere)
