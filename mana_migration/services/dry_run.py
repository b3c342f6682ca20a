"""The dry run: what a migration or a rollback would do now, in a read-only transaction that writes nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final

from django.db import connections
from django.utils.translation import gettext as _

from mana_migration.domain.forecast import ASSUMED_RATE, Finding, Forecast, LargeConversion, UserForecast
from mana_migration.domain.options import MigrationOptions, RollbackOptions
from mana_migration.domain.pacing import AUTO, START
from mana_migration.domain.results import RollbackForecast, Totals
from mana_migration.domain.validation import PRE, FixReport, ValidationReport
from mana_migration.domain.words import counted
from mana_migration.engine import conversion, reversal
from mana_migration.engine.snapshot import read_only_snapshot
from mana_migration.errors import MigrationError, RunConflictError
from mana_migration.models import MigrationRun, Rehearsal
from mana_migration.selectors.runs import snapshot_of, with_now
from mana_migration.services import approval, closing, migration, preflight, rollback, runs, validation
from mana_migration.services.approval import Approval
from mana_migration.services.context import current_actor
from mana_migration.services.migration import Migration
from mana_migration.services.rollback import Rollback
from mana_migration.states import RunKind
from wishes import conf as wishes_conf
from wishes.rates import Rates

#: Conversions listed as the largest.
LARGEST: Final = 10

#: Findings for which a selected user is skipped.
LEFT_OUT: Final = ("already_migrated", "no_wallet")

#: Migrations among which one is looked for whose speed says something, and the seconds that it must have taken.
RUNS_CONSIDERED: Final = 50
SHORTEST: Final = 1.0


def forecast(
    options: MigrationOptions,
    *,
    using: str = "default",
    validate_only: bool = False,
    on_user: Callable[[UserForecast], object] | None = None,
    granted: Approval | None = None,
) -> Forecast:
    """Say what a migration with these options would do now.

    ``validate_only`` leaves out the largest conversions.  ``on_user`` is called with every user that it would handle,
    in the order of their keys.  ``granted`` is the approval that the run would have; None: it will be asked for.

    Raises:
        PreflightError, DatabaseUnavailableError: the database is not fit.
    """
    preflight.check(using, read_only=True)
    begun = time.monotonic()
    rates = wishes_conf.rates()
    with read_only_snapshot(using):
        connection = connections[using]
        open_run = runs.open_run_or_none(using)
        report = validation.validate(using, phase=PRE, users=options.users, quick_first=not validate_only)
        rate, source = expected_rate(using)
        findings = tuple(Finding(check.id, check.severity, check.count) for check in report.checks)
        blocked = _conflict(open_run, options)
        goes_on_with = None if open_run is None or options.users or blocked else open_run
        takes_back = None if goes_on_with is None else goes_on_with.target_run_id
        # named users have a run of their own, which may take up those who failed in the open one
        run = conversion.NO_RUN if goes_on_with is None else goes_on_with.pk
        terms = migration.terms_of_request(options, rates, run=run, per_user=bool(options.users))
        figures, found = Totals(), list[tuple[str, int, int, int, int]]()
        if takes_back is None:  # else the same command converts no user
            named, limit, fixed = options.users, options.limit, options.auto_fix
            figures = conversion.forecast(connection, terms, selected_users=named, limit=limit, fixed=fixed)
            if named:
                _add_left_out(figures, findings)
            if not validate_only:
                found = conversion.largest(
                    connection, terms, count=LARGEST, selected_users=named, limit=limit, fixed=fixed
                )
            if on_user is not None:
                for row in conversion.each(connection, terms, selected_users=named, limit=limit, fixed=fixed):
                    on_user(UserForecast(*row))
        blocked = blocked or preflight.behind(using)
        if goes_on_with is None and not blocked:  # an open run has passed these checks
            blocked = ("" if options.users else _no_go(granted, using)) or _other_rates(rates, using)
    fixes = None
    if goes_on_with is None and not blocked and not options.users:
        blocked, fixes = _obstacles(options, rates, report, using)
    elif options.users and options.auto_fix and not blocked:
        fixes, _ = migration.forecast_fixes(options, rates, report, using=using)
    return Forecast(
        options=options,
        rates=rates.as_dict(),
        totals=figures,
        findings=findings,
        largest=tuple(LargeConversion(*row) for row in found),
        blocked=blocked,
        expected_seconds=figures.selected / rate + pauses(options, figures.selected),
        rate=rate,
        rate_source=source,
        seconds=time.monotonic() - begun,
        goes_on_with=None if goes_on_with is None else goes_on_with.pk,
        takes_back=takes_back,
        warnings=tuple(preflight.warnings(using)),
        fixes=fixes,
    )


def _conflict(open_run: MigrationRun | None, options: MigrationOptions) -> str:
    """Return why an open run would refuse these options; empty where it would be resumed or left alone."""
    if open_run is None:
        return ""
    if options.users:
        return runs.describe_conflict(open_run) if open_run.kind == RunKind.ROLLBACK else ""
    try:
        Migration(options).refuse_to_resume(open_run)
    except RunConflictError as error:
        return str(error)
    return ""


def _obstacles(
    options: MigrationOptions, rates: Rates, report: ValidationReport, using: str
) -> tuple[str, FixReport | None]:
    """Return why error-level findings would refuse a run, empty where they would not; and what auto-fix would do."""
    left, fixes = {check.id: check.count for check in report.checks if check.blocks}, None
    if options.auto_fix:
        fixes, left = migration.forecast_fixes(options, rates, report, using=using)
    if not left or options.skip_invalid:
        return "", fixes
    return migration.describe_findings(options, left), fixes


def _add_left_out(figures: Totals, findings: Sequence[Finding]) -> None:
    """Count the selected users whom a run skips before it converts any: they have no wallet, or are migrated."""
    for finding in findings:
        if finding.id in LEFT_OUT and finding.count:
            figures.selected += finding.count
            figures.skipped += finding.count
            figures.skips[finding.id] += finding.count


def _no_go(granted: Approval | None, using: str) -> str:
    """Return why a mass run lacks an approval or a checklist, or comes too late; empty where that is not so."""
    try:
        if granted is not None:
            approval.require(granted, actor=current_actor(), using=using)
        migration.require_go(using, actor=current_actor())
    except MigrationError as error:
        return str(error)
    return ""


def _other_rates(rates: Rates, using: str) -> str:
    """Return why conversions at other rates block a run; empty where there are none."""
    try:
        migration.refuse_other_rates(rates, using)
    except RunConflictError as error:
        return str(error)
    return ""


def _no_consent(options: RollbackOptions, granted: Approval | None, using: str) -> str:
    """Return why a mass rollback lacks a second person's approval; empty where it does not."""
    try:
        closing.require_open(using, actor=current_actor(), approved_by=options.approved_by)
        if granted is not None:
            approval.require(granted, actor=current_actor(), using=using)
    except MigrationError as error:
        return str(error)
    return ""


def pauses(options: MigrationOptions, users: int) -> float:
    """Return the seconds that a run would spend in the delays asked for between its batches."""
    if options.controls.delay == AUTO:
        return 0.0
    size = START if options.controls.batch_size == AUTO else int(options.controls.batch_size)
    return float(options.controls.delay) * (users // size)


def expected_rate(using: str) -> tuple[float, str]:
    """Return users per second to expect, and where the figure comes from.

    A run's speed is its users by the time from its start to its end or now, without the time that it was paused: failed
    attempts, split batches and its checks take time as well.  Runs of selected users say nothing about a mass run.
    A rehearsal counts where it is later than the latest run that was measured.
    """
    rehearsed = _latest_rehearsal(using)
    for run in with_now(using).migrations().order_by("-id")[:RUNS_CONSIDERED]:
        open_for = (run.finished_at or run.now) - run.created_at  # type: ignore[attr-defined]
        if run.options.get("users") or open_for.total_seconds() <= SHORTEST:
            continue
        if rehearsed is not None and rehearsed.created_at > (run.finished_at or run.created_at):
            break
        seen = snapshot_of(run, using)
        if seen.totals.selected and seen.worked > SHORTEST:
            return seen.totals.selected / seen.worked, _("measured in run {run}").format(run=run.pk)
    if rehearsed is not None:
        users, seconds = rehearsed.result["users"], rehearsed.result["seconds"]["migrate"]
        expected = (seconds["low"] + seconds["high"]) / 2
        return users["all"] / expected, f"measured in a rehearsal of {counted(users['rehearsed'], 'user')}"
    rate = ASSUMED_RATE[connections[using].vendor]
    return float(rate), _("assumed: no mass migration has run for long enough to measure")


def _latest_rehearsal(using: str) -> Rehearsal | None:
    """Return the latest rehearsal that has measured a time; None where there is none."""
    for found in Rehearsal.objects.using(using).order_by("-id")[:RUNS_CONSIDERED]:
        seconds = found.result["seconds"]["migrate"]
        if seconds and seconds["high"] > 0:
            return found
    return None


def forecast_rollback(
    options: RollbackOptions, *, using: str = "default", largest: int = LARGEST, granted: Approval | None = None
) -> RollbackForecast:
    """Say what a rollback would do now, in one read-only snapshot; nothing is locked or written.

    ``granted`` is the approval that it would have; None: it will be asked for.

    Raises:
        PreflightError, DatabaseUnavailableError: the database is not fit.
        RunNotFoundError: the run to roll back does not exist.
        RunConflictError: it is no migration.
    """
    preflight.check(using, read_only=True)
    warnings = tuple(preflight.warnings(using))
    begun = time.monotonic()
    with read_only_snapshot(using):
        rollback.check_target(options, using)
        connection, terms = connections[using], rollback.terms_of(options, run=0)
        ranges: list[tuple[str, str] | None] = [(user, user) for user in options.users]
        whole = Totals()
        lacking: list[tuple[int, int, int]] = []
        for keys in ranges or [None]:
            whole.add(reversal.forecast(connection, terms, keys=keys))
            lacking += reversal.shortfalls(connection, terms, limit=largest, keys=keys)
        open_run = None if options.users else runs.open_run_or_none(using)
        blocked, goes_on_with = "", None
        if open_run is not None and open_run.is_rollback:
            try:
                Rollback(options).refuse_to_resume(open_run)
                goes_on_with = open_run.pk
            except RunConflictError as error:
                blocked = str(error)
        some = rollback.any_migrated(options, using) if options.users else whole.selected
        nothing_to_do = not blocked and goes_on_with is None and not some
        if not blocked and goes_on_with is None and not options.users:
            blocked = _no_consent(options, granted, using)
        if not blocked:
            blocked = preflight.behind(using)
        if nothing_to_do:
            blocked = rollback.nothing_to_roll_back(options)
        return RollbackForecast(
            whole,
            sorted(lacking, key=lambda row: -row[2])[:largest],
            open_run.pk if open_run is not None and open_run.kind == RunKind.MIGRATION else None,
            time.monotonic() - begun,
            blocked,
            goes_on_with,
            warnings,
            nothing_to_do,
        )
