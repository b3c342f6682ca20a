"""Running the integrity checks: everything in one read-only snapshot, few scans, every finding told as it is read."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Final

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper

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
from mana_migration.engine.integrity.scope import Scope, ranges, rows
from mana_migration.engine.integrity.wallets import WalletTerms
from mana_migration.engine.snapshot import read_only_snapshot
from mana_migration.errors import RunNotFoundError
from mana_migration.models import MigrationRun
from mana_migration.states import RunKind
from wishes import conf as wishes_conf
from wishes.rates import Rates

#: Findings of a check that are read unless all are wanted.
SHOWN: Final = 20


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
    connection, scope = look.connection, look.scope
    scan = wallets.scan(connection, look.terms, scope)
    found = _Counts(numbers=dict(scan.counts), totals=dict(scan.totals))
    found.numbers |= ledger.count_balances(connection, scope, unmigrated_only=look.phase == PRE)
    found.numbers["migration_inconsistency"] = records.count_inconsistencies(connection, scope)
    if look.phase != POST and scope.run is None:
        found.totals["users"] = wallets.count_users(connection, scope)
        found.numbers["no_wallet"] = found.totals["users"] - found.totals["wallets"]
    if look.phase != PRE:
        _count_records(look, found)
    if not scope.users:
        _compare_value(look, found)
    if scope.run is not None:
        found.numbers["unmigrated_remaining"] = 0  # users of a rollback are meant to be unmigrated
    return found


def _count_records(look: _Look, found: _Counts) -> None:
    connection, scope = look.connection, look.scope
    forgetful = ledger.is_forgetful(connection)
    found.numbers["conversion_mismatch"], sums = records.scan(connection, scope)
    sql = ledger.missing_entry_sql(connection.vendor, scope, forgetful=forgetful)
    ((number,),) = rows(connection, f"SELECT COUNT(*) FROM ({sql}) x", scope)
    found.numbers["missing_entry"] = int(number)
    if scope.users:
        return
    gathered = runs.gather(connection, sums, scope.run)
    booked = runs.ledger_sums(connection) if scope.run is None else None
    found.of_runs += runs.not_conserved(gathered, forgetful=forgetful, booked=booked)
    found.of_runs += runs.incomplete(gathered.values())
    for check in ("value_not_conserved", "run_incomplete"):
        found.numbers[check] = sum(finding.check == check for finding in found.of_runs)


def _compare_value(look: _Look, found: _Counts) -> None:
    """Keep the sums over everybody, and compare them with those of the last run's start."""
    rates = look.terms.rates.as_dict()
    totals = found.totals
    if look.scope.run is not None:
        totals = wallets.scan(look.connection, look.terms, Scope()).totals
    booked = ledger.booked_value(look.connection, rates)
    if look.scope.run is None:
        found.baseline = {name: str(value) for name, value in (totals | {"booked": booked}).items()}
    run = None if look.phase == PRE else _run_with_baseline(look)
    if run is None or run.rates != rates:
        return
    before, booked_then = int(run.baseline["value"]), int(run.baseline["booked"])
    found.totals |= {"value_before": before, "booked_since": booked - booked_then}
    change = (totals["value"] - booked) - (before - booked_then)
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
    """Return the run whose start to compare with: the one asked for, else the latest that took the sums.

    None where users were imported since, who brought their value along.
    """
    everything = MigrationRun.objects.using(look.using)
    candidates = everything.filter(baseline__has_key="booked")
    if look.scope.run is not None:
        candidates = candidates.filter(pk=look.scope.run)
    run = candidates.order_by("-pk").first()
    if run is None or everything.filter(kind=RunKind.IMPORT, pk__gt=run.pk).exists():
        return None
    return run


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
