"""Convert every user's wishes to mana."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from django.core.management.base import CommandParser

from mana_migration.domain.options import CELERY, MigrationOptions, RollbackOptions
from mana_migration.errors import NothingToDoError
from mana_migration.management.commands._base import DONE, PARTLY, left_behind, signal_code
from mana_migration.management.migration_options import (
    add_checklist_options,
    add_migration_options,
    add_replaced_options,
    asked_control,
    read_options,
    refuse_contradictions,
)
from mana_migration.management.run_command import ROLL_BACK, RunCommand
from mana_migration.management.several import Question, SeveralDatabases
from mana_migration.reports import checklist as checklist_report
from mana_migration.reports import forecast as forecast_report
from mana_migration.reports import rehearsal as rehearsal_report
from mana_migration.reports.forecast import UserList
from mana_migration.selectors.users import resolve_users
from mana_migration.services import checklist, dry_run, logs, migration, plans, rehearsal, statements
from mana_migration.services.approval import Approval
from mana_migration.services.context import RunContext, current_actor
from mana_migration.services.executors import celery_broker, local, processes
from mana_migration.services.migration import Migration
from mana_migration.states import RunKind

#: What is asked once for all databases before auto-fix changes balances.
AUTO_FIX = Question(
    "Auto-fix would change balances of {users} in {where}. Change them?",
    lambda found: (found.get("fixes") or {}).get("users", 0),
)


class Command(SeveralDatabases, RunCommand):
    help = (
        "Convert every user's wishes to mana, in batches of one transaction each. The same command resumes an open run "
        "and continues where it ended; --dry-run shows what would happen and writes nothing."
    )
    examples = (
        "migrate_users --dry-run",
        "migrate_users --batch-size 1000 --workers 4",
        "migrate_users --user-id 57 --user-id username:olga",
        "migrate_users --database all --workers 2",
    )
    of_one_database = (
        *("--user-id", "--list", "--save-plan", "--plan", "--show-sql", "--checklist"),
        *("--join", "--pause", "--resume", "--stop", "--set"),
    )

    def add_options(self, parser: CommandParser) -> None:
        """Add the options of ``migrate_users``."""
        add_migration_options(parser)
        add_checklist_options(parser)
        add_replaced_options(parser)

    def kind_of_log(self, options: Mapping[str, Any]) -> str:
        """Return the log of rollbacks for ``--rollback``."""
        return logs.ROLLBACK if options["rollback"] else self.log_kind

    def refuse_options(self, options: dict[str, Any]) -> None:
        """Refuse options that contradict one another."""
        refuse_contradictions(options)

    def question(self, options: Mapping[str, Any]) -> Question | None:
        """Return what has to be confirmed: a rollback, or on a terminal that auto-fix changes balances."""
        if options["dry_run"]:
            return None
        if options["rollback"]:
            return ROLL_BACK
        return AUTO_FIX if options["auto_fix"] and sys.stdin is not None and sys.stdin.isatty() else None

    def run(self, **options: Any) -> int:
        """Route to the one call that the options mean."""
        if processes.is_helper():
            return self.work_as_helper()
        refuse_contradictions(options)
        action, run = asked_control(options)
        if action is not None:
            return self.control(action, run, dict(options["set"]), reason=options["reason"])
        if options["join"] is not None:
            return self.join(options["join"], options)
        users = tuple(str(key) for key in resolve_users(options["user_ids"], using=self.using))
        if options["rollback"]:
            return self.roll_back(read_rollback_options(users, options), options)
        asked = read_options(users, options)
        if options["checklist"] or options["rehearse"] is not None:
            return self.checklist(options) if options["checklist"] else self.rehearse(asked, options)
        return self.look_ahead(asked, options) if before_only(options) else self.migrate(asked, options)

    def checklist(self, options: dict[str, Any]) -> int:
        """Go through the checklist, keep it and print it."""
        found = checklist.examine(
            using=self.using,
            backup=options["backup"] or "",
            ask=partial(self.ask, options),
            answers=dict.fromkeys(options["confirm"], True),
            check_workers=celery_broker.check if options["executor"] == CELERY else None,
        )
        checklist.record(found, actor=current_actor(), using=self.using)
        self.print_result(found.as_dict(), checklist_report.as_lines(found.items, go=found.go, backup=found.backup))
        return DONE if found.go else PARTLY

    def rehearse(self, asked: MigrationOptions, options: dict[str, Any]) -> int:
        """Rehearse on real users and keep nothing but the result."""
        with self.working(options, verb="rehearsed") as context:
            found = rehearsal.rehearse(asked, context, sample=options["rehearse"])
        self.print_result(found.as_dict(), rehearsal_report.as_lines(found))
        return signal_code(context.stop, PARTLY if found.failed else DONE)

    def migrate(self, asked: MigrationOptions, options: dict[str, Any]) -> int:
        """Convert the selected users, by a saved plan if one is named."""
        promise = None
        if options["plan"] is not None:
            promise = plans.read(options["plan"])
            asked = plans.options_of(promise, asked)
            plans.verify(promise, asked, using=self.using)
        self.confirm_fixes(asked, options)
        with self.working(options, verb="migrated") as context:
            try:
                done = self.execute_operation(
                    Migration(asked, options["reason"], Approval(options["approved_by"])), context, options
                )
            except NothingToDoError as nothing:
                return self.print_nothing(nothing, RunKind.MIGRATION)
        if promise is not None:
            done = plans.with_drift(done, promise)
        return self.print_run(context.stop, done, following=options["executor"] == CELERY, mass=not asked.users)

    def work_as_helper(self) -> int:
        """Work beside the process that started this one, which reports the outcome of the run."""
        with self.stop_on_signals() as stop:
            local.work_as_helper(RunContext(using=self.using, stop=stop, notice=self.notice))
        return DONE

    def fix_only(self, asked: MigrationOptions, options: dict[str, Any]) -> int:
        """Correct what can be proved, then show what is left; no user is migrated."""
        self.confirm_fixes(asked, options)
        with self.stop_on_signals() as stop:
            fixes = migration.fix_findings(asked, RunContext(using=self.using, stop=stop, notice=self.notice))
        granted = Approval(options["approved_by"])
        found = dry_run.forecast(replace(asked, auto_fix=False), using=self.using, validate_only=True, granted=granted)
        values = {"fixed": dict(fixes.fixed_by_check), **forecast_report.as_json(found)}
        self.print_result(values, forecast_report.findings_lines(found))
        return PARTLY if found.blocked or left_behind(found.totals) else DONE

    def confirm_fixes(self, asked: MigrationOptions, options: dict[str, Any]) -> None:
        """Show on a terminal what auto-fix would change, and ask before balances change."""
        if not asked.auto_fix or options["no_input"] or not (sys.stdin is not None and sys.stdin.isatty()):
            return
        fixes = None
        if not options["validate_only"]:
            granted = Approval(options["approved_by"])
            found = dry_run.forecast(asked, using=self.using, validate_only=True, granted=granted)
            if found.blocked or found.goes_on_with is not None:
                return  # the run is refused before anything is fixed, or was fixed for when it was opened
            fixes = found.fixes
        fixes = fixes or migration.foresee_fixes(asked, using=self.using)
        if fixes.users:
            question = f"Auto-fix would change {forecast_report.fixes_line(fixes)}."
            self.confirm(question, options, on_no="not confirmed: nothing was changed")

    def look_ahead(self, asked: MigrationOptions, options: dict[str, Any]) -> int:
        """Show the statements that would be sent, or what would happen; fix if that alone was asked for."""
        if options["validate_only"] and asked.auto_fix and not options["dry_run"]:
            return self.fix_only(asked, options)
        if options["show_sql"]:
            return self.print_sql(statements.migration_script(asked, self.using))
        return self.forecast(asked, options)

    def forecast(self, asked: MigrationOptions, options: dict[str, Any]) -> int:
        """Show what would happen."""
        listed = UserList(self.put, as_json=self.json_output) if options["list"] else None
        found = dry_run.forecast(
            asked,
            using=self.using,
            validate_only=options["validate_only"],
            on_user=listed.take if listed is not None else None,
            granted=Approval(options["approved_by"]),
        )
        if options["save_plan"] is not None:
            plans.save(options["save_plan"], found)
        lines = forecast_report.findings_lines if options["validate_only"] else forecast_report.as_lines
        if listed is not None and self.json_output:
            listed.end(forecast_report.as_json(found))
        else:
            self.print_result(forecast_report.as_json(found), lines(found))
        return PARTLY if found.blocked or left_behind(found.totals) else DONE


def before_only(options: dict[str, Any]) -> bool:
    """Say whether only what would happen is asked for."""
    return bool(options["dry_run"] or options["validate_only"] or options["show_sql"])


def read_rollback_options(users: tuple[str, ...], options: dict[str, Any]) -> RollbackOptions:
    """Return what ``--rollback`` means: ``rollback_migration --user-id`` or ``--all``."""
    asked = RollbackOptions(
        users=users, everything=not users, reason=options["reason"], approved_by=options["approved_by"]
    )
    size = options["batch_size"]
    if size is None:
        return asked
    return replace(asked, controls=replace(asked.controls, batch_size=size), given=frozenset({"batch_size"}))
