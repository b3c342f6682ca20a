"""Roll back conversions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from django.core.management.base import CommandParser
from django.utils import timezone

from mana_migration.domain.options import (
    EMERGENCY_BATCH_SIZE,
    SKIP,
    WRITE_OFF,
    Controls,
    RollbackOptions,
    parse_until,
)
from mana_migration.management import arguments
from mana_migration.management.run_command import ROLL_BACK, RunCommand, refuse_idle_workers
from mana_migration.management.several import Question, SeveralDatabases
from mana_migration.selectors.users import resolve_users
from mana_migration.services import logs, statements


class Command(SeveralDatabases, RunCommand):
    help = (
        "Roll back conversions: debit exactly the mana that was credited, add the recorded wishes back. Give one of "
        "--user-id, --since, --run and --all; --dry-run shows exactly what would happen. The same command resumes an "
        "open rollback."
    )
    examples = (
        "rollback_migration --run 7 --dry-run",
        "rollback_migration --user-id 57 --reason 'ticket 4711'",
        "rollback_migration --all --emergency --batch-size 1000",
    )
    log_kind = logs.ROLLBACK
    of_one_database = ("--user-id", "--run", "--show-sql")

    def add_options(self, parser: CommandParser) -> None:
        """Add the options of ``rollback_migration``."""
        arguments.add_user_option(parser, "Roll back this user's conversion alone, at once.")
        parser.add_argument(
            "--since",
            type=arguments.moment,
            metavar="DATE",
            help="Roll back conversions from this YYYY-MM-DD or ISO date-time on, in the configured time zone.",
        )
        parser.add_argument(
            "--run",
            type=arguments.whole_number,
            metavar="ID",
            dest="run_id",
            help="Roll back the conversions of this run.",
        )
        parser.add_argument("--all", action="store_true", help="Roll back every conversion in the database.")
        parser.add_argument(
            "--dry-run", action="store_true", help="Show what would happen, shortfalls included; write nothing."
        )
        parser.add_argument(
            "--show-sql",
            action="store_true",
            help="Print the SQL that the rollback would send, with what each statement is for; write nothing.",
        )
        parser.add_argument(
            "--batch-size",
            type=arguments.batch_size,
            metavar="N|auto",
            help="Roll back N users in one transaction, from 1 to 100000, or as many as take about 0.25 s with auto "
            f"(default: {Controls().batch_size}; with --emergency {EMERGENCY_BATCH_SIZE:,}).",
        )
        parser.add_argument(
            "--delay",
            type=arguments.delay,
            metavar="auto|SECONDS",
            help="Wait this many seconds between batches, 0 for no pause, or only while the database is under load "
            f"with auto (default: {Controls().delay}; with --emergency no pause).",
        )
        arguments.add_workers_options(parser)
        arguments.add_window_options(parser)
        parser.add_argument(
            "--on-shortfall",
            choices=(SKIP, WRITE_OFF),
            default=SKIP,
            help="Leave a user who has spent part of the mana migrated and list them (skip), or debit what is there, "
            "restore the wishes and record the rest as shortfall (write-off; default: %(default)s).",
        )
        parser.add_argument(
            "--emergency",
            action="store_true",
            help="Never ask, never wait for the database, write off shortfalls, and use larger batches; as atomic and "
            "as exact as any other rollback.",
        )
        parser.add_argument(
            "--preserve-logs",
            action="store_true",
            default=True,
            help="Keep the records of the users rolled back (the default).",
        )
        parser.add_argument(
            "--no-preserve-logs",
            action="store_false",
            dest="preserve_logs",
            help="Delete the records of the users rolled back; the ledger and the run's totals stay.",
        )
        parser.add_argument(
            "--keep-fixes",
            action="store_true",
            help="Leave what auto-fix did for the runs reversed (default: undo it, so that those wallets are as they "
            "were before the run; both stay recorded).",
        )
        arguments.add_approval_option(parser)
        arguments.add_reason_option(parser)

    def refuse_options(self, options: dict[str, Any]) -> None:
        """Refuse options that contradict one another."""
        refuse_idle_workers(read_options((), options), options)

    def question(self, options: Mapping[str, Any]) -> Question | None:
        """Return what has to be confirmed: everything but an emergency."""
        return None if options["dry_run"] or options["emergency"] else ROLL_BACK

    def run(self, **options: Any) -> int:
        """Roll back what was selected."""
        asked = read_options(tuple(resolve_users(options["user_ids"], using=self.using)), options)
        if asked.since is not None:
            self.notice(f"since {timezone.localtime(asked.since):%Y-%m-%d %H:%M:%S %Z}")
        if options["show_sql"]:
            return self.print_sql(statements.rollback_script(asked, self.using))
        return self.roll_back(asked, options)


def read_options(users: tuple[str, ...], options: Mapping[str, Any]) -> RollbackOptions:
    """Build the frozen options from the parsed command line.

    Raises:
        UsageError: they select nothing, or in more than one way.
    """
    default = Controls(batch_size=EMERGENCY_BATCH_SIZE, delay=0.0) if options["emergency"] else Controls()
    given = {name: options[name] for name in ("batch_size", "delay") if options[name] is not None}
    return RollbackOptions(
        users=users,
        since=options["since"],
        run=options["run_id"],
        everything=options["all"],
        emergency=options["emergency"],
        on_shortfall=options["on_shortfall"],
        preserve_logs=options["preserve_logs"],
        keep_fixes=options["keep_fixes"],
        reason=options["reason"],
        approved_by=options["approved_by"],
        controls=replace(default, **given, until=parse_until(options["until"])),
        given=frozenset(given),
    )
