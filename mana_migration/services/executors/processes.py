"""Helper processes: started beside this one to work on the same run, ended with it.

A helper finds its work in the database like any process that joins a run, so that killing one loses
nothing but its current batch, which the others do.

# Note [The pipe to a helper]
A helper's standard input is a pipe.  One line comes by it, which names the run: helpers are started
while the checks before a run are made, and are ready when it is open.  Then nothing comes, until the
pipe ends: when this process closes it, to ask for the end after the current batch, and when this
process dies, however it dies.  The helper notices at once, also while it waits or has not begun.
No signal is needed, and the terminal's Ctrl-C does not reach helpers, which have a session of their
own.
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
from django.db import DatabaseError, InterfaceError, connections

from mana_migration import conf
from mana_migration.domain.results import BatchResult, Totals
from mana_migration.engine import totals
from mana_migration.errors import RunConflictError
from mana_migration.models import MigrationRun
from mana_migration.services.context import RunContext, StopFlag
from mana_migration.services.worker.context import HELPER

#: The file descriptor of standard input.
_PIPE: Final = 0

#: Seconds between two polls of what all of them have done, and between two polls whether they have ended.
POLL_SECONDS, WAIT_STEP = 0.5, 0.1

#: Seconds after which a helper that has not ended is named.
HANGS_SECONDS: Final = 5.0


def command_environment() -> dict[str, str]:
    """Return the environment in which ``python -m django COMMAND`` finds this process's settings and modules."""
    return os.environ | {
        "DJANGO_SETTINGS_MODULE": os.environ.get("DJANGO_SETTINGS_MODULE") or settings.SETTINGS_MODULE,
        "PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path),
    }


def is_helper() -> bool:
    """Say whether this process was started as a helper of another."""
    return HELPER in os.environ


@dataclass
class Helper:
    """A helper process, with what it wrote on its standard error."""

    number: int
    process: subprocess.Popen[bytes]
    errors: IO[bytes]
    reported: bool = False

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
            return f"worker {self.number} was killed by {signal.Signals(-code).name}: the others continue"
        self.errors.seek(0)
        last = self.errors.read().decode(errors="replace").strip().rpartition("\n")[2]
        why = f" ({last})" if last else ""
        return f"worker {self.number} ended with exit code {code}{why}: the others continue"


@dataclass
class Helpers:
    """The helpers of this process on a run."""

    context: RunContext
    all: list[Helper] = field(default_factory=list)
    dismissed: bool = False

    def start(self, count: int, arguments: Sequence[str]) -> None:
        """Start so many helpers, with these options added to their command line."""
        command = [
            *(sys.executable, "-m", "django", "migrate_users", "--database", self.context.using),
            *("--format", "json", "--no-input", *arguments),
        ]
        for number in range(2, count + 2):
            errors = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the helper)
            process = subprocess.Popen(  # noqa: S603 (this project's own command)
                command,
                env=command_environment() | {HELPER: str(number)},
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                start_new_session=True,
            )
            self.all.append(Helper(number, process, errors))

    def put_to_work(self, run: MigrationRun) -> None:
        """Send all of them the run, by its number and by when it was opened."""
        for helper in self.all:
            with contextlib.suppress(OSError, ValueError):  # it has ended, or was dismissed
                if helper.process.stdin is not None:
                    helper.process.stdin.write(f"{run.pk} {run.created_at.isoformat()}\n".encode())
                    helper.process.stdin.flush()

    def dismiss(self) -> None:
        """Ask all of them to end after the current batch; see Note [The pipe to a helper]."""
        self.dismissed = True
        for helper in self.all:
            with contextlib.suppress(OSError):
                if helper.process.stdin is not None:
                    helper.process.stdin.close()

    def report_endings(self) -> None:
        """Report, once, each that ended early."""
        for helper in self.all:
            if not (self.dismissed or helper.reported) and helper.ending:
                helper.reported = True
                self.context.notice(helper.ending)

    def wait(self) -> None:
        """Wait until all have ended; name those that do not, and end them when no statement can take that long."""
        begun, named = time.monotonic(), False
        limit = conf.statement_timeout_ms() / 1000 + HANGS_SECONDS
        while left := [helper for helper in self.all if helper.runs]:
            self.report_endings()
            waited = time.monotonic() - begun
            if waited > HANGS_SECONDS and not named:
                named = True
                for helper in left:
                    self.context.notice(
                        f"worker {helper.number} (process {helper.process.pid}) has not ended: waiting for it, "
                        f"at most {limit - waited:.0f} s more"
                    )
            if waited > limit and conf.statement_timeout_ms():
                for helper in left:
                    self.context.notice(f"worker {helper.number} hangs: it is ended, its batch is rolled back")
                    helper.process.kill()
                    helper.reported = True
                    helper.process.wait()
                continue
            time.sleep(WAIT_STEP)
        self.report_endings()

    def abort(self) -> None:
        """End all at once: their current batches are rolled back."""
        self.dismissed = True
        for helper in self.all:
            helper.process.kill()
        for helper in self.all:
            helper.process.wait()

    def close(self) -> None:
        """Close what they wrote."""
        self.dismiss()
        for helper in self.all:
            helper.errors.close()


class JointProgress:
    """Pass on what all processes have done since the last time, read from the run's own totals.

    Called as progress of this process's batches, each of which is an occasion to poll.
    """

    def __init__(self, helpers: Helpers, run_id: int, context: RunContext) -> None:
        self._helpers, self._context = helpers, context
        self._seen: dict[int, Totals] = {run_id: self._read(run_id)}
        self._polled = time.monotonic()

    def __call__(self, result: BatchResult) -> None:
        """Take a batch of this process as the occasion."""
        moment = time.monotonic()
        if moment - self._polled < POLL_SECONDS and not result.waits_for:
            return
        before = self._seen.get(result.run, Totals())  # a run that the breaker opened meanwhile has a count of its own
        try:
            now = self._read(result.run)
        except (DatabaseError, InterfaceError):  # lost: the worker, which waits for it, reports just that
            connections[self._context.using].close()
            now = before
        done, seconds = now.since(before), moment - self._polled
        self._context.progress(BatchResult(result.run, result.batch, done, seconds, result.waits_for))
        self._seen[result.run], self._polled = now, moment
        self._helpers.report_endings()

    def _read(self, run_id: int) -> Totals:
        run = MigrationRun.objects.using(self._context.using).get(pk=run_id)
        return totals.run_totals(run, self._context.using)


@contextmanager
def helpers(count: int, context: RunContext, *, arguments: Sequence[str] = ()) -> Iterator[Helpers]:
    """Start so many helpers, to be put to work beside the block; at its end wait for them.

    When this process is asked to end, so are they; an error in the block, or a second signal, aborts them.
    """
    found, stop = Helpers(context), context.stop
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


def await_work(stop: StopFlag, *, using: str) -> MigrationRun | None:
    """As a helper, wait to be reported the run to work on; None where there is none to come.

    When the pipe ends the end is asked for; see Note [The pipe to a helper].

    Raises:
        RunConflictError: the run of that number is not the one that is meant, but another database's.
    """
    line = b""
    while not line.endswith(b"\n"):
        more = os.read(_PIPE, 100)
        if not more:
            return None
        line += more

    def listen() -> None:
        while os.read(_PIPE, 1):
            pass
        stop.request(signal.SIGTERM)

    number, opened = line.decode().split()
    run = MigrationRun.objects.using(using).filter(pk=number).first()
    if run is None or run.created_at.isoformat() != opened:
        raise RunConflictError(
            f"database {using!r} is another one here than in the process that started this helper: it has no run "
            f"{number} of {opened}; name the database in the environment, as DATABASE_URL, where both find it"
        )
    threading.Thread(target=listen, name="pipe", daemon=True).start()
    return run
