"""Which command is useful next, by the status of a run: the last lines of its summary."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from mana_migration.domain.results import RunSummary
from mana_migration.domain.words import counted
from mana_migration.reports.formatting import duration
from mana_migration.reports.splits import NEXT_TIME, NOW
from mana_migration.states import RunKind, RunStatus, StopCause

#: Reasons for skipping that say nothing about the user: another run handles them.
_LATER: Final = ("locked", "rolled_back_during_run")

#: Reasons for skipping by which nothing is left to do.
_AS_IT_SHOULD_BE: Final = ("already_migrated", "not_migrated", "opening_balance")


def next_steps(summary: RunSummary, *, following: bool = False) -> Iterator[str]:
    """Yield what to do next about a run, the most urgent first; ``following``: others do the work."""
    run, rollback, status = summary.run, summary.kind == RunKind.ROLLBACK, RunStatus(summary.status)
    why = f"monitor_migration --report --run {run} shows why users failed"
    match status:
        case RunStatus.RUNNING | RunStatus.PAUSED if "window" in summary.extra:
            yield f"the same command resumes run {run}{_left(summary)}"
        case RunStatus.RUNNING | RunStatus.CHECKING | RunStatus.ROLLING_BACK if following:
            yield "monitor_migration --watch"
        case RunStatus.RUNNING:
            yield f"the same command resumes run {run}; control_migration stop {run} ends it for good"
        case RunStatus.CHECKING:
            yield f"monitor_migration --watch; if no process works on it, the same command resumes run {run}"
        case RunStatus.PAUSED:
            yield f"control_migration resume {run}, then the same command continues it"
        case RunStatus.ROLLING_BACK:
            yield "the same command resumes the rollback"
        case RunStatus.ROLLED_BACK if not rollback:
            tripped = f"{why}; remove the cause, then the same command starts again"
            asked_for = "monitor_migration shows the rollback; the same command opens a new run"
            yield asked_for if summary.cause == StopCause.MASS_ROLLBACK else tripped
        case RunStatus.FAILED:
            yield "validate_migration shows what is wrong; do not start another run before that is clear"
        case RunStatus.STOPPED if summary.cause == StopCause.BREAKER:
            yield f"{why}; then rollback_migration --run {run}, or remove the cause and give the same command again"
        case RunStatus.STOPPED:
            rest = "rolls back the rest" if rollback else "opens a new run for the remaining users"
            yield f"monitor_migration shows the status; the same command {rest}"
        case RunStatus.COMPLETED:
            yield from _after_completion(summary, why)
    if summary.splits.is_dear:
        yield NOW if status in (RunStatus.RUNNING, RunStatus.PAUSED) else NEXT_TIME


def _left(summary: RunSummary) -> str:
    """Say how many users are left and how long they take at this command's rate."""
    left = summary.extra["window"]["users_left"]
    if left is None:
        return ""
    handled = summary.totals.selected if summary.handled is None else summary.handled
    rate = handled / summary.seconds if summary.seconds else 0
    time = f", about {duration(left / rate)} at this rate" if rate else ""
    return f": {counted(left, 'user')} left{time}"


def _after_completion(summary: RunSummary, why: str) -> Iterator[str]:
    totals, rollback = summary.totals, summary.kind == RunKind.ROLLBACK
    findings = [name for name in totals.skips if name not in (*_LATER, *_AS_IT_SHOULD_BE, "shortfall", "no_wallet")]
    if totals.failed:
        yield f"{why}; remove the cause, then " + ("the same command" if rollback else "migrate_users --retry-failed")
    if totals.skips["shortfall"]:
        yield (
            "users who have spent part of the mana stay migrated; the same command with --on-shortfall write-off "
            "restores their wishes too and writes off the rest"
        )
    if any(totals.skips[name] for name in _LATER):
        yield f"{'the same command' if rollback else 'migrate_users'} handles the skipped users"
    if findings and not rollback:
        yield "validate_migration --pre-migration lists what is wrong with the skipped users"
    if not (totals.failed or totals.skipped):
        report = "" if summary.run is None else f", then monitor_migration --report --run {summary.run}"
        yield f"validate_migration{report}"
