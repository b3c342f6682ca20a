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
    """Yield what would happen, with the largest shortfalls: under a headline, else under the verdict of a dry run."""
    first, *others = summary.as_lines(_as_summary(forecast))
    yield from [headline] if headline else [_verdict(forecast), first]
    yield from others
    if headline and forecast.stops_run is not None:
        yield f"  the open migration run {forecast.stops_run} would be stopped first"
    if headline and forecast.goes_on_with is not None:
        yield f"  run {forecast.goes_on_with} is open: the same command resumes it"
    for sentence in forecast.warnings:
        yield f"  warning: {sentence}"
    if forecast.shortfalls:
        yield "  largest shortfalls:"
    for record, credited, lacking in forecast.shortfalls:
        yield f"    record {record}: {credited:,} mana credited, {lacking:,} of it already spent"


def _verdict(forecast: RollbackForecast) -> str:
    """Say whether the rollback would start."""
    if forecast.nothing_to_do:
        return f"NOTHING TO DO: {forecast.blocked}; the same command would change nothing"
    if forecast.blocked:
        return f"REFUSED: {forecast.blocked}"
    if forecast.goes_on_with is not None:
        return f"RESUMES: the same command resumes run {forecast.goes_on_with}"
    if forecast.stops_run is not None:
        return f"STARTS: the open migration run {forecast.stops_run} would be stopped first"
    return "STARTS: nothing blocks the rollback"


def _as_summary(forecast: RollbackForecast) -> RunSummary:
    return RunSummary(
        run=None, kind="rollback", dry_run=True, status="dry_run", totals=forecast.totals, seconds=forecast.seconds
    )
