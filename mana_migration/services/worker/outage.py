"""Waiting for a database that is lost or busy, and giving up at once where waiting cannot help."""

from __future__ import annotations

import logging
import random
import time

from django.db import DatabaseError, InterfaceError

from mana_migration import conf
from mana_migration.engine import driver, failures
from mana_migration.errors import DatabaseUnavailableError
from mana_migration.services import logs, notifications, runs
from mana_migration.services.context import DATABASE_LOST, RunContext
from mana_migration.states import EventKind

#: Seconds to wait for a lost database: the first wait, and the longest.
LOST_FIRST_WAIT, LOST_LONGEST_WAIT = 0.5, 15.0


#: The SQLSTATE of a server that takes no writes, as for seconds while it fails over.
READ_ONLY = "25006"


class Outage:
    """The times that one process's database could not be worked with."""

    def __init__(self, run_id: int, context: RunContext) -> None:
        self._run_id, self._context = run_id, context
        self._lost_since: float | None = None
        self._tries = 0
        self._long_wait = notifications.LongWait(run_id, context.using)

    def survive(self, error: DatabaseError | InterfaceError) -> None:
        """Wait a while for a lost or busy database, longer each time, but not beyond the asked end.

        Raises:
            DatabaseUnavailableError: the database cannot do the work at all.
            django.db.Error: ``error`` itself, where it is none of the database's state.
        """
        run_id = self._run_id
        verdict = failures.kind_of(error)
        if driver.sqlstate(error) == READ_ONLY and self._may_wait_for_writes():
            verdict = failures.Failure.CONNECTION
        if verdict is failures.Failure.ENVIRONMENT:
            logs.write(logging.ERROR, "the database refuses the work", run=run_id, error_class=driver.sqlstate(error))
            raise DatabaseUnavailableError(
                f"the database refuses the work: {failures.describe(error)}; run {run_id} stays open: "
                "remove the cause and give the same command again"
            ) from error
        if verdict is failures.Failure.DATA:
            raise error
        if verdict is failures.Failure.CONNECTION:
            self._context.connection.close()
            if self._lost_since is None:
                self._lost_since = time.monotonic()
                logs.write(logging.WARNING, "the database is lost: waiting for it", run=run_id)
                self._context.notice(f"the database is lost ({failures.describe(error)}): waiting for it")
                self._context.show_wait(run_id, DATABASE_LOST)
        elif self._tries == 1:  # SQLite, while another process writes for long
            self._context.notice(f"the database is busy ({failures.describe(error)}): trying again")
            self._context.show_wait(run_id, "the database is busy: trying again")
        self._long_wait.continues(failures.describe(error))
        wait = min(LOST_LONGEST_WAIT, LOST_FIRST_WAIT * 2 ** min(self._tries, 10))
        self._tries += 1
        self._context.stop.wait(wait * random.uniform(0.75, 1.25))  # noqa: S311 (jitter)

    def _may_wait_for_writes(self) -> bool:
        """Say whether a server that takes no writes is still waited for; see ``conf.read_only_wait``."""
        waited = 0.0 if self._lost_since is None else time.monotonic() - self._lost_since
        return waited < conf.read_only_wait()

    def over(self) -> None:
        """Note, once, that a lost database is back; nothing where none was lost."""
        self._tries = 0
        self._long_wait.ended()
        if self._lost_since is None:
            return
        seconds = time.monotonic() - self._lost_since
        self._lost_since = None
        self._context.notice(f"the database is back, it was gone for {seconds:.1f} s: resuming")
        runs.add_event(
            self._run_id,
            EventKind.DATABASE_LOST,
            message=f"the database was gone for {seconds:.1f} s",
            details={"seconds": round(seconds, 1)},
            using=self._context.using,
        )
