"""Convert every user's wishes to mana."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from django.core.management.base import CommandParser

from mana_migration.domain.options import CELERY, MigrationOptions, RollbackOptions
from mana_migration.errors import NothingToMigrateError
from mana_migration.management.commands._base import DONE, PARTLY, left_behind, run_code, signal_code
from mana_migration.management.migration_options import (
    add_checklist_options,
    add_control_options,
    add_migration_options,
    asked_control,
    read_options,
    refuse_contradictions,
)
from mana_migration.management.rollback_base import RollbackCommand
from mana_migration.reports import checklist as checklist_report
from mana_migration.reports import forecast as forecast_report
from mana_migration.reports import rehearsal as rehearsal_report
from mana_migration.reports import summary as summary_report
from mana_migration.selectors.users import resolve_users
from mana_migration.services import checklist, dry_run, plans, rehearsal, runs
from mana_migration.services.executors import celery, celery_broker, local, processes
from mana_migration.states import RunStatus


class Command(RollbackCommand):
    help = (
        "Convert every user's wishes to mana, in batches, each in one transaction. The same command goes on with an "
        "open run; --dry-run says what would happen and writes nothing."
    )

    def add_options(self, parser: CommandParser) -> None:
        """Add the options of ``migrate_users``."""
        add_migration_options(parser)
        add_checklist_options(parser)
        add_control_options(parser)

    def run(self, **options: Any) -> int:
        """Route to the one call that the options mean."""
        if processes.is_helper():
            return self.help_out(options)
        refuse_contradictions(options)
        using = options["database"]
        control, run = asked_control(options)
        if control is not None or options["set"]:
            return self.control(control, run, options)
        if options["join"] is not None:
            return self.join(options)
        users = tuple(str(key) for key in resolve_users(options["user_ids"], using=using))
        if options["rollback"]:
            return self.roll_back(users, options)
        asked = read_options(users, options)
        if options["checklist"] or options["rehearse"] is not None:
            return self.checklist(options) if options["checklist"] else self.rehearse(asked, options)
        told = options["dry_run"] or options["validate_only"]
        return self.tell(asked, options) if told else self.migrate(asked, options)

    def checklist(self, options: dict[str, Any]) -> int:
        """Go through the checklist, keep it and print it."""
        found = checklist.examine(
            using=options["database"],
            backup=options["backup"] or "",
            ask=partial(self.ask, options),
            answers=dict.fromkeys(options["confirm"], True),
            check_workers=celery_broker.check if options["executor"] == CELERY else None,
        )
        checklist.record(found, actor=runs.current_actor(), using=options["database"])
        self.print_result(found.as_dict(), checklist_report.as_lines(found.items, go=found.go, backup=found.backup))
        return DONE if found.go else PARTLY

    def rehearse(self, asked: MigrationOptions, options: dict[str, Any]) -> int:
        """Rehearse on real users and keep nothing but the result."""
        with (
            self.stop_on_signals() as stop,
            self.progress("rehearsed") as progress,
        ):
            found = rehearsal.rehearse(
                asked,
                sample=options["rehearse"],
                actor=runs.current_actor(),
                using=options["database"],
                stop=stop,
                progress=progress,
                expecting=progress.expect,
            )
        self.print_result(found.as_dict(), rehearsal_report.as_lines(found))
        return signal_code(stop, PARTLY if found.failed else DONE)

    def migrate(self, asked: MigrationOptions, options: dict[str, Any]) -> int:
        """Convert those who were asked for, by a saved plan if one is named."""
        using, promise = options["database"], None
        if options["plan"] is not None:
            promise = plans.read(options["plan"])
            asked = plans.options_of(promise, asked)
            plans.verify(promise, asked, using=using)
        elsewhere = options["executor"] == CELERY
        here = partial(local.migrate_together, arguments=("--log-level", options["log_level"]))
        work = celery.migrate_elsewhere if elsewhere else here
        with (
            self.stop_on_signals(following=elsewhere) as stop,
            self.progress("migrated") as progress,
        ):
            try:
                done = work(
                    asked,
                    options["workers"] or 1,
                    actor=runs.current_actor(),
                    reason=options["reason"],
                    using=using,
                    stop=stop,
                    progress=progress,
                    expecting=progress.expect,
                    notice=self.notice,
                )
            except NothingToMigrateError as nobody:
                self.print_result(summary_report.nothing_json(), (str(nobody),))
                return DONE
        if promise is not None:
            done = plans.with_drift(done, promise)
        return self.print_run(stop, done, following=elsewhere)

    def join(self, options: dict[str, Any]) -> int:
        """Lend a hand to a run that is open."""
        elsewhere = options["executor"] == CELERY
        here = partial(local.join_run, actor=runs.current_actor(), arguments=("--log-level", options["log_level"]))
        join = celery.join_elsewhere if elsewhere else here
        with (
            self.stop_on_signals(following=elsewhere) as stop,
            self.progress("handled") as progress,
        ):
            done = join(
                options["join"],
                options["workers"] or 1,
                using=options["database"],
                stop=stop,
                progress=progress,
                expecting=progress.expect,
                notice=self.notice,
            )
        if not done.seconds:  # the run was closed, which has been said
            self.print_result(summary_report.as_json(done), ())
            return run_code(stop, done)
        return self.print_run(stop, done, following=elsewhere)

    def help_out(self, options: dict[str, Any]) -> int:
        """Work beside the process that started this one; its run's outcome is for that one to tell."""
        with self.stop_on_signals() as stop:
            local.help_out(actor=runs.current_actor(), using=options["database"], stop=stop, notice=self.notice)
        return DONE

    def tell(self, asked: MigrationOptions, options: dict[str, Any]) -> int:
        """Say what would happen."""
        told = dry_run.forecast(asked, using=options["database"], validate_only=options["validate_only"])
        if options["save_plan"] is not None:
            plans.save(options["save_plan"], told)
        lines = forecast_report.findings_lines if options["validate_only"] else forecast_report.as_lines
        self.print_result(forecast_report.as_json(told), lines(told))
        return PARTLY if told.blocked or left_behind(told.totals) else DONE

    def roll_back(self, users: tuple[str, ...], options: dict[str, Any]) -> int:
        """Take conversions back, as ``rollback_migration --user-id`` or ``--all`` does."""
        size = options["batch_size"]
        asked = RollbackOptions(users=users, everything=not users, reason=options["reason"])
        if size is not None:
            asked = replace(asked, controls=replace(asked.controls, batch_size=size), given=frozenset({"batch_size"}))
        return self.take_back(asked, options)

    def control(self, control: str | None, named: int | None, options: dict[str, Any]) -> int:
        """Pause, resume or stop a run, or change its settings, from another terminal."""
        using, actor, reason = options["database"], runs.current_actor(), options["reason"]
        run = runs.open_or_named_run(named, using=using, already=RunStatus.STOPPED if control == "stop" else None)
        if options["set"]:
            controls = runs.change_controls(run.pk, dict(options["set"]), actor=actor, reason=reason, using=using)
            self.notice(f"run {run.pk}: {', '.join(f'{name} {value}' for name, value in controls.as_dict().items())}")
        changed = True
        if control is not None:
            change = {"pause": runs.pause_run, "resume": runs.resume_run, "stop": runs.stop_run}[control]
            changed = change(run.pk, actor=actor, reason=reason, using=using)
        run.refresh_from_db(using=using)
        if control is not None:
            self.notice(f"run {run.pk} is {run.get_status_display().lower()}" + ("" if changed else " already"))
        if self.json_output:
            self.print_json({"run": run.pk, "status": run.status, "controls": run.controls})
        return DONE
