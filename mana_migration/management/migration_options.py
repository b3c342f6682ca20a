"""The options of ``migrate_users``: how they are given and what they mean."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from django.core.management.base import CommandParser

from mana_migration.domain.options import Controls, MigrationOptions
from mana_migration.errors import UsageError
from mana_migration.management import arguments
from mana_migration.services.checklist import QUESTIONS
from mana_migration.services.rehearsal import SAMPLE


def add_migration_options(parser: CommandParser) -> None:
    """Add what a migration can be asked to do."""
    default = Controls()
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="Say what would happen, in a read-only transaction; write nothing anywhere.",
    )
    parser.add_argument(
        "--validate-only", action="store_true", help="Run the checks that a migration begins with, and nothing else."
    )
    arguments.add_user_option(parser, "Convert this user alone, at once; there is no breaker.")
    parser.add_argument(
        "--batch-size",
        type=arguments.batch_size,
        metavar="N|auto",
        help="Convert N users in one transaction, from 1 to 100000, or as many as take about 0.25 s with auto "
        f"(default: {default.batch_size}).",
    )
    parser.add_argument(
        "--limit",
        type=arguments.whole_number,
        metavar="N",
        help="Convert at most N users, then end; the next run goes on from there (default: all).",
    )
    parser.add_argument(
        "--cohort",
        type=arguments.cohort,
        metavar="PCT",
        help="Convert a stable share of the users, such as 1%% or 0.25%%; the same users each time (default: all).",
    )
    parser.add_argument(
        "--auto-fix",
        action="store_true",
        help="Correct the findings that have one right answer before the run; before and after are kept.",
    )
    parser.add_argument(
        "--skip-invalid",
        action="store_true",
        help="Leave users with error-level findings out, recorded as skipped with the reason; by default any such "
        "finding refuses the run.",
    )
    parser.add_argument(
        "--retry-failed", action="store_true", help="Convert only users who failed in an earlier run (default: all)."
    )
    parser.add_argument(
        "--error-threshold",
        type=arguments.percentage,
        metavar="PCT",
        help="Trip the breaker when more than this percentage of the users attempted failed; 0 trips at the first "
        f"failure once 50 were attempted, 100 never (default: {default.error_threshold}).",
    )
    parser.add_argument(
        "--no-auto-rollback",
        action="store_true",
        help="When the breaker trips, stop and leave what was converted; by default this run's conversions are "
        "taken back.",
    )
    parser.add_argument(
        "--delay",
        type=arguments.delay,
        metavar="auto|SECONDS",
        help="Wait this many seconds between batches, 0 for no pause, or only while the database is unwell with auto "
        f"(default: {default.delay}).",
    )
    arguments.add_workers_option(parser)
    parser.add_argument(
        "--join",
        type=arguments.whole_number,
        metavar="RUN",
        help="Lend a hand to this open migration or mass rollback, from any machine with the same database, until it "
        "ends.",
    )
    parser.add_argument(
        "--rollback",
        action="store_true",
        help="Take conversions back instead: those of --user-id, or all, with --dry-run, --batch-size, --workers and "
        "--reason if wanted; rollback_migration has more choices.",
    )
    parser.add_argument(
        "--reason",
        type=arguments.text,
        default="",
        help="Why, for the record; kept with the run or event (default: none).",
    )
    plan = parser.add_mutually_exclusive_group()
    plan.add_argument(
        "--save-plan", type=Path, metavar="FILE", help="With --dry-run: write what was promised to a new file."
    )
    plan.add_argument(
        "--plan",
        type=Path,
        metavar="FILE",
        help="Execute the plan that a dry run saved, with its options; refused when rates or findings have changed "
        "since. How far the result differs from the promise is told at the end.",
    )


def add_checklist_options(parser: CommandParser) -> None:
    """Add the go or no-go before a migration."""
    group = parser.add_argument_group("before the migration")
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
        choices=tuple(QUESTIONS),
        default=[],
        metavar="QUESTION",
        help="With --checklist: answer a question that only a person can answer with yes, so that it is not asked: "
        f"{', '.join(QUESTIONS)}. May be repeated.",
    )


def add_control_options(parser: CommandParser) -> None:
    """Add what may be done to an open run from another terminal."""
    group = parser.add_argument_group("an open run, from another terminal (RUN: its number; default: the open one)")
    control = group.add_mutually_exclusive_group()
    for name, sentence in {
        "pause": "Hold the run: its workers finish the batch in hand and wait.",
        "resume": "Let a paused run go on.",
        "stop": "End the run for good: what it did stands.",
    }.items():
        control.add_argument(
            f"--{name}",
            nargs="?",
            const=0,
            type=arguments.whole_number,
            metavar="RUN",
            help=sentence,
        )
    group.add_argument(
        "--set",
        action="append",
        type=arguments.setting,
        default=[],
        metavar="NAME=VALUE",
        help="Change batch_size, delay or error_threshold of the open run; in force within a batch or the next "
        "planning. May be repeated.",
    )


def asked_control(options: dict[str, Any]) -> tuple[str | None, int | None]:
    """Return which of pause, resume and stop was asked for, and the run named with it."""
    for name in ("pause", "resume", "stop"):
        if options[name] is not None:
            return name, options[name] or None
    return None, None


def read_options(users: tuple[str, ...], options: dict[str, Any]) -> MigrationOptions:
    """Build the frozen options from the parsed command line."""
    default = Controls()
    asked = {name: options[name] for name in default.as_dict() if options[name] is not None}
    return MigrationOptions(
        users=users,
        limit=options["limit"],
        cohort=options["cohort"],
        skip_invalid=options["skip_invalid"],
        retry_failed=options["retry_failed"],
        auto_fix=options["auto_fix"],
        auto_rollback=not options["no_auto_rollback"],
        controls=replace(default, **asked),
        given=frozenset(asked),
    )


def refuse_contradictions(options: dict[str, Any]) -> None:
    """Refuse options that have no meaning beside one another, before anything is done.

    Raises:
        UsageError: there are such options.
    """
    control, _ = asked_control(options)
    if options["rehearse"] is not None:
        _allow("--rehearse", options, "rehearse", "user_ids", "cohort", "batch_size", "skip_invalid", "retry_failed")
    elif options["checklist"]:
        _allow("--checklist", options, "checklist", "backup", "confirm", "executor")
    elif options["backup"] or options["confirm"]:
        raise UsageError("--backup and --confirm answer questions of the checklist: add --checklist")
    if control is not None or options["set"]:
        _allow(f"--{control or 'set'}", options, "reason", "set", "pause", "resume", "stop")
    elif options["join"] is not None:
        _allow("--join, which takes a run as it is", options, "join", "workers", "executor")
    elif options["rollback"]:
        _allow("--rollback", options, "rollback", "user_ids", "dry_run", "batch_size", "workers", "executor", "reason")
    elif options["plan"] is not None:
        _refuse("--plan, which executes what was promised", options, "dry_run", "validate_only", "user_ids")
    elif options["user_ids"]:
        _refuse("--user-id, which names its users", options, "limit", "cohort", "retry_failed", "workers", "executor")
    elif options["dry_run"] or options["validate_only"]:
        _refuse("--dry-run" if options["dry_run"] else "--validate-only", options, "workers", "executor")
    if options["save_plan"] is not None and not options["dry_run"]:
        raise UsageError("--save-plan writes what a dry run promises: add --dry-run")


#: The options of this command, by destination, that can stand in each other's way.
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
    "executor": "--executor",
    "join": "--join",
    "rollback": "--rollback",
    "save_plan": "--save-plan",
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
