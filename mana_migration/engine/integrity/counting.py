"""Counting the findings of every check in a few scans; see Note [Count first, list later].

# Note [Everybody first]
The users of a run are found through its records, which costs a join in each of the scans.  Where a
run handled a fair share of all users, looking at everybody is the shorter way: what holds for all
holds for the run, and only a check that found somebody is counted again for the run's users alone.
The users of a small run are looked at directly, and found in the range of keys of its batches.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from django.contrib.auth import get_user_model
from django.db import models
from django.db.backends.base.base import BaseDatabaseWrapper

from mana_migration.domain.validation import POST, PRE, Finding
from mana_migration.engine import dialect, users
from mana_migration.engine.integrity import ledger, quick, records, runs, wallets
from mana_migration.engine.integrity.records import RecordScan
from mana_migration.engine.integrity.scope import Scope, rows
from mana_migration.engine.integrity.value import LedgerSums, booked_value, ledger_sums
from mana_migration.engine.integrity.wallets import WalletTerms
from mana_migration.models import MigrationRun

Step = Callable[[str], None]
"""Takes what is read next, in words."""


def _silent(what: str) -> None:
    """Do nothing."""


#: A run that handled less than one in so many wallets is small: Note [Everybody first].
SMALL_RUN = 10


@dataclass(frozen=True, slots=True)
class Look:
    """What is looked at, and by which terms.

    ``whole``: sums over everybody are taken, also where only a run is asked about.  ``quick``: the ledger is read since
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


def look_at(
    using: str,
    connection: BaseDatabaseWrapper,
    phase: str,
    scope: Scope,
    terms: WalletTerms,
    *,
    quick_first: bool = False,
) -> Look:
    """Choose how to look at a scope; ``quick_first`` only where a run begins or ends."""
    if scope.run is None:
        return Look(using, connection, phase, scope, terms, whole=not scope.users, quick=quick_first and phase == PRE)
    baseline = MigrationRun.objects.using(using).get(pk=scope.run).baseline
    known = baseline.get("wallets")
    scope, handled = _range_of_run(connection, scope)
    whole = known is None or handled * SMALL_RUN > int(known)
    narrowed = quick.narrowed(scope, baseline) if quick_first else None
    return Look(using, connection, phase, narrowed or scope, terms, whole, quick=narrowed is not None)


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


def count(look: Look, step: Step = _silent) -> Counts:
    """Count the findings of every check of the phase, and sum up what was looked at.

    ``step``: called with what is read next.
    """
    with dialect.joined(look.connection, dialect.JOINED_WHOLE if look.whole else dialect.JOINED_BY_KEY):
        return _count(look, step)


def _count(look: Look, step: Step) -> Counts:
    connection, scope = look.connection, look.scope
    since = _sums_from(look)
    step("wallets and ledger")
    sums = ledger_sums(connection, after=since.entries) if look.whole else None
    wide = Scope() if look.whole else scope
    scan = wallets.scan(connection, look.terms, wide)
    found = Counts(numbers=dict(scan.counts), totals=dict(scan.totals))
    if look.phase != POST and scope.run is None:
        found.totals["users"] = wallets.count_users(connection, scope)
        found.numbers["no_wallet"] = found.totals["users"] - found.totals["wallets"]
    negative = ledger.count_negative_balances(connection, scope) if sums is None else sums.negative
    found.numbers["negative_mana"] += negative
    if look.quick and scope.run is not None:
        found.numbers["ledger_mismatch"] = _count_suspects(look, found, sums, since)
    elif not (look.quick and sums is not None and _agrees(look, found, sums, since)):
        entries = None if sums is None else sums.entries
        found.numbers |= ledger.count_balances(connection, wide, unmigrated_only=look.phase == PRE, entries=entries)
    step("records")
    if look.phase == PRE:
        found.numbers["migration_inconsistency"] = _count_flags(look, found)
    else:
        _count_records(look, found, sums)
    if scope.run is not None:
        _narrow(look, found)
    if sums is not None:
        _compare_value(look, found, sums, since)
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


def _sums_from(look: Look) -> _Since:
    """Return where the sums of a look start: at 0, the start of history, unless it is a quick one."""
    if not look.quick:
        return _Since()
    run = _latest_that_agreed(look) if look.scope.run is None else _run_with_baseline(look)
    if run is None:  # nothing was compared at its start, as for a rollback
        return _Since(entries=look.scope.since or 0)
    return _Since.of(run)


def _latest_that_agreed(look: Look) -> MigrationRun | None:
    """Return the latest run before which wallets and ledger were found to agree."""
    return MigrationRun.objects.using(look.using).filter(baseline__agrees="1").order_by("-pk").first()


def _sums_agree(found: Counts, sums: LedgerSums | None, since: _Since) -> bool:
    """Say whether the mana of all wallets changed by as much as the ledger did since a run began; unknown is no."""
    if sums is None or since.run is None or "entries_sum" not in since.run.baseline:
        return False
    change = found.totals["mana"] - int(since.run.baseline["mana"])
    return change == sum(sums.sums.values()) - int(since.run.baseline["entries_sum"])


def _count_suspects(look: Look, found: Counts, sums: LedgerSums | None, since: _Since) -> int:
    """Count the users of a run whose wallets and entries may differ."""
    return quick.count_suspects(look.connection, look.scope, trust_records=_sums_agree(found, sums, since))


def _agrees(look: Look, found: Counts, sums: LedgerSums, since: _Since) -> bool:
    """Say whether no unmigrated wallet can hold mana that the ledger does not have; where so, it is counted as none."""
    if not _sums_agree(found, sums, since):
        return False
    if quick.count_unbacked(look.connection):
        return False
    found.numbers["orphaned_mana"] = 0
    return True


def _narrow(look: Look, found: Counts) -> None:
    """Count again for the users of the run what somebody, perhaps not of the run, was found with."""
    found.numbers["unmigrated_remaining"] = 0  # users of a rollback are meant to be unmigrated
    if not look.whole:
        return
    if found.numbers["negative_mana"] or found.numbers["late_wishes"]:
        counts = wallets.scan(look.connection, look.terms, look.scope).counts
        found.numbers["late_wishes"] = counts["late_wishes"]
        negative = ledger.count_negative_balances(look.connection, look.scope)
        found.numbers["negative_mana"] = counts["negative_mana"] + negative
    if (found.numbers["ledger_mismatch"] or found.numbers.get("orphaned_mana")) and not look.quick:
        found.numbers |= ledger.count_balances(look.connection, look.scope, unmigrated_only=False)


def _count_flags(look: Look, found: Counts) -> int:
    if look.scope.everybody and records.one_live_record_is_kept(look.connection):
        live, unflagged = records.count_live(look.connection)
        if not unflagged and live == found.totals["migrated"]:
            return 0
    return records.count_inconsistencies(look.connection, look.scope)


def _count_records(look: Look, found: Counts, sums: LedgerSums | None) -> None:
    connection, scope = look.connection, look.scope
    forgetful = ledger.is_forgetful(connection)
    scan = records.scan(connection, scope)
    found.numbers["conversion_mismatch"] = scan.total("mismatched")
    found.numbers["migration_inconsistency"] = _count_scanned_flags(look, found, scan)
    strays = _has_strays(look, scan, sums)
    if forgetful or strays:
        found.numbers["missing_entry"] = ledger.count_missing_entries(connection, scope, forgetful=forgetful)
    else:
        lacking = scan.total("lacking_conversion") + scan.total("lacking_reversal")
        openings = scope.everybody and sums is not None and sums.numbers.get("opening")
        found.numbers["missing_entry"] = lacking + (ledger.count_unrecorded_openings(connection) if openings else 0)
    if scope.users:
        return
    gathered = runs.gather(connection, scan, scope.run)
    if strays or forgetful:
        runs.add_unrecorded(connection, gathered)
    booked = sums if scope.run is None else None
    found.of_runs += runs.not_conserved(gathered, forgetful=forgetful, booked=booked)
    found.of_runs += runs.incomplete(gathered.values())
    for check in ("value_not_conserved", "run_incomplete"):
        found.numbers[check] = sum(finding.check == check for finding in found.of_runs)


def _has_strays(look: Look, scan: RecordScan, sums: LedgerSums | None) -> bool:
    """Say whether the ledger has conversions or reversals beside those of the records, each of which has its own."""
    if look.scope.run is not None:
        recorded = scan.total("conversions", run=look.scope.run)
        return ledger.count_conversions(look.connection, look.scope) != recorded
    if sums is None:
        return True  # unknown, and cheap to look at for a few users
    booked = (sums.numbers.get("conversion", 0), sums.numbers.get("reversal", 0))
    return booked != (scan.total("conversions"), scan.total("reversals"))


def _count_scanned_flags(look: Look, found: Counts, scan: RecordScan) -> int:
    """Count migration_inconsistency with what the pass over the records has found, user by user only if need be."""
    if records.one_live_record_is_kept(look.connection) and not scan.total("unflagged"):
        if look.scope.run is not None and not scan.total("reflagged"):
            return 0
        if look.scope.everybody and scan.total("migrated") == found.totals["migrated"]:
            return 0
    return records.count_inconsistencies(look.connection, look.scope)


def _compare_value(look: Look, found: Counts, sums: LedgerSums, since: _Since) -> None:
    """Keep the sums over everybody, and compare them with those of the last run's start."""
    rates = look.terms.rates.as_dict()
    if look.quick and look.phase == PRE:
        found.baseline = _baseline_of_next_run(look, found, sums, since)
        return
    booked = booked_value(look.connection, rates, sums, wishes_after=since.wishes)
    totals = found.totals
    found.baseline = {name: str(value) for name, value in (totals | {"booked": booked}).items()}
    run = None if look.phase == PRE else since.run or _run_with_baseline(look)
    if run is None or run.rates != rates:
        return
    start = _Since.of(run)
    if start.ids != since.ids:
        sums = ledger_sums(look.connection, after=start.entries)
        booked = booked_value(look.connection, rates, sums, wishes_after=start.wishes)
    before, booked_then = int(run.baseline["value"]), int(run.baseline["booked"])
    change = (totals["value"] - booked) - (before - booked_then)
    found.totals |= {"value_before": before, "booked_since": booked - booked_then}
    if change:
        found.numbers["unbooked_change"] = 1
        found.of_runs.append(
            Finding(
                "unbooked_change",
                run=run.pk,
                figures={"before": before, "booked_since": booked - booked_then, "now": totals["value"]},
                reason=f"since run {run.pk} began, {change:+,} mana of value came or went in no ledger",
            )
        )


def _baseline_of_next_run(look: Look, found: Counts, sums: LedgerSums, since: _Since) -> dict[str, str]:
    """Return the sums that a run which begins now must preserve, those of the ledgers from its newest entries on."""
    start = _Since(*quick.sums_from(look.connection))
    if start.ids != since.ids:
        sums = ledger_sums(look.connection, after=start.entries)
    booked = booked_value(look.connection, look.terms.rates.as_dict(), sums, wishes_after=start.wishes)
    figures = found.totals | {
        "booked": booked,
        "booked_from": start.entries,
        "wishes_from": start.wishes,
        "entries_sum": sum(sums.sums.values()),
        "agrees": int(not found.numbers["orphaned_mana"]),
    }
    return {name: str(value) for name, value in figures.items()}


def _run_with_baseline(look: Look) -> MigrationRun | None:
    """Return the run whose start to compare with: the one asked for, else the latest that took the sums."""
    candidates = MigrationRun.objects.using(look.using).filter(baseline__has_key="booked")
    if look.scope.run is not None:
        candidates = candidates.filter(pk=look.scope.run)
    return candidates.order_by("-pk").first()
