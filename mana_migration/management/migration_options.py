"""The options of ``migrate_users``: how they are given and what they mean."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from django.core.management.base import CommandParser

from mana_migration.domain.options import Controls, MigrationOptions, parse_until
from mana_migration.errors import UsageError
from mana_migration.management import arguments
from mana_migration.services.checklist import ANSWERABLE
from mana_migration.services.rehearsal import SAMPLE
from mana_migration.states import Action


def add_migration_options(parser: CommandParser) -> None:
    """Add what a migration can be asked to do, by task."""
    default = Controls()

    before = parser.add_argument_group("before a migration")
    before.add_argument(
        "--dry-run",
        action="store_true",
        help="Show what would happen, in a read-only transaction; write nothing.",
    )
    before.add_argument(
        "--show-sql",
        action="store_true",
        help="Print the SQL that the run would send, with what each statement is for; write nothing.",
    )
    before.add_argument(
        "--validate-only", action="store_true", help="Run the checks that a migration begins with, and nothing else."
    )
    before.add_argument(
        "--auto-fix",
        action="store_true",
        help="Correct the findings that have one right answer before the run; the values before and after are kept.",
    )
    before.add_argument(
        "--skip-invalid",
        action="store_true",
        help="Leave users with error-level findings out, recorded as skipped with the reason; by default any such "
        "finding blocks the run.",
    )
    before.add_argument(
        "--list",
        action="store_true",
        help="With --dry-run: print every user that the run would handle, by primary key, with wishes, mana and what "
        "would keep the user from being converted.",
    )
    plan = before.add_mutually_exclusive_group()
    plan.add_argument(
        "--save-plan", type=Path, metavar="FILE", help="With --dry-run: write the forecast to a new file."
    )
    plan.add_argument(
        "--plan",
        type=Path,
        metavar="FILE",
        help="Execute the plan that a dry run saved, with its options; refused if rates or findings have changed "
        "since. The end of the run reports how far the result differs from the plan.",
    )

    which = parser.add_argument_group("which users (default: all who are not migrated)")
    arguments.add_user_option(which, "Convert this user only, at once; there is no breaker.")
    which.add_argument(
        "--limit",
        type=arguments.whole_number,
        metavar="N",
        help="Convert at most N users, then end; the next run continues from there.",
    )
    which.add_argument(
        "--cohort",
        type=arguments.cohort,
        metavar="PCT",
        help="Convert a fixed share of the users, such as 1%% or 0.25%%; the same users each time.",
    )
    which.add_argument("--retry-failed", action="store_true", help="Convert only users who failed in an earlier run.")

    pace = parser.add_argument_group("pace")
    pace.add_argument(
        "--batch-size",
        type=arguments.batch_size,
        metavar="N|auto",
        help="Convert N users in one transaction, from 1 to 100000, or as many as take about 0.25 s with auto "
        f"(default: {default.batch_size}).",
    )
    pace.add_argument(
        "--delay",
        type=arguments.delay,
        metavar="auto|SECONDS",
        help="Wait this many seconds between batches, 0 for no pause, or only while the database is under load with "
        f"auto (default: {default.delay}).",
    )
    arguments.add_workers_options(pace)
    arguments.add_window_options(pace)

    failures = parser.add_argument_group("when users fail")
    failures.add_argument(
        "--error-threshold",
        type=arguments.percentage,
        metavar="PCT",
        help="Trip the breaker when more than this percentage of the users attempted failed; 0 trips at the first "
        f"failure once 50 were attempted, 100 never (default: {default.error_threshold}).",
    )
    failures.add_argument(
        "--no-auto-rollback",
        action="store_true",
        help="When the breaker trips, stop and keep what was converted; by default this run's conversions are rolled "
        "back.",
    )
    failures.add_argument(
        "--rollback",
        action="store_true",
        help="Roll back instead of migrating: the users of --user-id, or all, with --dry-run, --batch-size, --workers "
        "and --reason if wanted; rollback_migration has more choices.",
    )

    arguments.add_approval_option(parser)
    arguments.add_reason_option(parser)


def add_checklist_options(parser: CommandParser) -> None:
    """Add the go or no-go before a migration."""
    group = parser.add_argument_group("go or no-go")
    group.add_argument(
        "--rehearse",
        type=arguments.number,
        nargs="?",
        const=SAMPLE,
        metavar="N",
        help="Convert and reverse N users with the real statements, verify every rule, and roll each transaction back "
        f"(default: {SAMPLE:,} users, spread over all keys; 0: all; --user-id and --cohort choose others). Exit code "
        "3 if users would fail.",
    )
    group.add_argument(
        "--checklist",
        action="store_true",
        help="Go through the checklist before a migration and keep it; exit code 0 for go, 3 for no go. No user is "
        "migrated.",
    )
    group.add_argument(
        "--backup",
        type=arguments.text,
        metavar="REF",
        help="With --checklist: the backup that was made, such as its name or ticket (default: none, which is no go).",
    )
    group.add_argument(
        "--confirm",
        action="append",
        choices=tuple(ANSWERABLE),
        default=[],
        metavar="QUESTION",
        help="With --checklist: answer a question that the command cannot answer with yes, so that it is not asked: "
        f"{', '.join(ANSWERABLE)}. May be repeated.",
    )


def add_replaced_options(parser: CommandParser) -> None:
    """Add the former spellings of ``control_migration`` and ``work_migration --run``, hidden."""
    for name in ("pause", "resume", "stop"):
        parser.add_argument(f"--{name}", nargs="?", const=0, type=arguments.whole_number, help=argparse.SUPPRESS)
    parser.add_argument("--set", action="append", type=arguments.setting, default=[], help=argparse.SUPPRESS)
    parser.add_argument("--join", type=arguments.whole_number, help=argparse.SUPPRESS)


def asked_control(options: dict[str, Any]) -> tuple[Action | None, int | None]:
    """Return which of pause, resume, stop and set was asked for, and the run named with it.

    Raises:
        UsageError: more than one of pause, resume and stop was.
    """
    asked = [action for action in (Action.PAUSE, Action.RESUME, Action.STOP) if options[action] is not None]
    if len(asked) > 1:
        raise UsageError(f"--{asked[1]} cannot be combined with --{asked[0]}: leave one out")
    if asked:
        return asked[0], options[asked[0]] or None
    return (Action.SET, None) if options["set"] else (None, None)


def read_options(users: tuple[str, ...], options: dict[str, Any]) -> MigrationOptions:
    """Build the frozen options from the parsed command line."""
    default = Controls()
    asked = {name: options[name] for name in default.as_dict() if options[name] is not None}
    asked["until"] = parse_until(options["until"])
    return MigrationOptions(
        users=users,
        limit=options["limit"],
        cohort=options["cohort"],
        skip_invalid=options["skip_invalid"],
        retry_failed=options["retry_failed"],
        auto_fix=options["auto_fix"],
        auto_rollback=not options["no_auto_rollback"],
        controls=replace(default, **asked),
        given=frozenset(asked) - {"until"},
    )


def refuse_contradictions(options: dict[str, Any]) -> None:
    """Refuse options that have no meaning beside one another, before anything is done.

    Raises:
        UsageError: there are such options.
    """
    action, _ = asked_control(options)
    if options["rehearse"] is not None:
        _allow("--rehearse", options, "rehearse", "user_ids", "cohort", "batch_size", "skip_invalid", "retry_failed")
    elif options["checklist"]:
        _allow("--checklist", options, "checklist", "backup", "confirm", "executor")
    elif options["backup"] or options["confirm"]:
        raise UsageError("--backup and --confirm answer questions of the checklist: add --checklist")
    if action is not None:
        _allow(f"--{action}", options, "reason", "set", "pause", "resume", "stop")
    elif options["join"] is not None:
        _allow("--join, which takes a run as it is", options, "join", "workers", "executor")
    elif options["rollback"]:
        _allow(
            "--rollback",
            options,
            "rollback",
            "user_ids",
            "dry_run",
            "batch_size",
            "workers",
            "executor",
            "reason",
            "until",
        )
    elif options["show_sql"]:
        _allow(
            "--show-sql",
            options,
            "show_sql",
            "user_ids",
            "limit",
            "cohort",
            "batch_size",
            "skip_invalid",
            "retry_failed",
        )
    elif options["plan"] is not None:
        _refuse("--plan, which executes what was planned", options, "dry_run", "validate_only", "user_ids")
    elif options["user_ids"]:
        wrong = ("limit", "cohort", "retry_failed", "workers", "executor", "until")
        _refuse("--user-id, which selects its users", options, *wrong)
    elif options["dry_run"] or options["validate_only"]:
        _refuse("--dry-run" if options["dry_run"] else "--validate-only", options, "workers", "executor")
    if options["list"] and not options["dry_run"]:
        raise UsageError("--list lists the users of a dry run: add --dry-run")
    if options["save_plan"] is not None and not options["dry_run"]:
        raise UsageError("--save-plan writes the forecast of a dry run: add --dry-run")


#: The options of this command, by destination, that exclude one another.
_FLAGS: Final = {
    "rehearse": "--rehearse",
    "checklist": "--checklist",
    "backup": "--backup",
    "confirm": "--confirm",
    "user_ids": "--user-id",
    "dry_run": "--dry-run",
    "validate_only": "--validate-only",
    "batch_size": "--batch-size",
    "limit": "--limit",
    "cohort": "--cohort",
    "auto_fix": "--auto-fix",
    "skip_invalid": "--skip-invalid",
    "retry_failed": "--retry-failed",
    "error_threshold": "--error-threshold",
    "no_auto_rollback": "--no-auto-rollback",
    "delay": "--delay",
    "workers": "--workers",
    "until": "--run-time or --until",
    "executor": "--executor",
    "join": "--join",
    "rollback": "--rollback",
    "save_plan": "--save-plan",
    "list": "--list",
    "plan": "--plan",
}


def _given(options: dict[str, Any], name: str) -> bool:
    value = options[name]
    return value is not None and value is not False and value != []


def _allow(what: str, options: dict[str, Any], *names: str) -> None:
    _refuse(what, options, *(name for name in _FLAGS if name not in names))


def _refuse(what: str, options: dict[str, Any], *names: str) -> None:
    wrong = [_FLAGS[name] for name in names if _given(options, name)]
    if wrong:
        out = "it" if len(wrong) == 1 else "them"
        raise UsageError(f"{', '.join(wrong)} cannot be combined with {what}: leave {out} out")
