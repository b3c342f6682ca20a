"""The states of a run, a batch and a user's migration, and the only ways between them."""

from __future__ import annotations

from typing import Final

from django.db import models

from mana_migration.errors import TransitionError


class RunKind(models.TextChoices):
    """What a run does."""

    MIGRATION = "migration", "Migration"
    """Converts wishes to mana."""
    ROLLBACK = "rollback", "Rollback"
    """Takes conversions back."""
    IMPORT = "import", "Import"
    """Brought in users whom the old system had already migrated; holds their records."""


class RunStatus(models.TextChoices):
    """Where a run stands."""

    RUNNING = "running", "Running"
    """Open: processes work on it, or will as soon as the same command is given again."""
    PAUSED = "paused", "Paused"
    """Open: an operator holds it; workers wait at their next batch."""
    CHECKING = "checking", "Checking"
    """Open: every user is accounted for; the rules are being checked."""
    COMPLETED = "completed", "Completed"
    """Closed: every selected user is accounted for and the rules hold."""
    FAILED = "failed", "Failed its check"
    """Closed: the users were handled, but a rule does not hold; the reason says which."""
    STOPPED = "stopped", "Stopped"
    """Closed: an operator ended it early; what it did stands, the rest is for the next run."""
    ROLLING_BACK = "rolling_back", "Rolling back"
    """Closed to new work: a rollback run is taking its conversions back."""
    ROLLED_BACK = "rolled_back", "Rolled back"
    """Closed: its conversions were taken back (users who had spent the mana may remain, listed)."""


#: At most one mass run per database is in one of these.
OPEN_STATUSES: Final = (RunStatus.RUNNING, RunStatus.PAUSED, RunStatus.CHECKING)

#: Every edge, with when it happens.
RUN_TRANSITIONS: Final[dict[RunStatus, tuple[RunStatus, ...]]] = {
    RunStatus.RUNNING: (
        RunStatus.PAUSED,  # an operator, or a full disk, asks for a pause
        RunStatus.CHECKING,  # the last look found nobody left
        RunStatus.STOPPED,  # an operator stops it, or a mass rollback begins
        RunStatus.ROLLING_BACK,  # the breaker tripped
    ),
    RunStatus.PAUSED: (
        RunStatus.RUNNING,  # an operator resumes it
        RunStatus.STOPPED,  # an operator stops it, or a mass rollback begins
    ),
    RunStatus.CHECKING: (
        RunStatus.RUNNING,  # users appeared before the check: back to work
        RunStatus.COMPLETED,  # the rules hold
        RunStatus.FAILED,  # a rule does not hold
        RunStatus.STOPPED,  # an operator stops it, or a mass rollback begins
        RunStatus.ROLLING_BACK,  # the breaker tripped at its last look
    ),
    RunStatus.COMPLETED: (
        RunStatus.ROLLED_BACK,  # a later rollback of this run took everything back
    ),
    RunStatus.FAILED: (
        RunStatus.ROLLED_BACK,  # a later rollback of this run took everything back
    ),
    RunStatus.STOPPED: (
        RunStatus.ROLLED_BACK,  # a later rollback of this run took everything back
    ),
    RunStatus.ROLLING_BACK: (
        RunStatus.ROLLED_BACK,  # the breaker's rollback run has finished
    ),
    RunStatus.ROLLED_BACK: (),
}


def check_transition(run: int, current: str, target: RunStatus) -> None:
    """Refuse a change of status that is no edge of ``RUN_TRANSITIONS``.

    Raises:
        TransitionError: there is no such edge.
    """
    allowed = RUN_TRANSITIONS[RunStatus(current)]
    if target not in allowed:
        raise TransitionError(run=run, current=current, target=str(target), allowed=[str(s) for s in allowed])


class BatchStatus(models.TextChoices):
    """Where a batch stands."""

    PLANNED = "planned", "Planned"
    """Waiting for a worker; while one works on it the row is locked and still says planned."""
    DONE = "done", "Done"
    """Handled, and its effect is committed together with this mark."""
    CANCELLED = "cancelled", "Cancelled"
    """Never handled: its run was stopped or rolled back first."""


class UserStatus(models.TextChoices):
    """What a run did to a user."""

    MIGRATED = "migrated", "Migrated"
    """Converted, and still so: the live record of a migrated wallet."""
    FAILED = "failed", "Failed"
    """Could not be handled; the error's class and message say why."""
    SKIPPED = "skipped", "Skipped"
    """Left out on purpose; the error's class says why."""
    ROLLED_BACK = "rolled_back", "Rolled back"
    """Was converted by this run and taken back since."""


class EventKind(models.TextChoices):
    """What happened to a run."""

    STARTED = "started", "Started"
    RESUMED_WORK = "joined", "Gone on with"
    INTERRUPTED = "interrupted", "Interrupted"
    PAUSED = "paused", "Paused"
    RESUMED = "resumed", "Resumed"
    STOPPED = "stopped", "Stopped"
    SETTING_CHANGED = "setting_changed", "Setting changed"
    BATCH_SPLIT = "batch_split", "Batch split"
    THROTTLED = "throttled", "Waiting for the database"
    DATABASE_LOST = "database_lost", "Database lost"
    BREAKER_TRIPPED = "breaker_tripped", "Breaker tripped"
    CHECKED = "checked", "Checked"
    FINISHED = "finished", "Finished"
    ROLLED_BACK = "rolled_back", "Rolled back"
