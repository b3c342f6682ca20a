"""What a worker works on: shared by the loop, its queue and what handles its failures."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from mana_migration.domain.breaker import BreakerVerdict
from mana_migration.engine.batches import Handled, Limits, Task
from mana_migration.engine.planning import Slice
from mana_migration.services.context import RunContext

#: The environment variable with the number of a helper process, from 2; the process that started it is worker 1.
HELPER: Final = "MANA_MIGRATION_HELPER"


class Work(Protocol):
    """What a run does with its users, and when it closes."""

    @property
    def limit(self) -> int | None:
        """Users to handle at most; None for all."""

    @property
    def throttled(self) -> bool:
        """Whether it waits between batches, as the controls say."""

    def plan(self, using: str, *, after: str, size: int, limit: int, first_pass: bool) -> list[Slice]:
        """Cut the next users after a key into slices; empty: from the start, for the first time or once more."""

    def keys(self, using: str, *, first: str, last: str) -> list[str]:
        """Return the keys from ``first`` to ``last`` that are still to be handled, in order."""

    def handle(self, using: str, task: Task, limits: Limits) -> Handled | None:
        """Claim, handle and mark a batch in a transaction of its own; None where it could not be claimed."""

    def handle_several(self, using: str, tasks: Sequence[Task], limits: Limits) -> list[Handled | None]:
        """Do so with the first of several batches, at least one; return an answer for each that was tried."""

    def verdict(self, using: str, *, final: bool = False) -> BreakerVerdict:
        """Say whether the run has failed too many users; ``final``: all users are processed."""

    def before_check(self, context: RunContext) -> None:
        """Do what is left when all users are handled, before the checks; it may be done again."""

    def on_close(self, context: RunContext) -> None:
        """Do what belongs to the transaction that closes the run."""


def worker_name() -> str:
    """Return this worker's name in batches: host and process, and the thread unless it is the main one."""
    thread = threading.current_thread()
    own = "" if thread is threading.main_thread() else f"/{thread.native_id}"
    return f"{socket.gethostname()[:60]}:{os.getpid()}{own}"


@dataclass(frozen=True, kw_only=True)
class WorkerContext(RunContext):
    """One worker's part in one run.

    ``run_id``: the run, open.  ``work``: what to do with its users.  ``name``: the worker's, in the
    batches that it handles.
    """

    run_id: int
    work: Work
    name: str = field(default_factory=worker_name)

    @property
    def number(self) -> str:
        """Return the worker's number among the processes of one command."""
        return os.environ.get(HELPER, "1")

    @classmethod
    def of(cls, context: RunContext, run_id: int, work: Work) -> WorkerContext:
        """Return the context of this thread's worker on a run."""
        return cls(**vars(context), run_id=run_id, work=work)
