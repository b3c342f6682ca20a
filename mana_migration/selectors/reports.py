"""Everything that a report of one run says, gathered as of one moment."""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import accumulate
from typing import Final

from django.db import connections
from django.utils import timezone

from mana_migration.domain import reconciliation
from mana_migration.domain.progress import rates_over_time
from mana_migration.domain.report import (
    EXAMPLES,
    SHORTFALLS,
    SLOWEST,
    BatchLine,
    Performance,
    ProblemClass,
    Reconciliation,
    RecordSum,
    Reversals,
    RunReport,
    Stage,
    StatusSum,
    UserDetails,
)
from mana_migration.domain.snapshot import RunSnapshot
from mana_migration.domain.validation import ValidationReport
from mana_migration.engine import dialect
from mana_migration.models import MigrationBatch, MigrationRun, UserMigration
from mana_migration.selectors import record_sums
from mana_migration.selectors.resources import resources
from mana_migration.selectors.run_list import totals_of
from mana_migration.selectors.runs import snapshot_of
from mana_migration.states import BatchStatus, RunKind, UserStatus

#: Batches read at a time.
PAGE: Final = 5_000

#: Points of the report's charts over time.
POINTS: Final = 60

#: Classes of errors or skips explained one by one.
CLASSES: Final = 50

#: Migration runs listed as stages, the latest.
STAGES: Final = 50


def gather(
    run: MigrationRun,
    using: str,
    details: UserDetails,
    validation: ValidationReport | None,
    since: datetime | None = None,
) -> RunReport:
    """Gather the report of a run inside the caller's read-only snapshot, from which ``details`` are streamed.

    ``since``: the moment from which on ``details`` list what was done to users.
    """
    connection = connections[using]
    dialect.read_whole_tables(connection)
    seen = snapshot_of(run, using)
    sums, sizes, shortfalls = record_sums.record_sums(connection, run)
    records = sum(part.users for part in sums)
    return RunReport(
        generated_at=seen.taken_at,
        time_zone=timezone.get_current_timezone_name(),
        snapshot=seen,
        statuses=status_sums(sums),
        records=records,
        records_deleted=max(0, seen.totals.selected - records),
        errors=_problem_classes(run, seen.totals.errors, UserStatus.FAILED, using),
        skips=_problem_classes(run, seen.totals.skips, UserStatus.SKIPPED, using),
        sizes=sizes,
        performance=_performance(run, seen, using),
        stages=_stages(using),
        reversals=_reversals(sums, rollback=run.kind == RunKind.ROLLBACK),
        shortfalls=record_sums.largest_shortfalls(connection, run, SHORTFALLS) if shortfalls else [],
        shortfall_users=shortfalls,
        reconciliation=_books(run, seen, sums, using),
        validation=validation,
        resources=resources(using).figures(),
        since=since,
        listed=status_sums(sums if since is None else record_sums.record_sums(connection, run, since).sums),
        details=details,
    )


def _books(run: MigrationRun, seen: RunSnapshot, sums: Sequence[RecordSum], using: str) -> Reconciliation:
    # a rollback with --no-preserve-logs deletes records: what is left of them cannot be compared
    complete = sum(part.users for part in sums) >= seen.totals.selected
    if run.kind == RunKind.ROLLBACK:
        runs = MigrationRun.objects.using(using).filter(pk__in={part.run for part in sums})
        rates = dict(runs.values_list("pk", "rates"))
        return reconciliation.of_rollback(seen.totals, sums, rates, complete=complete)
    ledger = record_sums.ledger_sums(connections[using], run.pk)
    return reconciliation.of_migration(seen.totals, run.rates, sums, ledger, complete=complete)


def status_sums(sums: Sequence[RecordSum]) -> list[StatusSum]:
    """Return sums over records by outcome."""
    found: dict[str, StatusSum] = {}
    for part in sums:
        before = found.get(part.status, StatusSum(part.status, *[0] * 8))
        found[part.status] = StatusSum(
            part.status,
            before.users + part.users,
            before.green + part.green,
            before.blue + part.blue,
            before.red + part.red,
            before.mana_before + part.mana_before,
            before.mana_credited + part.mana_credited,
            before.mana_debited + part.mana_debited,
            before.shortfall + part.shortfall,
        )
    return [found[status] for status in UserStatus.values if status in found]


def _problem_classes(run: MigrationRun, counts: Mapping[str, int], status: str, using: str) -> list[ProblemClass]:
    """Return each class of errors or skips with its message and examples, the largest first."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    problems: list[ProblemClass] = []
    for name, users in ordered[:CLASSES]:
        records = UserMigration.objects.using(using).filter(run_id=run.pk, status=status, error_class=name)
        rows = list(records.order_by("pk").values_list("pk", "error_message")[:EXAMPLES])
        problems.append(ProblemClass(name, users, rows[0][1] if rows else "", [key for key, _ in rows]))
    return problems


def _performance(run: MigrationRun, seen: RunSnapshot, using: str) -> Performance:
    """Read every batch once; only their durations, eight bytes each, stay in memory."""
    durations, spread = array("d"), _Spread(seen.started_at, seen.last_progress, seen.batches)
    slowest: list[tuple[float, int, BatchLine]] = []
    last = failed_attempts = 0
    while True:
        batches = MigrationBatch.objects.using(using).filter(run_id=run.pk, status=BatchStatus.DONE, pk__gt=last)
        rows = list(
            batches.order_by("pk").values_list("pk", "selected", "failed", "attempts", "started_at", "finished_at")[
                :PAGE
            ]
        )
        for key, users, failed, attempts, started, finished in rows:
            seconds = _seconds(started, finished)
            durations.append(seconds)
            failed_attempts += attempts
            spread.add(finished, users)
            if len(slowest) < SLOWEST or seconds > slowest[0][0]:
                entry = (seconds, -key, BatchLine(key, users, failed, attempts, started, seconds))
                (heapq.heappush if len(slowest) < SLOWEST else heapq.heapreplace)(slowest, entry)
        if len(rows) < PAGE:
            break
        last = rows[-1][0]
    ordered = sorted(durations)
    return Performance(
        batches=len(ordered),
        p50=_percentile(ordered, 50),
        p95=_percentile(ordered, 95),
        longest=ordered[-1] if ordered else None,
        mean=sum(ordered) / len(ordered) if ordered else None,
        failed_attempts=failed_attempts,
        outside=max(0.0, seen.worked - sum(ordered)),
        progress=spread.series(),
        users_per_minute=rates_over_time(seen.started_at, spread.series()),
        slowest=[line for _, _, line in sorted(slowest, reverse=True)],
    )


class _Spread:
    """Users by the time at which they were done, in as many equal parts of the run's time as a chart can show.

    A run of few batches has no more parts than batches: what lies between two of them says nothing.
    """

    def __init__(self, start: datetime, end: datetime | None, batches: int) -> None:
        self._start, self._end = start, end or start
        self._parts = [0] * max(1, min(POINTS, batches))

    def add(self, at: datetime | None, users: int) -> None:
        """Count the users of one batch."""
        whole = (self._end - self._start).total_seconds()
        passed = (at - self._start).total_seconds() if at else 0.0
        count = len(self._parts)
        place = -(-passed * count // whole) - 1 if whole > 0 else 0
        self._parts[int(min(max(place, 0), count - 1))] += users

    def series(self) -> list[tuple[datetime, int]]:
        """Return (time, users done by then); empty where nothing was done."""
        if not any(self._parts):
            return []
        count = len(self._parts)
        step = (self._end - self._start) / count
        ends = [*(self._start + step * number for number in range(1, count)), self._end]
        return list(zip(ends, accumulate(self._parts), strict=True))


def _seconds(started: datetime | None, finished: datetime | None) -> float:
    return max(0.0, (finished - started).total_seconds()) if started and finished else 0.0


def _percentile(ordered: Sequence[float], percent: int) -> float | None:
    """Return the smallest value that at least ``percent`` of the values do not exceed."""
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)] if ordered else None


def _stages(using: str) -> list[Stage]:
    """Return the latest migration runs, oldest first: the parts in which the users were converted.

    Runs of users who were named one by one are no stages.
    """
    runs = MigrationRun.objects.using(using).filter(kind=RunKind.MIGRATION).order_by("-id")
    mass = [run for run in runs[: 20 * STAGES] if not run.options.get("users")][:STAGES]
    found, sums = [], totals_of(mass, using=using)
    for run in reversed(mass):
        figures = sums[run.pk]
        found.append(
            Stage(
                run=run.pk,
                status=run.status,
                cohort=run.options.get("cohort"),
                limit=run.options.get("limit"),
                started_at=run.created_at,
                selected=figures.selected,
                migrated=figures.migrated,
                skipped=figures.skipped,
                failed=figures.failed,
                mana=figures.mana,
            )
        )
    return found


def _reversals(sums: Sequence[RecordSum], *, rollback: bool) -> list[Reversals]:
    """Return what was rolled back: of a migration by each rollback, by a rollback of each migration."""
    return [
        Reversals(
            run=part.run if rollback else part.reversal_run,
            users=part.users,
            green=part.green,
            blue=part.blue,
            red=part.red,
            credited=part.mana_credited,
            debited=part.mana_debited,
            written_off=part.shortfall,
        )
        for part in sums
        if part.reversal_run is not None
    ]
