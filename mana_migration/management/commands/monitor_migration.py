"""Show the status of a run, watch it, and write its report."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from django.core.management.base import CommandParser
from django.db import DatabaseError, InterfaceError
from django.utils import timezone

from mana_migration import conf
from mana_migration.domain.snapshot import RunSnapshot
from mana_migration.domain.words import counted
from mana_migration.engine.snapshot import read_only_snapshot
from mana_migration.errors import UsageError
from mana_migration.files import free_name, new_file, refuse_taken
from mana_migration.management import arguments
from mana_migration.management.commands._base import DONE, PARTLY
from mana_migration.management.several import SeveralDatabases, passed_on
from mana_migration.management.streams import TextSink, ended_by_sigterm
from mana_migration.reports import console as screens
from mana_migration.reports import databases, export, snapshot_json
from mana_migration.reports.console import NO_RUN
from mana_migration.reports.formatting import when
from mana_migration.reports.progress import write_record
from mana_migration.reports.statistics import as_lines as statistics_lines
from mana_migration.reports.statistics import status_line
from mana_migration.selectors.runs import find_run, run_snapshot, runs_since
from mana_migration.selectors.statistics import statistics, user_counts
from mana_migration.services import preflight, stalls
from mana_migration.services.context import DATABASE_LOST

if TYPE_CHECKING:
    from mana_migration.domain.report import ReportToCome
    from mana_migration.management.watching import View


class Command(SeveralDatabases):
    help = (
        "Show the status of a run: the open one, else the latest. --watch follows it to its end, --report and --export "
        "write everything about it. Reads only."
    )
    needs_log = False
    of_one_database = ("--run", "--text-amounts", "--list-by-user-key")
    examples = (
        "monitor_migration --watch",
        "monitor_migration --export xlsx --run 7 --output run7.xlsx",
        "monitor_migration --all --report --since 2026-11-23",
    )

    def add_options(self, parser: CommandParser) -> None:
        """Add the options of ``monitor_migration``."""
        add_monitor_options(parser)

    def refuse_options(self, options: dict[str, Any]) -> None:
        """Refuse options that contradict one another, and names of a report that are taken."""
        refuse_contradictions(options)
        if options["since"] is not None and (options["report"] or options["export"]) and not options["all"]:
            raise UsageError("--since with --report or --export is about one database: give one --database, or --all")
        if options["output"] not in (None, STANDARD_OUTPUT):
            refuse_taken(options["output"])

    def run_in_each(self, aliases: Sequence[str], options: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """Have the report of each database, or follow their runs to the ends and show what became of them."""
        arguments = passed_on(self._arguments, "--export", "--output")
        if options["export"] and not options["report"]:
            arguments.append("--report")
        if options["watch"]:
            found = self.results(aliases, arguments, form="text")
            if any(found[alias]["exit_code"] for alias in aliases):
                return found
            arguments.remove("--watch")
        return self.results(aliases, arguments)

    def show_result(self, result: Mapping[str, Any], options: Mapping[str, Any]) -> None:
        """Print or export the report of several databases."""
        if not options["export"]:
            super().show_result(result, options)
            return
        made, form = timezone.now(), options["export"]
        if options["output"] == STANDARD_OUTPUT:
            databases.write(result, form, made, self.binary_output(options))
            return
        name = f"migration-report-{timezone.localdate():%Y-%m-%d}-databases.{form}"
        path = options["output"] or free_name(conf.report_dir() / name)
        with new_file(path, make_folder=options["output"] is None) as stream:
            databases.write(result, form, made, stream)
        if self.json_output:
            written = {"databases": list(result["databases"]), "format": form, "files": [str(path)]}
            self.print_json({"reports": [written], "totals": result["totals"], "exit_code": result["exit_code"]})
        else:
            self.print_tables(result)
            self.notice(f"Report of {counted(len(result['databases']), 'database')}: {path}")

    def run(self, **options: Any) -> int:
        """Route to the one thing that the options mean."""
        refuse_contradictions(options)
        try:
            if options["status"] or options["statistics"]:
                return (self.status if options["status"] else self.statistics)(options["database"])
            if options["watch"]:
                return self.watch(options)
            preflight.check_visible(options["database"])
            if options["run_id"] is None and find_run(options["database"]) is None:
                return self.nothing_yet()
            asked = {"by_user_key": self.list_by_user_key, "export": self.export, "report": self.report}
            return next((do for option, do in asked.items() if options[option]), self.show)(options)
        except (DatabaseError, InterfaceError):
            preflight.check(options["database"], read_only=True)  # says it better where it is the cause
            raise
        except KeyboardInterrupt:
            self.stderr.write("aborted: nothing was left behind")
            return 128 + signal.SIGINT

    def status(self, using: str) -> int:
        """Print where all users are, on one line; return 0 where all are migrated and no run is open, else 3."""
        with read_only_snapshot(using):
            counts, seen = user_counts(using), run_snapshot(using)
        stalls.note(seen, using=using)
        run = seen if seen is not None and seen.is_open else None
        done = run is None and not counts.pending
        self.print_result(
            {
                "done": done,
                "users": counts.as_dict(),
                "run": None
                if run is None
                else {"run": run.run, "kind": run.kind, "status": run.status, "stalled": run.progress.stalled},
            },
            [status_line(counts) + ("" if run is None else f"; {screens.plain_line(run).split(' ', 1)[1]}")],
        )
        return DONE if done else PARTLY

    def statistics(self, using: str) -> int:
        """Print the figures of the whole site."""
        with read_only_snapshot(using):
            found = statistics(using)
        self.print_result(found.as_dict(), statistics_lines(found, timezone.get_current_timezone()))
        return DONE

    def nothing_yet(self) -> int:
        """Say that there is no run."""
        if self.json_output:
            self.print_json({"run": None})
        else:
            self.stdout.write(NO_RUN)
        return DONE

    def show(self, options: dict[str, Any]) -> int:
        """Print one screen, or the list of the runs since a date."""
        if options["since"] is not None:
            return self.list_runs(options)
        seen = run_snapshot(options["database"], options["run_id"])
        if seen is None:
            return self.nothing_yet()
        counts = user_counts(options["database"])
        if self.json_output:
            self.print_json(snapshot_json.snapshot_json(seen) | {"all_users": counts.as_dict()})
            return DONE
        if self.on_terminal():
            from rich.console import Console  # noqa: PLC0415 (takes long to import, and only a terminal needs it)

            Console().print(screens.screen(seen, timezone.get_current_timezone()))
        else:
            self.stdout.write(screens.snapshot_text(seen, timezone.get_current_timezone()))
        self.stdout.write(status_line(counts))
        return DONE

    def list_runs(self, options: dict[str, Any]) -> int:
        """Print the runs started since a date."""
        runs, zone = runs_since(options["database"], options["since"]), timezone.get_current_timezone()
        if self.json_output:
            self.print_json({"since": options["since"].isoformat(), "runs": snapshot_json.runs_json(runs)})
            return DONE
        self.stdout.write(f"Runs since {when(options['since'], zone)}: {len(runs):,}")
        if runs:
            self.stdout.write(screens.runs_text(runs, zone))
        return DONE

    def watch(self, options: dict[str, Any]) -> int:
        """Follow the run until it is over; a signal ends the watch with its own exit code."""
        from rich.console import Console  # noqa: PLC0415 (takes long to import, and only a screen needs it)

        from mana_migration.management.watching import Watch  # noqa: PLC0415
        from mana_migration.selectors.resources import resources  # noqa: PLC0415

        using, chosen, since = options["database"], options["run_id"], options["since"]

        def read() -> RunSnapshot | None:
            preflight.check_visible(using)
            run = None if since is None else find_run(using, since=since)
            if since is not None and run is None:
                return None
            seen = run_snapshot(using, chosen if run is None else run.pk)
            stalls.note(seen, using=using)
            return seen

        watch = Watch(
            read,
            using=using,
            interval=options["interval"],
            follow=chosen is not None,
            now=timezone.now,
            zone=timezone.get_current_timezone(),
            measure=(lambda: resources(using)) if self.on_terminal() else None,
        )
        if self.is_child:
            watch.in_lines(self.stderr.write, self.poll)
        elif self.on_terminal():
            watch.on_terminal(Console())
        else:
            watch.in_lines(self.say)
        return DONE if watch.signal is None else 128 + watch.signal

    def poll(self, view: View, line: str) -> None:
        """Send what is seen of this database to the process that watches several."""
        seen = view.seen
        write_record(
            self.progress_stream,
            verb="handled",
            users=0 if seen is None else seen.totals.selected,
            failed=0 if seen is None else seen.totals.failed,
            expected=None if seen is None else seen.progress.expected,
            waits_for=DATABASE_LOST if view.lost else "no run is open" if view.waiting else "",
            waiting=view.waiting,
            line=line,
        )

    def report(self, options: dict[str, Any]) -> int:
        """Print reports: as text, or one as its JSON."""
        from mana_migration.reports import report_json, report_text  # noqa: PLC0415 (the status of a run needs no report)

        zone = timezone.get_current_timezone()
        width = shutil.get_terminal_size().columns if self.on_terminal() else None
        for run_id in self.chosen_runs(options):
            with self.report_to_come(run_id, options) as report:
                if self.is_child:
                    self.print_json(report_json.summary(report.whole()))
                elif self.json_output:
                    export.write_to(report.whole(), "json", TextSink(self.stdout))
                else:
                    for line in report_text.as_lines(report.whole(), zone, width):
                        self.stdout.write(line)
        return DONE

    def export(self, options: dict[str, Any]) -> int:
        """Write reports to new files and say where they are."""
        from mana_migration.reports import sections  # noqa: PLC0415 (the status of a run needs no report)

        runs, output = self.chosen_runs(options), options["output"]
        if output is not None and len(runs) > 1:
            raise UsageError(f"--output names one file and {len(runs):,} runs are meant: leave it out, or give --run")
        written: list[dict[str, Any]] = []
        with ended_by_sigterm():
            for run_id in runs:
                with self.report_to_come(run_id, options) as report:
                    if output == STANDARD_OUTPUT:
                        export.write_stream(
                            report, options["export"], self.binary_output(options), text_amounts=options["text_amounts"]
                        )
                        return DONE
                    files = write_files(report, options["export"], output, text_amounts=options["text_amounts"])
                    rounded = options["export"] == "csv" and bool(sections.spreadsheet_note(report.whole()))
                written.append({"run": report.run, "format": options["export"], "files": [str(file) for file in files]})
                if not self.json_output:
                    about = "the whole migration" if report.run is None else f"run {report.run}"
                    self.stdout.write(f"Report of {about}: {', '.join(map(str, files))}")
                    if rounded and not options["text_amounts"]:
                        self.stdout.write(sections.CSV_NOTE)
        if self.json_output:
            self.print_json({"reports": written})
        return DONE

    def list_by_user_key(self, options: dict[str, Any]) -> int:
        """Write each migrated user's key with the balances before and after to a new file."""
        from mana_migration.reports import before_after as list_of_users  # noqa: PLC0415 (only this needs it)
        from mana_migration.selectors.before_after import before_and_after  # noqa: PLC0415

        using, run_id, output = options["database"], options["run_id"], options["by_user_key"]
        if run_id is not None:
            find_run(using, run_id)  # refuses a run that is not there
        with ended_by_sigterm(), read_only_snapshot(using):
            users = before_and_after(using, run_id=run_id, since=options["since"])
            if output == STANDARD_OUTPUT:
                list_of_users.write(users, self.binary_output(options))
                return DONE
            with new_file(output) as stream:
                number = list_of_users.write(users, stream)
        self.print_result(
            {"file": str(output), "users": number},
            [f"{counted(number, 'user')} by user key, which is personal data: {output}"],
        )
        return DONE

    def report_to_come(self, run_id: int | None, options: dict[str, Any]) -> AbstractContextManager[ReportToCome]:
        """Open the report of one run for an export, with names that are taken refused before any work."""
        from mana_migration.services import reporting  # noqa: PLC0415 (the status of a run needs no report)

        if options["output"] not in (None, STANDARD_OUTPUT):
            export.refuse_names_taken(options["output"], options["export"])
        if options["all"]:
            return reporting.whole_report_to_come(
                options["database"],
                validate=options["validation"],
                since=options["since"],
                at_once=options["export"] == "csv",
            )
        return reporting.report_to_come(
            options["database"],
            run_id,
            validate=options["validation"],
            again=options["validate"],
            since=options["since"],
            at_once=options["export"] == "csv",
        )

    def binary_output(self, options: Mapping[str, Any]) -> BinaryIO:
        """Return standard output for the bytes of an export.

        Raises:
            UsageError: it is a terminal, which a workbook would garble.
        """
        if options["export"] == "xlsx" and self.stdout.isatty():
            raise UsageError("--output - would write a workbook to the terminal: redirect it to a file")
        self.stdout.flush()
        return getattr(self.stdout._out, "buffer", None) or TextSink(self.stdout)

    def chosen_runs(self, options: dict[str, Any]) -> list[int | None]:
        """Return the runs to report: those since a date, the oldest first; else one, None for the open or latest."""
        since: datetime | None = options["since"]
        if since is None or options["all"]:
            return [options["run_id"]]
        runs = runs_since(options["database"], since)
        self.notice(f"Runs since {when(since, timezone.get_current_timezone())}: {len(runs):,}")
        return [line.run for line in reversed(runs)]

    def say(self, line: str) -> None:
        """Write a line at once, for the reader at the other end of a pipe."""
        self.stdout.write(line)
        self.stdout.flush()

    def on_terminal(self) -> bool:
        """Say whether screens can be drawn."""
        return bool(self.stdout.isatty()) and os.environ.get("TERM", "") not in ("", "dumb")


def write_files(report: ReportToCome, format_: str, output: Path | None, *, text_amounts: bool) -> list[Path]:
    """Write one run's report, by default into the reports' folder; return the files."""
    path = output
    if path is None:
        zone = timezone.get_current_timezone()
        path = export.default_path(conf.report_dir(), report.run, format_, report.generated_at, zone)
        export.refuse_names_taken(path, format_, make_folder=True)
    return export.write_report(report, format_, path, text_amounts=text_amounts)


def refuse_contradictions(options: dict[str, Any]) -> None:
    """Refuse options that cannot be meant together.

    Raises:
        UsageError: they cannot.
    """
    many, json_text, one = options["since"] is not None, options["format"] == "json", options["run_id"] is not None
    reports = options["report"] or options["export"]
    refused = (
        (one and many, "--run names one run and --since many: give one of them"),
        (
            options["output"] is not None and not options["export"],
            f"--output says where --export writes: give --export {'|'.join(export.FORMATS)} as well",
        ),
        (
            options["output"] == STANDARD_OUTPUT and json_text,
            "--output - writes the report itself to standard output: leave --format json out",
        ),
        (
            options["by_user_key"] is not None and options["export"] is not None,
            "--list-by-user-key and --export write different files: give one of them",
        ),
        (
            options["by_user_key"] == STANDARD_OUTPUT and json_text,
            "--list-by-user-key - writes the list itself to standard output: leave --format json out",
        ),
        (
            options["text_amounts"] and options["export"] != "csv",
            "--text-amounts is about --export csv: give it as well",
        ),
        (
            not options["validation"] and not reports,
            "--no-validation is about --report and --export: give one of them as well",
        ),
        (options["validate"] and not reports, "--validate is about --report and --export: give one of them as well"),
        (
            options["validate"] and not options["validation"],
            "--validate checks the run and --no-validation leaves that out: give one of them",
        ),
        (
            (options["status"] or options["statistics"]) and (options["export"] or one or many),
            "--status and --statistics are about all users: leave out --run, --since and --export",
        ),
        (options["all"] and not reports, "--all is about --report and --export: give one of them as well"),
        (options["all"] and one, "--all is about all runs and --run about one: give one of them"),
        (options["watch"] and options["export"], "--watch shows a run and --export writes a file: give one of them"),
        (
            options["watch"] and json_text,
            "--watch prints for people; for JSON give --format json without it, as often as needed",
        ),
        (
            options["report"] and not options["export"] and many and json_text and not options["all"],
            "--format json prints the report of one run: name it with --run, or use --export json",
        ),
    )
    for is_so, sentence in refused:
        if is_so:
            raise UsageError(sentence)


def add_monitor_options(parser: CommandParser) -> None:
    """Add the options of ``monitor_migration``."""
    show = parser.add_argument_group("what to show (default: the status of the run)")
    which = parser.add_argument_group("which run")
    files = parser.add_argument_group("files")
    checks = parser.add_argument_group("integrity checks in a report")
    what = show.add_mutually_exclusive_group()
    what.add_argument(
        "--watch",
        action="store_true",
        help="Follow the run until it is over or Ctrl-C: a live screen on a terminal, one line per poll elsewhere. "
        "Where no run is open, wait for one to start.",
    )
    what.add_argument(
        "--status",
        action="store_true",
        help="Print one line, or one JSON object: how many of all users are migrated, pending, failed, rolled back, "
        "and the open run. Ends with 0 where all are migrated and no run is open, else with 3.",
    )
    what.add_argument(
        "--statistics",
        action="store_true",
        help="Print the figures of the whole site: users by status, wishes left, mana in the system, average, "
        "largest and smallest, and the latest conversions.",
    )
    what.add_argument(
        "--report",
        action="store_true",
        help="Print the whole report of the run without the list of its users, which --export writes.",
    )
    what.add_argument(
        "--list-by-user-key",
        type=path,
        metavar="PATH",
        dest="by_user_key",
        help="Write a CSV file with the key of each migrated user, the wishes and mana before and the mana after, for "
        "the site's own mailing; --run or --since narrows it down. User keys are personal data, which no report has: "
        "only you can read the file, and '-' is standard output.",
    )
    files.add_argument(
        "--export",
        choices=export.FORMATS,
        help="Write the whole report with every user, by record id, to a new file: json, csv (with a second file for "
        "everything but the users), html or xlsx.",
    )
    which.add_argument(
        "--all",
        action="store_true",
        help="With --report or --export: one report of the whole migration instead of a run: where every user is now, "
        "who is left and why, the value from the first run to now, every run, and who did what.",
    )
    files.add_argument(
        "--output",
        type=path,
        metavar="PATH",
        help="Where --export writes, never over an existing file; '-' is standard output, which of CSV gets the users "
        "alone (default: migration-report-DATE-runN.FORMAT in the folder that MANA_MIGRATION_REPORT_DIR names).",
    )
    files.add_argument(
        "--text-amounts",
        action="store_true",
        help="In --export csv, put an apostrophe before numbers of more than 15 digits, which a spreadsheet would "
        "round otherwise (default: every number as it is).",
    )
    checks.add_argument(
        "--validate",
        action="store_true",
        help="In --report and --export, check the run again now, with all ledger entries of its users (default: show "
        "what was found at the end of the run, with its time; check only a run that kept nothing).",
    )
    checks.add_argument(
        "--no-validation",
        action="store_false",
        dest="validation",
        help="Leave the integrity checks out of --report and --export, which then say so (default: show their "
        "findings).",
    )
    which.add_argument(
        "--run",
        type=arguments.whole_number,
        metavar="ID",
        dest="run_id",
        help="Show this run (default: the open one, else the latest; of --report and --export the latest mass "
        "migration).",
    )
    which.add_argument(
        "--since",
        type=arguments.moment,
        metavar="DATE",
        help="List the runs that were at work since then, or report or export each of them with the users that it "
        "handled or rolled back since then: YYYY-MM-DD or an ISO date-time, in the configured time zone (default: one "
        "run, all its users).",
    )
    show.add_argument(
        "--interval",
        type=arguments.interval,
        default=3.0,
        metavar="SECONDS",
        help="Seconds between two polls of --watch, above 0 (default: %(default)g).",
    )


#: The --output that is no file.
STANDARD_OUTPUT: Final = Path("-")


def path(value: str) -> Path:
    """Accept the path of a file, not nothing and not a folder."""
    if not value.strip() or "\0" in value or value.endswith(("/", "/.", "/..")) or value in (".", ".."):
        raise argparse.ArgumentTypeError(f"{value!r}: give the path of a file")
    return Path(value)
