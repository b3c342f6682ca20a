"""Taking conversions back from the command line: ``rollback_migration``, and ``migrate_users --rollback``."""

from __future__ import annotations

from typing import Any

from mana_migration.domain.options import RollbackOptions
from mana_migration.management.commands._base import DONE, PARTLY, MigrationCommand, run_code
from mana_migration.reports import rollback as rollback_report
from mana_migration.reports import summary as summary_report
from mana_migration.reports.progress import ProgressDisplay
from mana_migration.services import rollback, runs


class RollbackCommand(MigrationCommand):
    """A command that can take conversions back."""

    def take_back(self, asked: RollbackOptions, options: dict[str, Any]) -> int:
        """Tell what would happen, or ask and take back; return the exit code."""
        using = options["database"]
        told = None
        if options["dry_run"] or not (asked.emergency or asked.users or options["no_input"]):
            told = rollback.forecast_rollback(asked, using=using)
        if told is not None and options["dry_run"]:
            self.print_result(rollback_report.forecast_json(told), rollback_report.forecast_lines(told))
            return PARTLY if told.totals.skipped else DONE
        if told is not None and told.totals.selected:
            for line in rollback_report.forecast_lines(told, headline="this would happen:"):
                self.notice(line)
            self.confirm(
                f"Take the conversions of {told.totals.rolled_back:,} users back?",
                options,
                on_no="not confirmed: nothing was changed",
            )
        with self.stop_on_signals() as stop, ProgressDisplay(self.progress_stream, verb="rolled back") as progress:
            done = rollback.roll_back(
                asked,
                actor=runs.current_actor(),
                using=using,
                stop=stop,
                progress=progress,
                expecting=progress.expect,
                notice=self.notice,
            )
        self.print_result(summary_report.as_json(done), summary_report.as_lines(done))
        return run_code(stop, done)
