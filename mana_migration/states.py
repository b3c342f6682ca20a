"""The statuses of runs, batches and records: what each means, where it leads, what it allows, how it is shown."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from django.db import models
from django.utils.translation import gettext_lazy as _

from mana_migration.errors import TransitionError


class RunKind(models.TextChoices):
    """What a run does."""

    MIGRATION = "migration", _("Migration")
    """Converts wishes to mana."""
    ROLLBACK = "rollback", _("Rollback")
    """Reverses conversions."""
    IMPORT = "import", _("Import")
    """Records users whom the old system had already migrated."""


class EventKind(models.TextChoices):
    """What happened to a run."""

    STARTED = "started", _("Started")
    RESUMED_WORK = "joined", _("Process joined")
    INTERRUPTED = "interrupted", _("Interrupted")
    PAUSED = "paused", _("Paused")
    RESUMED = "resumed", _("Resumed")
    STOPPED = "stopped", _("Stopped")
    SETTING_CHANGED = "setting_changed", _("Setting changed")
    BATCH_SPLIT = "batch_split", _("Batch split")
    THROTTLED = "throttled", _("Waiting for the database")
    DATABASE_LOST = "database_lost", _("Database lost")
    BREAKER_TRIPPED = "breaker_tripped", _("Breaker tripped")
    CHECKED = "checked", _("Checked")
    FINISHED = "finished", _("Finished")
    ROLLED_BACK = "rolled_back", _("Rolled back")
    CHECKLIST = "checklist", _("Checklist")
    WINDOW_OVER = "window_over", _("Window over")
    STALLED = "stalled", _("Stalled")
    REQUESTED = "requested", _("Requested")
    APPROVED = "approved", _("Approved")
    DECLINED = "declined", _("Declined")
    WITHDRAWN = "withdrawn", _("Withdrawn")


class Action(enum.StrEnum):
    """What can be asked of a run."""

    WORK = "work"
    """Start or join processes that work on it, or on the rollback of it that its breaker opened."""
    PAUSE = "pause"
    RESUME = "resume"
    STOP = "stop"
    SET = "set"
    """Change its batch size, delay or error threshold."""
    ROLL_BACK = "roll back"
    """Reverse its conversions; an open migration is stopped first."""


class Tone(enum.StrEnum):
    """How a status or a figure is to be taken; colours follow it, and the words say the same."""

    GOOD = "good"
    WARN = "warn"
    BAD = "bad"
    PLAIN = "plain"


class RunStatus(models.TextChoices):
    """The status of a run; what follows from each is in ``RUN_STATES``."""

    RUNNING = "running", _("Running")
    """Open: processes work on it, or will as soon as the same command is given again."""
    PAUSED = "paused", _("Paused")
    """Open: an operator paused it; workers wait before their next batch."""
    CHECKING = "checking", _("Checking")
    """Open: all users are processed; integrity checks are running."""
    COMPLETED = "completed", _("Completed")
    """Closed: all selected users are processed and all checks passed."""
    FAILED = "failed", _("Failed its check")
    """Closed: all users are processed, but a check failed; the reason says which."""
    STOPPED = "stopped", _("Stopped")
    """Closed early: what it did is kept, the remaining users are for the next run."""
    ROLLING_BACK = "rolling_back", _("Rolling back")
    """Closed to new work: a rollback run is reversing its conversions."""
    ROLLED_BACK = "rolled_back", _("Rolled back")
    """Closed: its conversions were reversed (users who had spent the mana may remain, listed)."""

    @property
    def state(self) -> RunState:
        """What follows from this status."""
        return RUN_STATES[self]

    @property
    def is_open(self) -> bool:
        """Whether a run in this status holds the database's one slot for a mass run."""
        return self.state.is_open

    @property
    def is_final(self) -> bool:
        """Whether no work is left, neither on the run nor on a rollback of it that its breaker opened."""
        return Action.WORK not in self.state.allows and Action.RESUME not in self.state.allows


class StopCause(models.TextChoices):
    """Why a run ended other than by completing; exit codes and the advice at its end depend on it."""

    OPERATOR = "operator", _("Stopped by an operator")
    MASS_ROLLBACK = "mass_rollback", _("A mass rollback began")
    BREAKER = "breaker", _("Too many users failed")
    INTEGRITY = "integrity", _("An integrity check failed")


@dataclass(frozen=True, slots=True)
class RunState:
    """What follows from a run's status.

    ``leads_to``: the statuses that it can change to.  ``allows``: what can be asked of the run.
    ``event``: what is recorded when a run changes to it.
    """

    leads_to: tuple[RunStatus, ...]
    allows: tuple[Action, ...]
    tone: Tone
    event: EventKind | None
    is_open: bool = False


RUN_STATES: Final[dict[RunStatus, RunState]] = {
    RunStatus.RUNNING: RunState(
        leads_to=(
            RunStatus.PAUSED,  # an operator pauses it
            RunStatus.CHECKING,  # the last pass found no user left
            RunStatus.STOPPED,  # an operator stops it, or a mass rollback begins
            RunStatus.ROLLING_BACK,  # the breaker tripped
        ),
        allows=(Action.WORK, Action.PAUSE, Action.STOP, Action.SET, Action.ROLL_BACK),
        tone=Tone.PLAIN,
        event=EventKind.RESUMED,
        is_open=True,
    ),
    RunStatus.PAUSED: RunState(
        leads_to=(
            RunStatus.RUNNING,  # an operator resumes it
            RunStatus.STOPPED,  # an operator stops it, or a mass rollback begins
            RunStatus.ROLLING_BACK,  # the breaker tripped by a batch that was being handled when it was paused
        ),
        allows=(Action.RESUME, Action.STOP, Action.SET, Action.ROLL_BACK),
        tone=Tone.WARN,
        event=EventKind.PAUSED,
        is_open=True,
    ),
    RunStatus.CHECKING: RunState(
        leads_to=(
            RunStatus.COMPLETED,  # all checks passed
            RunStatus.FAILED,  # a check failed
            RunStatus.STOPPED,  # an operator stops it, or a mass rollback begins
            RunStatus.ROLLING_BACK,  # the breaker tripped when all users were processed
        ),
        allows=(Action.WORK, Action.STOP, Action.SET, Action.ROLL_BACK),
        tone=Tone.PLAIN,
        event=None,
        is_open=True,
    ),
    RunStatus.COMPLETED: RunState(
        leads_to=(RunStatus.ROLLED_BACK,),  # a later rollback reversed all that was left of it
        allows=(Action.ROLL_BACK,),
        tone=Tone.GOOD,
        event=EventKind.FINISHED,
    ),
    RunStatus.FAILED: RunState(
        leads_to=(RunStatus.ROLLED_BACK,),  # a later rollback reversed all that was left of it
        allows=(Action.ROLL_BACK,),
        tone=Tone.BAD,
        event=EventKind.FINISHED,
    ),
    RunStatus.STOPPED: RunState(
        leads_to=(RunStatus.ROLLED_BACK,),  # a later rollback reversed all that was left of it
        allows=(Action.ROLL_BACK,),
        tone=Tone.WARN,
        event=EventKind.STOPPED,
    ),
    RunStatus.ROLLING_BACK: RunState(
        leads_to=(RunStatus.ROLLED_BACK,),  # the rollback that the breaker opened has finished
        allows=(Action.WORK,),
        tone=Tone.BAD,
        event=EventKind.BREAKER_TRIPPED,
    ),
    RunStatus.ROLLED_BACK: RunState(
        leads_to=(),
        allows=(),
        tone=Tone.WARN,
        event=EventKind.ROLLED_BACK,
    ),
}

#: At most one mass run per database is in one of these.
OPEN_STATUSES: Final = tuple(status for status, state in RUN_STATES.items() if state.is_open)


def statuses_before(target: RunStatus) -> Sequence[RunStatus]:
    """Return the statuses from which a run can change to this one."""
    return [status for status, state in RUN_STATES.items() if target in state.leads_to]


def check_transition(run: int, current: str, target: RunStatus) -> None:
    """Refuse a change of status that ``RUN_STATES`` does not have.

    Raises:
        TransitionError: there is no such change.
    """
    allowed = RunStatus(current).state.leads_to
    if target not in allowed:
        why = "it is being checked and ends by itself when the checks are done" if current == RunStatus.CHECKING else ""
        raise TransitionError(run=run, current=current, target=str(target), allowed=[str(s) for s in allowed], why=why)


class BatchStatus(models.TextChoices):
    """The status of a batch."""

    PLANNED = "planned", _("Planned")
    """Waiting for a worker; while one works on it the row is locked and still says planned."""
    DONE = "done", _("Done")
    """Handled, and its effect is committed together with this mark."""
    CANCELLED = "cancelled", _("Cancelled")
    """Never handled: its run was stopped or rolled back first."""


class UserStatus(models.TextChoices):
    """What a run did to a user."""

    MIGRATED = "migrated", _("Migrated")
    """Converted, and still so: the live record of a migrated wallet."""
    FAILED = "failed", _("Failed")
    """Could not be handled; the error's class and message say why."""
    SKIPPED = "skipped", _("Skipped")
    """Left out on purpose; the error's class says why."""
    ROLLED_BACK = "rolled_back", _("Rolled back")
    """Was converted by this run and rolled back since."""


#: Users left as they are, who are listed with the reason.
PROBLEM_STATUSES: Final = [UserStatus.FAILED, UserStatus.SKIPPED]


class RequestStatus(models.TextChoices):
    """Where a mass run is that needs a second person's approval."""

    WAITING = "waiting", _("Waiting for approval")
    APPROVED = "approved", _("Approved")
    DECLINED = "declined", _("Declined")
    WITHDRAWN = "withdrawn", _("Withdrawn")


class ReportStatus(models.TextChoices):
    """Where a report that a page asked for is."""

    WANTED = "wanted", _("Waiting for a worker process")
    MAKING = "making", _("Being made")
    READY = "ready", _("Ready")
    FAILED = "failed", _("Failed")
