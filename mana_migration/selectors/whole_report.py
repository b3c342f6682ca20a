"""Everything that the report of the whole migration says, gathered as of one moment."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from django.db import connections
from django.db.models import Count, Max, Q
from django.utils import timezone

from mana_migration.domain.report import (
    EXAMPLES,
    Act,
    RunEntry,
    UserDetails,
    UsersLeft,
    WholeReport,
    WholeValue,
)
from mana_migration.domain.validation import ValidationReport
from mana_migration.domain.words import counted
from mana_migration.engine import dialect
from mana_migration.engine.integrity.value import booked_parts, ledger_sums
from mana_migration.models import Closing, IntegrityFix, MigrationRun, RunEvent
from mana_migration.selectors import record_sums
from mana_migration.selectors.details import TABLE, final_records
from mana_migration.selectors.reports import status_sums
from mana_migration.selectors.resources import resources
from mana_migration.selectors.run_list import totals_of
from mana_migration.selectors.statistics import statistics
from mana_migration.states import EventKind, UserStatus
from wishes.rates import Rates

#: Runs and acts listed, the latest of each.
RUNS, ACTS = 1_000, 1_000

#: Events that a person caused.
_DEEDS: Final = (
    EventKind.STARTED,
    EventKind.PAUSED,
    EventKind.RESUMED,
    EventKind.STOPPED,
    EventKind.SETTING_CHANGED,
    EventKind.ROLLED_BACK,
    EventKind.FINISHED,
    EventKind.REQUESTED,
    EventKind.APPROVED,
    EventKind.DECLINED,
    EventKind.WITHDRAWN,
)


def gather_whole(
    using: str,
    details: UserDetails,
    validation: ValidationReport | None,
    *,
    now: datetime,
    rates: Rates,
    since: datetime | None = None,
) -> WholeReport:
    """Gather the report of all runs inside the caller's read-only snapshot, from which ``details`` are streamed."""
    connection = connections[using]
    dialect.read_whole_tables(connection)
    site = statistics(using)
    return WholeReport(
        generated_at=now,
        time_zone=timezone.get_current_timezone_name(),
        statistics=site,
        left=_left(using, site.users.pending - site.users.failed - site.users.skipped - site.users.rolled_back),
        value=_value(using, rates, site),
        runs=_runs(using),
        acts=_acts(using),
        validation=validation,
        resources=resources(using).figures(),
        since=since,
        listed=status_sums(record_sums.sums_where(connection, *final_records(using, since)).sums),
        details=details,
    )


def _left(using: str, never: int) -> list[UsersLeft]:
    """Return those who are not migrated, by what last became of them and why, the most first."""
    condition, parameters = final_records(using)
    with connections[using].cursor() as cursor:
        cursor.execute(
            f"SELECT status, error_class, COUNT(*) FROM {TABLE} WHERE {condition} AND status <> %s "
            "GROUP BY status, error_class ORDER BY COUNT(*) DESC, status, error_class",
            [*parameters, UserStatus.MIGRATED],
        )
        groups = cursor.fetchall()
        found = []
        for status, reason, users in groups:
            cursor.execute(
                f"SELECT id FROM {TABLE} WHERE {condition} AND status = %s AND error_class = %s ORDER BY id LIMIT %s",
                [*parameters, status, reason, EXAMPLES],
            )
            found.append(UsersLeft(status, reason, users, [key for (key,) in cursor.fetchall()]))
    return [*found, UsersLeft("never handled", "", never, [])] if never else found


def _value(using: str, rates: Rates, site: Any) -> WholeValue | None:
    """Compare the value of all wallets with that at the start of the first run that took the sums."""
    first = MigrationRun.objects.using(using).filter(baseline__has_key="booked").order_by("pk").first()
    if first is None or first.rates != rates.as_dict():
        return None
    connection, baseline = connections[using], first.baseline
    sums = ledger_sums(connection, after=int(baseline.get("booked_from", 0)))
    parts = booked_parts(connection, rates.as_dict(), sums, wishes_after=int(baseline.get("wishes_from", 0)))
    earlier = int(baseline["booked"])  # part of the value at that start
    return WholeValue(
        first_run=first.pk,
        before=int(baseline["value"]),
        changes=[
            *parts.items(),
            *([(f"of all these, booked before run {first.pk} began", -earlier)] if earlier else []),
        ],
        after=rates.worth(site.green, site.blue, site.red) + site.mana,
    )


def _runs(using: str) -> list[RunEntry]:
    runs = list(MigrationRun.objects.using(using).order_by("-id")[:RUNS])[::-1]
    totals = totals_of(runs, using=using)
    return [
        RunEntry(
            run=run.pk,
            kind=run.kind,
            status=run.status,
            started_at=run.created_at,
            finished_at=run.finished_at,
            actor=run.actor,
            reason=run.reason,
            totals=totals[run.pk],
            chain_head=run.folded.get("chain", {}).get("head", ""),
        )
        for run in runs
    ]


def _acts(using: str) -> list[Act]:
    events = RunEvent.objects.using(using).filter(kind__in=_DEEDS).exclude(actor="").order_by("-id")[:ACTS]
    acts = [
        Act(event.created_at, event.run_id, event.get_kind_display(), event.actor, event.message) for event in events
    ]
    fixes = IntegrityFix.objects.using(using).values("check_id", "run", "actor", undone=Q(undoes__isnull=False))
    acts += [
        Act(
            fix["last"],
            fix["run"],
            "Fixes undone" if fix["undone"] else "Fixed",
            fix["actor"],
            f"{fix['check_id']}: {counted(fix['number'], 'finding')}",
        )
        for fix in fixes.annotate(number=Count("pk"), last=Max("created_at")).order_by("last")
    ]
    acts += [
        Act(end.created_at, None, "Closed" if end.closed else "Reopened", end.actor, end.reason)
        for end in Closing.objects.using(using).all()
    ]
    return sorted(acts, key=lambda act: act.at)
