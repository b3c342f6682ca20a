"""Import the old system's balances."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from django.core.management.base import CommandParser

from mana_migration.domain.import_results import DIFFERS, ImportOptions, ImportSummary, parse_columns
from mana_migration.domain.legacy import COLUMNS, LEDGER_COLUMNS, UnpaidFlag
from mana_migration.errors import UsageError
from mana_migration.management.commands._base import DONE, PARTLY, REFUSED, MigrationCommand
from mana_migration.reports import import_summary
from mana_migration.services import imports
from mana_migration.services.context import current_actor


class Command(MigrationCommand):
    help = (
        "Import a legacy export: create its users and their wallets in one transaction. Bad rows are listed with "
        "their reasons, and nothing is imported while there are any, unless --skip-bad-rows leaves them out. "
        "Importing twice changes nothing."
    )

    examples = (
        "import_balances export.csv --dry-run",
        "import_balances export.xlsx --skip-bad-rows --rejects-with-values rest.csv",
        "import_balances postgres://legacy@db-1/shop --legacy-ledger transactions",
    )

    def add_options(self, parser: CommandParser) -> None:
        """Add the options of ``import_balances``."""
        reading = parser.add_argument_group("how the source is read")
        bad = parser.add_argument_group("bad rows (default: one of them stops the import)")
        paid = parser.add_argument_group("users whom the old system had migrated")
        site = parser.add_argument_group("users and wallets that are there already")
        parser.add_argument(
            "source",
            metavar="SOURCE",
            help="A file (.csv, .tsv, .json, .jsonl, .ndjson, .xlsx, .ods, .xls, .yaml; text also as .gz or .zip), "
            "- for standard input, or the legacy database: postgres://USER@HOST/NAME or sqlite:///FILE. Keep a "
            "password out of the address, in PGPASSWORD or ~/.pgpass, where other users cannot read it.",
        )
        parser.add_argument(
            "--dry-run", action="store_true", help="Read and check everything, report what would happen, write no row."
        )
        bad.add_argument(
            "--rejects",
            type=Path,
            metavar="PATH",
            help="Write every bad row's number, id and reasons to this new CSV file (default: the first 20 are shown).",
        )
        bad.add_argument(
            "--rejects-with-values",
            type=Path,
            metavar="PATH",
            help="Write every bad row as it is, behind its reasons, to this new CSV file, which can be corrected and "
            "imported (default: none). It holds personal data; only its owner can read it.",
        )
        bad.add_argument(
            "--skip-bad-rows",
            action="store_true",
            help="Import the good rows and leave out the bad ones (exit code 3).",
        )
        reading.add_argument(
            "--table",
            metavar="NAME",
            help="The table or view of a legacy database, or the key of a JSON object that holds the array "
            "(default: users).",
        )
        reading.add_argument(
            "--sheet",
            metavar="NAME",
            help="The sheet of a workbook, or all for every visible sheet with the header (default: the only one).",
        )
        reading.add_argument(
            "--column",
            action="append",
            default=[],
            metavar="OURS=THEIRS",
            help="Read a column under another name, such as green=green_wishes; ours are "
            f"{', '.join((*COLUMNS, *LEDGER_COLUMNS))} (default: the old system's names). May be repeated.",
        )
        reading.add_argument(
            "--null",
            action="append",
            default=[],
            metavar="WORD",
            help="A word that means NULL, such as n/a (default: the empty field, and \\N in text). May be repeated.",
        )
        reading.add_argument(
            "--literal-ids",
            action="store_true",
            help="Accept ids that look as if a tool had changed them (1001.0, NULL, 5-Mar) or that hold characters "
            "which are invisible or look like others (default: these rows are bad).",
        )
        reading.add_argument(
            "--backslash",
            choices=("escape", "literal"),
            help="What a backslash in a text file means: an escape (psql and MySQL write it) or itself (spreadsheets). "
            "By default it depends on the format, and an id that can be read in two ways is a bad row.",
        )
        site.add_argument(
            "--match",
            choices=("username", "pk"),
            help="Which column of this site's users the id is. By default the username, and the import is refused "
            "where ids are primary keys of users. With pk no account is created.",
        )
        paid.add_argument(
            "--legacy-ledger",
            metavar="NAME",
            help="The old system's ledger, which shows who was paid: a table of the legacy database (transactions), or "
            "a file (default: the flag alone decides).",
        )
        paid.add_argument(
            "--unpaid-flag",
            choices=[choice.value for choice in UnpaidFlag],
            default=UnpaidFlag.REJECT.value,
            help="What to do with a user who is flagged as migrated and was not paid (without --legacy-ledger: who has "
            "wishes and no mana): a bad row (reject), migrated for nothing (migrated), or still to be migrated "
            "(pending) (default: %(default)s).",
        )
        site.add_argument(
            "--update-existing",
            action="store_true",
            help="Overwrite wallets that differ from the source and are not in use (default: they are left as they are "
            "and counted). A converted wallet is never overwritten.",
        )

    def run(self, **options: Any) -> int:
        """Import, show what was done and return the exit code."""
        if not options["source"].strip():
            raise UsageError("SOURCE is empty: give a file or a database's address")
        asked = ImportOptions(
            source=options["source"],
            table=options["table"],
            columns=parse_columns(options["column"]),
            sheet=options["sheet"],
            backslash=options["backslash"],
            nulls=frozenset(options["null"]),
            literal_ids=options["literal_ids"],
            match=options["match"],
            ledger=options["legacy_ledger"],
            rejects=options["rejects"],
            rejects_with_values=options["rejects_with_values"],
            dry_run=options["dry_run"],
            skip_bad_rows=options["skip_bad_rows"],
            update_existing=options["update_existing"],
            unpaid=UnpaidFlag(options["unpaid_flag"]),
        )
        received: list[int] = []
        try:
            with _abort_on_termination(received):
                done = imports.import_balances(
                    asked, actor=current_actor(), using=options["database"], progress=self.report_progress
                )
        except KeyboardInterrupt:
            number = received[0] if received else signal.SIGINT
            self.stderr.write("aborted: nothing was imported")
            return 128 + number
        self.print_result(done.as_dict(), import_summary.as_lines(done))
        return exit_code(done)

    def report_progress(self, *, phase: str, rows: int, seconds: float) -> None:
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
