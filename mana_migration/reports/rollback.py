"""What a rollback would do, as the documented JSON object and as lines for people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mana_migration.domain.results import RollbackForecast, RunSummary
from mana_migration.reports import summary


def forecast_json(told: RollbackForecast) -> dict[str, Any]:
    """Return the JSON object of ``rollback_migration --dry-run``: the result's keys, and the largest shortfalls."""
    return summary.as_json(_as_summary(told)) | {
        "shortfalls": [
            {"record": record, "credited": credited, "lacking": lacking}
            for record, credited, lacking in told.shortfalls
        ],
        "stops_run": told.stops_run,
        "blocked": told.blocked,
        "warnings": list(told.warnings),
        "goes_on_with": told.goes_on_with,
    }


def forecast_lines(told: RollbackForecast, *, headline: str = "") -> Iterator[str]:
    """Yield what would happen, one line per outcome, with the largest shortfalls, under a headline if given."""
    first, *others = summary.as_lines(_as_summary(told))
    yield headline or first
    yield from others
    if told.stops_run is not None:
        yield f"  the open migration run {told.stops_run} would be stopped first"
    if told.goes_on_with is not None:
        yield f"  run {told.goes_on_with} is open: the same command goes on with it"
    for sentence in told.warnings:
        yield f"  warning: {sentence}"
    if told.shortfalls:
        yield "  largest shortfalls:"
    for record, credited, lacking in told.shortfalls:
        yield f"    record {record}: {credited:,} mana credited, {lacking:,} of it already spent"
    if told.blocked:
        yield f"the rollback would be refused: {told.blocked}"


def _as_summary(told: RollbackForecast) -> RunSummary:
    return RunSummary(
        run=None, kind="rollback", dry_run=True, status="dry_run", totals=told.totals, seconds=told.seconds
    )
