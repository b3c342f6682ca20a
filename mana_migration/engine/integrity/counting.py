"""Counting the findings of every check in a few scans; see Note [Count first, list later].

# Note [All users first]
The users of a run are found through its records, which costs a join in each of the scans.  Where a
run handled a fair share of all users, reading all users is faster: what holds for all
holds for the run, and only a check that found a user is counted again for the run's users alone.
The users of a small run are read directly, and found in the range of keys of its batches.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise

from django.contrib.auth import get_user_model
from django.db import models
from django.db.backends.base.base import BaseDatabaseWrapper

from mana_migration.domain.validation import POST, PRE, Finding
from mana_migration.engine import dialect, users
from mana_migration.engine.integrity import ledger, quick, records, runs, wallets
from mana_migration.engine.integrity.records import RecordScan
from mana_migration.engine.integrity.scope import Scope, rows
from mana_migration.engine.integrity.value import (
    LedgerSums,
    booked_between,
    booked_value,
    ledger_sums,
    ledger_sums_twice,
)
from mana_migration.engine.integrity.wallets import WalletTerms
from mana_migration.models import MigrationRun

Step = Callable[[str], None]
"""Takes what is read next, in words."""


def _silent(what: str) -> None:
    """Do nothing."""


#: A run that handled less than one in so many wallets is small: Note [All users first].
SMALL_RUN = 10


@dataclass(frozen=True, slots=True)
class CountPlan:
    """What is counted, and by which terms.

    ``whole``: sums over all users are taken, also where only a run is asked about.  ``quick``: the ledger is read since
    the run began, or since the latest pre-check; see Note [Suspicion first] in ``integrity.quick``.
    """

    using: str
    connection: BaseDatabaseWrapper
    phase: str
    scope: Scope
    terms: WalletTerms
    whole: bool
    quick: bool = False


@dataclass(slots=True)
class Counts:
    """What the scans found: numbers by check, the findings about whole runs, and sums."""

    numbers: dict[str, int] = field(default_factory=dict)
    of_runs: list[Finding] = field(default_factory=list)
    totals: dict[str, int] = field(default_factory=dict)
    baseline: dict[str, str] = field(default_factory=dict)


def plan_count(
    using: str,
    connection: BaseDatabaseWrapper,
    phase: str,
    scope: Scope,
    terms: WalletTerms,
    *,
    quick_first: bool = False,
) -> CountPlan:
    """Choose how to count a scope; ``quick_first`` only where a run begins or ends."""
    if scope.run is None:
        return CountPlan(
            using, connection, phase, scope, terms, whole=scope.all_users, quick=quick_first and phase == PRE
        )
    baseline = MigrationRun.objects.using(using).get(pk=scope.run).baseline
    known = baseline.get("wallets")
    scope, handled = _range_of_run(connection, scope)
    whole = known is None or handled * SMALL_RUN > int(known)
    narrowed = quick.narrowed(scope, baseline) if quick_first else None
    return CountPlan(using, connection, phase, narrowed or scope, terms, whole, quick=narrowed is not None)


def _range_of_run(connection: BaseDatabaseWrapper, scope: Scope) -> tuple[Scope, int]:
    """Narrow a scope to the keys of its run's batches; return it and how many users the run handled."""
    key = get_user_model()._meta.pk
    if isinstance(key, models.IntegerField):
        bounds = "MIN(CAST(b.first_user AS bigint)), MAX(CAST(b.last_user AS bigint))"
    elif isinstance(key, models.UUIDField):
        bounds = "MIN(b.first_user), MAX(b.last_user)"  # their texts are ordered as they are
    else:
        bounds = "NULL, NULL"
    ((first, last, handled),) = rows(
        connection,
        f"SELECT {bounds}, COALESCE(SUM(b.selected), 0) FROM mana_migration_migrationbatch b WHERE b.run_id = %(run)s",
        Scope(run=scope.run),
    )
    if first is not None:
        scope = replace(scope, first=users.to_text(first), last=users.to_text(last))
    return scope, int(handled)


def count(plan: CountPlan, step: Step = _silent) -> Counts:
    """Count the findings of every check of the phase, and sum up what was read.

    ``step``: called with what is read next.
    """
    with dialect.joined(plan.connection, dialect.JOINED_WHOLE if plan.whole else dialect.JOINED_BY_KEY):
        return _count(plan, step)


def _count(plan: CountPlan, step: Step) -> Counts:
    connection, scope = plan.connection, plan.scope
    since = _sums_from(plan)
    next_run = _Since(*quick.sums_from(connection)) if plan.whole and plan.quick and plan.phase == PRE else None
    step("wallets and ledger")
    sums = of_next_run = None
    if next_run is not None:
        sums, of_next_run = ledger_sums_twice(connection, after=since.entries, later=next_run.entries)
    elif plan.whole or scope.is_range:
        sums = ledger_sums(connection, after=since.entries, scope=scope if scope.is_range else Scope())
    wide = Scope() if plan.whole else scope
    scan = wallets.scan(connection, plan.terms, wide)
    found = Counts(numbers=dict(scan.counts), totals=dict(scan.totals))
    if plan.phase != POST and scope.run is None:
        found.totals["users"] = wallets.count_users(connection, scope)
        lacking = found.totals["users"] - found.totals["wallets"]
        # a run begins on PostgreSQL only with the foreign key in force; a million wallets take a second to compare
        trusted = plan.quick and connection.vendor == "postgresql" and lacking >= 0
        found.numbers["no_user"] = 0 if trusted else wallets.count_without_user(connection, scope)
        found.numbers["no_wallet"] = lacking + found.numbers["no_user"]
    negative = ledger.count_negative_balances(connection, scope) if sums is None or sums.negative else 0
    found.numbers["negative_mana"] += negative
    if plan.quick and scope.run is not None:
        found.numbers["ledger_mismatch"] = _count_suspects(plan, found, sums, since)
    elif not (plan.quick and sums is not None and _agrees(plan, found, sums, since)):
        entries = None if sums is None else sums.entries
        found.numbers |= ledger.count_balances(connection, wide, unmigrated_only=plan.phase == PRE, entries=entries)
    step("records")
    if plan.phase == PRE:
        found.numbers["migration_inconsistency"] = _count_flags(plan, found)
    else:
        _count_records(plan, found, sums)
    if scope.run is not None:
        _narrow(plan, found)
    if next_run is not None and of_next_run is not None:
        found.baseline = _baseline_of_next_run(plan, found, of_next_run, next_run)
    elif sums is not None and plan.whole:
        _compare_value(plan, found, sums, since)
    return found


def count_sums(plan: CountPlan) -> Counts:
    """Count the findings about whole runs and about all wallets together alone, and sum up what was read."""
    connection = plan.connection
    with dialect.joined(connection, dialect.JOINED_WHOLE):
        sums = ledger_sums(connection)
        found = Counts(totals=wallets.scan(connection, plan.terms, Scope()).totals)
        scan = records.scan(connection, Scope())
        forgetful, unrecorded = ledger.is_forgetful(connection), _has_strays(plan, scan, sums)
        _count_runs(plan, found, scan, sums, unrecorded=unrecorded, forgetful=forgetful)
        _compare_value(plan, found, sums, _Since())
    return found


@dataclass(frozen=True, slots=True)
class _Since:
    """After which entries of mana and of wishes sums are taken, and the run at whose start that was written down."""

    entries: int = 0
    wishes: int = 0
    run: MigrationRun | None = None

    @property
    def ids(self) -> tuple[int, int]:
        """Return both ids."""
        return self.entries, self.wishes

    @classmethod
    def of(cls, run: MigrationRun) -> _Since:
        """Return what a run's baseline says."""
        return cls(int(run.baseline.get("booked_from", 0)), int(run.baseline.get("wishes_from", 0)), run)


def _sums_from(plan: CountPlan) -> _Since:
    """Return where the sums start: at 0, the start of history, unless only what is new is counted."""
    if not plan.quick:
        return _Since()
    run = _latest_that_agreed(plan) if plan.scope.run is None else _run_with_baseline(plan)
    if run is None:  # nothing was compared at its start, as for a rollback
        return _Since(entries=plan.scope.since or 0)
    return _Since.of(run)


def _latest_that_agreed(plan: CountPlan) -> MigrationRun | None:
    """Return the latest run before which wallets and ledger were found to agree."""
    return MigrationRun.objects.using(plan.using).filter(baseline__agrees="1").order_by("-pk").first()


def _sums_agree(found: Counts, sums: LedgerSums | None, since: _Since) -> bool:
    """Say whether the mana of all wallets changed by as much as the ledger did since a run began; unknown is no."""
    if sums is None or since.run is None or "entries_sum" not in since.run.baseline:
        return False
    change = found.totals["mana"] - int(since.run.baseline["mana"])
    return change == sum(sums.sums.values()) - int(since.run.baseline["entries_sum"])


def _count_suspects(plan: CountPlan, found: Counts, sums: LedgerSums | None, since: _Since) -> int:
    """Count the users of a run whose wallets and entries may differ."""
    return quick.count_suspects(plan.connection, plan.scope, trust_records=_sums_agree(found, sums, since))


def _agrees(plan: CountPlan, found: Counts, sums: LedgerSums, since: _Since) -> bool:
    """Say whether no unmigrated wallet can hold mana that the ledger does not have; where so, it is counted as none."""
    if not _sums_agree(found, sums, since):
        return False
    if quick.count_unbacked(plan.connection):
        return False
    found.numbers["orphaned_mana"] = 0
    return True


def _narrow(plan: CountPlan, found: Counts) -> None:
    """Count again for the users of the run what a user, perhaps not of the run, was found with."""
    found.numbers["unmigrated_remaining"] = 0  # users of a rollback are meant to be unmigrated
    if not plan.whole:
        return
    if found.numbers["negative_mana"] or found.numbers["late_wishes"]:
        counts = wallets.scan(plan.connection, plan.terms, plan.scope).counts
        found.numbers["late_wishes"] = counts["late_wishes"]
        negative = ledger.count_negative_balances(plan.connection, plan.scope)
        found.numbers["negative_mana"] = counts["negative_mana"] + negative
    if (found.numbers["ledger_mismatch"] or found.numbers.get("orphaned_mana")) and not plan.quick:
        found.numbers |= ledger.count_balances(plan.connection, plan.scope, unmigrated_only=False)


def _count_flags(plan: CountPlan, found: Counts) -> int:
    if plan.scope.all_users and records.one_live_record_is_kept(plan.connection):
        live, unflagged = records.count_live(plan.connection)
        if not unflagged and live == found.totals["migrated"]:
            return 0
    return records.count_inconsistencies(plan.connection, plan.scope)


def _count_records(plan: CountPlan, found: Counts, sums: LedgerSums | None) -> None:
    connection, scope = plan.connection, plan.scope
    forgetful = ledger.is_forgetful(connection)
    scan = records.scan(connection, scope)
    found.numbers["conversion_mismatch"] = scan.total("mismatched")
    found.numbers["migration_inconsistency"] = _count_scanned_flags(plan, found, scan)
    strays = _has_strays(plan, scan, sums)
    if forgetful or strays:
        found.numbers["missing_entry"] = ledger.count_missing_entries(connection, scope, forgetful=forgetful)
    else:
        lacking = scan.total("lacking_conversion") + scan.total("lacking_reversal")
        if scope.run is None and sums is not None:
            lacking += ledger.count_unrecorded(connection, scope, openings="opening" in sums.numbers)
        found.numbers["missing_entry"] = lacking
    if not (scope.users or scope.is_range):
        _count_runs(plan, found, scan, sums, unrecorded=strays, forgetful=forgetful)


def _count_runs(
    plan: CountPlan, found: Counts, scan: RecordScan, sums: LedgerSums | None, *, unrecorded: bool, forgetful: bool
) -> None:
    """Count where the records, batches and entries of whole runs contradict one another.

    ``unrecorded``: the ledger has conversions or reversals beside those of the records.  ``forgetful``: some rollback
    has deleted its records.
    """
    connection, scope = plan.connection, plan.scope
    gathered = runs.gather(connection, scan, scope.run)
    if unrecorded or forgetful:
        runs.add_unrecorded(connection, gathered)
    booked = sums if scope.run is None else None
    found.of_runs += runs.not_conserved(gathered, forgetful=forgetful, booked=booked)
    found.of_runs += runs.incomplete(gathered.values())
    for check in ("value_not_conserved", "run_incomplete"):
        found.numbers[check] = sum(finding.check == check for finding in found.of_runs)


def _has_strays(plan: CountPlan, scan: RecordScan, sums: LedgerSums | None) -> bool:
    """Say whether the ledger has conversions or reversals beside those of the records, each of which has its own."""
    if plan.scope.run is not None:
        recorded = scan.total("conversions", run=plan.scope.run)
        return ledger.count_conversions(plan.connection, plan.scope) != recorded
    if sums is None:
        return True  # unknown, and cheap to count for a few users
    booked = (sums.numbers.get("conversion", 0), sums.numbers.get("reversal", 0))
    return booked != (scan.total("conversions"), scan.total("reversals"))


def _count_scanned_flags(plan: CountPlan, found: Counts, scan: RecordScan) -> int:
    """Count migration_inconsistency with what the pass over the records has found, user by user only if need be."""
    if records.one_live_record_is_kept(plan.connection) and not scan.total("unflagged"):
        if plan.scope.run is not None and not scan.total("reflagged"):
            return 0
        if plan.scope.all_users and scan.total("migrated") == found.totals["migrated"]:
            return 0
    return records.count_inconsistencies(plan.connection, plan.scope)


def _compare_value(plan: CountPlan, found: Counts, sums: LedgerSums, since: _Since) -> None:
    """Keep the sums over all users, and compare them with those at the start of the last run, and those of all runs."""
    rates = plan.terms.rates.as_dict()
    booked = booked_value(plan.connection, rates, sums, wishes_after=since.wishes)
    totals = found.totals
    found.baseline = {name: str(value) for name, value in (totals | {"booked": booked}).items()}
    if plan.phase != PRE and plan.scope.run is None:
        found.of_runs += _changes_between_runs(plan)
    run = None if plan.phase == PRE else since.run or _run_with_baseline(plan)
    if run is not None and run.rates == rates:
        found.of_runs += _changes_since(run, plan, found, sums=sums, since=since, booked=booked)
    found.numbers["unbooked_change"] = sum(finding.check == "unbooked_change" for finding in found.of_runs)


def _changes_since(
    run: MigrationRun, plan: CountPlan, found: Counts, *, sums: LedgerSums, since: _Since, booked: int
) -> list[Finding]:
    """Compare the value of all wallets with that at a run's start; ``booked``: what was summed up ``since`` ids."""
    start = _Since.of(run)
    if start.ids != since.ids:
        sums = ledger_sums(plan.connection, after=start.entries)
        booked = booked_value(plan.connection, run.rates, sums, wishes_after=start.wishes)
    before, booked_then = int(run.baseline["value"]), int(run.baseline["booked"])
    now = found.totals["value"]
    found.totals |= {"value_before": before, "booked_since": booked - booked_then}
    return _change(run, before, booked - booked_then, now, f"since run {run.pk} began")


def _changes_between_runs(plan: CountPlan) -> list[Finding]:
    """Compare the value of all wallets at each run's start with that at the start of the run before."""
    found = []
    runs = MigrationRun.objects.using(plan.using).filter(baseline__has_key="booked").order_by("pk")
    for run, following in pairwise(runs):
        if run.rates != following.rates:
            continue
        first, last = _Since.of(run), _Since.of(following)
        booked = booked_between(
            plan.connection, run.rates, mana=(first.entries, last.entries), wishes=(first.wishes, last.wishes)
        )
        booked += int(following.baseline["booked"]) - int(run.baseline["booked"])
        when = f"between the starts of runs {run.pk} and {following.pk}"
        found += _change(run, int(run.baseline["value"]), booked, int(following.baseline["value"]), when)
    return found


def _change(run: MigrationRun, before: int, booked: int, now: int, when: str) -> list[Finding]:
    change = now - before - booked
    if not change:
        return []
    figures = {"before": before, "booked_since": booked, "now": now}
    reason = f"{when}, {change:+,} mana of value came or went in no ledger"
    return [Finding("unbooked_change", run=run.pk, figures=figures, reason=reason)]


def _baseline_of_next_run(plan: CountPlan, found: Counts, sums: LedgerSums, start: _Since) -> dict[str, str]:
    """Return the sums that a run which begins now must preserve, those of the ledgers from its newest entries on."""
    booked = booked_value(plan.connection, plan.terms.rates.as_dict(), sums, wishes_after=start.wishes)
    figures = found.totals | {
        "booked": booked,
        "booked_from": start.entries,
        "wishes_from": start.wishes,
        "entries_sum": sum(sums.sums.values()),
        "agrees": int(not found.numbers["orphaned_mana"]),
    }
    return {name: str(value) for name, value in figures.items()}


def _run_with_baseline(plan: CountPlan) -> MigrationRun | None:
    """Return the run whose start to compare with: the one asked for, else the latest that took the sums."""
    candidates = MigrationRun.objects.using(plan.using).filter(baseline__has_key="booked")
    if plan.scope.run is not None:
        candidates = candidates.filter(pk=plan.scope.run)
    return candidates.order_by("-pk").first()
