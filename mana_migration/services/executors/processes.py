"""Helper processes: started beside this one to work on the same run, listened to, ended with it.

A helper finds its work in the database like anybody who joins a run, so that one which is killed takes
nothing with it but the batch in hand, and the others do that.

# Note [The pipe to a helper]
A helper's standard input is a pipe.  One line comes by it, which names the run: helpers are started
while the checks before a run are made, and are ready when it is open.  Then nothing comes, until the
pipe ends: when this process closes it, to ask for the end after the batch in hand, and when this
process dies, however it dies.  The helper hears of it at once, also while it waits or has not begun.
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

from mana_migration.domain.results import BatchResult, ProgressCallback, Totals
from mana_migration.engine import totals
from mana_migration.errors import RunConflictError
from mana_migration.models import MigrationRun
from mana_migration.services import runs
from mana_migration.services.context import StopFlag
from mana_migration.services.worker.context import HELPER

#: The file descriptor of standard input.
_PIPE: Final = 0

#: Seconds between two looks at what all of them have done, and between two looks whether they have ended.
LOOK_EVERY, WAIT_STEP = 0.5, 0.1


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

    using: str
    notice: runs.Notice = runs.silent
    all: list[Helper] = field(default_factory=list)
    dismissed: bool = False

    def start(self, count: int, arguments: Sequence[str]) -> None:
        """Start so many helpers, with these options added to their command line."""
        environment = os.environ | {
            "DJANGO_SETTINGS_MODULE": os.environ.get("DJANGO_SETTINGS_MODULE") or settings.SETTINGS_MODULE,
            "PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path),
        }
        command = [
            *(sys.executable, "-m", "django", "migrate_users", "--database", self.using),
            *("--format", "json", "--no-input", *arguments),
        ]
        for number in range(2, count + 2):
            complaints = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the helper)
            process = subprocess.Popen(  # noqa: S603 (this project's own command)
                command,
                env={**environment, HELPER: str(number)},
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=complaints,
                start_new_session=True,
            )
            self.all.append(Helper(number, process, complaints))

    def put_to_work(self, run: MigrationRun) -> None:
        """Tell all of them which run it is, by its number and by when it was opened."""
        for helper in self.all:
            with contextlib.suppress(OSError, ValueError):  # it has ended, or was dismissed
                if helper.process.stdin is not None:
                    helper.process.stdin.write(f"{run.pk} {run.created_at.isoformat()}\n".encode())
                    helper.process.stdin.flush()

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

    def __init__(self, helpers: Helpers, run_id: int, progress: ProgressCallback | None) -> None:
        self._helpers, self._progress = helpers, progress
        self._seen: dict[int, Totals] = {run_id: self._read(run_id)}
        self._looked = time.monotonic()

    def __call__(self, result: BatchResult) -> None:
        """Take a batch of this process as the occasion."""
        moment = time.monotonic()
        if moment - self._looked < LOOK_EVERY and not result.waits_for:
            return
        now = self._read(result.run)
        before = self._seen.get(result.run, Totals())  # a run that the breaker opened meanwhile has a count of its own
        if self._progress is not None:
            done, seconds = now.since(before), moment - self._looked
            self._progress(BatchResult(result.run, result.batch, done, seconds, result.waits_for))
        self._seen[result.run], self._looked = now, moment
        self._helpers.tell_endings()

    def _read(self, run_id: int) -> Totals:
        run = MigrationRun.objects.using(self._helpers.using).get(pk=run_id)
        return totals.run_totals(run, self._helpers.using)


@contextmanager
def helpers(
    count: int,
    *,
    using: str,
    stop: StopFlag,
    arguments: Sequence[str] = (),
    notice: runs.Notice = runs.silent,
) -> Iterator[Helpers]:
    """Have so many helpers ready to be put to work beside the block; at its end wait for them.

    Whoever asks this process to end asks them; an error in the block, or a second signal, aborts them.
    """
    found = Helpers(using, notice)
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
    """As a helper, wait to be told the run to work on; None where there is none to come.

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
