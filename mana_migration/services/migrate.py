"""Migrating users: open or go on with a run, work on it, judge it, check it, close it."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

from django.db import connections, transaction
from django.utils import timezone

from mana_migration.domain import breaker
from mana_migration.domain.options import Controls, MigrationOptions, RollbackOptions
from mana_migration.domain.results import ProgressCallback, RunSummary, Totals
from mana_migration.engine import conversion, planning, records, totals
from mana_migration.engine.conversion import ConversionTerms
from mana_migration.engine.planning import Slice
from mana_migration.errors import FindingsError, RunConflictError
from mana_migration.models import MigrationRun
from mana_migration.services import autofix, logs, named, preflight, rollback, runs, throttle, validation
from mana_migration.services.runs import Actor
from mana_migration.services.worker import Ending, StopFlag, Worker
from mana_migration.states import EventKind, RunKind, RunStatus
from wishes import conf as wishes_conf
from wishes.rates import Rates


def terms_of(run: MigrationRun) -> ConversionTerms:
    """Return what is frozen on a migration run, as the engine takes it."""
    return ConversionTerms(
        run=run.pk,
        rates=Rates.from_mapping(run.rates),
        skip_invalid=bool(run.options.get("skip_invalid")),
        cohort=run.options.get("cohort"),
        retry_failed=bool(run.options.get("retry_failed")),
    )


@dataclass(frozen=True, slots=True)
class MigrationWork:
    """What a worker does for a migration; see ``worker.Work``."""

    terms: ConversionTerms
    limit: int | None = None

    def plan(self, using: str, *, after: str, size: int, limit: int) -> list[Slice]:
        """Cut the next users that are still to be converted."""
        return planning.plan_migration(connections[using], self.terms, after=after, size=size, limit=limit)

    def keys(self, using: str, *, first: str, last: str) -> list[str]:
        """Return the keys of a range that are still to be converted."""
        return planning.migration_keys(connections[using], self.terms, first=first, last=last)

    def handle(self, using: str, *, batch: int, first: str, last: str) -> Totals:
        """Convert the users of a range."""
        return conversion.convert(connections[using], self.terms, batch=batch, first=first, last=last)

    def record_problem(self, using: str, *, batch: int, user: str, status: str, error_class: str, message: str) -> bool:
        """Record that one user was left as they are."""
        return records.record_problem(
            connections[using],
            run=self.terms.run,
            batch=batch,
            user=user,
            status=status,
            error_class=error_class,
            error_message=message,
        )

    def tripped(self, using: str) -> bool:
        """Say whether the run has failed too many users."""
        return judge(self.terms.run, using=using).tripped


def judge(run_id: int, *, using: str, final: bool = False) -> breaker.BreakerVerdict:
    """Judge a run by all it attempted and by its latest users."""
    run = MigrationRun.objects.using(using).get(pk=run_id)
    threshold = Controls.from_dict(run.controls).error_threshold
    whole = totals.run_totals(run, using)
    return breaker.judge(whole, totals.latest(run_id, using, attempted=breaker.WINDOW), threshold, final=final)


def migrate(
    options: MigrationOptions,
    *,
    actor: Actor,
    using: str = "default",
    stop: StopFlag | None = None,
    progress: ProgressCallback | None = None,
    notice: runs.Notice = runs.silent,
) -> RunSummary:
    """Migrate users: named ones at once, all others in a run that the same call goes on with.

    Args:
        options: what is asked for.
        actor: who asks.
        using: database alias.
        stop: asks for the end after the batch in hand.
        progress: told of each committed batch.
        notice: told, in sentences, what was found and decided.

    Raises:
        PreflightError: the database is not fit.
        FindingsError: error-level findings stand in the way.
        RunConflictError: another run is open, or this one with other options.
        DatabaseUnavailableError: the database cannot do the work; the run stays open.
    """
    preflight.check(using)
    if options.users:
        return named.migrate_named(options, actor=actor, using=using, notice=notice)
    run = runs.open_run_or_none(using)
    if run is None:
        run = start(options, actor=actor, using=using, notice=notice)
    else:
        join(run, options, actor=actor, using=using, notice=notice)
    return work_on_run(run.pk, actor=actor, using=using, stop=stop, progress=progress, notice=notice)


def start(
    options: MigrationOptions,
    *,
    actor: Actor,
    reason: str = "",
    using: str = "default",
    notice: runs.Notice = runs.silent,
) -> MigrationRun:
    """Check everything that must hold before and open a run; nobody is converted yet.

    Raises:
        FindingsError: error-level findings stand in the way.
        RunConflictError: another mass run is open, or the rates differ from those of live conversions.
    """
    rates = wishes_conf.rates()
    refuse_other_rates(rates, using)
    report = validation.precheck(using)
    fixes = None
    if options.auto_fix and report.error_count:
        fixes = autofix.fix_all(using=using, actor=actor.name)
        report = validation.precheck(using)
        notice(f"auto-fix changed {fixes.fixed:,} findings; before and after are kept as integrity fixes")
    if report.error_count and not options.skip_invalid:
        raise FindingsError(
            f"{report.error_count:,} error-level findings stand in the way "
            f"({', '.join(f'{check.id} {check.count:,}' for check in report.checks if check.blocks)}); "
            "see validate_migration --pre-migration, then use --auto-fix to clear them or --skip-invalid to leave "
            "those users out"
        )
    run = runs.create_run(
        using=using,
        kind=RunKind.MIGRATION,
        options=options.as_dict(),
        rates=rates.as_dict(),
        controls=options.controls,
        actor=actor,
        reason=reason,
        expected=report.expected(limit=options.limit, cohort=options.cohort),
        baseline=report.baseline,
    )
    if fixes is not None:
        autofix.assign_to_run(run.pk, fixes, actor=actor.name, using=using)
    notice(f"run {run.pk} is open on {actor.host}: about {run.expected:,} users to migrate")
    return run


def refuse_other_rates(rates: Rates, using: str) -> None:
    """Refuse to convert at rates that differ from those of the users already converted by a run of ours.

    Raises:
        RunConflictError: they differ.
    """
    last = (
        MigrationRun.objects.using(using)
        .filter(kind=RunKind.MIGRATION)
        .exclude(status=RunStatus.ROLLED_BACK)
        .order_by("-id")
        .first()
    )
    if last is not None and last.rates != rates.as_dict() and totals.run_totals(last, using).migrated:
        raise RunConflictError(
            f"run {last.pk} converted users at {_rates_text(last.rates)}, the rates in force are "
            f"{_rates_text(rates.as_dict())}: users would be treated differently. "
            f"Set the rates back, or roll back run {last.pk} first"
        )


def _rates_text(rates: dict[str, int]) -> str:
    return "/".join(str(rates[colour]) for colour in ("green", "blue", "red"))


def join(
    run: MigrationRun,
    options: MigrationOptions,
    *,
    actor: Actor,
    using: str,
    notice: runs.Notice = runs.silent,
) -> None:
    """Go on with the open run, if it is one that this request can mean.

    Raises:
        RunConflictError: it is a rollback, it is paused, or its frozen options or rates contradict the request.
    """
    if run.kind == RunKind.ROLLBACK:
        if RollbackOptions.from_dict(run.options, run.controls).breaker:
            notice(f"run {run.pk} is taking a run back after its breaker tripped: going on with it")
            return
        raise RunConflictError(runs.describe_conflict(run))
    if run.status == RunStatus.PAUSED:
        raise RunConflictError(f"run {run.pk} is paused; let it go on with migrate_users --resume {run.pk}")
    frozen, asked, default = run.options, options.as_dict(), MigrationOptions().as_dict()
    contradictions = [
        f"{name} is {frozen.get(name)!r}, not {value!r}"
        for name, value in asked.items()
        if name != "auto_fix" and value != default[name] and value != frozen.get(name)
    ]
    if run.rates != wishes_conf.rates().as_dict():
        now = _rates_text(wishes_conf.rates().as_dict())
        contradictions.append(f"its rates are {_rates_text(run.rates)}, not {now}")
    controls, plain = options.controls.as_dict(), Controls().as_dict()
    contradictions += [
        f"{name} is {run.controls.get(name)!r}, not {value!r} (change it with migrate_users --set {name}={value})"
        for name, value in controls.items()
        if value != plain[name] and str(value) != str(run.controls.get(name))
    ]
    if contradictions:
        raise RunConflictError(
            f"run {run.pk} is open with other options: {'; '.join(contradictions)}. "
            f"Give the command without them to go on with it, or stop it with migrate_users --stop {run.pk}"
        )
    figures = totals.folded_figures(run, using)
    last = figures["last_progress"]
    ago = f"{runs.seconds_since(last):.0f} s ago" if last else "not yet"
    notice(
        f"run {run.pk}, opened {timezone.localtime(run.created_at):%H:%M} on {run.host}, last progress {ago}: going on"
    )
    runs.add_event(run.pk, EventKind.RESUMED_WORK, actor=actor, message=f"gone on with on {actor.host}", using=using)


def work_on_run(
    run_id: int,
    *,
    actor: Actor,
    using: str = "default",
    stop: StopFlag | None = None,
    progress: ProgressCallback | None = None,
    notice: runs.Notice = runs.silent,
) -> RunSummary:
    """Work on an open run, whatever its kind, until it ends, a signal comes or it leaves our hands."""
    begun = time.monotonic()
    stop = stop or StopFlag()
    run = MigrationRun.objects.using(using).get(pk=run_id)
    if run.kind == RunKind.ROLLBACK:
        return rollback.work_on_rollback(run_id, actor=actor, using=using, stop=stop, progress=progress, notice=notice)
    work = MigrationWork(terms_of(run), run.options.get("limit"))
    pause = throttle.Throttle(run_id, using, stop, notice)
    worker = Worker(run_id, work, using=using, stop=stop, progress=progress, throttle=pause)
    ending = Ending.DONE if run.status == RunStatus.CHECKING else worker.run()
    if ending is Ending.DONE:
        close(run_id, actor=actor, using=using, stop=stop, progress=progress, notice=notice)
    elif ending is Ending.TRIPPED:
        trip(run_id, judge(run_id, using=using), actor=actor, using=using, stop=stop, progress=progress, notice=notice)
    return summary(run_id, using=using, seconds=time.monotonic() - begun, handled=worker.handled)


def close(
    run_id: int,
    *,
    actor: Actor,
    using: str,
    stop: StopFlag,
    progress: ProgressCallback | None,
    notice: runs.Notice,
) -> None:
    """End a run for which nobody is left: the breaker's last look, the check of the rules, the final status."""
    if not runs.to_checking(run_id, actor=actor, using=using):
        return
    verdict = judge(run_id, using=using, final=True)
    if verdict.tripped:
        trip(run_id, verdict, actor=actor, using=using, stop=stop, progress=progress, notice=notice)
        return
    notice("everybody is accounted for: checking the books")
    report = validation.check_run(using, run_id)
    details = {"ok": report.ok, "checks": {check.id: check.count for check in report.checks if check.count}}
    runs.add_event(run_id, EventKind.CHECKED, actor=actor, details=details, using=using)
    if report.ok:
        runs.change_status(run_id, RunStatus.COMPLETED, actor=actor, using=using)
    else:
        broken = ", ".join(f"{check.id} {check.count:,}" for check in report.checks if check.blocks)
        logs.write(logging.ERROR, "the check after the run found violations", run=run_id, reason=broken)
        runs.change_status(
            run_id, RunStatus.FAILED, actor=actor, reason=f"the check after the run found {broken}", using=using
        )


def trip(
    run_id: int,
    verdict: breaker.BreakerVerdict,
    *,
    actor: Actor,
    using: str,
    stop: StopFlag,
    progress: ProgressCallback | None = None,
    notice: runs.Notice = runs.silent,
) -> None:
    """Stop a run that failed too many users and take its own conversions back."""
    with transaction.atomic(using=using):
        run = runs.lock_run(run_id, using)
        if not run.is_open:
            return  # another worker tripped it
        reason = f"{verdict.reason}, the limit is {run.controls.get('error_threshold')} %"
        if not run.options.get("auto_rollback", True):
            runs.change_status(run_id, RunStatus.STOPPED, actor=actor, reason=f"breaker tripped: {reason}", using=using)
            notice(f"the breaker tripped ({reason}); nothing was taken back, as asked")
            return
        runs.change_status(run_id, RunStatus.ROLLING_BACK, actor=actor, reason=reason, using=using)
        back = rollback.open_rollback(
            RollbackOptions(run=run_id, breaker=True, reason=reason), actor=actor, using=using
        )
    logs.write(logging.ERROR, "the breaker tripped", run=run_id, reason=reason)
    notice(f"the breaker tripped ({reason}): run {back.pk} takes the conversions of run {run_id} back")
    rollback.work_on_rollback(back.pk, actor=actor, using=using, stop=stop, progress=progress, notice=notice)


def summary(run_id: int, *, using: str, seconds: float, handled: int | None = None) -> RunSummary:
    """Return what a run has done so far."""
    run = MigrationRun.objects.using(using).get(pk=run_id)
    return RunSummary(
        run=run.pk,
        kind=run.kind,
        dry_run=False,
        status=run.status,
        totals=totals.run_totals(run, using),
        seconds=seconds,
        reason=run.stop_reason,
        started_at=run.created_at,
        handled=handled,
    )
