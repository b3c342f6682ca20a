"""What a rollback would do, as the documented JSON object and as lines for people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mana_migration.domain.results import RollbackForecast, RunSummary
from mana_migration.reports import summary


def forecast_json(forecast: RollbackForecast) -> dict[str, Any]:
    """Return the JSON object of ``rollback_migration --dry-run``: the result's keys, and the largest shortfalls."""
    return summary.as_json(_as_summary(forecast)) | {
        "shortfalls": [
            {"record": record, "credited": credited, "lacking": lacking}
            for record, credited, lacking in forecast.shortfalls
        ],
        "stops_run": forecast.stops_run,
        "blocked": forecast.blocked,
        "warnings": list(forecast.warnings),
        "goes_on_with": forecast.goes_on_with,
    }


def forecast_lines(forecast: RollbackForecast, *, headline: str = "") -> Iterator[str]:
    """Yield what would happen, one line per outcome, with the largest shortfalls, under a headline if given."""
    first, *others = summary.as_lines(_as_summary(forecast))
    yield headline or first
    yield from others
    if forecast.stops_run is not None:
        yield f"  the open migration run {forecast.stops_run} would be stopped first"
    if forecast.goes_on_with is not None:
        yield f"  run {forecast.goes_on_with} is open: the same command resumes it"
    for sentence in forecast.warnings:
        yield f"  warning: {sentence}"
    if forecast.shortfalls:
        yield "  largest shortfalls:"
    for record, credited, lacking in forecast.shortfalls:
        yield f"    record {record}: {credited:,} mana credited, {lacking:,} of it already spent"
    if forecast.nothing_to_do:
        yield f"{forecast.blocked}; nothing would be changed"
    elif forecast.blocked:
        yield f"the rollback would be refused: {forecast.blocked}"


def _as_summary(forecast: RollbackForecast) -> RunSummary:
    return RunSummary(
        run=None, kind="rollback", dry_run=True, status="dry_run", totals=forecast.totals, seconds=forecast.seconds
    )
