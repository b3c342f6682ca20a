"""Run the integrity checks, and correct what has one right answer."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from django.core.management.base import CommandParser
from django.db import DatabaseError, InterfaceError

from mana_migration.domain.repairs import FIXABLE
from mana_migration.domain.validation import (
    BOTH,
    CHECKS,
    ERROR,
    INFO,
    POST,
    PRE,
    Finding,
    FixReport,
    OnFinding,
    ValidationReport,
    checks_of,
    errors_in_words,
)
from mana_migration.domain.words import counted
from mana_migration.errors import UsageError
from mana_migration.files import new_file
from mana_migration.management import arguments
from mana_migration.management.commands._base import DONE, PARTLY
from mana_migration.management.several import Question, SeveralDatabases
from mana_migration.reports.forecast import fixes_line
from mana_migration.reports.validation import JsonDocument, JsonLines, Screen, Sink
from mana_migration.selectors.users import resolve_users
from mana_migration.services import autofix, logs, preflight, validation
from mana_migration.services.context import current_actor
from mana_migration.services.validation import Place


class _StoppedError(Exception):
    """A signal asked a validation in parts to end."""


#: What is asked once for all databases before auto-fix changes balances.
AUTO_FIX = Question(
    "Auto-fix would correct findings in {where}. Change the balances?",
    lambda found: sum(check.get("would_fix", 0) for check in found.get("checks", ())),
)


class Command(SeveralDatabases):
    help = (
        "Check the wallets before a migration, and wallets, records and ledger after it, in one read-only snapshot. "
        "Changes nothing unless --fix-issues is given. Ends with 3 while error-level findings remain."
    )
    of_one_database = ("--user-id", "--run", "--chain-head", "--from", "--output")
    examples = (
        "validate_migration --pre-migration",
        "validate_migration --fix-issues --dry-run",
        "validate_migration --post-migration --run 7 --output findings.jsonl",
    )

    def add_options(self, parser: CommandParser) -> None:
        """Add the options of ``validate_migration``."""
        checks = parser.add_argument_group("what to check (default: everything)")
        fixes = parser.add_argument_group("correcting findings")
        findings = parser.add_argument_group("what to list")
        checks.add_argument(
            "--pre-migration",
            action="store_true",
            help="Run the checks of what must hold before a migration (default: both phases).",
        )
        checks.add_argument(
            "--post-migration",
            action="store_true",
            help="Run the checks of what a migration or rollback left behind (default: both phases).",
        )
        arguments.add_user_option(checks, "Check this user alone; checks of whole runs are left out (default: all).")
        checks.add_argument(
            "--run",
            type=arguments.whole_number,
            metavar="ID",
            dest="run_id",
            help="Check what this run did, and its users alone, with the checks of --post-migration "
            "(default: all runs).",
        )
        fixes.add_argument(
            "--fix-issues",
            "--auto-fix",
            action="store_true",
            dest="fix",
            help="Correct the findings that have one right answer; the values before and after are kept, and the "
            "change is booked in the ledger. Never pays mana out.",
        )
        fixes.add_argument(
            "--by-ledger",
            action="store_true",
            help="With --fix-issues and --user-id: bring these wallets to what their ledger and their record say, "
            "whatever happened to them; before and after are kept. For users whose case you have examined.",
        )
        fixes.add_argument(
            "--dry-run",
            action="store_true",
            help="With --fix-issues: only say what would be fixed.",
        )
        findings.add_argument(
            "--list",
            action="append",
            choices=[check.id for check in CHECKS if check.only_counted],
            default=[],
            metavar="CHECK",
            dest="listed",
            help="List the findings of this check, which are only counted otherwise: "
            f"{', '.join(check.id for check in CHECKS if check.only_counted)}. May be repeated.",
        )
        findings.add_argument(
            "--all-hits",
            action="store_true",
            help="List every finding of every check, including those that are otherwise only counted (default: the "
            f"first "
            f"{validation.SHOWN} of each check on the screen, all of them with --format json or --output).",
        )
        checks.add_argument(
            "--chain-head",
            type=arguments.chain_head,
            metavar="SHA256",
            help="The head of a run's chain of digests as a report printed it, kept elsewhere since: it is a finding "
            "if no batch has it as its link any more (default: chains are followed and compared with nothing else).",
        )
        checks.add_argument(
            "--from",
            type=place,
            metavar="PLACE",
            dest="start",
            help="Check everything in parts, each in a snapshot of its own, from this place on: start, or what an "
            "interrupted validation in parts printed: pk:KEY, sums or run:ID (default: all in one snapshot).",
        )
        findings.add_argument(
            "--output",
            type=Path,
            metavar="PATH",
            help="Write every finding to this new file, one JSON object a line, readable by you alone "
            "(default: no file).",
        )

    def refuse_options(self, options: dict[str, Any]) -> None:
        """Refuse options that contradict one another."""
        asked_phase(options)

    def question(self, options: Mapping[str, Any]) -> Question | None:
        """Return what has to be confirmed on a terminal: that auto-fix changes balances."""
        asks = options["fix"] and not options["dry_run"] and sys.stdin is not None and sys.stdin.isatty()
        return AUTO_FIX if asks else None

    def show_step(self, what: str) -> None:
        """Say on a terminal what is read next; on a large database each part takes a while."""
        stream = self.progress_stream
        if stream.isatty():
            stream.write(f"\r\x1b[Kreading {what} …")
            stream.flush()

    def clear_step(self) -> None:
        """Take away what ``show_step`` has shown."""
        if self.progress_stream.isatty():
            self.progress_stream.write("\r\x1b[K")
            self.progress_stream.flush()

    def run(self, **options: Any) -> int:
        """Fix if asked to, validate, show."""
        phase, using = asked_phase(options), options["database"]
        preflight.check(using, read_only=not options["fix"] or options["dry_run"])
        users = resolve_users(options["user_ids"], using=using)
        self.confirm_fixes(phase, users, options)
        with ExitStack() as opened:
            sinks = self.sinks(options, opened)

            def show(finding: Finding) -> None:
                self.clear_step()
                for sink in sinks:
                    sink.take(finding)

            if options["start"] is not None:
                return self.validate_in_parts(phase, show, sinks, options)
            fixes = fix(phase, users, show, options) if options["fix"] else None
            report = validation.validate(
                using,
                phase=phase,
                users=users,
                run=options["run_id"],
                on_finding=show,
                most=validation.SHOWN if all(isinstance(sink, Screen) for sink in sinks) else None,
                listed=options["listed"],
                all_hits=options["all_hits"],
                fixes=fixes,
                chain_head=options["chain_head"] or "",
                step=self.show_step,
            )
            self.clear_step()
            for sink in sinks:
                sink.end(report)
        log(report)
        return DONE if report.ok else PARTLY

    def confirm_fixes(self, phase: str, users: list[str], options: dict[str, Any]) -> None:
        """Show on a terminal what auto-fix would change, and ask before balances change."""
        if not options["fix"] or options["dry_run"] or options["no_input"] or not sys.stdin or not sys.stdin.isatty():
            return
        found = fix(phase, users, lambda finding: None, {**options, "dry_run": True})
        if found.users:
            question = f"Auto-fix would change {fixes_line(found)}."
            self.confirm(question, options, on_no="not confirmed: nothing was changed")

    def validate_in_parts(self, phase: str, show: OnFinding, sinks: list[Sink], options: dict[str, Any]) -> int:
        """Validate part after part; where that is interrupted, say from which place it can be continued."""
        parts: list[ValidationReport] = []
        reached = options["start"]

        def at(then: Place) -> None:
            nonlocal reached
            reached = then
            if stop.requested:
                raise _StoppedError
            errors = sum(part.error_count for part in parts)
            wallets = sum(part.totals.get("wallets", 0) for part in parts)
            self.show_step(f"from {then}: {counted(wallets, 'wallet')} read, {errors_in_words(errors)}")

        with self.stop_on_signals(following=True) as stop:
            try:
                for part in validation.validate_in_parts(
                    options["database"],
                    options["start"],
                    phase=phase,
                    on_finding=show,
                    listed=options["listed"],
                    all_hits=options["all_hits"],
                    at=at,
                ):
                    parts.append(part)
            except (_StoppedError, DatabaseError, InterfaceError) as error:
                self.clear_step()
                found = errors_in_words(sum(part.error_count for part in parts))
                self.stderr.write(f"not complete: {found} before {reached}; continue with --from {reached}")
                if not isinstance(error, _StoppedError):
                    raise
                return 128 + stop.signal
        self.clear_step()
        report = ValidationReport.joined(phase, parts)
        for sink in sinks:
            sink.end(report)
        log(report)
        return DONE if report.ok else PARTLY

    def sinks(self, options: dict[str, Any], opened: ExitStack) -> list[Sink]:
        """Return where the findings go: the screen or stdout's JSON, and the file."""
        found: list[Sink] = []
        if self.json_output:
            found.append(JsonDocument(lambda text: self.put(text, ending="")))
        else:
            shown = None if options["all_hits"] or options["start"] is not None else validation.SHOWN
            found.append(Screen(self.put, shown=shown))
        if options["output"] is not None:
            found.append(JsonLines(opened.enter_context(new_file(options["output"])).write))
        return found


def place(value: str) -> Place:
    """Accept the place from which a validation in parts continues."""
    try:
        return Place.parse(value)
    except UsageError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def asked_phase(options: dict[str, Any]) -> str:
    """Return the phase that the options mean.

    Raises:
        UsageError: they contradict each other.
    """
    if options["chain_head"] and (options["user_ids"] or (options["pre_migration"] and not options["post_migration"])):
        raise UsageError("--chain-head is checked with --post-migration, for all users or one --run")
    if options["by_ledger"] and not (options["fix"] and options["user_ids"]):
        raise UsageError(
            "--by-ledger repairs the wallets of users that are named: give --fix-issues and --user-id as well"
        )
    if options["start"] is not None:
        for name in ("run_id", "user_ids", "fix", "chain_head"):
            if options[name]:
                other = {"run_id": "--run", "user_ids": "--user-id", "fix": "--fix-issues"}.get(name, "--chain-head")
                raise UsageError(f"--from checks all users and runs; it cannot be combined with {other}")
    if options["run_id"] is not None:
        for name in ("pre_migration", "user_ids", "fix"):
            if options[name]:
                other = {"pre_migration": "--pre-migration", "user_ids": "--user-id", "fix": "--fix-issues"}[name]
                raise UsageError(f"--run checks what one run did; it cannot be combined with {other}")
        return POST
    if options["pre_migration"] == options["post_migration"]:
        return BOTH
    return PRE if options["pre_migration"] else POST


def fix(phase: str, users: list[str], show: OnFinding, options: dict[str, Any]) -> FixReport:
    """Fix what has one reading, or what the ledger says of these users, or say what would be fixed."""
    if options["by_ledger"]:
        return autofix.fix_by_ledger(
            using=options["database"],
            actor=current_actor().name,
            users=users,
            dry_run=options["dry_run"],
            on_finding=show,
        )
    checks = [check.id for check in checks_of(phase) if check.id in FIXABLE]
    return autofix.fix_all(
        using=options["database"],
        actor=current_actor().name,
        users=users,
        dry_run=options["dry_run"],
        checks=checks,
        # a dry run's are reported by the validation that follows, with what auto-fix would do
        on_finding=None if options["dry_run"] else show,
    )


def log(report: ValidationReport) -> None:
    """Leave a line about each check that found something."""
    for check in report.checks:
        if check.remaining and check.severity != INFO:
            level = logging.ERROR if check.severity == ERROR else logging.WARNING
            logs.write(level, "integrity findings", check=check.id, count=check.remaining, phase=report.phase)
    logs.write(
        logging.INFO, "validated", phase=report.phase, count=report.error_count, seconds=round(report.seconds, 3)
    )
