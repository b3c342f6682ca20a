"""Work on an open run from any machine: one that is named, or whatever the staff pages start."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.core.management.base import CommandParser

from mana_migration.errors import UsageError
from mana_migration.management import arguments
from mana_migration.management.commands._base import DONE, signal_code
from mana_migration.management.run_command import RunCommand
from mana_migration.reports import downloads
from mana_migration.services import preflight, report_files
from mana_migration.services.context import RunContext, StopFlag
from mana_migration.services.executors import background


class Command(RunCommand):
    """Join an open run, or wait for runs and work on them."""

    help = (
        "Work on open runs from any machine with this database. With --run: join that run until it ends. Without: "
        "work on the open run, then wait for the next, such as those that the staff pages start, and make the reports "
        "that the pages ask for, into the report folder that they share. Any number of these processes can run. "
        "SIGTERM or Ctrl-C ends one after its current batch; the run stays open."
    )
    examples = (
        "work_migration",
        "work_migration --run 7 --workers 4",
        "work_migration --once",
    )

    def add_options(self, parser: CommandParser) -> None:
        """Add which run to work on and how."""
        parser.add_argument(
            "--run",
            type=arguments.whole_number,
            metavar="RUN",
            dest="run_id",
            help="Join this open migration or mass rollback until it ends (default: any open run, one after the "
            "other).",
        )
        arguments.add_workers_options(parser)
        parser.add_argument("--once", action="store_true", help="End when no run is open instead of waiting for one.")
        parser.add_argument(
            "--interval",
            type=arguments.interval,
            default=background.POLL_SECONDS,
            metavar="SECONDS",
            help="Poll for an open run every so many seconds, above 0 (default: %(default)g).",
        )

    @contextmanager
    def reports(self, stop: StopFlag, *, once: bool) -> Iterator[None]:
        """Have reports made meanwhile; with ``once`` those that are asked for now, before the work on runs."""
        if once:
            while report_files.make_next(downloads.write, self.using) is not None:
                pass
            yield
            return
        with report_files.made_beside(stop, downloads.write, using=self.using, notice=self.notice):
            yield

    def run(self, **options: Any) -> int:
        """Work until there is a reason to end."""
        if options["run_id"] is not None:
            return self.join(options["run_id"], options)
        for name in ("workers", "executor"):
            if options[name] is not None:
                raise UsageError(f"--{name} needs --run RUN: without it, start this command as often as you need it")
        with self.stop_on_signals() as stop:
            context = RunContext(using=self.using, stop=stop, notice=self.notice)
            if options["once"]:
                preflight.await_writes(context)
            else:
                self.notice(f"waiting for open runs on database {self.using!r}; press Ctrl-C to end")
            with self.reports(stop, once=options["once"]):
                done = background.work(context, once=options["once"], poll_seconds=max(0.1, options["interval"]))
        if self.json_output:
            self.print_json({"runs": [{"run": each.run, "status": each.status} for each in done]})
        elif options["once"] and not done and not stop.requested:
            self.notice("no run is open that can be worked on now")
        return signal_code(stop, DONE)
