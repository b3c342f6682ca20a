"""Several processes on one run: this one and its helpers on this machine, or a hand lent from any other.

A helper is a command like any other, ``migrate_users --join RUN``: it finds its work in the database,
so that one which is killed takes nothing with it but the batch in hand, and the others do that.

# Note [The pipe to a helper]
A helper's standard input is a pipe that nothing is ever written to.  It ends when this process closes
it, to ask for the end after the batch in hand, and when this process dies, however it dies; the
helper hears of it at once, also while it waits or has not begun.  No signal is needed, and the
terminal's Ctrl-C does not reach helpers, which have a session of their own.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final

from django.conf import settings
from django.db import connections

from mana_migration.domain.options import MigrationOptions, parse_workers
from mana_migration.domain.results import FIGURES, BatchResult, ProgressCallback, RunSummary, Totals
from mana_migration.engine import totals
from mana_migration.errors import RunConflictError, UsageError
from mana_migration.models import MigrationRun
from mana_migration.services import migrate, preflight, runs
from mana_migration.services.runs import Actor
from mana_migration.services.worker import StopFlag
from mana_migration.states import RunKind, RunStatus

#: The environment variable that tells a process that it is a helper, whose standard input is the pipe.
HELPER: Final = "MANA_MIGRATION_HELPER"

#: Seconds between two looks at what all of them have done, and between two looks whether they have ended.
LOOK_EVERY, WAIT_STEP = 0.5, 0.1


def check_workers(workers: int, using: str) -> None:
    """Refuse a number of processes that this database cannot use.

    Raises:
        UsageError: it is SQLite, which has one writer, or there are too many.
    """
    if parse_workers(workers) > 1 and connections[using].vendor == "sqlite":
        raise UsageError(f"{workers} workers: SQLite has one writer at a time; leave --workers out, or use PostgreSQL")


def is_helper() -> bool:
    """Say whether this process was started as a helper of another."""
    return HELPER in os.environ


@dataclass
class Helper:
    """A helper process, with what it said on its standard error."""

    number: int
    process: subprocess.Popen[bytes]
    complaints: IO[bytes]
    told: bool = False

    @property
    def runs(self) -> bool:
        """Say whether it has not ended yet."""
        return self.process.poll() is None

    @property
    def ending(self) -> str:
        """Say in words how it came to a bad end; empty where it did not."""
        code = self.process.poll()
        if not code:
            return ""
        if code < 0:
            return f"worker {self.number} was killed by {signal.Signals(-code).name}: the others go on"
        self.complaints.seek(0)
        last = self.complaints.read().decode(errors="replace").strip().rpartition("\n")[2]
        said = f" ({last})" if last else ""
        return f"worker {self.number} ended with exit code {code}{said}: the others go on"


@dataclass
class Helpers:
    """The helpers of this process on a run."""

    run_id: int
    using: str
    notice: runs.Notice = runs.silent
    all: list[Helper] = field(default_factory=list)
    dismissed: bool = False

    def start(self, count: int, arguments: Sequence[str]) -> None:
        """Start so many helpers, with these options added to their command line."""
        environment = os.environ | {
            HELPER: str(os.getpid()),
            "DJANGO_SETTINGS_MODULE": os.environ.get("DJANGO_SETTINGS_MODULE") or settings.SETTINGS_MODULE,
            "PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path),
        }
        command = [
            *(sys.executable, "-m", "django", "migrate_users", "--join", str(self.run_id)),
            *("--database", self.using, "--format", "json", "--no-input", *arguments),
        ]
        for number in range(2, count + 2):
            complaints = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the helper)
            process = subprocess.Popen(  # noqa: S603 (this project's own command)
                command,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=complaints,
                start_new_session=True,
            )
            self.all.append(Helper(number, process, complaints))

    def dismiss(self) -> None:
        """Ask all of them to end after the batch in hand; see Note [The pipe to a helper]."""
        self.dismissed = True
        for helper in self.all:
            with contextlib.suppress(OSError):
                if helper.process.stdin is not None:
                    helper.process.stdin.close()

    def tell_endings(self) -> None:
        """Tell, once, of each that ended before its time."""
        for helper in self.all:
            if not (self.dismissed or helper.told) and helper.ending:
                helper.told = True
                self.notice(helper.ending)

    def wait(self) -> None:
        """Wait until all have ended."""
        while any(helper.runs for helper in self.all):
            self.tell_endings()
            time.sleep(WAIT_STEP)
        self.tell_endings()

    def abort(self) -> None:
        """End all at once: what they have in hand is rolled back."""
        self.dismissed = True
        for helper in self.all:
            helper.process.kill()
        for helper in self.all:
            helper.process.wait()

    def close(self) -> None:
        """Forget what they said."""
        self.dismiss()
        for helper in self.all:
            helper.complaints.close()


class JointProgress:
    """Pass on what all processes have done since the last time, read from the run's own totals.

    Called as progress of this process's batches, each of which is an occasion to look.
    """

    def __init__(self, helpers: Helpers, progress: ProgressCallback | None) -> None:
        self._helpers, self._progress = helpers, progress
        self._seen: dict[int, Totals] = {helpers.run_id: self._read(helpers.run_id)}
        self._looked = time.monotonic()

    def __call__(self, result: BatchResult) -> None:
        """Take a batch of this process as the occasion."""
        moment = time.monotonic()
        if moment - self._looked < LOOK_EVERY:
            return
        now = self._read(result.run)
        before = self._seen.get(result.run, Totals())  # a run that the breaker opened meanwhile has a count of its own
        if self._progress is not None:
            self._progress(BatchResult(result.run, result.batch, _difference(now, before), moment - self._looked))
        self._seen[result.run], self._looked = now, moment
        self._helpers.tell_endings()

    def _read(self, run_id: int) -> Totals:
        run = MigrationRun.objects.using(self._helpers.using).get(pk=run_id)
        return totals.run_totals(run, self._helpers.using)


def _difference(now: Totals, before: Totals) -> Totals:
    difference = Totals(**{name: getattr(now, name) - getattr(before, name) for name in FIGURES})
    difference.errors, difference.skips = now.errors - before.errors, now.skips - before.skips
    return difference


@contextmanager
def helpers(
    run_id: int,
    count: int,
    *,
    using: str,
    stop: StopFlag,
    arguments: Sequence[str] = (),
    notice: runs.Notice = runs.silent,
) -> Iterator[Helpers]:
    """Have so many helpers work on a run beside the block; at its end wait for them.

    Whoever asks this process to end asks them; an error in the block, or a second signal, aborts them.
    """
    found = Helpers(run_id, using, notice)
    stop.listeners.append(found.dismiss)
    try:
        found.start(count, arguments)
        if stop.requested:  # while they were being started
            found.dismiss()
        yield found
        found.wait()
    except BaseException:
        found.abort()
        raise
    finally:
        stop.listeners.remove(found.dismiss)
        found.close()


def migrate_together(
    options: MigrationOptions,
    workers: int,
    *,
    actor: Actor,
    reason: str = "",
    using: str = "default",
    stop: StopFlag | None = None,
    progress: ProgressCallback | None = None,
    expecting: runs.Expecting = runs.unheeded,
    notice: runs.Notice = runs.silent,
    arguments: Sequence[str] = (),
) -> RunSummary:
    """Do what ``migrate.migrate`` does with so many processes on this machine, this one among them.

    ``arguments`` are added to the command lines of the others.

    Raises:
        UsageError: this database takes fewer workers.
        MigrationError: as ``migrate.migrate`` does.
    """
    check_workers(workers, using)
    if workers == 1 or options.users:
        return migrate.migrate(
            options,
            actor=actor,
            reason=reason,
            using=using,
            stop=stop,
            progress=progress,
            expecting=expecting,
            notice=notice,
        )
    preflight.check(using)
    run = migrate.open_or_join(options, actor=actor, reason=reason, using=using, notice=notice)
    return work_together(
        run.pk,
        workers,
        actor=actor,
        using=using,
        stop=stop,
        progress=progress,
        expecting=expecting,
        notice=notice,
        arguments=arguments,
    )


def work_together(
    run_id: int,
    workers: int,
    *,
    actor: Actor,
    using: str = "default",
    stop: StopFlag | None = None,
    progress: ProgressCallback | None = None,
    expecting: runs.Expecting = runs.unheeded,
    notice: runs.Notice = runs.silent,
    arguments: Sequence[str] = (),
) -> RunSummary:
    """Work on an open run with so many processes, this one among them; their progress is told together.

    ``arguments`` are added to the command lines of the others.
    """
    begun, stop = time.monotonic(), stop or StopFlag()
    before = totals.run_totals(MigrationRun.objects.using(using).get(pk=run_id), using).selected
    with helpers(run_id, workers - 1, using=using, stop=stop, arguments=arguments, notice=notice) as others:
        done = migrate.work_on_run(
            run_id,
            actor=actor,
            using=using,
            stop=stop,
            progress=JointProgress(others, progress),
            expecting=expecting,
            notice=notice,
            lending=True,
        )
    if not stop.requested:  # has ended, unless whoever was to end it died
        done = migrate.work_on_run(run_id, actor=actor, using=using, stop=stop, progress=progress, notice=notice)
    run = MigrationRun.objects.using(using).get(pk=run_id)
    handled = totals.run_totals(run, using).selected - before
    shown = done.run if done.run is not None else run_id  # for a breaker's rollback the run that it takes back
    return migrate.summary(shown, using=using, seconds=time.monotonic() - begun, handled=handled)


def join_run(
    run_id: int,
    workers: int = 1,
    *,
    actor: Actor,
    using: str = "default",
    stop: StopFlag | None = None,
    progress: ProgressCallback | None = None,
    expecting: runs.Expecting = runs.unheeded,
    notice: runs.Notice = runs.silent,
    arguments: Sequence[str] = (),
) -> RunSummary:
    """Lend a hand to an open migration or mass rollback, from whatever machine; it ends when the run does.

    Any number may join, at any time and any number of times.  Of a closed run nothing but its outcome
    is told, with ``handled`` 0.  A run that others are checking is theirs; the summary says
    ``checking`` then.

    Args:
        run_id: the run.
        workers: processes to start on this machine, the calling one among them.
        actor: who lends a hand.
        using: database alias.
        stop: asks for the end after the batch in hand; the run stays open.
        progress: told of committed batches, those of all processes started here.
        expecting: told how many users are left when the work begins.
        notice: told, in sentences, what was found and decided.
        arguments: options added to the command lines of the other processes.

    Raises:
        UsageError: this database takes fewer workers.
        PreflightError: the database is not fit.
        RunNotFoundError: there is no such run.
        RunConflictError: it is paused, or an import.
        DatabaseUnavailableError: the database cannot do the work; the run stays open.
    """
    check_workers(workers, using)
    preflight.check(using)
    run = runs.get_run(run_id, using=using)
    if run.kind == RunKind.IMPORT:
        raise RunConflictError(f"run {run.pk} is an import, which is done at once: there is nothing to join")
    if run.status == RunStatus.ROLLING_BACK:
        run = runs.find_takeback(run.pk, using=using) or run
    if not run.is_open:
        notice(f"run {run.pk} is {run.get_status_display().lower()}: nothing is left to do")
        return migrate.summary(run.pk, using=using, seconds=0.0, handled=0)
    if is_helper():
        return _help(run.pk, actor=actor, using=using, stop=stop or StopFlag(), progress=progress, notice=notice)
    if run.status == RunStatus.PAUSED:
        raise RunConflictError(f"run {run.pk} is paused; let it go on with migrate_users --resume {run.pk}")
    notice(f"run {run.pk}, a {run.get_kind_display().lower()}, is {run.get_status_display().lower()}: lending a hand")
    runs.note_resumed_work(run.pk, actor=actor, using=using)
    if workers > 1:
        return work_together(
            run.pk,
            workers,
            actor=actor,
            using=using,
            stop=stop,
            progress=progress,
            expecting=expecting,
            notice=notice,
            arguments=arguments,
        )
    return migrate.work_on_run(
        run.pk,
        actor=actor,
        using=using,
        stop=stop,
        progress=progress,
        expecting=expecting,
        notice=notice,
        # whoever began to check a run may have died: nobody else can have been meant by joining it now
        lending=run.status != RunStatus.CHECKING,
    )


def _help(
    run_id: int,
    *,
    actor: Actor,
    using: str,
    stop: StopFlag,
    progress: ProgressCallback | None,
    notice: runs.Notice,
) -> RunSummary:
    """Work as a helper, until the run ends or the process that started this one closes the pipe or dies."""

    def listen() -> None:
        while os.read(sys.stdin.fileno(), 1):
            pass
        stop.request(signal.SIGTERM)

    threading.Thread(target=listen, name="pipe", daemon=True).start()
    if runs.get_run(run_id, using=using).status == RunStatus.CHECKING:  # it was small: the others were through first
        return migrate.summary(run_id, using=using, seconds=0.0, handled=0)
    return migrate.work_on_run(
        run_id, actor=actor, using=using, stop=stop, progress=progress, notice=notice, lending=True
    )
