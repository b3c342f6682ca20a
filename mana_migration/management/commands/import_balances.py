"""Bring the old system's balances in."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from django.core.management.base import CommandParser

from mana_migration.domain.import_results import DIFFERS, ImportOptions, ImportSummary, parse_columns
from mana_migration.domain.legacy import COLUMNS, UnpaidFlag
from mana_migration.errors import UsageError
from mana_migration.management.commands._base import DONE, PARTLY, REFUSED, MigrationCommand
from mana_migration.reports import import_summary
from mana_migration.services import imports, runs


class Command(MigrationCommand):
    help = (
        "Import a legacy export: create its users and their wallets in one transaction. Bad rows are listed with "
        "their reasons, and nothing at all is imported while there are any, unless they are to be skipped. "
        "Importing twice changes nothing."
    )

    def add_options(self, parser: CommandParser) -> None:
        """Add the options of ``import_balances``."""
        parser.add_argument(
            "source",
            metavar="SOURCE",
            help="A file (.csv, .tsv, .json, .jsonl, .ndjson, .xlsx), or the legacy database: "
            "postgres://USER@HOST/NAME or sqlite:///FILE. A password is better kept out of the address, in PGPASSWORD "
            "or ~/.pgpass, where other users of this machine cannot read it.",
        )
        parser.add_argument(
            "--dry-run", action="store_true", help="Read and judge everything, say what would happen, write no row."
        )
        parser.add_argument(
            "--rejects",
            type=Path,
            metavar="PATH",
            help="Write every bad row's number, id and reasons to this new CSV file (default: the first 20 are shown).",
        )
        parser.add_argument(
            "--skip-bad-rows",
            action="store_true",
            help="Import the good rows and leave out the bad ones (exit code 3); without it one bad row stops it all.",
        )
        parser.add_argument(
            "--table",
            metavar="NAME",
            help="The table or view of a legacy database (default: users), or the sheet of a workbook (the first).",
        )
        parser.add_argument(
            "--column",
            action="append",
            default=[],
            metavar="OURS=THEIRS",
            help="Read a column under another name, such as green=green_wishes; ours are "
            f"{', '.join(COLUMNS)}. May be repeated.",
        )
        parser.add_argument(
            "--unpaid-flag",
            choices=[choice.value for choice in UnpaidFlag],
            default=UnpaidFlag.REJECT.value,
            help="What a user is who is flagged as migrated but has wishes and no mana: a bad row (reject), migrated "
            "for nothing (migrated), or still to be migrated (pending) (default: %(default)s).",
        )
        parser.add_argument(
            "--update-existing",
            action="store_true",
            help="Overwrite wallets that differ from the source, if nobody has used them; without it they are left "
            "as they are and counted. A converted wallet is never overwritten.",
        )

    def run(self, **options: Any) -> int:
        """Import, show what was done and return the exit code."""
        if not options["source"].strip():
            raise UsageError("SOURCE is empty: give a file or a database's address")
        asked = ImportOptions(
            source=options["source"],
            table=options["table"],
            columns=parse_columns(options["column"]),
            rejects=options["rejects"],
            dry_run=options["dry_run"],
            skip_bad_rows=options["skip_bad_rows"],
            update_existing=options["update_existing"],
            unpaid=UnpaidFlag(options["unpaid_flag"]),
        )
        received: list[int] = []
        try:
            with _abort_on_termination(received):
                done = imports.import_balances(
                    asked, actor=runs.current_actor(), using=options["database"], progress=self.tell
                )
        except KeyboardInterrupt:
            number = received[0] if received else signal.SIGINT
            self.stderr.write("aborted: nothing was imported")
            return 128 + number
        self.print_result(done.as_dict(), import_summary.as_lines(done))
        return exit_code(done)

    def tell(self, *, phase: str, rows: int, seconds: float) -> None:
        """Print a line of progress on stderr, so that stdout holds the result alone."""
        self.stderr.write(f"{phase}: {rows:,} rows, {seconds:,.0f} s", lambda line: line)
        self.stderr.flush()


def exit_code(done: ImportSummary) -> int:
    """Return the exit code that an import deserves."""
    if done.status == "rejected":
        return REFUSED
    return PARTLY if done.bad or done.wallets[DIFFERS] else DONE


@contextmanager
def _abort_on_termination(received: list[int]) -> Iterator[None]:
    """Treat SIGTERM like Ctrl-C, so that drafts are removed and the transaction is rolled back at once."""

    def abort(number: int, frame: FrameType | None) -> None:
        received.append(number)
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, abort)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
