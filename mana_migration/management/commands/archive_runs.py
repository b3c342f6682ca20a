"""Copy what closed runs did into files that can be checked without the database."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from django.core.management.base import CommandParser

from mana_migration.domain.words import counted
from mana_migration.errors import UsageError
from mana_migration.management import arguments
from mana_migration.management.commands._base import DONE, MigrationCommand
from mana_migration.services import archive, preflight
from mana_migration.services.archive import Archive


class Command(MigrationCommand):
    help = (
        "Write everything that closed runs did into one compressed file a run, readable by you alone and never over "
        "another, and check its chain of digests meanwhile. It is a copy: the database keeps what it holds, because "
        "rollbacks and checks need it. With --verify: check such a file by itself."
    )

    examples = (
        "archive_runs --before 2026-11-01 --dry-run",
        "archive_runs --run 7 --run 8 --output archive",
        "archive_runs --verify archive/mana-migration-run7.jsonl.gz",
    )

    def add_options(self, parser: CommandParser) -> None:
        """Add the options of ``archive_runs``."""
        which = parser.add_argument_group("what to archive or to check (one of these)")
        target = parser.add_argument_group("where archives go")
        chosen = which.add_mutually_exclusive_group(required=True)
        chosen.add_argument(
            "--before",
            type=arguments.moment,
            metavar="DATE",
            help="Archive every run that ended before this YYYY-MM-DD or ISO date-time, in the configured time zone.",
        )
        chosen.add_argument(
            "--run",
            type=arguments.whole_number,
            action="append",
            default=[],
            metavar="ID",
            dest="runs",
            help="Archive this run, which must have ended. May be repeated.",
        )
        chosen.add_argument(
            "--verify",
            type=Path,
            metavar="FILE",
            help="Check this archive from its first line to its last; the database is not read.",
        )
        target.add_argument(
            "--output",
            type=Path,
            metavar="FOLDER",
            help="Write the files into this folder, which is made with mode 0700 where it is missing (needed with "
            "--before and --run).",
        )
        which.add_argument(
            "--chain-head",
            type=arguments.chain_head,
            metavar="SHA256",
            help="With --verify: a head of the run's chain that was kept elsewhere, which must be among the file's "
            "links (default: compared with nothing else).",
        )
        target.add_argument("--dry-run", action="store_true", help="Only say which runs would be archived.")

    def run(self, **options: Any) -> int:
        """Archive, or verify."""
        if options["verify"] is not None:
            return self._verify(options)
        if options["chain_head"]:
            raise UsageError("--chain-head is compared with an archive: give it with --verify FILE")
        if options["output"] is None and not options["dry_run"]:
            raise UsageError("name the folder that the files go to with --output FOLDER")
        using = options["database"]
        preflight.check(using, read_only=True)
        chosen = archive.closed_runs(before=options["before"], runs=tuple(options["runs"]), using=using)
        if options["dry_run"]:
            self._tell_choice(chosen)
            return DONE
        done: list[Archive] = []
        for run in chosen:
            done.append(archive.write(run, options["output"], using=using))
            self.notice(_line(done[-1]))
        copies = archive.write_logs(chosen, options["output"], using=using)
        for copy in copies:
            self.notice(f"log: {counted(copy.lines, 'line')}, {copy.path}")
        if self.json_output:
            self.print_json(
                {"archives": [each.as_dict() for each in done], "logs": [copy.as_dict() for copy in copies]}
            )
        elif not done:
            self.stdout.write("no run ended before that: nothing to archive")
        return DONE

    def _tell_choice(self, chosen: list[int]) -> None:
        if self.json_output:
            self.print_json({"runs": chosen})
        else:
            names = ", ".join(str(run) for run in chosen)
            self.stdout.write(f"would archive: {f'run {names}' if chosen else 'no run'}")

    def _verify(self, options: dict[str, Any]) -> int:
        if options["output"] is not None or options["dry_run"]:
            raise UsageError("--verify reads one file and writes nothing: leave out --output and --dry-run")
        found = archive.verify(options["verify"], expected=options["chain_head"] or "")
        if self.json_output:
            self.print_json({"ok": True, **found.as_dict()})
            return DONE
        self.stdout.write(_line(found))
        if found.met is not None:
            self.stdout.write(f"the head that was given is link {found.met:,}: all before it is as it was")
        return DONE


def _line(found: Archive) -> str:
    head = f", head {found.head}" if found.head else ""
    gone = f", {found.unseen:,} records had been deleted by --no-preserve-logs" if found.unseen else ""
    fixes = f", {counted(found.fixes, 'integrity fix', 'integrity fixes')}" if found.fixes else ""
    return (
        f"run {found.run} ({found.kind}, {found.status}): {counted(found.batches, 'batch', 'batches')}, "
        f"{found.lines:,} users' lines{fixes}{gone}, {found.path}{head}"
    )
