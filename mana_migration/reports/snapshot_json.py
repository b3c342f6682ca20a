"""A run's snapshot as JSON: exact integers, times in ISO 8601, seconds as numbers."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from mana_migration.domain.snapshot import RunLine, RunSnapshot


def snapshot_json(seen: RunSnapshot) -> dict[str, Any]:
    """Return a snapshot as JSON values; ``docs/reports.md`` explains each."""
    progress, totals = seen.progress, seen.totals
    remaining = progress.remaining
    return {
        "run": seen.run,
        "kind": seen.kind,
        "status": seen.status,
        "open": seen.is_open,
        "taken_at": _iso(seen.taken_at),
        "started_at": _iso(seen.started_at),
        "finished_at": _iso(seen.finished_at),
        "actor": seen.actor,
        "host": seen.host,
        "reason": seen.reason,
        "stop_reason": seen.stop_reason,
        "target_run": seen.target_run,
        "rates": dict(seen.rates),
        "controls": dict(seen.controls),
        "seconds": round(seen.elapsed, 3),
        "seconds_worked": round(seen.worked, 3),
        "expected": progress.expected,
        "share": None if progress.share is None else round(progress.share, 6),
        "users": {
            "selected": totals.selected,
            "migrated": totals.migrated,
            "rolled_back": totals.rolled_back,
            "skipped": totals.skipped,
            "failed": totals.failed,
        },
        "wishes": {"green": totals.green, "blue": totals.blue, "red": totals.red},
        "mana": totals.mana,
        "mana_by_colour": seen.mana_by_colour,
        "shortfall": totals.shortfall,
        "errors": dict(totals.errors),
        "skipped": dict(totals.skips),
        "error_rate": {
            "failed": seen.error_rate.failed,
            "attempted": seen.error_rate.attempted,
            "share": seen.error_rate.share,
            "limit": seen.error_rate.limit,
        },
        "users_per_minute": {"now": _rate(progress.rate_now), "average": _rate(progress.rate_average)},
        "remaining_seconds": None if remaining is None else [round(remaining.low, 1), round(remaining.high, 1)],
        "stalled": progress.stalled,
        "standstill": seen.standstill,
        "waiting": seen.waiting,
        "last_progress_at": _iso(seen.last_progress),
        "batches": seen.batches,
        "batches_halved": seen.splits.count,
        "batch_seconds": round(seen.batch_seconds, 3),
        "batch_durations": [{"up_to_seconds": bound, "batches": count} for bound, count in seen.durations],
        "progress": [{"at": _iso(at), "users": users} for at, users in seen.series],
        "chain": None if seen.chain is None else {"links": seen.chain.links, "head": seen.chain.head},
        "batch_check": None
        if seen.batch_check is None
        else {
            "verified": seen.batch_check.verified,
            "value_conserved": seen.batch_check.conserved,
            "first_wrong_batch": seen.batch_check.first_wrong,
        },
        "check": None
        if seen.check is None
        else {"at": _iso(seen.check.at), "ok": seen.check.ok, "message": seen.check.message},
        "events": [
            {
                "at": _iso(event.at),
                "kind": event.kind,
                "actor": event.actor,
                "message": event.message,
                "details": dict(event.details),
            }
            for event in seen.events
        ],
    }


def runs_json(runs: Sequence[RunLine]) -> list[dict[str, Any]]:
    """Return a list of runs as JSON values."""
    return [
        {
            "run": run.run,
            "kind": run.kind_label.lower(),
            "status": run.status,
            "started_at": _iso(run.started_at),
            "finished_at": _iso(run.finished_at),
            "users": {
                "selected": run.totals.selected,
                "migrated": run.totals.migrated,
                "rolled_back": run.totals.rolled_back,
                "skipped": run.totals.skipped,
                "failed": run.totals.failed,
            },
            "mana": run.totals.mana,
            "shortfall": run.totals.shortfall,
        }
        for run in runs
    ]


def _iso(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat()


def _rate(value: float | None) -> float | None:
    return None if value is None else round(value, 1)
