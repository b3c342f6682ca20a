"""One command on several databases: a child process for each.

# Note [Children]
A child is ``manage.py COMMAND --database ALIAS --format json``: whatever happens to one, a crash
included, the others do not notice.  Its standard output is the object that the command prints for one
database.  Its standard error carries sentences, and records of its progress, which begin with
``RECORD``.  Its standard input is a pipe on which nothing comes: when it ends, because this process
closes it or dies, the child ends as at SIGTERM.  The terminal's Ctrl-C does not reach children, which
have a session of their own.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO, Any, Final

from mana_migration.reports.progress import RECORD
from mana_migration.services.context import DATABASE_LOST, LONGEST_WAIT, StopFlag
from mana_migration.services.executors.processes import HANGS_SECONDS, command_environment

#: The environment variable that makes a process a child, and says how its database was chosen.
CHILD: Final = "MANA_MIGRATION_CHILD"

#: The file descriptor of standard input.
_PIPE: Final = 0


# --- The child --------------------------------------------------------------------------------------------------------


def become_child() -> str:
    """Return how a parent process chose the database, empty without a parent; with one, end when the pipe does."""
    chosen_by = os.environ.pop(CHILD, "")  # not for the helpers that it starts
    if not chosen_by:
        return ""

    def listen() -> None:
        while os.read(_PIPE, 1):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=listen, name="pipe", daemon=True).start()
    return chosen_by


# --- The process that starts them -------------------------------------------------------------------------------------


@dataclass
class Child:
    """The process of one database; see Note [Children].

    ``record``: its latest record of progress.  ``asked``: whether it was asked to end.
    """

    alias: str
    process: subprocess.Popen[str]
    output: IO[str]
    record: dict[str, Any] = field(default_factory=dict)
    ended: bool = False
    asked: bool = False

    @classmethod
    def start(cls, alias: str, command: str, arguments: Sequence[str], chosen_by: str) -> Child:
        """Start the command on this database; ``chosen_by`` is what ``become_child`` returns in it."""
        output = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115 (lives as long as the child)
        process = subprocess.Popen(  # noqa: S603 (this project's own command)
            [sys.executable, "-m", "django", command, *arguments, "--database", alias],
            env=command_environment() | {CHILD: chosen_by},
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        )
        return cls(alias, process, output)

    @property
    def is_lost(self) -> bool:
        """Say whether it waits for a database that has gone away."""
        return not self.ended and self.record.get("waits_for") == DATABASE_LOST

    @property
    def waits(self) -> bool:
        """Say whether it waits for a run to start."""
        return not self.ended and bool(self.record.get("waiting"))

    def ask_to_end(self) -> None:
        """Ask it to end after its current batch."""
        self.asked = True
        with contextlib.suppress(OSError):
            if self.process.stdin is not None:
                self.process.stdin.close()

    def printed(self) -> dict[str, Any] | None:
        """Return the object that it printed; None where it printed none, or not all of it."""
        self.output.seek(0)
        try:
            found = json.load(self.output)
        except ValueError:
            return None
        return found if isinstance(found, dict) else None


@contextmanager
def started(command: str, arguments: Sequence[str], aliases: Sequence[str], *, chosen_by: str) -> Iterator[list[Child]]:
    """Start a child for each database; where the block fails, a second signal included, all of them are aborted."""
    children: list[Child] = []
    try:
        for alias in aliases:
            children.append(Child.start(alias, command, arguments, chosen_by))
        yield children
    except BaseException:
        _abort(children)
        raise
    finally:
        for child in children:
            child.ask_to_end()
            child.output.close()


def follow(
    children: Sequence[Child],
    stop: StopFlag,
    *,
    patience: float,
    on_line: Callable[[str, str], None],
    on_record: Callable[[Child], None],
) -> None:
    """Follow children to their ends.

    Args:
        children: those that were started.
        stop: asks all of them to end after their current batch.
        patience: seconds that a lost database is waited for once all other children have ended; a run that has not
            begun is not waited for then.
        on_line: called with the alias and each line that a child writes.
        on_record: called with a child when it has sent a record of its progress, or has ended.
    """
    lines: queue.Queue[tuple[Child, str]] = queue.Queue()
    for child in children:
        threading.Thread(target=_read, args=(child, lines), name=child.alias, daemon=True).start()
    alone_since: float | None = None
    while working := [child for child in children if not child.ended]:
        with contextlib.suppress(queue.Empty):
            child, line = lines.get(timeout=LONGEST_WAIT)
            if not line:
                child.process.wait()
                child.ended = True
            elif line.startswith(RECORD):
                child.record = json.loads(line.removeprefix(RECORD))
            else:
                on_line(child.alias, line.rstrip("\n"))
            if not line or line.startswith(RECORD):
                on_record(child)
        if stop.requested:
            for child in working:
                child.ask_to_end()
        if len(working) == len(children) or not all(child.is_lost or child.waits for child in working):
            alone_since = None
        elif alone_since is None:
            alone_since = time.monotonic()
        elif time.monotonic() - alone_since > (patience if any(child.is_lost for child in working) else 0):
            for child in working:
                child.ask_to_end()


def _read(child: Child, lines: queue.Queue[tuple[Child, str]]) -> None:
    """Pass on what a child writes, line by line; an empty line is its end."""
    assert child.process.stderr is not None  # noqa: S101 (for the type checker)
    for line in child.process.stderr:
        lines.put((child, line))
    lines.put((child, ""))


def _abort(children: Sequence[Child]) -> None:
    """End all at once: their current batches are rolled back."""
    for child in children:
        child.process.terminate()  # a child that was asked to end aborts its batch at this
        child.ask_to_end()
    deadline = time.monotonic() + HANGS_SECONDS
    for child in children:
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.process.wait(max(0.0, deadline - time.monotonic()))
    for child in children:
        child.process.kill()
        child.process.wait()
