"""Which command is useful next, by how a run stands: the last lines of its summary."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from mana_migration.domain.results import RunSummary
from mana_migration.reports.splits import NEXT_TIME, NOW
from mana_migration.states import RunKind, RunStatus, StopCause

#: Reasons for skipping that say nothing about the user: another run takes them up.
_LATER: Final = ("locked", "rolled_back_during_run")

#: Reasons for skipping by which nothing is left to do.
_AS_IT_SHOULD_BE: Final = ("already_migrated", "not_migrated", "opening_balance")


def next_steps(summary: RunSummary, *, following: bool = False) -> Iterator[str]:
    """Yield what to do next about a run, the most urgent first; ``following``: others do the work."""
    run, rollback, status = summary.run, summary.kind == RunKind.ROLLBACK, RunStatus(summary.status)
    why = f"monitor_migration --report --run {run} says what the users failed for"
    match status:
        case RunStatus.RUNNING | RunStatus.CHECKING | RunStatus.ROLLING_BACK if following:
            yield "monitor_migration --watch"
        case RunStatus.RUNNING:
            yield f"the same command goes on with run {run}; migrate_users --stop {run} would end it for good"
        case RunStatus.CHECKING:
            yield f"monitor_migration --watch; where no process is at it, the same command goes on with run {run}"
        case RunStatus.PAUSED:
            yield f"migrate_users --resume {run}, then the same command goes on with it"
        case RunStatus.ROLLING_BACK:
            yield "the same command goes on with taking back"
        case RunStatus.ROLLED_BACK if not rollback:
            yield f"{why}; cure the cause, then the same command begins anew"
        case RunStatus.FAILED:
            yield "validate_migration shows what is wrong; do not begin another run before that is clear"
        case RunStatus.STOPPED if summary.cause == StopCause.BREAKER:
            yield f"{why}; then rollback_migration --run {run}, or cure the cause and give the same command again"
        case RunStatus.STOPPED:
            rest = "takes back the rest" if rollback else "opens a new run for those who are left"
            yield f"monitor_migration shows how all stands; the same command {rest}"
        case RunStatus.COMPLETED:
            yield from _after_completion(summary, why)
    if summary.halving.is_dear:
        yield NOW if status in (RunStatus.RUNNING, RunStatus.PAUSED) else NEXT_TIME


def _after_completion(summary: RunSummary, why: str) -> Iterator[str]:
    totals, rollback = summary.totals, summary.kind == RunKind.ROLLBACK
    findings = [name for name in totals.skips if name not in (*_LATER, *_AS_IT_SHOULD_BE, "shortfall", "no_wallet")]
    if totals.failed:
        yield f"{why}; cure the cause, then " + ("the same command" if rollback else "migrate_users --retry-failed")
    if totals.skips["shortfall"]:
        yield (
            "who has spent part of the mana stays migrated; the same command with --on-shortfall write-off gives their "
            "wishes back too and writes the rest off"
        )
    if any(totals.skips[name] for name in _LATER):
        yield f"{'the same command' if rollback else 'migrate_users'} takes up those who were skipped"
    if findings and not rollback:
        yield "validate_migration --pre-migration lists what is wrong with those who were skipped"
    if not (totals.failed or totals.skipped):
        report = "" if summary.run is None else f", then monitor_migration --report --run {summary.run}"
        yield f"validate_migration{report}"
