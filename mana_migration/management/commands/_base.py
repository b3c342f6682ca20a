"""What all commands share: options, exit codes, clear errors, signals.  (Django does not list a name with ``_``.)"""

from __future__ import annotations

import argparse
import functools
import io
import json
import logging
import os
import signal
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stdout, suppress
from itertools import pairwise
from types import FrameType
from typing import Any, Final, NoReturn, TextIO, cast

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError, CommandParser, DjangoHelpFormatter, OutputWrapper
from django.db import DEFAULT_DB_ALIAS, DatabaseError, InterfaceError, connections
from django.utils import translation

from mana_migration.domain.results import RunSummary, Totals
from mana_migration.engine import failures, sessions
from mana_migration.errors import DatabaseUnavailableError, MigrationError, NotConfirmedError, UsageError, for_database
from mana_migration.management.streams import OutputLostError, OutputStream, occupy_closed_descriptors
from mana_migration.reports import summary
from mana_migration.reports.progress import ProgressDisplay, ProgressRecords
from mana_migration.selectors.statistics import user_counts
from mana_migration.services import logs, notifications
from mana_migration.services.context import StopFlag
from mana_migration.states import RunStatus, StopCause
from wishes.errors import WishesError

DONE, REFUSED, USAGE, PARTLY, TRIPPED = 0, 1, 2, 3, 4

#: The exit codes from the best to the worst, for a command that works on several databases.
WORSE: Final = (DONE, PARTLY, USAGE, REFUSED, TRIPPED, 128 + signal.SIGTERM, 128 + signal.SIGINT)

EXIT_CODES: Final = """exit codes:
  0  done
  1  refused or failed; or done, but its output could not be written
  2  bad usage
  3  done, but some users failed or were blocked, or error-level findings remain
  4  breaker tripped, run rolled back
  130, 143  stopped by a signal"""


class HelpFormatter(DjangoHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Django's formatter, which keeps the lines of the examples."""


class Aborted(KeyboardInterrupt):
    """The second signal: end at once."""

    def __init__(self, number: int) -> None:
        self.signal = number
        super().__init__()


def error_json(message: str, code: int, name: str) -> dict[str, Any]:
    """Return the object that ``--format json`` prints where a command is refused or fails."""
    return {"error": {"class": name, "message": message, "exit_code": code}}


class MigrationCommand(BaseCommand):
    """A command that ends with one of the documented exit codes and never with a traceback."""

    log_kind = logs.MIGRATION
    needs_log = True
    """Whether the command is refused where its log file cannot be written."""
    requires_system_checks = ("mana_migration",)
    suppressed_base_arguments: set[str] = {
        "--version",
        "--verbosity",
        "--settings",
        "--pythonpath",
        "--traceback",
        "--no-color",
        "--force-color",
        "--skip-checks",
    }
    """Django's own options, which work and are not listed."""
    examples: tuple[str, ...] = ()
    database_help = f"Work on the database with this alias in the settings (default: {DEFAULT_DB_ALIAS})."
    exit_code = DONE
    stop: StopFlag | None = None
    dry_run = False
    is_child = False
    """Whether another process started this one for one of several databases, and shows its progress."""
    using = DEFAULT_DB_ALIAS
    verbosity = 1
    _shown: ProgressDisplay | None = None
    _log: logs.DailyFileHandler | None = None

    def __init__(self, stdout: TextIO | None = None, stderr: TextIO | None = None, **options: Any) -> None:
        out = OutputStream(stdout or sys.stdout, raises=True)
        errors = OutputStream(stderr or sys.stderr, raises=False)
        super().__init__(cast("TextIO", out), cast("TextIO", errors), **options)

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        """Refuse abbreviated options: a typing error must never start a migration."""
        lines = "\n".join(f"  {prog_name} {example}" for example in self.examples)
        kwargs |= {
            "allow_abbrev": False,
            "formatter_class": HelpFormatter,
            "epilog": f"examples:\n{lines}\n\n{EXIT_CODES}" if lines else EXIT_CODES,
        }
        parser = super().create_parser(prog_name, subcommand, **kwargs)
        parser.description = textwrap.fill(self.help, width=80)
        for action in parser._actions:  # Django adds it without asking suppressed_base_arguments
            if action.dest == "skip_checks":
                action.help = argparse.SUPPRESS
        if parser.called_from_command_line:
            parser.error = functools.partial(self._refuse_usage, parser)  # type: ignore[method-assign]
        return parser

    def add_arguments(self, parser: CommandParser) -> None:
        """Add this command's options, then those that all commands share."""
        self.add_options(parser)
        shared = parser.add_argument_group("common options")
        shared.add_argument(
            "--database",
            action="append",
            choices=self.database_choices(),
            metavar="ALIAS",
            help=self.database_help,
        )
        shared.add_argument(
            "--log-level",
            default="info",
            type=str.lower,
            choices=tuple(logs.LEVELS),
            help="Write log lines of this level and above to the daily log file (default: %(default)s).",
        )
        shared.add_argument(
            "--format",
            default="text",
            choices=("text", "json"),
            help="Print text, or one JSON object and nothing else on stdout (default: %(default)s).",
        )
        shared.add_argument(
            "--no-input",
            action="store_true",
            help="Confirm all questions; by default they are asked on a terminal, and refused without one.",
        )

    def add_options(self, parser: CommandParser) -> None:
        """Add the options of this command alone."""

    def database_choices(self) -> tuple[str, ...]:
        """Return what ``--database`` takes."""
        return tuple(connections)

    def kind_of_log(self, options: Mapping[str, Any]) -> str:
        """Return which daily log file the command writes to."""
        return self.log_kind

    def run(self, **options: Any) -> int:
        """Do the work and return the exit code."""
        raise NotImplementedError

    def session_name(self, options: Mapping[str, Any]) -> str:
        """Return what this command's sessions are called in the database's list of them."""
        return "watch" if options.get("watch") else type(self).__module__.rpartition(".")[2].partition("_")[0]

    def execute(self, *args: Any, **options: Any) -> int:  # type: ignore[override]
        """Run the command and return its exit code, which is what ``call_command`` returns to its caller.

        Raises:
            CommandError: it was refused or failed; ``returncode`` is the exit code.
        """
        for name in ("stdout", "stderr"):
            if options.get(name):
                options[name] = OutputStream(options[name], raises=name == "stdout")
        # English whatever the site speaks: other programs and runbooks read what a command prints
        with translation.override(None), _environment({"NO_COLOR": "1"} if options["no_color"] else {}):
            super().execute(*args, **options)
        return self.exit_code

    def handle(self, *args: Any, **options: Any) -> None:
        """Run the command; known errors become one line and an exit code."""
        self.verbosity = options["verbosity"]
        self.json_output = options["format"] == "json"
        self.dry_run = bool(options.get("dry_run"))
        try:
            given = options["database"] or [DEFAULT_DB_ALIAS]
            self.exit_code = self.run_on([given] if isinstance(given, str) else given, options)
        except (BrokenPipeError, OutputLostError):  # of a report: monitor_migration --report | head
            self.exit_code = DONE
        except UsageError as error:
            self._refuse(for_database(str(error), self.using), USAGE, error)
        except (DatabaseError, InterfaceError, DatabaseUnavailableError) as error:
            unavailable = isinstance(error, DatabaseUnavailableError)
            described = str(error) if unavailable else failures.describe(error)
            if self.stop is not None and self.stop.signal:  # asked to end while it waited for a lost database
                self.stderr.write(
                    f"ended while the database was lost ({described}): what was committed is kept, the same command "
                    "resumes an open run"
                )
                self.exit_code = 128 + self.stop.signal
                return
            if not unavailable:
                described = f"the database failed: {described}; what was committed is kept, give the command again"
            self._refuse(for_database(described, self.using), REFUSED, error)
        except (MigrationError, WishesError, ImproperlyConfigured) as error:
            self._refuse(for_database(str(error), self.using), REFUSED, error)
        except Aborted as abort:
            self.stderr.write(
                "aborted: what was committed is kept, what was not is rolled back; the same command resumes an open run"
            )
            self.exit_code = 128 + abort.signal
        except KeyboardInterrupt:
            self.stderr.write("aborted: what was committed is kept, what was not is rolled back")
            self.exit_code = 128 + signal.SIGINT
        finally:
            notifications.flush()
            self._account_for_output()
            if self._log is not None:
                self._log_end(sys.exception())
                if self._log.lost_lines and self.needs_log:
                    self.stderr.write(f"{self._log.lost_lines:,} log lines could not be written to {self._log.folder}")
            logs.release()

    def run_on(self, aliases: Sequence[str], options: dict[str, Any]) -> int:
        """Run the command on the database that is meant, and return the exit code.

        Raises:
            UsageError: several are.
        """
        if len(aliases) > 1:
            raise UsageError("this command works on one database: give --database once")
        self.using = options["database"] = aliases[0]
        emergency = bool(options.get("emergency"))
        self._log = log = logs.configure(
            self.kind_of_log(options),
            options["log_level"],
            database=self.using,
            needed=self.needs_log and not emergency,
        )
        if emergency and log.failure:
            self.stderr.write(f"the log folder {log.folder} cannot be written ({log.failure}): continuing without")
        if self.verbosity > 1:
            logs.show(self.progress_stream)
        with sessions.named(self.session_name(options)):
            return self.run(**options)

    def _account_for_output(self) -> None:
        """Flush what was printed; where some was lost, say so, and let no exit code say that all is done."""
        lost = self._lost_output()
        for name, why in lost.items():
            self.stderr.write(f"{name} could not be written ({why}): output is lost; what was committed is kept")
            logs.write(logging.WARNING, f"{name} could not be written: output is lost", reason=why)
        if lost and self.exit_code == DONE:
            self.exit_code = REFUSED

    def _lost_output(self) -> dict[str, str]:
        """Flush both streams; return the names of those that lost something, with the reason."""
        lost = {}
        for name, stream in (("standard output", self.stdout), ("standard error", self.stderr)):
            with suppress(BrokenPipeError, OutputLostError):
                stream.flush()
            if why := str(getattr(stream, "failure", "")):
                lost[name] = why
        return lost

    def _refuse_usage(self, parser: CommandParser, message: str) -> NoReturn:
        """End with one line; the usage alone would be twenty."""
        if "--format=json" in sys.argv or ("--format", "json") in pairwise(sys.argv):  # what else they say is not known
            self.print_json(error_json(message, USAGE, "UsageError"))
        parser.exit(USAGE, f"{parser.prog}: {message} (--help lists the options)\n")

    def _refuse(self, message: str, code: int, error: Exception) -> NoReturn:
        """End with one line on stderr, and with an object on stdout where JSON was asked for."""
        if self.json_output:
            self.print_json(error_json(message, code, type(error).__name__))
        raise CommandError(message, returncode=code) from error

    def _log_end(self, error: BaseException | None) -> None:
        """Log how the command ended; of an error only its class, since the message may repeat what was typed."""
        code = getattr(error, "returncode", REFUSED) if error is not None else self.exit_code
        known = error.__cause__ or error if error is not None else None
        logs.write(
            logging.INFO if known is None or isinstance(known, NotConfirmedError) else logging.ERROR,
            "the command ended",
            command=type(self).__module__.rpartition(".")[2],
            exit_code=code,
            **({"dry_run": True} if self.dry_run else {}),
            **({"error_class": type(known).__name__} if known is not None else {}),
        )

    def run_from_argv(self, argv: list[str]) -> None:
        """Run from the command line and end the process with the exit code."""
        occupy_closed_descriptors()
        try:
            with redirect_stdout(cast("TextIO", getattr(self.stdout, "_out", self.stdout))):  # --help is argparse's
                super().run_from_argv(argv)
            code: Any = self.exit_code
        except SystemExit as end:
            code = end.code
        if not code and (lost := self._lost_output()):  # of --help, which does not get as far as handle
            for name, why in lost.items():
                self.stderr.write(f"{name} could not be written ({why}): output is lost")
            code = REFUSED
        if code:
            sys.exit(code)

    @property
    def progress_stream(self) -> TextIO:
        """Return where progress is shown: the stream behind ``self.stderr``, which would end each write with a line."""
        return cast("TextIO", getattr(self.stderr, "_out", self.stderr))

    @contextmanager
    def progress(self, verb: str) -> Iterator[ProgressDisplay]:
        """Show the progress of the block, on stderr; notices are written on lines of their own meanwhile."""
        display = ProgressRecords if self.is_child else ProgressDisplay
        self._shown = display(self.progress_stream if self.verbosity else io.StringIO(), verb=verb)
        try:
            with self._shown:
                yield self._shown
        finally:
            self._shown = None

    def notice(self, sentence: str) -> None:
        """Write a sentence for the operator: on stdout, or on stderr where stdout is for JSON alone."""
        if not self.verbosity:
            return
        with self.aside():
            self.put(for_database(sentence, self.using), stream=self.stderr if self.json_output else self.stdout)

    def aside(self) -> AbstractContextManager[None]:
        """Take the progress bar away, if one is shown, while something else is written."""
        return self._shown.aside() if self._shown is not None else nullcontext()

    def put(self, text: str, *, ending: str | None = None, stream: OutputWrapper | None = None) -> None:
        """Print on stdout, or elsewhere; where the reader is gone or the disk is full, the work continues."""
        with suppress(BrokenPipeError, OutputLostError):
            (stream or self.stdout).write(text, ending=ending)

    def print_json(self, values: Mapping[str, Any]) -> None:
        """Print the one JSON object of ``--format json``."""
        self.put(json.dumps(values, default=str))

    def print_result(self, values: Mapping[str, Any], lines: Iterable[str]) -> None:
        """Print a result as JSON or as lines, whichever was asked for."""
        if self.json_output:
            self.print_json(values)
            return
        for line in lines if self.verbosity else ():
            self.put(for_database(line, self.using))

    def print_run(self, stop: StopFlag, done: RunSummary, *, following: bool = False, mass: bool = True) -> int:
        """Print what a run did and what to do next; return the exit code.

        ``following``: others did the work.  ``mass``: it was about all users, who are counted for the summary.
        """
        interrupted = stop.requested and not has_ended(done)
        counts = None
        with suppress(DatabaseError, InterfaceError):  # the run has ended, whatever becomes of a figure
            counts = user_counts(self.using) if mass else None
        self.print_result(
            summary.as_json(done, counts),
            summary.as_lines(done, counts, interrupted=interrupted, following=following),
        )
        return run_code(stop, done)

    def confirm(self, question: str, options: Mapping[str, Any], *, on_no: str) -> None:
        """Ask on a terminal; refuse without one unless ``--no-input`` was given.

        Raises:
            UsageError: there is no terminal to ask on.
            NotConfirmedError: the answer was no.
        """
        if options["no_input"]:
            return
        if not (sys.stdin is not None and sys.stdin.isatty()):
            raise UsageError(f"{question} There is no terminal to ask on: pass --no-input to confirm")
        self.stderr.write(f"{question} Type yes to continue: ", ending="")
        self.stderr.flush()
        if sys.stdin.readline().strip().lower() != "yes":
            raise NotConfirmedError(on_no)

    def ask(self, options: Mapping[str, Any], question: str) -> bool | None:
        """Ask a yes-or-no question on a terminal; return None without a terminal or a clear answer."""
        if options["no_input"] or not (sys.stdin is not None and sys.stdin.isatty()):
            return None
        self.stderr.write(f"{question} [yes/no] ", ending="")
        self.stderr.flush()
        answer = sys.stdin.readline().strip().lower()
        return {"yes": True, "y": True, "no": False, "n": False}.get(answer)

    @contextmanager
    def stop_on_signals(self, *, following: bool = False) -> Iterator[StopFlag]:
        """Turn the first SIGINT or SIGTERM into a request to end after the current batch; the second aborts it.

        ``following``: this process handles no batch, it only follows what others do.
        """
        flag = self.stop = StopFlag()

        def request(number: int, frame: FrameType | None) -> None:
            if flag.requested:
                raise Aborted(number)
            flag.request(number)
            if following or self.is_child:
                return
            with suppress(RuntimeError):  # the signal came while a line was being written
                self.stderr.write("finishing the current batch; press Ctrl-C again to abort")

        previous = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield flag
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set variables of the environment for the block."""
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        for name in values:
            if name in before:
                os.environ[name] = before[name]
            else:
                del os.environ[name]


def signal_code(flag: StopFlag, code: int, *, ended: bool = False) -> int:
    """Return the exit code of a command that a signal may have stopped: 130 or 143, unless its work had ended."""
    return 128 + flag.signal if flag.requested and flag.signal and not ended else code


def has_ended(done: RunSummary) -> bool:
    """Say whether nothing is left to do on a run, nor on its rollback."""
    undone = done.extra.get("rollback")
    return RunStatus(done.status).is_final and (undone is None or RunStatus(undone["status"]).is_final)


def run_code(flag: StopFlag, done: RunSummary) -> int:
    """Return the exit code of a command that worked on a run."""
    return signal_code(flag, outcome_code(done), ended=has_ended(done))


def outcome_code(done: RunSummary) -> int:
    """Return the exit code that a run deserves by how it ended."""
    if "window" in done.extra:
        return DONE
    if done.cause == StopCause.BREAKER:
        return TRIPPED
    if done.status in (RunStatus.STOPPED, RunStatus.ROLLED_BACK):
        return REFUSED
    return PARTLY if done.status == RunStatus.FAILED or left_behind(done.totals) else DONE


def worst(codes: Iterable[int]) -> int:
    """Return the worst of these exit codes; ``WORSE`` has their order, and what is not in it was killed: refused."""
    return max((code if code in WORSE else REFUSED for code in codes), key=WORSE.index, default=DONE)


def left_behind(totals: Totals) -> int:
    """Return how many users failed or were blocked; those who were migrated before are neither."""
    return totals.failed + totals.skipped - totals.skips["already_migrated"]
