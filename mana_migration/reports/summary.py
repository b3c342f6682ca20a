"""What a run did, or would do, as the documented JSON object and as lines for people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mana_migration.domain.results import RunSummary, Totals
from mana_migration.domain.statistics import UserCounts
from mana_migration.reports.next_steps import next_steps
from mana_migration.reports.splits import split_words
from mana_migration.reports.statistics import status_line
from mana_migration.states import RunKind, RunStatus


def as_json(summary: RunSummary, counts: UserCounts | None = None) -> dict[str, Any]:
    """Return the JSON object of ``migrate_users`` and ``rollback_migration``; amounts are exact integers.

    ``counts``: where all users are, null where they were not counted.
    """
    totals = summary.totals
    return {
        "run": summary.run,
        "kind": summary.kind,
        "dry_run": summary.dry_run,
        "status": summary.status,
        "cause": summary.cause,
        "reason": summary.reason,
        "users": {
            "selected": totals.selected,
            "migrated": totals.migrated,
            "rolled_back": totals.rolled_back,
            "skipped": totals.skipped,
            "failed": totals.failed,
        },
        "wishes": {"green": totals.green, "blue": totals.blue, "red": totals.red},
        "mana": totals.mana,
        "shortfall": totals.shortfall,
        "errors": dict(sorted(totals.errors.items())),
        "skipped": dict(sorted(totals.skips.items())),
        "batches_halved": summary.splits.count,
        "seconds": round(summary.seconds, 3),
        "handled_by_command": None if summary.dry_run else summary.handled,
        "users_per_minute": summary.users_per_minute,
        "all_users": None if counts is None else counts.as_dict(),
        **summary.extra,
    }


def nothing_json(kind: str = RunKind.MIGRATION) -> dict[str, Any]:
    """Return the same object where there was nothing to do and no run was opened."""
    return as_json(RunSummary(run=None, kind=kind, dry_run=False, status="nothing_to_do", totals=Totals(), seconds=0.0))


def as_lines(
    summary: RunSummary, counts: UserCounts | None = None, *, interrupted: bool = False, following: bool = False
) -> Iterator[str]:
    """Yield one line per outcome, then where all users are, then what to do next.

    ``interrupted``: this command was asked to end and the run is open.  ``following``: others do the
    work, so that it continues.
    """
    totals = summary.totals
    rollback = summary.kind == RunKind.ROLLBACK
    label = "rolled back" if rollback else "migrated"
    width = 12 if rollback else 11
    yield _headline(summary, interrupted=interrupted and not following)
    rows = [
        ("users", f"{totals.selected:,} {'would be handled' if summary.dry_run else 'handled'}"),
        (label, f"{totals.rolled_back if rollback else totals.migrated:,}"),
        ("skipped", f"{totals.skipped:,}{_reasons(totals.skips)}"),
        ("failed", f"{totals.failed:,}{_reasons(totals.errors)}"),
        (
            "wishes",
            f"{totals.green:,} green, {totals.blue:,} blue, {totals.red:,} red "
            f"{'given back' if rollback else 'converted'}",
        ),
        ("mana", f"{totals.mana:,} {'debited' if rollback else 'credited'}"),
    ]
    if totals.shortfall:
        rows.append(("shortfall", f"{totals.shortfall:,} mana had been spent and is written off"))
    if summary.splits.count:
        rows.append(("splits", split_words(summary.splits)))
    again = summary.extra.get("failed_again")
    if again:
        rows.append(("", f"{again:,} failed again, for the same cause as in an earlier run"))
    yield from (f"  {name:<{width}}{value}" for name, value in rows)
    back = summary.extra.get("rollback")
    if back:
        yield (
            f"  rolled back by run {back['run']} ({back['status'].replace('_', ' ')}): {back['rolled_back']:,} users, "
            f"{back['mana']:,} mana; {back['skipped']:,} skipped, {back['failed']:,} failed"
        )
    drift = summary.extra.get("drift")
    if drift is not None:
        differs = ", ".join(f"{name} {value:+,}" for name, value in drift.items() if value)
        yield f"  {'plan':<{width}}{differs or 'exactly as promised'}{' against the promise' if differs else ''}"
    if not summary.dry_run:
        yield f"  {'time':<{width}}{_time(summary)}"
        if counts is not None:
            yield status_line(counts)
        yield from (f"next: {step}" for step in next_steps(summary, following=following))


def _headline(summary: RunSummary, *, interrupted: bool) -> str:
    if summary.dry_run:
        return "dry run: nothing was written" if summary.status == "dry_run" else summary.status
    status = summary.status.replace("_", " ")
    if "window" in summary.extra:
        status = "the window is over; what was done is committed, the run stays open"
    elif interrupted:  # of a run that is paused or being rolled back this alone would hide what matters
        status = (
            "interrupted" if summary.status in (RunStatus.RUNNING, RunStatus.CHECKING) else f"{status}, interrupted"
        )
        status += "; what was done is kept, the run stays open"
    return f"run {summary.run} ({summary.kind}): {status}" + (f" - {summary.reason}" if summary.reason else "")


def _time(summary: RunSummary) -> str:
    """Say how long this command took, and what it handled of the run where that is not all."""
    seconds, rate = f"{summary.seconds:,.1f} s", summary.users_per_minute
    speed = f"{rate:,} users per minute"
    if summary.handled is None or summary.handled == summary.totals.selected:
        return f"{seconds}, {speed}"
    if not summary.handled:
        return f"{seconds} in this command, which found no user left to handle"
    return f"{seconds} in this command, which handled {summary.handled:,} of them: {speed}"


def _reasons(reasons: dict[str, int]) -> str:
    if not reasons:
        return ""
    return " (" + ", ".join(f"{name} {count:,}" for name, count in sorted(reasons.items())) + ")"
