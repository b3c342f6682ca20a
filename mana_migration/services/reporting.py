"""A run's report with the integrity checks of the same moment: the one call of commands and pages."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import datetime
from functools import cache, partial
from typing import cast

from mana_migration.domain.report import ReportToCome, RunReport, UserDetails, WholeReport
from mana_migration.domain.validation import POST
from mana_migration.engine.snapshot import beside, read_only_snapshot
from mana_migration.errors import RunNotFoundError
from mana_migration.models import MigrationRun
from mana_migration.selectors.details import RunDetails
from mana_migration.selectors.reports import gather
from mana_migration.selectors.runs import database_time, find_migration, find_run
from mana_migration.selectors.whole_report import gather_whole
from mana_migration.services import preflight, validation
from wishes import conf as wishes_conf


@contextmanager
def run_report(
    using: str = "default",
    run_id: int | None = None,
    *,
    validate: bool = True,
    again: bool = False,
    since: datetime | None = None,
) -> Iterator[RunReport]:
    """Open the report of a run (without an id of the latest mass migration) for as long as the block lasts.

    Figures, checks and the users that the report streams are all of one read-only snapshot; on
    PostgreSQL vacuum cannot clean up behind it for as long.  The cost grows with the run: every record
    is read once by the database and once while it is written.  What the run's own check found at its end is shown with
    its time; a run that kept nothing is checked now.  ``again`` checks any run now and reads all entries of its users.
    Without ``validate`` the report says that it was not checked.  ``since`` limits the users that
    are listed to those handled or rolled back from then on.

    Raises:
        RunNotFoundError: there is no such run, or none at all.
    """
    with report_to_come(using, run_id, validate=validate, again=again, since=since) as report:
        yield cast("RunReport", report.whole())


@contextmanager
def report_to_come(
    using: str = "default",
    run_id: int | None = None,
    *,
    validate: bool = True,
    again: bool = False,
    since: datetime | None = None,
    at_once: bool = False,
) -> Iterator[ReportToCome]:
    """Open the report of a run as ``run_report`` does, whose users can be read before the rest is gathered.

    ``at_once``: the rest is gathered meanwhile by a second session of the database, where one can be had.

    Raises:
        RunNotFoundError: there is no such run, or none at all.
        PreflightError: rows are hidden from this role.
    """
    preflight.check_visible(using)
    with read_only_snapshot(using):
        run = find_run(using, run_id) if run_id is not None else find_migration(using)
        if run is None:
            raise RunNotFoundError("there is no run yet, so nothing to report; start one with migrate_users")
        details = RunDetails.of(run, using, since)
        rest = partial(_gather, run, using, details, validate=validate, again=again, since=since)
        with beside(using, rest) if at_once else nullcontext(rest) as whole:
            yield ReportToCome(run.pk, run.now, details, cache(whole))  # type: ignore[attr-defined]


@contextmanager
def whole_report_to_come(
    using: str = "default", *, validate: bool = True, since: datetime | None = None, at_once: bool = False
) -> Iterator[ReportToCome]:
    """Open the report of the whole migration for as long as the block lasts, as ``report_to_come`` does.

    ``validate``: with the checks of everything after a migration, which read every wallet, record and entry.

    Raises:
        PreflightError: rows are hidden from this role.
    """
    preflight.check_visible(using)
    with read_only_snapshot(using):
        details, now = RunDetails.of_all(using, since), database_time(using)
        rest = partial(_gather_whole, using, details, validate=validate, now=now, since=since)
        with beside(using, rest) if at_once else nullcontext(rest) as whole:
            yield ReportToCome(None, now, details, cache(whole))


def _gather_whole(
    using: str, details: UserDetails, *, validate: bool, now: datetime, since: datetime | None
) -> WholeReport:
    checked = validation.validate(using, phase=POST) if validate else None
    return gather_whole(using, details, checked, now=now, rates=wishes_conf.rates(), since=since)


def _gather(
    run: MigrationRun, using: str, details: UserDetails, *, validate: bool, again: bool, since: datetime | None
) -> RunReport:
    checked = None
    if validate:
        checked = None if again else validation.kept(run, using)
        checked = checked or validation.check_run(using, run.pk, exact=again)
    return gather(run, using, details, checked, since)
