"""Running the integrity checks: everything in one read-only snapshot, few scans, every finding told as it is read."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Final

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import Sum

from mana_migration import conf
from mana_migration.domain.validation import (
    BOTH,
    POST,
    PRE,
    SEVERITIES,
    Check,
    CheckResult,
    Finding,
    FixReport,
    OnFinding,
    ValidationReport,
    checks_of,
)
from mana_migration.engine.integrity import ledger, records, runs, wallets
from mana_migration.engine.integrity.findings import findings_in
from mana_migration.engine.integrity.ledger import LedgerSums
from mana_migration.engine.integrity.records import RecordScan
from mana_migration.engine.integrity.scope import Scope, ranges
from mana_migration.engine.integrity.wallets import WalletTerms
from mana_migration.engine.snapshot import read_only_snapshot
from mana_migration.errors import RunNotFoundError
from mana_migration.models import MigrationBatch, MigrationRun
from mana_migration.states import RunKind
from wishes import conf as wishes_conf
from wishes.rates import Rates

#: Findings of a check that are read unless all are wanted.
SHOWN: Final = 20

#: A run that handled less than this share of all wallets is looked at user by user.
_FEW: Final = 10


@dataclass(frozen=True, slots=True)
class _Look:
    """What is looked at, and by which terms."""

    using: str
    connection: BaseDatabaseWrapper
    phase: str
    scope: Scope
    terms: WalletTerms


@dataclass(slots=True)
class _Counts:
    """What the scans found: numbers by check, the findings about whole runs, and sums."""

    numbers: dict[str, int] = field(default_factory=dict)
    of_runs: list[Finding] = field(default_factory=list)
    totals: dict[str, int] = field(default_factory=dict)
    baseline: dict[str, str] = field(default_factory=dict)


def validate(
    using: str = "default",
    *,
    phase: str = BOTH,
    users: Sequence[str] = (),
    run: int | None = None,
    on_finding: OnFinding | None = None,
    most: int | None = SHOWN,
    listed: Collection[str] = (),
    all_hits: bool = False,
    fixes: FixReport | None = None,
) -> ValidationReport:
    """Run the checks of a phase in one read-only snapshot.

    Args:
        using: database alias.
        phase: ``pre``, ``post`` or ``both``.
        users: primary keys as text; empty for everybody. Checks of whole runs are left out then.
        run: look only at the users of this run, with the checks of the post phase.
        on_finding: told of each finding, check by check and in the order of keys.
        most: findings told per check; None for all.
        listed: checks whose findings are told although they are only counted otherwise.
        all_hits: tell every finding of every check, whatever ``most`` and ``listed`` say.
        fixes: what auto-fix has just done, or would do, for the counts.

    Raises:
        RunNotFoundError: there is no such run.
    """
    begun = time.monotonic()
    with read_only_snapshot(using):
        look = _Look(using, connections[using], phase, Scope(users=tuple(users), run=run), _terms(using, run))
        found = _count(look)
        if on_finding is not None:
            for check in sorted(checks_of(phase), key=lambda check: SEVERITIES.index(check.severity)):
                if found.numbers.get(check.id) and (all_hits or not check.only_counted or check.id in listed):
                    _tell(look, check.id, found, on_finding, None if all_hits else most)
    return ValidationReport(
        phase=phase,
        checks=tuple(_result(check, found.numbers.get(check.id, 0), fixes) for check in checks_of(phase)),
        totals=found.totals,
        baseline=found.baseline,
        seconds=time.monotonic() - begun,
    )


def _result(check: Check, remaining: int, fixes: FixReport | None) -> CheckResult:
    if fixes is None:
        return CheckResult(check.id, check.severity, remaining)
    number = fixes.fixed_by_check.get(check.id, 0)
    if fixes.dry_run:
        return CheckResult(check.id, check.severity, remaining, would_fix=number)
    return CheckResult(check.id, check.severity, remaining + number, number)


def precheck(using: str = "default") -> ValidationReport:
    """Run all checks that come before a migration, and take the sums that it must preserve."""
    return validate(using, phase=PRE)


def wallet_totals(using: str = "default") -> dict[str, int]:
    """Return the number of wallets and of those migrated, and the sums over all of them in wishes and mana."""
    return wallets.scan(connections[using], _terms(using, None), Scope()).totals


def check_run(using: str, run_id: int) -> ValidationReport:
    """Check that the rules hold for what one run did, before it may be called completed.

    A rollback that deletes its records leaves nothing that names its users: then everything is checked.

    Raises:
        RunNotFoundError: there is no such run.
    """
    run = MigrationRun.objects.using(using).filter(pk=run_id).first()
    if run is None:
        raise _no_run(run_id)
    forgets = run.kind == RunKind.ROLLBACK and run.options.get("preserve_logs") is False
    return validate(using, phase=POST, run=None if forgets else run_id)


def _no_run(run_id: int) -> RunNotFoundError:
    return RunNotFoundError(f"there is no run {run_id}; list the runs with monitor_migration or in the admin")


def _terms(using: str, run: int | None) -> WalletTerms:
    """Return the rates in force, or those of a run."""
    rates = wishes_conf.rates()
    if run is not None:
        frozen = MigrationRun.objects.using(using).filter(pk=run).values_list("rates", flat=True).first()
        if frozen is None:
            raise _no_run(run)
        rates = Rates.from_mapping(frozen) if frozen else rates
    return WalletTerms(rates, conf.large_conversion())


# --- Counting ---------------------------------------------------------------------------------------------------------


def _count(look: _Look) -> _Counts:
    """Count the findings of every check of the phase; see Note [Count first, list later]."""
    connection, scope = look.connection, look.scope
    sums = None if scope.users else ledger.ledger_sums(connection)
    # Of one run, too, everybody is looked at first: where a rule holds for all it holds for the run.
    scan = wallets.scan(connection, look.terms, scope if scope.run is None else Scope())
    found = _Counts(numbers=dict(scan.counts), totals=dict(scan.totals))
    if look.phase != POST and scope.run is None:
        found.totals["users"] = wallets.count_users(connection, scope)
        found.numbers["no_wallet"] = found.totals["users"] - found.totals["wallets"]
    if sums is None:
        found.numbers["negative_mana"] += ledger.count_negative_balances(connection, scope)
    else:
        found.numbers["negative_mana"] += sums.negative
    found.numbers |= _count_balances(look, found, sums)
    if look.phase == PRE:
        found.numbers["migration_inconsistency"] = _count_flags(look, found)
    else:
        _count_records(look, found, sums)
    if scope.run is not None:
        _narrow(look, found)
    if sums is not None:
        _compare_value(look, found, sums)
    return found


def _count_balances(look: _Look, found: _Counts, sums: LedgerSums | None) -> dict[str, int]:
    everybody = look.scope.everybody or (look.scope.run is not None and _is_large(look, found))
    scope = Scope() if everybody else look.scope
    entries = None if sums is None else sums.entries
    counted = ledger.count_balances(look.connection, scope, unmigrated_only=look.phase == PRE, entries=entries)
    if look.scope.run is not None and everybody and counted["ledger_mismatch"]:
        return ledger.count_balances(look.connection, look.scope, unmigrated_only=False)
    return counted


def _is_large(look: _Look, found: _Counts) -> bool:
    """Say whether a run handled so many users that looking at everybody is the shorter way."""
    handled = MigrationBatch.objects.using(look.using).filter(run=look.scope.run).aggregate(Sum("selected"))
    return int(handled["selected__sum"] or 0) * _FEW > found.totals["wallets"]


def _narrow(look: _Look, found: _Counts) -> None:
    """Count again for the users of the run what somebody, perhaps not of the run, was found with."""
    if found.numbers["negative_mana"] or found.numbers["late_wishes"]:
        counts = wallets.scan(look.connection, look.terms, look.scope).counts
        for check in ("negative_mana", "late_wishes"):
            found.numbers[check] = counts[check]
        found.numbers["negative_mana"] += ledger.count_negative_balances(look.connection, look.scope)
    found.numbers["unmigrated_remaining"] = 0  # users of a rollback are meant to be unmigrated


def _count_flags(look: _Look, found: _Counts) -> int:
    if look.scope.everybody and records.one_live_record_is_kept(look.connection):
        live, unflagged = records.count_live(look.connection)
        if not unflagged and live == found.totals["migrated"]:
            return 0
    return records.count_inconsistencies(look.connection, look.scope)


def _count_records(look: _Look, found: _Counts, sums: LedgerSums | None) -> None:
    connection, scope = look.connection, look.scope
    forgetful = ledger.is_forgetful(connection)
    scan = records.scan(connection, scope)
    found.numbers["conversion_mismatch"] = scan.total("mismatched")
    found.numbers["migration_inconsistency"] = _count_scanned_flags(look, found, scan)
    strays = sums is not None and _has_strays(look, scan, sums)
    if sums is None or forgetful or strays:
        found.numbers["missing_entry"] = ledger.count_missing_entries(connection, scope, forgetful=forgetful)
    else:
        lacking = scan.total("lacking_conversion") + scan.total("lacking_reversal")
        found.numbers["missing_entry"] = lacking + _count_openings(look, sums)
    if sums is None:
        return
    gathered = runs.gather(connection, scan, scope.run)
    if strays or forgetful:
        runs.add_unrecorded(connection, gathered)
    booked = sums if scope.run is None else None
    found.of_runs += runs.not_conserved(gathered, forgetful=forgetful, booked=booked)
    found.of_runs += runs.incomplete(gathered.values())
    for check in ("value_not_conserved", "run_incomplete"):
        found.numbers[check] = sum(finding.check == check for finding in found.of_runs)


def _has_strays(look: _Look, scan: RecordScan, sums: LedgerSums) -> bool:
    """Say whether the ledger has conversions or reversals beside those of the records, each of which has its own."""
    conversions, reversals = scan.total("conversions"), scan.total("reversals")
    if look.scope.run is not None:
        return ledger.count_conversions(look.connection, look.scope.run) != scan.total(
            "conversions", run=look.scope.run
        )
    return (sums.numbers.get("conversion", 0), sums.numbers.get("reversal", 0)) != (conversions, reversals)


def _count_openings(look: _Look, sums: LedgerSums) -> int:
    if look.scope.run is not None or not sums.numbers.get("opening"):
        return 0
    return ledger.count_unrecorded_openings(look.connection)


def _count_scanned_flags(look: _Look, found: _Counts, scan: RecordScan) -> int:
    """Count migration_inconsistency with what the pass over the records has found, user by user only if need be."""
    if records.one_live_record_is_kept(look.connection) and not scan.total("unflagged"):
        if look.scope.run is not None and not scan.total("reflagged"):
            return 0
        if look.scope.everybody and scan.total("migrated") == found.totals["migrated"]:
            return 0
    return records.count_inconsistencies(look.connection, look.scope)


def _compare_value(look: _Look, found: _Counts, sums: LedgerSums) -> None:
    """Keep the sums over everybody, and compare them with those of the last run's start."""
    rates = look.terms.rates.as_dict()
    totals = found.totals
    booked = ledger.booked_value(look.connection, rates, sums)
    found.baseline = {name: str(value) for name, value in (totals | {"booked": booked}).items()}
    run = None if look.phase == PRE else _run_with_baseline(look)
    if run is None or run.rates != rates:
        return
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


def _run_with_baseline(look: _Look) -> MigrationRun | None:
    """Return the run whose start to compare with: the one asked for, else the latest that took the sums."""
    candidates = MigrationRun.objects.using(look.using).filter(baseline__has_key="booked")
    if look.scope.run is not None:
        candidates = candidates.filter(pk=look.scope.run)
    return candidates.order_by("-pk").first()


# --- Telling ----------------------------------------------------------------------------------------------------------


def _tell(look: _Look, check: str, found: _Counts, on_finding: OnFinding, most: int | None) -> None:
    wanted = found.numbers[check] if most is None else min(most, found.numbers[check])
    of_runs = [finding for finding in found.of_runs if finding.check == check]
    for finding in of_runs[:wanted]:
        on_finding(finding)
    if of_runs or not wanted:
        return
    told = 0
    for part in ranges(look.connection, look.scope):
        for finding in findings_in(look.connection, check, part, look.terms):
            on_finding(finding)
            told += 1
            if told == wanted:
                return
