"""Where work is done, who asks for it, how it is asked to end, and who is informed of it."""

from __future__ import annotations

import contextlib
import getpass
import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from django.db import DEFAULT_DB_ALIAS, connections
from django.db.backends.base.base import BaseDatabaseWrapper

from mana_migration.domain.results import BatchResult, ProgressCallback, Totals

#: Seconds that one wait for the lock lasts at most: Python handles a signal that arrives in the instant before a wait
#: only when that wait ends.
LONGEST_WAIT: Final = 0.25

#: What a run waits for whose database has gone away.
DATABASE_LOST: Final = "the database is lost: waiting for it"


def _closed_gate() -> threading.Lock:
    gate = threading.Lock()
    gate.acquire()
    return gate


@dataclass(slots=True)
class StopFlag:
    """Ask a worker to end after its current batch; ends any wait.

    A signal handler may ask at any moment, also while this thread is about to wait: an ``Event``
    would wait for its own lock then, and until Python 3.13 a ``SimpleQueue`` waits for ever if the
    time is up before it has begun to wait.  A bare lock does neither.
    """

    _gate: threading.Lock = field(default_factory=_closed_gate)
    """Held until the end is asked for; a wait tries to get it."""
    requested: bool = False
    """Whether the end was asked for."""
    signal: int = 0
    quiet: bool = False
    """Whether the end is not worth an event, because another process continues at once."""
    listeners: list[Callable[[], None]] = field(default_factory=list)
    """Called when the end is asked for, possibly in a signal handler."""

    def request(self, signal: int = 0) -> None:
        """Ask for the end, by this signal number."""
        self.signal, self.requested = signal, True
        self._open()
        for listener in self.listeners:
            listener()

    def wait(self, seconds: float) -> bool:
        """Wait, at most until the end is asked for; return whether it was."""
        end = time.monotonic() + seconds
        while not self.requested and (left := end - time.monotonic()) > 0:
            if self._gate.acquire(timeout=min(left, LONGEST_WAIT)):
                self._open()  # for other threads that wait
        return self.requested

    def _open(self) -> None:
        with contextlib.suppress(RuntimeError):  # it was open
            self._gate.release()


@dataclass(frozen=True, slots=True)
class Actor:
    """Who does something, and on which machine."""

    name: str
    host: str

    def differs_from(self, name: str) -> bool:
        """Say whether this is the name of another person; no name is none."""
        return bool(name.strip()) and name.strip().lower() != self.name.strip().lower()


def current_actor() -> Actor:
    """Return the operating-system user of this process."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # a container without an entry for its user
        name = f"uid {os.getuid()}"
    return Actor(name[:150], socket.gethostname()[:255])


def ignore(value: object) -> None:
    """Do nothing with a notice, a result or a number."""


@dataclass(frozen=True)
class RunContext:
    """How a piece of work was started: handed down unchanged to everything that does it.

    ``using``: database alias.  ``actor``: who asks.  ``stop``: asks for the end after the current
    batch.  ``progress``: called with each committed batch, and with what the run waits for.
    ``expecting``: called with the number of users that are left when the work begins.  ``notice``:
    called with sentences about what was found and decided.
    """

    using: str = DEFAULT_DB_ALIAS
    actor: Actor = field(default_factory=current_actor)
    stop: StopFlag = field(default_factory=StopFlag)
    progress: ProgressCallback = ignore
    expecting: Callable[[int], None] = ignore
    notice: Callable[[str], None] = ignore

    def show_wait(self, run_id: int, sentence: str) -> None:
        """Report what a run waits for until its next batch; empty: it no longer waits."""
        self.progress(BatchResult(run_id, 0, Totals(), 0.0, waits_for=sentence))

    @property
    def connection(self) -> BaseDatabaseWrapper:
        """Return this thread's connection to the database."""
        return connections[self.using]
