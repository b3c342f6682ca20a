"""What a worker works on and whom it tells: shared by the loop, its queue and its recovery."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper

from mana_migration.domain.results import BatchResult, ProgressCallback, Totals
from mana_migration.engine.batches import Handled, Limits, Task
from mana_migration.engine.planning import Slice
from mana_migration.services import runs
from mana_migration.services.context import StopFlag

#: The environment variable with the number of a helper process, from 2; the process that started it is worker 1.
HELPER: Final = "MANA_MIGRATION_HELPER"


class Work(Protocol):
    """What a run does with its users."""

    def plan(self, using: str, *, after: str, size: int, limit: int) -> list[Slice]:
        """Cut the next users after a key into slices; empty: from the start."""

    def keys(self, using: str, *, first: str, last: str) -> list[str]:
        """Return the keys from ``first`` to ``last`` that are still to be handled, in order."""

    def handle(self, using: str, task: Task, limits: Limits) -> Handled | None:
        """Claim, handle and mark a batch in a transaction of its own; None where it could not be claimed."""

    def handle_several(self, using: str, tasks: Sequence[Task], limits: Limits) -> list[Handled | None]:
        """Do so with the first of several batches, at least one; answer for each that was tried."""

    def record_problem(self, using: str, *, batch: int, user: str, status: str, error_class: str, message: str) -> bool:
        """Record that one user was left as they are."""

    def tripped(self, using: str) -> bool:
        """Say, after a commit, whether the run has failed too many users."""

    @property
    def limit(self) -> int | None:
        """Users to handle at most; None for all."""


def worker_name() -> str:
    """Return this worker's name in batches: host and process, and the thread unless it is the main one."""
    thread = threading.current_thread()
    own = "" if thread is threading.main_thread() else f"/{thread.native_id}"
    return f"{socket.gethostname()[:60]}:{os.getpid()}{own}"


@dataclass(frozen=True, slots=True)
class WorkerContext:
    """One worker's part in one run.

    ``run_id``: the run, open.  ``work``: what to do with its users.  ``using``: database alias.
    ``stop``: asks for the end between batches.  ``progress``: told of each committed batch.
    ``notice``: told, in sentences, what the work waits for and when it goes on.  ``name``: the
    worker's, in the batches that it does.
    """

    run_id: int
    work: Work
    using: str
    stop: StopFlag
    progress: ProgressCallback | None = None
    notice: runs.Notice = runs.silent
    name: str = field(default_factory=worker_name)

    @property
    def number(self) -> str:
        """Return the worker's number among the processes of one command."""
        return os.environ.get(HELPER, "1")

    @property
    def connection(self) -> BaseDatabaseWrapper:
        """Return this thread's connection to the run's database."""
        return connections[self.using]

    def tell(self, result: BatchResult) -> None:
        """Tell whoever shows the progress of a committed batch."""
        if self.progress is not None:
            self.progress(result)

    def show_wait(self, sentence: str) -> None:
        """Tell whoever shows the progress what the run waits for until its next batch; empty: it goes on."""
        self.tell(BatchResult(self.run_id, 0, Totals(), 0.0, waits_for=sentence))
