"""What a dry run found, as the documented JSON object and as lines for people."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

from mana_migration.domain.forecast import NONE_FAILED, Forecast, UserForecast
from mana_migration.domain.results import RunSummary
from mana_migration.domain.validation import BY_ID, ERROR, FixReport
from mana_migration.domain.words import counted
from mana_migration.reports import summary
from mana_migration.reports.progress import duration


def as_json(forecast: Forecast) -> dict[str, Any]:
    """Return the JSON object of ``migrate_users --dry-run``: the keys of a run, and what only a forecast has."""
    return summary.as_json(_as_summary(forecast)) | {
        "rates": forecast.rates,
        "blocked": forecast.blocked,
        "fixes": None
        if forecast.fixes is None
        else {"users": forecast.fixes.users, "by_check": dict(forecast.fixes.fixed_by_check), **forecast.fixes.changes},
        "warnings": list(forecast.warnings),
        "goes_on_with": forecast.goes_on_with,
        "takes_back": forecast.takes_back,
        "findings": [{"id": f.id, "severity": f.severity, "count": f.count} for f in forecast.findings],
        "largest": [
            {"user": row.user, "green": row.green, "blue": row.blue, "red": row.red, "mana": row.mana}
            for row in forecast.largest
        ],
        "expected_seconds": round(forecast.expected_seconds, 1),
        "expected_rate": {"users_per_second": round(forecast.rate), "source": forecast.rate_source},
    }


def user_line(user: UserForecast) -> str:
    """Write what would become of one user on one line."""
    wishes = f"user {user.user}: {user.green:,} green, {user.blue:,} blue, {user.red:,} red"
    return f"{wishes}: {user.problem}" if user.problem else f"{wishes} = {user.mana:,} mana"


class UserList:
    """Every user whom a dry run foresees, printed as they come: a line each, or as a list in the one JSON object."""

    def __init__(self, write: Callable[..., Any], *, as_json: bool) -> None:
        self._write, self._as_json, self._separator = write, as_json, '{"list": ['

    def take(self, user: UserForecast) -> None:
        """Print one user."""
        if not self._as_json:
            self._write(user_line(user))
            return
        self._write(f"{self._separator}{json.dumps(asdict(user))}", ending="")
        self._separator = ", "

    def end(self, values: Mapping[str, Any]) -> None:
        """Print the rest of the JSON object."""
        opened = "" if self._separator == ", " else self._separator
        self._write(f"{opened}], {json.dumps(values)[1:]}")


def findings_lines(forecast: Forecast) -> Iterator[str]:
    """Yield what the checks found and whether a run would start, for a terminal: ``--validate-only``."""
    errors = sum(finding.count for finding in forecast.findings if finding.severity == ERROR)
    yield f"{counted(errors, 'error-level finding')}" if errors else "no error-level finding"
    yield from _findings(forecast)
    for sentence in forecast.warnings:
        yield f"  warning: {sentence}"
    if forecast.blocked:
        yield f"a run would be refused: {forecast.blocked}"
    elif _has_nothing_to_do(forecast):
        yield f"no run would be opened: {_nothing_left(forecast)}"
    elif forecast.goes_on_with is not None:
        yield f"run {forecast.goes_on_with} is open and would be resumed"
    else:
        yield "a run would start"


def _findings(forecast: Forecast) -> Iterator[str]:
    """Yield a line for each check that found something, and one for all others."""
    found = [finding for finding in forecast.findings if finding.count]
    for finding in found:
        yield f"  {finding.severity:<8} {finding.id:<24} {finding.count:>12,}  {BY_ID[finding.id].sentence}"
    clean = [finding.id for finding in forecast.findings if not finding.count]
    if clean:
        yield f"  nothing found by {counted(len(clean), 'check')}: {', '.join(clean)}"


def verdict_lines(forecast: Forecast) -> Iterator[str]:
    """Yield whether the run would start, how many users it would handle, and what auto-fix would cost."""
    totals = forecast.totals
    if forecast.blocked:
        yield f"REFUSED: {forecast.blocked}"
    elif _has_nothing_to_do(forecast):
        yield f"NOTHING TO DO: {_nothing_left(forecast)}; the same command would open no run"
    elif forecast.goes_on_with is not None:
        yield f"RESUMES: the same command resumes run {forecast.goes_on_with}"
    else:
        yield "STARTS: nothing blocks the run"
    left_out = [
        f"{number:,} would {what}" for number, what in ((totals.failed, "fail"), (totals.skipped, "be skipped"))
    ]
    rest = "".join(f", {part}" for part in left_out if not part.startswith("0 "))
    yield f"Plan: {totals.migrated:,} of {counted(totals.selected, 'user')} to migrate{rest}"
    if forecast.fixes is not None:
        yield f"Auto-fix would change {fixes_line(forecast.fixes)}"


def fixes_line(fixes: FixReport) -> str:
    """Write what auto-fix costs: ``2 users: 35 green of debt cancelled, 2,500 mana written off``."""
    parts = [
        f"{amount:,} {colour} of debt cancelled" if amount > 0 else f"{-amount:,} {colour} removed"
        for colour, amount in fixes.changes.items()
        if colour != "mana" and amount
    ]
    mana = fixes.changes.get("mana", 0)
    if mana:
        parts.append(f"{-mana:,} mana written off" if mana < 0 else f"{mana:,} mana added")
    return counted(fixes.users, "user") + (f": {', '.join(parts)}" if parts else "")


def _has_nothing_to_do(forecast: Forecast) -> bool:
    return forecast.goes_on_with is None and not forecast.totals.selected


def _nothing_left(forecast: Forecast) -> str:
    return NONE_FAILED if forecast.options.retry_failed else "no user is left to be migrated"


def as_lines(forecast: Forecast) -> Iterator[str]:
    """Yield what would happen, for a terminal: the verdict first."""
    yield from verdict_lines(forecast)
    for sentence in forecast.warnings:
        yield f"Warning: {sentence}; --rehearse shows what it does"
    yield from summary.as_lines(_as_summary(forecast))
    rates = forecast.rates
    yield f"  rates      {rates['green']} mana a green, {rates['blue']} a blue, {rates['red']} a red wish"
    expected = duration(forecast.expected_seconds)
    yield f"  duration   about {expected} at {forecast.rate:,.0f} users per second ({forecast.rate_source})"
    if forecast.takes_back is not None:
        yield (
            f"  run {forecast.goes_on_with} is rolling back run {forecast.takes_back}, whose breaker tripped: "
            "the same command resumes it and converts no user"
        )
    yield "findings:"
    yield from _findings(forecast)
    if forecast.largest:
        yield "largest conversions (user by primary key):"
    for row in forecast.largest:
        yield f"  user {row.user}: {row.green:,} green, {row.blue:,} blue, {row.red:,} red = {row.mana:,} mana"
    if not forecast.blocked and not _has_nothing_to_do(forecast):
        yield "next: the same command without --dry-run"


def _as_summary(forecast: Forecast) -> RunSummary:
    return RunSummary(
        run=None, kind="migration", dry_run=True, status="dry_run", totals=forecast.totals, seconds=forecast.seconds
    )
