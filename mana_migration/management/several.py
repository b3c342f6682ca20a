"""Commands that work on several databases at once: a process for each, one screen, one result."""

from __future__ import annotations

import argparse
import itertools
import logging
import shutil
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any, Final

from django.core.management.base import CommandParser
from django.db import DEFAULT_DB_ALIAS, DatabaseError, InterfaceError, connections, router

from mana_migration import conf
from mana_migration.domain.words import counted
from mana_migration.errors import UsageError
from mana_migration.management import children
from mana_migration.management.children import Child
from mana_migration.management.commands._base import DONE, REFUSED, MigrationCommand, error_json, worst
from mana_migration.models import MigrationRun
from mana_migration.reports import databases as report
from mana_migration.reports.progress import JointDisplay
from mana_migration.reports.report_text import table_lines
from mana_migration.services import logs, preflight

#: What names every database of the settings that has our tables.
ALL: Final = "all"

#: What makes two aliases two databases; a role or a search path makes a difference as well.
_PLACE: Final = ("ENGINE", "HOST", "PORT", "NAME", "USER", "OPTIONS")

#: The exit codes of a command that a signal stopped.
STOPPED: Final = (128 + signal.SIGINT, 128 + signal.SIGTERM)

ON_NO: Final = "not confirmed: nothing was changed"


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked once for all databases, after a dry run in each.

    ``words``: the question, with ``{users}`` and ``{where}``.  ``count``: returns how many users of a dry run it is
    about.
    """

    words: str
    count: Callable[[Mapping[str, Any]], int]


class SeveralDatabases(MigrationCommand):
    """A command that takes ``--database`` several times, or ``all``."""

    database_help = (
        f"Work on the database with this alias in the settings (default: {DEFAULT_DB_ALIAS}). May be repeated, or be "
        "all: then each has a process of its own and a run of its own, and the exit code is the worst."
    )
    of_one_database: tuple[str, ...] = ()
    """Options that name something in one database, or write one file about it."""

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        """Keep the arguments as they were given, for the processes of several databases."""
        self._parser = parser = super().create_parser(prog_name, subcommand, **kwargs)
        parse = parser.parse_args

        def parse_args(args: Any = None, namespace: Any = None) -> Any:
            found = parse(args, namespace)
            self._arguments, self._parsed = list(args or ()), dict(vars(found))
            return found

        parser.parse_args = parse_args  # type: ignore[method-assign]
        return parser

    def database_choices(self) -> tuple[str, ...]:
        """Return what ``--database`` takes."""
        return (*connections, ALL)

    def refuse_options(self, options: dict[str, Any]) -> None:
        """Refuse options that contradict one another, before anything is done; raises ``UsageError``."""

    def run_on(self, aliases: Sequence[str], options: dict[str, Any]) -> int:
        """Run the command on one database in this process, or on each of several in a process of its own."""
        chosen_by = children.become_child()
        self.is_child = bool(chosen_by)
        if len(aliases) == 1 and ALL not in aliases:
            if chosen_by == ALL:
                with suppress(DatabaseError, InterfaceError):  # which the command itself reports
                    preflight.refuse_standby(aliases[0])
            return super().run_on(aliases, options)
        self._log = logs.configure(self.kind_of_log(options), options["log_level"], needed=False)
        self._chosen_by = ALL if ALL in aliases else "name"
        chosen = self.chosen(aliases)
        self.refuse_what_names_one(options)
        self.refuse_options(options)
        begun = time.monotonic()
        found = self.run_in_each(chosen, options)
        code = worst(values["exit_code"] for values in found.values())
        self.show_result(report.merged(found, code, time.monotonic() - begun), options)
        return code

    def chosen(self, aliases: Sequence[str]) -> list[str]:
        """Return the databases that are meant; what ``all`` leaves out is said.

        Raises:
            UsageError: one is given twice, or beside ``all``, or there is none.
        """
        if ALL in aliases:
            if len(aliases) > 1:
                raise UsageError(f"--database {ALL} means every database: leave the other --database out")
            if ALL in connections:
                raise UsageError(f"the settings have a database called {ALL!r}: give it another alias, or name each")
            left_out = {alias: why for alias in connections if (why := reason_to_leave_out(alias))}
            for alias, why in left_out.items():
                self.notice(f"{alias}: left out, {why}")
            aliases = [alias for alias in connections if alias not in left_out]
            if not aliases:
                raise UsageError("no database of the settings has the tables: name the one that is meant")
        for alias in aliases:
            if alias not in connections:
                raise UsageError(f"there is no database {alias!r} in the settings")
        for first, second in itertools.combinations(aliases, 2):
            if first == second:
                raise UsageError(f"--database {first} is given twice: give each database once")
            if _place(first) == _place(second):
                raise UsageError(f"{first} and {second} are the same database: name one of them")
        return list(aliases)

    def refuse_what_names_one(self, options: Mapping[str, Any]) -> None:
        """Refuse options that can be meant for one database only.

        Raises:
            UsageError: there is one; or an option was not given as on a command line and cannot be passed on.
        """
        for action in self._parser._actions:
            option = action.option_strings[-1] if action.option_strings else ""
            value = options[action.dest] if option in self.of_one_database else None
            if value is not None and value is not False and value != []:
                raise UsageError(f"{option} is about one database: give one --database with it")
        passed = {name: value for name, value in self._parsed.items() if name not in ("args", "skip_checks")}
        if any(options.get(name) is not value for name, value in passed.items()):
            raise UsageError(
                "for several databases give call_command its options as on a command line, such as "
                "call_command('migrate_users', '--database', 'all', '--workers', '2')"
            )

    def question(self, options: Mapping[str, Any]) -> Question | None:
        """Return what has to be confirmed before the command does what these options mean; None: nothing."""
        return None

    def run_in_each(self, aliases: Sequence[str], options: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """Run the command on each database, after one question where it asks; return what each printed."""
        question = None if options["no_input"] else self.question(options)
        if question is not None:
            arguments = passed_on(self._arguments, "--workers", "--executor")
            found = self.results(aliases, [*arguments, "--dry-run"])
            if any(values["exit_code"] in STOPPED for values in found.values()):
                return found
            affected = {alias: count for alias, values in found.items() if (count := question.count(values))}
            if affected:
                self.print_tables(report.merged(found, DONE, 0.0))
                users, where = counted(sum(affected.values()), "user"), counted(len(affected), "database")
                self.confirm(question.words.format(users=users, where=where), options, on_no=ON_NO)
        return self.results(aliases, self._arguments)

    def results(
        self, aliases: Sequence[str], arguments: Sequence[str], *, form: str = "json"
    ) -> dict[str, dict[str, Any]]:
        """Run the command with these arguments on each database; return what each printed, with its exit code.

        ``form``: text where it writes sentences and prints no result.

        Raises:
            Aborted: by a second signal.
        """
        passed = (*passed_on(arguments), "--format", form, "--no-input")
        name = type(self).__module__.rpartition(".")[2]
        with ExitStack() as stack:
            stop = stack.enter_context(self.stop_on_signals(following=True))
            stop.listeners.append(self.say_ending)
            found = stack.enter_context(children.started(name, passed, aliases, chosen_by=self._chosen_by))

            def show(child: Child) -> None:
                if not self.verbosity or not (child.record or self._shown):
                    return
                if self._shown is None:
                    display = JointDisplay(self.progress_stream, verb=child.record["verb"], aliases=aliases)
                    self._shown = stack.enter_context(display)
                if isinstance(self._shown, JointDisplay):
                    if (line := child.record.pop("line", "")) and not self._shown.has_bars:
                        self.notice_from(child.alias, line)
                    self._shown.take(child.alias, child.record, state="ended" if child.ended else "")

            children.follow(found, stop, patience=conf.read_only_wait(), on_line=self.notice_from, on_record=show)
            results = {child.alias: result_of(child, stop.signal) for child in found}
        self._shown = None
        return results

    def say_ending(self) -> None:
        """Say, in a signal handler, that all databases are asked to end."""
        with suppress(RuntimeError):  # the signal came while a line was being written
            self.stderr.write("ending the work on all databases; press Ctrl-C again to abort it")

    def notice_from(self, alias: str, line: str) -> None:
        """Write what the process of a database wrote."""
        if self.verbosity or line.startswith("CommandError"):
            with self.aside():
                self.put(f"{alias}: {line.removeprefix('CommandError: ')}", stream=self.stderr)

    def show_result(self, result: Mapping[str, Any], options: Mapping[str, Any]) -> None:
        """Print what became of each database."""
        if self.json_output:
            self.print_json(result)
            return
        self.print_tables(result)
        if advice := report.advice(result):
            self.notice(advice)

    def print_tables(self, result: Mapping[str, Any]) -> None:
        """Print the row of each database, with the totals."""
        terminal = self.stdout.isatty()
        for section in report.sections(result):
            for line in table_lines(section, width=shutil.get_terminal_size().columns if terminal else None):
                self.notice(line)
            if section.note:
                self.notice(section.note)


def reason_to_leave_out(alias: str) -> str:
    """Say why ``all`` does not mean this database; empty where it does."""
    settings = connections.settings[alias]
    if settings["ENGINE"] == "django.db.backends.dummy":
        return "it has no ENGINE in the settings"
    if mirrored := settings.get("TEST", {}).get("MIRROR"):
        return f"a mirror of {mirrored}"
    return "" if router.allow_migrate_model(alias, MigrationRun) else "a router keeps the tables from it"


def _place(alias: str) -> tuple[Any, ...]:
    return tuple(connections.settings[alias].get(name) for name in _PLACE)


def passed_on(arguments: Sequence[str], *without: str) -> list[str]:
    """Return arguments as they were given, without those that each process gets anew, and without further options."""
    known = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in ("--database", "--format", *without):
        known.add_argument(name)
    known.add_argument("--no-input", action="store_true")
    return known.parse_known_args(arguments)[1]


def result_of(child: Child, number: int) -> dict[str, Any]:
    """Return what a child printed, with its exit code.

    Args:
        child: one that has ended.
        number: the signal by which this process was asked to end, 0 where it was not.
    """
    code = child.process.returncode
    code = 128 - code if code < 0 else code
    by_signal = code in STOPPED
    if by_signal and child.asked:
        code = 128 + number if number else DONE if child.record.get("waiting") else REFUSED
    printed = child.printed()
    if printed is not None:
        return printed | {"exit_code": code}
    if not code:
        return {"exit_code": code}
    name = "ProcessEndedError"
    if by_signal and child.asked and not number:
        name = "DatabaseUnavailableError"
        message = "the database is lost and all others have ended: an open run stays open, the same command resumes it"
    elif by_signal:
        message = "stopped by a signal"
    elif code > 128:
        code, message = REFUSED, f"the process was killed by {signal.Signals(code - 128).name}"
    else:
        message = "the process printed no result; its log has more"
    logs.write(logging.ERROR, f"database {child.alias!r}: {message}", exit_code=code, error_class=name)
    return error_json(message, code, name) | {"exit_code": code}
