"""Work on whatever run is open: the process that does what the staff pages ask for."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandParser

from mana_migration.management.commands._base import DONE, MigrationCommand, signal_code
from mana_migration.services import runs
from mana_migration.services.executors import background


class Command(MigrationCommand):
    """Wait for open runs and work on them, until a signal."""

    help = (
        "Work on runs that the staff pages open (and on any other open run), and wait for the next. Start as many "
        "as you like, on any machine with this database. SIGTERM or Ctrl-C ends it after the batch in hand; the run "
        "stays open."
    )

    def add_options(self, parser: CommandParser) -> None:
        """Add --once and --interval."""
        parser.add_argument(
            "--once", action="store_true", help="End when no run is open instead of waiting for the next."
        )
        parser.add_argument(
            "--interval",
            type=float,
            default=background.LOOK_SECONDS,
            metavar="SECONDS",
            help="Seconds between two looks for an open run (default: %(default)s).",
        )

    def run(self, **options: Any) -> int:
        """Work until there is a reason to end."""
        using = options["database"]
        with self.stop_on_signals() as stop:
            if not options["once"]:
                self.notice(f"waiting for open runs on database {using!r}; Ctrl-C ends")
            done = background.work(
                actor=runs.current_actor(),
                using=using,
                stop=stop,
                once=options["once"],
                look_seconds=max(0.1, options["interval"]),
                notice=self.notice,
            )
            if self.json_output:
                self.print_json({"runs": [{"run": each.run, "status": each.status} for each in done]})
            return signal_code(stop, DONE)
