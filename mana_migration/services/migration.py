"""Migrating users: open or go on with a run, work on it, judge it, check it, close it."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Unpack

from django.db import connections, transaction
from django.utils import timezone

from mana_migration.domain import breaker
from mana_migration.domain.forecast import NOBODY_FAILED
from mana_migration.domain.options import MigrationOptions, RollbackOptions
from mana_migration.domain.results import RunSummary, Totals
from mana_migration.domain.validation import in_the_way
from mana_migration.engine import conversion, pipeline, planning, records, totals
from mana_migration.engine.batches import Handled, Limits, Task
from mana_migration.engine.conversion import ConversionTerms
from mana_migration.engine.integrity import quick
from mana_migration.engine.planning import Slice
from mana_migration.errors import FindingsError, NothingToMigrateError, RunConflictError
from mana_migration.models import MigrationRun, UserMigration
from mana_migration.services import autofix, checklist, logs, preflight, rollback, runs, selected_users, validation
from mana_migration.services.context import RunContext, StopFlag
from mana_migration.services.runs import Actor
from mana_migration.services.worker import throttle
from mana_migration.services.worker.loop import Ending, Worker
from mana_migration.states import RunKind, RunStatus, StopCause
from wishes import conf as wishes_conf
from wishes.rates import Rates


def terms_of(run: MigrationRun) -> ConversionTerms:
    """Return what is frozen on a migration run, as the engine takes it."""
    return terms_of_request(run.migration_options, Rates.from_mapping(run.rates), run=run.pk)


def terms_of_request(
    options: MigrationOptions, rates: Rates, *, run: int = conversion.NO_RUN, per_user: bool = False
) -> ConversionTerms:
    """Return what a migration that is asked for would freeze; ``run``: the open one that it would go on with."""
    return ConversionTerms(
        run=run,
        rates=rates,
        skip_invalid=options.skip_invalid,
        cohort=options.cohort,
        retry_failed=options.retry_failed,
        per_user=per_user,
    )


@dataclass(frozen=True, slots=True)
class MigrationWork:
    """What a worker does for a migration; see ``worker.context.Work``."""

    terms: ConversionTerms
    limit: int | None = None

    def plan(self, using: str, *, after: str, size: int, limit: int) -> list[Slice]:
        """Cut the next users that are still to be converted."""
        return planning.plan_migration(connections[using], self.terms, after=after, size=size, limit=limit)

    def keys(self, using: str, *, first: str, last: str) -> list[str]:
        """Return the keys of a range that are still to be converted."""
        return planning.migration_keys(connections[using], self.terms, first=first, last=last)

    def handle(self, using: str, task: Task, limits: Limits) -> Handled | None:
        """Convert the users of a batch in one transaction: claim it, convert them, mark it."""
        with transaction.atomic(using=using, durable=True):
            return conversion.convert(connections[using], self.terms, task, limits)

    def handle_several(self, using: str, tasks: Sequence[Task], limits: Limits) -> list[Handled | None]:
        """Convert the users of batches, a transaction each."""
        return pipeline.convert_several(connections[using], self.terms, tasks, limits)

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
    threshold = run.controls_in_force.error_threshold
    whole = totals.run_totals(run, using)
    return breaker.judge(whole, totals.latest(run_id, using, attempted=breaker.WINDOW), threshold, final=final)


def migrate(
    options: MigrationOptions,
    *,
    actor: Actor,
    reason: str = "",
    **context: Unpack[RunContext],
) -> RunSummary:
    """Migrate users: named ones at once, all others in a run that the same call goes on with.

    Where a run is being taken back because its breaker tripped, that is gone on with instead.

    Args:
        options: what is asked for.
        actor: who asks.
        reason: why, for the record.
        context: see ``RunContext``.

    Raises:
        PreflightError: the database is not fit.
        NothingToMigrateError: only those who failed earlier were to be converted, and nobody did.
        FindingsError: error-level findings stand in the way.
        RunConflictError: another run is open, or this one with other options, or other rates are in force.
        DatabaseUnavailableError: the database cannot do the work; the run stays open.
    """
    using, notice = context.get("using", "default"), context.get("notice", runs.silent)
    preflight.check(using, reverses=not options.users, notice=notice)  # the breaker's rollback reverses
    if options.users:
        return migrate_selected(options, actor=actor, reason=reason, using=using, notice=notice)
    run = open_or_join(options, actor=actor, reason=reason, using=using, notice=notice)
    begun = time.monotonic()
    done = work_on_run(run.pk, actor=actor, **context)
    if run.tripped_run is not None:  # the breaker's rollback: what was asked for is the run that it takes back
        return summary(run.tripped_run, using=using, seconds=time.monotonic() - begun, handled=done.handled)
    return done


def open_or_join(
    options: MigrationOptions, *, actor: Actor, reason: str, using: str, notice: runs.Notice
) -> MigrationRun:
    """Return the run to work on: the open one, else a new one; two at once get the same."""
    run = runs.open_run_or_none(using)
    if run is None:
        try:
            return start(options, actor=actor, reason=reason, using=using, notice=notice)
        except RunConflictError:
            run = runs.open_run_or_none(using)
            if run is None:
                raise
    join(run, options, actor=actor, using=using, notice=notice)
    return run


def migrate_selected(
    options: MigrationOptions, *, actor: Actor, reason: str = "", using: str, notice: runs.Notice = runs.silent
) -> RunSummary:
    """Convert named users at once, whatever migration is open.

    Raises:
        RunConflictError: a mass rollback is open, or the rates differ from those of live conversions.
    """
    open_run = runs.open_run_or_none(using)
    if open_run is not None and open_run.kind == RunKind.ROLLBACK:
        raise RunConflictError(runs.describe_conflict(open_run))
    refuse_other_rates(wishes_conf.rates(), using)
    fixes = None
    if options.auto_fix:
        fixes = autofix.fix_all(using=using, actor=actor.name, users=options.users)
        notice(_fixed_words(fixes.fixed))
    done = selected_users.migrate_selected(options, actor=actor, reason=reason, using=using)
    if fixes is not None and done.run is not None:
        autofix.assign_to_run(done.run, fixes, actor=actor.name, using=using)
    return done


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
        NothingToMigrateError: only those who failed earlier were to be converted, and nobody did.
        FindingsError: error-level findings stand in the way.
        RunConflictError: another mass run is open, or the rates differ from those of live conversions.
    """
    checklist.require(using)
    rates = wishes_conf.rates()
    refuse_other_rates(rates, using)
    failed = _failed_before(options, rates, using) if options.retry_failed else None
    report = validation.precheck(using)
    fixes = None
    if options.auto_fix and report.error_count:
        fixes = autofix.fix_all(using=using, actor=actor.name)
        report = validation.precheck(using)
        notice(_fixed_words(fixes.fixed))
    if report.error_count and not options.skip_invalid:
        raise FindingsError(
            f"{in_the_way(report.error_count)} "
            f"({report.broken}); "
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
        expected=report.expected(limit=options.limit, cohort=options.cohort) if failed is None else failed,
        baseline={**report.baseline, **quick.marks(connections[using])},
    )
    if fixes is not None:
        autofix.assign_to_run(run.pk, fixes, actor=actor.name, using=using)
    checklist.attach(run, actor=actor, using=using)
    notice(f"run {run.pk} is open on {actor.host}: about {run.expected:,} users to migrate")
    return run


def _fixed_words(fixed: int) -> str:
    return f"auto-fix changed {fixed:,} finding{'s' * (fixed != 1)}; before and after are kept as integrity fixes"


def _failed_before(options: MigrationOptions, rates: Rates, using: str) -> int:
    """Return how many users a run would take up of those who failed in an earlier one.

    Raises:
        NothingToMigrateError: there is none.
    """
    terms = terms_of_request(options, rates)
    users = conversion.forecast(connections[using], terms, limit=options.limit).selected
    if not users:
        raise NothingToMigrateError(f"{NOBODY_FAILED}: no run was opened, nothing was changed")
    return users


def refuse_other_rates(rates: Rates, using: str) -> None:
    """Refuse to convert at rates that differ from those of the users already converted by a run of ours.

    Raises:
        RunConflictError: they differ.
    """
    migrations = MigrationRun.objects.using(using).migrations().exclude(status=RunStatus.ROLLED_BACK)
    for run in migrations.order_by("-id"):
        if run.rates == rates.as_dict() or not totals.run_totals(run, using).migrated:
            continue
        if UserMigration.objects.using(using).live().filter(run=run).exists():
            raise RunConflictError(
                f"run {run.pk} converted users at {_rates_text(run.rates)}, the rates in force are "
                f"{_rates_text(rates.as_dict())}: users would be treated differently. "
                f"Set the rates back, or roll back run {run.pk} first"
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
        RunConflictError: see ``refuse_to_join``.
    """
    refuse_to_join(run, options)
    if run.kind == RunKind.ROLLBACK:
        notice(f"run {run.pk} takes run {run.target_run_id} back, whose breaker tripped: going on with it")
        runs.note_resumed_work(run.pk, actor=actor, using=using)
        return
    figures = totals.folded_figures(run, using)
    last = figures["last_progress"]
    ago = f"{runs.seconds_since(last):.0f} s ago" if last else "not yet"
    notice(
        f"run {run.pk}, opened {timezone.localtime(run.created_at):%H:%M} on {run.host}, last progress {ago}: going on"
    )
    runs.note_resumed_work(run.pk, actor=actor, using=using)


def refuse_to_join(run: MigrationRun, options: MigrationOptions) -> None:
    """Refuse a request that the open run cannot be meant by; a breaker's rollback can be.

    Raises:
        RunConflictError: it is a rollback, it is paused, or its frozen options or rates contradict the request.
    """
    if run.is_rollback and run.tripped_run is None:
        raise RunConflictError(runs.describe_conflict(run))
    if run.status == RunStatus.PAUSED:
        raise RunConflictError(f"run {run.pk} is paused; let it go on with migrate_users --resume {run.pk}")
    if run.is_rollback:
        return
    frozen, asked, default = run.options, options.as_dict(), MigrationOptions().as_dict()
    contradictions = [
        f"{name} is {frozen.get(name)!r}, not {value!r}"
        for name, value in asked.items()
        if name != "auto_fix" and value != default[name] and value != frozen.get(name)
    ]
    if run.rates != wishes_conf.rates().as_dict():
        now = _rates_text(wishes_conf.rates().as_dict())
        contradictions.append(f"its rates are {_rates_text(run.rates)}, not {now}")
    in_force = run.controls_in_force.contradictions(options.controls, options.given)
    if contradictions or in_force:
        raise RunConflictError(
            f"run {run.pk} is open with other options: {'; '.join([*contradictions, *in_force])}. "
            "Give the command without them to go on with it, "
            + ("change them with migrate_users --set NAME=VALUE, " if in_force else "")
            + f"or stop it with migrate_users --stop {run.pk}"
        )


def work_on_run(
    run_id: int,
    *,
    actor: Actor,
    joining: bool = False,
    **context: Unpack[RunContext],
) -> RunSummary:
    """Work on an open run, whatever its kind, until it ends, a signal comes or it leaves our hands.

    Where others trip its breaker, help to take it back.  ``joining``: others work on it too; what they
    have begun to check is theirs.
    """
    begun = time.monotonic()
    using, notice = context.get("using", "default"), context.get("notice", runs.silent)
    stop = context["stop"] = context.get("stop") or StopFlag()
    progress, expecting = context.get("progress"), context.get("expecting", runs.ignore_expected)
    run = MigrationRun.objects.using(using).get(pk=run_id)
    if run.expected is not None:
        expecting(max(0, run.expected - totals.run_totals(run, using).selected))
    if run.kind == RunKind.ROLLBACK:
        done = rollback.work_on_rollback(run_id, actor=actor, joining=joining, **context)
        if run.tripped_run is None:
            return done
        # the migration that was asked for is the one that its breaker ended
        return summary(run.tripped_run, using=using, seconds=done.seconds, handled=done.handled)
    work = MigrationWork(terms_of(run), run.migration_options.limit)
    pause = throttle.Throttle(run_id, using, stop, notice, progress)
    worker = Worker(run_id, work, using=using, stop=stop, progress=progress, throttle=pause, notice=notice)
    ending = Ending.DONE if run.status == RunStatus.CHECKING else worker.run()
    if ending is Ending.DONE:
        close(run_id, actor=actor, using=using, notice=notice, joining=joining)
    elif ending is Ending.TRIPPED:
        trip(run_id, judge(run_id, using=using), actor=actor, using=using, notice=notice)
    back = runs.find_takeback(run_id, using=using) if ending is not Ending.INTERRUPTED else None
    if back is not None:
        rollback.work_on_rollback(back.pk, actor=actor, joining=joining, **context)
    return summary(run_id, using=using, seconds=time.monotonic() - begun, handled=worker.handled)


def close(
    run_id: int,
    *,
    actor: Actor,
    using: str,
    notice: runs.Notice,
    joining: bool = False,
) -> None:
    """End a run for which nobody is left: the breaker's last look, the check of the rules, the final status."""
    if not runs.to_checking(run_id, actor=actor, using=using, joining=joining):
        return
    verdict = judge(run_id, using=using, final=True)
    if verdict.tripped:
        trip(run_id, verdict, actor=actor, using=using, notice=notice)
        return
    notice("everybody is accounted for: checking the books")
    report = validation.check_run(using, run_id)
    runs.end_check(run_id, broken=report.broken, actor=actor, details=report.as_details(), using=using)


def trip(
    run_id: int,
    verdict: breaker.BreakerVerdict,
    *,
    actor: Actor,
    using: str,
    notice: runs.Notice = runs.silent,
) -> None:
    """Stop a run that failed too many users and open the one that takes its own conversions back."""
    with transaction.atomic(using=using):
        run = runs.lock_run(run_id, using)
        if not run.is_open:
            return  # another worker tripped it
        reason = f"{verdict.reason}, the limit is {run.controls_in_force.error_threshold} %"
        if not run.migration_options.auto_rollback:
            runs.change_status(
                run_id,
                RunStatus.STOPPED,
                actor=actor,
                cause=StopCause.BREAKER,
                reason=f"the breaker tripped: {reason}",
                using=using,
            )
            notice(f"the breaker tripped ({reason}); nothing was taken back, as asked")
            return
        runs.change_status(
            run_id, RunStatus.ROLLING_BACK, actor=actor, cause=StopCause.BREAKER, reason=reason, using=using
        )
        back = rollback.open_rollback(
            RollbackOptions(run=run_id, breaker=True, reason=reason), actor=actor, using=using
        )
    logs.write(logging.ERROR, "the breaker tripped", run=run_id, reason=reason)
    notice(f"the breaker tripped ({reason}): run {back.pk} takes the conversions of run {run_id} back")


def summary(run_id: int, *, using: str, seconds: float, handled: int | None = None) -> RunSummary:
    """Return what a run has done so far; for one that is taken back, what became of that as ``extra["rollback"]``."""
    run = MigrationRun.objects.using(using).get(pk=run_id)
    extra = {}
    if run.status in (RunStatus.ROLLING_BACK, RunStatus.ROLLED_BACK):
        back = MigrationRun.objects.using(using).filter(target_run=run).order_by("-id").first()
        if back is not None:
            undone = totals.run_totals(back, using)
            extra["rollback"] = {
                "run": back.pk,
                "status": back.status,
                "rolled_back": undone.rolled_back,
                "skipped": undone.skipped,
                "failed": undone.failed,
                "mana": undone.mana,
            }
    figures = totals.folded_figures(run, using)
    return RunSummary(
        run=run.pk,
        kind=run.kind,
        dry_run=False,
        status=run.status,
        totals=Totals.from_dict(figures["totals"]),
        seconds=seconds,
        cause=run.stop_cause,
        reason=run.stop_reason,
        started_at=run.created_at,
        handled=handled,
        halving=totals.halving(run, using, figures),
        extra=extra,
    )
