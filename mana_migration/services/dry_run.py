"""The dry run: what a migration would do now, in a read-only transaction that writes nothing anywhere."""

from __future__ import annotations

import time

from django.db import connections

from mana_migration.domain.forecast import ASSUMED_RATE, Finding, Forecast, LargeConversion
from mana_migration.domain.options import MigrationOptions
from mana_migration.domain.pacing import AUTO, START
from mana_migration.engine import conversion, totals
from mana_migration.engine.conversion import ConversionTerms
from mana_migration.engine.snapshot import read_only_snapshot
from mana_migration.errors import RunConflictError
from mana_migration.models import MigrationRun
from mana_migration.services import migrate, preflight, runs, validation
from mana_migration.states import RunKind
from wishes import conf as wishes_conf
from wishes.rates import Rates

#: Conversions listed as the largest.
LARGEST = 10


def forecast(options: MigrationOptions, *, using: str = "default", validate_only: bool = False) -> Forecast:
    """Say what a migration with these options would do now.

    ``validate_only`` leaves out the largest conversions.

    Raises:
        PreflightError, DatabaseUnavailableError: the database is not fit.
    """
    preflight.check(using, read_only=True)
    begun = time.monotonic()
    rates = wishes_conf.rates()
    with read_only_snapshot(using):
        connection = connections[using]
        open_run = runs.open_run_or_none(using)
        terms = ConversionTerms(
            run=open_run.pk if open_run is not None else conversion.NO_RUN,
            rates=rates,
            skip_invalid=options.skip_invalid,
            cohort=options.cohort,
            retry_failed=options.retry_failed,
            look_closer=bool(options.users),
        )
        report = validation.precheck(using)
        figures = conversion.forecast(
            connection, terms, users_named=options.users, limit=options.limit, fixed=options.auto_fix
        )
        found = [] if validate_only else conversion.largest(
            connection, terms, count=LARGEST, users_named=options.users, limit=options.limit, fixed=options.auto_fix
        )  # fmt: skip
        rate, source = expected_rate(using)
        blocked = _other_rates(rates, using)
    findings = tuple(Finding(check.id, check.severity, check.count) for check in report.checks)
    errors = sum(finding.count for finding in findings if finding.severity == "error")
    if not blocked and errors and not (options.skip_invalid or options.auto_fix or options.users):
        blocked = (
            f"{errors:,} error-level findings stand in the way: "
            "use --auto-fix to clear them or --skip-invalid to leave those users out"
        )
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
        goes_on_with=open_run.pk if open_run is not None and open_run.kind == RunKind.MIGRATION else None,
    )


def _other_rates(rates: Rates, using: str) -> str:
    """Return why conversions at other rates stand in the way; empty where there are none."""
    try:
        migrate.refuse_other_rates(rates, using)
    except RunConflictError as error:
        return str(error)
    return ""


def pauses(options: MigrationOptions, users: int) -> float:
    """Return the seconds that a run would spend in the delays asked for between its batches."""
    if options.controls.delay == AUTO:
        return 0.0
    size = START if options.controls.batch_size == AUTO else int(options.controls.batch_size)
    return float(options.controls.delay) * (users // size)


def expected_rate(using: str) -> tuple[float, str]:
    """Return users per second to expect, and where the figure comes from."""
    latest = MigrationRun.objects.using(using).filter(kind=RunKind.MIGRATION).order_by("-id").first()
    if latest is not None:
        figures = totals.folded_figures(latest, using)
        if figures["seconds"] > 1:
            return figures["totals"]["selected"] / figures["seconds"], f"measured in run {latest.pk}"
    rate = ASSUMED_RATE[connections[using].vendor]
    return float(rate), "assumed; the first run will tell"
