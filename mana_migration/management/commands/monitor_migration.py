"""Show how a run stands, watch it, and write its report."""

from __future__ import annotations

import argparse
import math
import os
from datetime import datetime
from typing import Any

from django.core.management.base import CommandParser
from django.utils import timezone
from rich.console import Console

from mana_migration.domain.snapshot import RunSnapshot
from mana_migration.errors import UsageError
from mana_migration.management import arguments
from mana_migration.management.commands._base import DONE, MigrationCommand
from mana_migration.management.watching import NO_RUN, Watch
from mana_migration.reports import console as screens
from mana_migration.reports import snapshot_json
from mana_migration.reports.formatting import when
from mana_migration.selectors.runs import find_run, run_snapshot, runs_since


class Command(MigrationCommand):
    help = (
        "Show how a run stands: the open one, else the latest. --watch follows it to its end, --report and --export "
        "write everything about it. Reads only, and costs the same whatever the number of users."
    )

    def add_options(self, parser: CommandParser) -> None:
        """Add the options of ``monitor_migration``."""
        what = parser.add_mutually_exclusive_group()
        what.add_argument(
            "--watch",
            action="store_true",
            help="Follow the run until it is over or Ctrl-C: a live screen on a terminal, one line per look elsewhere. "
            "Where no run is open, wait for one to start.",
        )
        parser.add_argument(
            "--run",
            type=arguments.whole_number,
            metavar="ID",
            dest="run_id",
            help="Show this run (default: the open one, else the latest).",
        )
        parser.add_argument(
            "--since",
            type=arguments.moment,
            metavar="DATE",
            help="List the runs started since then: YYYY-MM-DD or an ISO date-time, in the configured time zone "
            "(default: no list).",
        )
        parser.add_argument(
            "--interval",
            type=seconds,
            default=3.0,
            metavar="SECONDS",
            help="Seconds between two looks of --watch, above 0 (default: %(default)g).",
        )

    def run(self, **options: Any) -> int:
        """Route to the one thing that the options mean."""
        if options["run_id"] is not None and options["since"] is not None:
            raise UsageError("--run names one run and --since lists many: give one of them")
        if options["watch"]:
            return self.watch(options)
        return self.show(options)

    def show(self, options: dict[str, Any]) -> int:
        """Print one screen."""
        since: datetime | None = options["since"]
        if since is not None:
            return self.list_runs(since, options)
        seen = run_snapshot(options["database"], options["run_id"])
        if self.json_output:
            self.print_json({"run": None} if seen is None else snapshot_json.snapshot_json(seen))
        elif seen is None:
            self.stdout.write(NO_RUN)
        else:
            self.print_screen(seen)
        return DONE

    def list_runs(self, since: datetime, options: dict[str, Any]) -> int:
        """Print the runs started since a moment."""
        runs = runs_since(options["database"], since)
        if self.json_output:
            self.print_json({"since": since.isoformat(), "runs": snapshot_json.runs_json(runs)})
            return DONE
        zone = timezone.get_current_timezone()
        self.stdout.write(f"Runs since {when(since, zone)}: {len(runs):,}")
        if runs:
            self.stdout.write(screens.runs_text(runs, zone))
        return DONE

    def print_screen(self, seen: RunSnapshot) -> None:
        """Draw a run's screen on a terminal, write it as plain text elsewhere."""
        zone = timezone.get_current_timezone()
        if self.on_terminal():
            Console().print(screens.screen(seen, zone))
        else:
            self.stdout.write(screens.snapshot_text(seen, zone))

    def watch(self, options: dict[str, Any]) -> int:
        """Follow the run until it is over; a signal ends the watch with its own exit code."""
        if self.json_output:
            raise UsageError(
                "--watch prints for people; for JSON give --format json without --watch, as often as needed"
            )
        using, chosen, since = options["database"], options["run_id"], options["since"]

        def read() -> RunSnapshot | None:
            if since is None:
                return run_snapshot(using, chosen)
            run = find_run(using, since=since)
            return None if run is None else run_snapshot(using, run.pk)

        watch = Watch(
            read,
            using=using,
            interval=options["interval"],
            follow=chosen is not None,
            now=timezone.now,
            zone=timezone.get_current_timezone(),
        )
        if self.on_terminal():
            watch.on_terminal(Console())
        else:
            watch.in_lines(self.say)
        return DONE if watch.signal is None else 128 + watch.signal

    def say(self, line: str) -> None:
        """Write a line at once, for whoever reads the other end of a pipe."""
        self.stdout.write(line)
        self.stdout.flush()

    def on_terminal(self) -> bool:
        """Say whether screens can be drawn."""
        return bool(self.stdout.isatty()) and os.environ.get("TERM", "") not in ("", "dumb")


def seconds(value: str) -> float:
    """Accept a number of seconds above 0, up to a day."""
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not 0 < number <= 86_400:
        raise argparse.ArgumentTypeError(f"{value!r}: give a number of seconds above 0, up to 86400")
    return number
