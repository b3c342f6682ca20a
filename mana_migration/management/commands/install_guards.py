"""Install the database's own refusals again, and observe writes that bypass the wallet service."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.core.management.base import CommandParser

from mana_migration.domain.words import counted
from mana_migration.management.commands._base import DONE, MigrationCommand
from mana_migration.services import observation, preflight


class Command(MigrationCommand):
    help = (
        "Install the guards that the database itself keeps, where they are missing or were changed: a schema change on "
        "SQLite rebuilds a table and silently drops its triggers."
    )

    def add_options(self, parser: CommandParser) -> None:
        """Add the options of ``install_guards``."""
        observe = parser.add_mutually_exclusive_group()
        observe.add_argument(
            "--observe",
            action="store_true",
            help="Record every update of a wallet that bypasses the wallet service: when, by which application_name "
            "and which columns, no values (PostgreSQL only; for a rehearsal, not for the night of the run).",
        )
        observe.add_argument("--no-observe", action="store_true", help="Stop observing and delete what was recorded.")

    def run(self, **options: Any) -> int:
        """Install what is missing."""
        using = options["database"]
        installed = preflight.install_missing_guards(using)
        if options["observe"]:
            observation.start(using)
        elif options["no_observe"]:
            observation.stop(using)
        seen = observation.summary(using)
        sentence = f"installed {', '.join(installed)}" if installed else "every guard is in force"
        values = {"installed": installed, "observed": seen.as_dict()}
        self.print_result(values, [sentence, *_observed(seen)])
        return DONE


def _observed(found: observation.Observation) -> Iterator[str]:
    if not found.active and not found.seen:
        return
    state = "observing direct writes of wallets" if found.active else "no longer observing direct writes"
    yield f"{state}: {counted(found.writes, 'write')} recorded"
    for each in found.seen:
        columns = each.columns or "no column (a whole-row save)"
        yield (
            f"  {each.writes:,} by {each.application_name or 'a session without application_name'}: {columns}; "
            f"first {each.first:%Y-%m-%d %H:%M:%S}, last {each.last:%Y-%m-%d %H:%M:%S} UTC"
        )
