"""Running the integrity checks: all in one read-only snapshot, few scans, every finding reported as it is read."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from django.core.exceptions import ValidationError
from django.db import connections
from django.db.models import Count

from mana_migration import conf
from mana_migration.domain.chain import Walk
from mana_migration.domain.validation import (
    BOTH,
    BY_ID,
    ERROR,
    OF_CHAINS,
    OF_RUNS,
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
from mana_migration.engine import chain, dialect, sessions
from mana_migration.engine.integrity import wallets
from mana_migration.engine.integrity.counting import CountPlan, Counts, Step, count, count_sums, plan_count
from mana_migration.engine.integrity.findings import findings_in
from mana_migration.engine.integrity.scope import Scope, ranges
from mana_migration.engine.integrity.wallets import WalletTerms
from mana_migration.engine.snapshot import read_only_snapshot
from mana_migration.engine.users import from_text, to_text
from mana_migration.errors import UsageError
from mana_migration.models import IntegrityFix, MigrationRun, RunEvent
from mana_migration.services.context import ignore
from mana_migration.states import EventKind
from wishes import conf as wishes_conf
from wishes.rates import Rates

#: Findings of a check that are read unless all are wanted.
SHOWN: Final = 20

(_CHAINS,) = OF_CHAINS


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
    chains: bool = True,
    chain_head: str = "",
    quick_first: bool = False,
    part: Scope | None = None,
    step: Step = ignore,
) -> ValidationReport:
    """Run the checks of a phase in one read-only snapshot.

    Args:
        using: database alias.
        phase: ``pre``, ``post`` or ``both``.
        users: primary keys as text; empty for all. Checks of whole runs are left out then.
        run: check only the users of this run, with the checks of the post phase.
        on_finding: called with each finding, check by check and in the order of keys.
        most: findings reported per check; None for all.
        listed: checks whose findings are reported although they are only counted otherwise.
        all_hits: report every finding of every check, whatever ``most`` and ``listed`` say.
        fixes: what auto-fix has just done, or would do, for the counts.
        chains: in the post phase, follow the chains of digests as well, unless users are named.
        chain_head: a head of a chain that was kept elsewhere, which must be among the links.
        quick_first: read the ledger since the run, or the latest pre-check, began; see Note [Suspicion first] in
            ``engine.integrity.quick``.
        part: check only the users in this range of keys; checks of whole runs are left out then.
        step: called with what is read next, in words.

    Raises:
        RunNotFoundError: there is no such run.
    """
    begun = time.monotonic()
    chains = chains and phase != PRE and not users and part is None
    checks = _checks(using, phase, run, chains=chains)
    if part is not None:
        checks = tuple(check for check in checks if check.id not in OF_RUNS)
    with read_only_snapshot(using):
        if not users:
            dialect.read_whole_tables(connections[using])
        scope = part or Scope(users=tuple(users), run=run)
        plan = plan_count(using, connections[using], phase, scope, _terms(using, run), quick_first=quick_first)
        found = count(plan, step)
        walk = None
        if chains:
            walk = chain.walk(using, run=run, expected=chain_head, on_run=lambda number: step(f"chain of run {number}"))
            _count_breaks(found, walk)
        if on_finding is not None:
            with dialect.joined(connections[using], dialect.JOINED_BY_KEY):  # range by range
                for check in sorted(checks, key=lambda check: SEVERITIES.index(check.severity)):
                    if found.numbers.get(check.id) and (all_hits or not check.only_counted or check.id in listed):
                        _report(plan, check.id, found, on_finding, None if all_hits else most)
    return ValidationReport(
        phase=phase,
        checks=tuple(_result(check, found.numbers.get(check.id, 0), fixes) for check in checks),
        totals=found.totals,
        baseline=found.baseline,
        walk=walk,
        seconds=time.monotonic() - begun,
    )


@dataclass(frozen=True, slots=True)
class Place:
    """Where a validation in parts continues: after the user with this key, at the sums, or at the chain of a run."""

    after: str | None = None
    sums: bool = False
    run: int | None = None

    @classmethod
    def parse(cls, text: str) -> Place:
        """Return the place that a text names: start, pk:KEY, sums or run:ID.

        Raises:
            UsageError: it names none.
        """
        kind, _, value = text.partition(":")
        try:
            if kind == "pk" and value:
                return cls(after=to_text(from_text(value)))
            if kind == "run" and value.isdecimal():
                return cls(run=int(value))
            return {"start": cls(), "sums": cls(sums=True)}[text]
        except (KeyError, ValidationError):
            raise UsageError(f"{text!r} is not a place: give start, pk:KEY, sums or run:ID") from None

    def __str__(self) -> str:
        if self.run is not None:
            return f"run:{self.run}"
        return "sums" if self.sums else "start" if self.after is None else f"pk:{self.after}"


def validate_in_parts(
    using: str,
    start: Place,
    *,
    phase: str = BOTH,
    on_finding: OnFinding = ignore,
    most: int | None = SHOWN,
    listed: Collection[str] = (),
    all_hits: bool = False,
    at: Callable[[Place], object] = ignore,
) -> Iterator[ValidationReport]:
    """Run the checks of a phase part after part, each in a snapshot of its own, and yield what each part found.

    All parts together check what ``validate`` does: the users in ranges of their keys, then the sums of runs, ledgers
    and wallets, then the chains of all runs.

    Args:
        using: database alias.
        start: the place to begin at.
        phase, on_finding, most, listed, all_hits: as for ``validate``; ``most`` for each part.
        at: called with the place of what is checked next, from which a later call can continue.
    """
    if not start.sums and start.run is None:
        for part in ranges(connections[using], Scope(after=start.after)):
            at(Place(after=part.after))
            yield validate(
                using, phase=phase, part=part, on_finding=on_finding, most=most, listed=listed, all_hits=all_hits
            )
    if phase == PRE:
        return
    if start.run is None:
        at(Place(sums=True))
        yield _validate_sums(using, on_finding)
    begun, found = time.monotonic(), Counts()
    with read_only_snapshot(using):
        dialect.read_whole_tables(connections[using])
        walk = chain.walk(using, first_run=start.run or 0, on_run=lambda number: at(Place(run=number)))
    _count_breaks(found, walk)
    yield _of_runs(found, OF_CHAINS, on_finding, begun, walk)


def _validate_sums(using: str, on_finding: OnFinding) -> ValidationReport:
    begun = time.monotonic()
    with read_only_snapshot(using):
        dialect.read_whole_tables(connections[using])
        plan = plan_count(using, connections[using], POST, Scope(), _terms(using, None))
        return _of_runs(count_sums(plan), OF_RUNS, on_finding, begun)


def _of_runs(
    found: Counts, names: Sequence[str], on_finding: OnFinding, begun: float, walk: Walk | None = None
) -> ValidationReport:
    """Report what these checks of whole runs found."""
    for finding in found.of_runs:
        on_finding(finding)
    return ValidationReport(
        phase=POST,
        checks=tuple(CheckResult(name, BY_ID[name].severity, found.numbers.get(name, 0)) for name in names),
        totals=found.totals,
        walk=walk,
        seconds=time.monotonic() - begun,
    )


def _checks(using: str, phase: str, run: int | None, *, chains: bool) -> tuple[Check, ...]:
    """Return the checks of a phase; of a rollback also that of unmigrated users, which those it took back are now."""
    checks = tuple(check for check in checks_of(phase) if chains or check.id != _CHAINS)
    rollback = run is not None and MigrationRun.objects.using(using).numbered(run).is_rollback
    return (*checks, BY_ID["orphaned_mana"]) if rollback and phase == POST else checks


def _count_breaks(found: Counts, walk: Walk) -> None:
    """Add where chains do not hold to what was found."""
    found.numbers[_CHAINS] = len(walk.breaks)
    found.of_runs += [
        Finding(_CHAINS, record=each.record, run=each.run, figures={"batch": each.batch}, reason=each.reason)
        for each in walk.breaks
    ]


def _result(check: Check, remaining: int, fixes: FixReport | None) -> CheckResult:
    if fixes is None:
        return CheckResult(check.id, check.severity, remaining)
    number = fixes.fixed_by_check.get(check.id, 0)
    if fixes.dry_run:
        return CheckResult(check.id, check.severity, remaining, would_fix=number)
    return CheckResult(check.id, check.severity, remaining + number, number)


def precheck(using: str = "default") -> ValidationReport:
    """Run all checks that come before a migration, and take the sums that it must preserve."""
    return validate(using, phase=PRE, quick_first=True)


def wallet_totals(using: str = "default") -> dict[str, int]:
    """Return the number of wallets and of those migrated, and the sums over all of them in wishes and mana."""
    return wallets.scan(connections[using], _terms(using, None), Scope()).totals


def check_run(using: str, run_id: int, *, exact: bool = False) -> ValidationReport:
    """Run the checks of what one run did, before it may be called completed.

    A rollback that deletes its records leaves nothing that names its users: then everything is checked.  ``exact``:
    read all that the ledger has of its users at once, instead of only where what came since the run began is suspect.

    Raises:
        RunNotFoundError: there is no such run.
    """
    run = MigrationRun.objects.using(using).numbered(run_id)
    scope = None if run.deletes_records else run_id
    known = _known_before(using, run)
    with sessions.named(f"check of run {run_id}"):
        if not exact:
            found = _less(validate(using, phase=POST, run=scope, chains=False, quick_first=True), known)
            if found.ok:
                return found
        return _less(validate(using, phase=POST, run=scope, chains=False), known)


def kept(run: MigrationRun, using: str) -> ValidationReport | None:
    """Return what the check at the end of a run found; None where it was not checked, or kept less."""
    event = RunEvent.objects.using(using).filter(run=run, kind=EventKind.CHECKED).order_by("-id").first()
    return None if event is None else ValidationReport.from_details(event.details, event.created_at)


def _known_before(using: str, run: MigrationRun) -> Counter[str]:
    """Return the findings that a run did not cause, by check.

    Those of the users whose fixes it undid, which are as they were before; and where it deletes its records, so that
    all users are checked, those that were counted when it was opened.
    """
    undone = IntegrityFix.objects.using(using).filter(run=run, undoes__isnull=False)
    known = Counter(dict(undone.values_list("check_id").annotate(Count("user_id", distinct=True)).order_by()))
    known.update(run.baseline.get("findings", {}))
    return known


def _less(report: ValidationReport, known: Mapping[str, int]) -> ValidationReport:
    checks = (replace(check, known=min(check.count, known.get(check.id, 0))) for check in report.checks)
    return replace(report, checks=tuple(checks))


def error_counts(using: str) -> dict[str, int]:
    """Return how many error-level findings of the post phase there are now, by check; chains are not followed."""
    report = validate(using, phase=POST, chains=False)
    return {check.id: check.count for check in report.checks if check.severity == ERROR and check.count}


def _terms(using: str, run: int | None) -> WalletTerms:
    """Return the rates in force, or those of a run."""
    rates = wishes_conf.rates()
    if run is not None:
        frozen = MigrationRun.objects.using(using).numbered(run).rates
        rates = Rates.from_mapping(frozen) if frozen else rates
    return WalletTerms(rates, conf.large_conversion())


# --- Telling ----------------------------------------------------------------------------------------------------------


def _report(plan: CountPlan, check: str, found: Counts, on_finding: OnFinding, most: int | None) -> None:
    wanted = found.numbers[check] if most is None else min(most, found.numbers[check])
    of_runs = [finding for finding in found.of_runs if finding.check == check]
    for finding in of_runs[:wanted]:
        on_finding(finding)
    if of_runs or not wanted:
        return
    reported = 0
    for part in ranges(plan.connection, plan.scope):
        for finding in findings_in(plan.connection, check, part, plan.terms):
            on_finding(finding)
            reported += 1
            if reported == wanted:
                return
