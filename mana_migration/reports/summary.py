"""What a run did, or would do, as the documented JSON object and as lines for people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mana_migration.domain.results import RunSummary


def as_json(summary: RunSummary) -> dict[str, Any]:
    """Return the JSON object of ``migrate_users`` and ``rollback_migration``; amounts are exact integers."""
    totals = summary.totals
    return {
        "run": summary.run,
        "kind": summary.kind,
        "dry_run": summary.dry_run,
        "status": summary.status,
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
        "seconds": round(summary.seconds, 3),
        "users_per_minute": summary.users_per_minute,
        **summary.extra,
    }


def as_lines(summary: RunSummary) -> Iterator[str]:
    """Yield one line per outcome."""
    totals = summary.totals
    rollback = summary.kind == "rollback"
    if summary.dry_run:
        yield "dry run: nothing was written" if summary.status == "dry_run" else summary.status
    else:
        yield f"run {summary.run} ({summary.kind}): {summary.status.replace('_', ' ')}" + (
            f" - {summary.reason}" if summary.reason else ""
        )
    yield f"  users      {totals.selected:,} {'would be handled' if summary.dry_run else 'handled'}"
    yield f"  {'rolled back' if rollback else 'migrated':<10} {totals.rolled_back if rollback else totals.migrated:,}"
    yield f"  skipped    {totals.skipped:,}{_reasons(totals.skips)}"
    yield f"  failed     {totals.failed:,}{_reasons(totals.errors)}"
    done = "given back" if rollback else "converted"
    yield f"  wishes     {totals.green:,} green, {totals.blue:,} blue, {totals.red:,} red {done}"
    yield f"  mana       {totals.mana:,} {'debited' if rollback else 'credited'}"
    if totals.shortfall:
        yield f"  shortfall  {totals.shortfall:,} mana had been spent and is written off"
    back = summary.extra.get("rollback")
    if back:
        yield (
            f"  taken back by run {back['run']} ({back['status'].replace('_', ' ')}): {back['rolled_back']:,} users, "
            f"{back['mana']:,} mana; {back['skipped']:,} skipped, {back['failed']:,} failed"
        )
    drift = summary.extra.get("drift")
    if drift is not None:
        differs = ", ".join(f"{name} {value:+,}" for name, value in drift.items() if value)
        yield f"  plan       {differs or 'exactly as promised'}{' against the promise' if differs else ''}"
    if not summary.dry_run:
        yield f"  time       {summary.seconds:,.1f} s, {summary.users_per_minute:,} users per minute"


def _reasons(reasons: dict[str, int]) -> str:
    if not reasons:
        return ""
    return " (" + ", ".join(f"{name} {count:,}" for name, count in sorted(reasons.items())) + ")"
