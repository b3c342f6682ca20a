"""Rolling back: take conversions back, exactly, by users, since a date, by run or all."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Unpack

from django.db import connections, transaction
from django.db.models import Count
from django.utils import timezone

from mana_migration.domain.options import MAX_SELECTED_USERS, RollbackOptions
from mana_migration.domain.results import RollbackForecast, RunSummary, Totals
from mana_migration.engine import pipeline, records, reversal, totals
from mana_migration.engine.batches import Handled, Limits, Task
from mana_migration.engine.integrity import quick
from mana_migration.engine.planning import Slice
from mana_migration.engine.reversal import ReversalTerms
from mana_migration.engine.snapshot import read_only_snapshot
from mana_migration.errors import NothingToRollBackError, RunConflictError
from mana_migration.models import MigrationRun, UserMigration
from mana_migration.services import preflight, runs, selected_users, validation
from mana_migration.services.context import RunContext, StopFlag
from mana_migration.services.runs import Actor
from mana_migration.services.worker import throttle
from mana_migration.services.worker.loop import Ending, Worker
from mana_migration.states import RunKind, RunStatus, StopCause, statuses_before


def terms_of(options: RollbackOptions, run: int) -> ReversalTerms:
    """Return what is frozen on a rollback run, as the engine takes it."""
    return ReversalTerms(
        run=run,
        write_off=options.write_off,
        preserve_logs=options.preserve_logs,
        target_run=options.run,
        since=options.since,
        until=options.until,
        selected=bool(options.users),
    )


@dataclass(frozen=True, slots=True)
class RollbackWork:
    """What a worker does for a rollback; see ``worker.context.Work``."""

    terms: ReversalTerms
    limit: int | None = None

    def plan(self, using: str, *, after: str, size: int, limit: int) -> list[Slice]:
        """Cut the next users whose conversions are still to be taken back."""
        return reversal.plan_rollback(connections[using], self.terms, after=after, size=size, limit=limit)

    def keys(self, using: str, *, first: str, last: str) -> list[str]:
        """Return the keys of a range whose conversions are still to be taken back."""
        return reversal.rollback_keys(connections[using], self.terms, first=first, last=last)

    def handle(self, using: str, task: Task, limits: Limits) -> Handled | None:
        """Reverse the conversions of a batch in one transaction: claim it, reverse them, mark it."""
        with transaction.atomic(using=using, durable=True):
            return reversal.reverse(connections[using], self.terms, task, limits)

    def handle_several(self, using: str, tasks: Sequence[Task], limits: Limits) -> list[Handled | None]:
        """Reverse the conversions of batches, a transaction each."""
        return pipeline.reverse_several(connections[using], self.terms, tasks, limits)

    def record_problem(self, using: str, *, batch: int, user: str, status: str, error_class: str, message: str) -> bool:
        """Record that one user's conversion was left in place."""
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
        """A rollback has no breaker: it takes back what it can and lists the rest."""
        return False


def forecast_rollback(options: RollbackOptions, *, using: str = "default", largest: int = 10) -> RollbackForecast:
    """Say what a rollback would do now, in one read-only snapshot; nothing is locked or written.

    Raises:
        RunNotFoundError: the run to take back does not exist.
        RunConflictError: it is no migration.
    """
    preflight.check(using, read_only=True)
    warnings = tuple(preflight.warnings(using))
    begun = time.monotonic()
    with read_only_snapshot(using):
        check_target(options, using)
        connection = connections[using]
        terms = terms_of(options, run=0)
        open_run = runs.open_run_or_none(using)
        if options.users:
            whole = Totals()
            lacking: list[tuple[int, int, int]] = []
            for user in options.users:
                whole.add(reversal.forecast(connection, terms, keys=(user, user)))
                lacking += reversal.shortfalls(connection, terms, limit=largest, keys=(user, user))
            lacking = sorted(lacking, key=lambda row: -row[2])[:largest]
            blocked = "" if _somebody_named(options, using) else nothing_words(options)
            return RollbackForecast(whole, lacking, None, time.monotonic() - begun, blocked, warnings=warnings)
        whole = reversal.forecast(connection, terms)
        blocked, goes_on_with = _beside(open_run, options)
        if not blocked and goes_on_with is None and not whole.selected:
            blocked = nothing_words(options)
        return RollbackForecast(
            whole,
            reversal.shortfalls(connection, terms, limit=largest),
            open_run.pk if open_run is not None and open_run.kind == RunKind.MIGRATION else None,
            time.monotonic() - begun,
            blocked,
            goes_on_with,
            warnings,
        )


def _beside(open_run: MigrationRun | None, options: RollbackOptions) -> tuple[str, int | None]:
    """Return why an open rollback refuses these options, and else which it is that they go on with."""
    if open_run is None or open_run.kind != RunKind.ROLLBACK:
        return "", None
    try:
        refuse_to_join(open_run, options)
    except RunConflictError as error:
        return str(error), None
    return "", open_run.pk


def check_target(options: RollbackOptions, using: str) -> None:
    """Refuse a target that cannot be taken back.

    Raises:
        RunNotFoundError: there is no such run.
        RunConflictError: the run is no migration.
    """
    if options.run is None:
        return
    target = MigrationRun.objects.using(using).numbered(options.run)
    if target.kind != RunKind.MIGRATION:
        raise RunConflictError(
            f"run {target.pk} is {'an' if target.kind == RunKind.IMPORT else 'a'} {target.get_kind_display().lower()}: "
            "only the conversions of a migration run can be taken back"
        )


def roll_back(
    options: RollbackOptions,
    *,
    actor: Actor,
    **context: Unpack[RunContext],
) -> RunSummary:
    """Take conversions back: of named users at once, else in a run that the same call goes on with.

    A mass rollback first stops an open migration.  ``context``: see ``RunContext``.

    Raises:
        PreflightError: the database is not fit.
        NothingToRollBackError: the selection holds no conversion.
        RunConflictError: another rollback is open, or records cannot be deleted now.
        DatabaseUnavailableError: the database cannot do the work; the run stays open.
    """
    using, notice = context.get("using", "default"), context.get("notice", runs.silent)
    preflight.check(using, reverses=True, notice=notice)
    if options.users:
        refuse_nothing(options, using)
        return selected_users.roll_back_selected(options, actor=actor, using=using)
    run = open_or_join(options, actor=actor, using=using, notice=notice)
    if run.expected is not None:
        expecting = context.get("expecting", runs.ignore_expected)
        expecting(max(0, run.expected - totals.run_totals(run, using).selected))
    return work_on_rollback(run.pk, actor=actor, **context)


def open_or_join(options: RollbackOptions, *, actor: Actor, using: str, notice: runs.Notice) -> MigrationRun:
    """Return the rollback to work on: the open one, else a new one; two at once get the same."""
    run = runs.open_run_or_none(using)
    if run is None or run.kind != RunKind.ROLLBACK:
        try:
            return open_rollback(options, actor=actor, using=using, notice=notice)
        except RunConflictError:
            run = runs.open_run_or_none(using)
            if run is None or run.kind != RunKind.ROLLBACK:
                raise
    join(run, options, actor=actor, using=using, notice=notice)
    return run


def refuse_nothing(options: RollbackOptions, using: str) -> None:
    """Refuse named users of whom nobody is migrated.

    Raises:
        NothingToRollBackError: that is so.
    """
    if not _somebody_named(options, using):
        raise NothingToRollBackError(f"{nothing_words(options)}; nothing was changed")


def _somebody_named(options: RollbackOptions, using: str) -> bool:
    """Say whether one of the named users is migrated; of too many to ask for at once it is taken to be so."""
    live = UserMigration.objects.using(using).live().filter(user_id__in=options.users)
    return len(options.users) > MAX_SELECTED_USERS or live.exists()


def nothing_words(options: RollbackOptions) -> str:
    """Say that a selection holds nothing to take back."""
    return f"there is no conversion to take back {describe_selection(options)}"


def open_rollback(
    options: RollbackOptions, *, actor: Actor, using: str = "default", notice: runs.Notice = runs.silent
) -> MigrationRun:
    """Open a rollback run with its selection frozen; an open migration is stopped first.

    Raises:
        NothingToRollBackError: the selection holds no conversion.
        RunConflictError, RunNotFoundError: the target cannot be taken back, or another rollback is open.
    """
    check_target(options, using)
    with transaction.atomic(using=using):
        open_run = runs.open_run_or_none(using)
        if open_run is not None and open_run.kind == RunKind.MIGRATION:
            reason = options.reason or "a mass rollback begins"
            runs.change_status(
                open_run.pk,
                RunStatus.STOPPED,
                actor=actor,
                cause=StopCause.MASS_ROLLBACK,
                reason=reason,
                using=using,
            )
        # a millisecond is what SQLite's clock tells apart
        frozen = replace(options, until=runs.database_now(using) + timedelta(milliseconds=1))
        expected = reversal.forecast(connections[using], terms_of(frozen, run=0)).selected
        if not expected and not options.breaker:
            raise NothingToRollBackError(f"{nothing_words(frozen)}; nothing was changed")
        run = runs.create_run(
            using=using,
            kind=RunKind.ROLLBACK,
            options=frozen.as_dict(),
            rates={},
            controls=frozen.controls,
            actor=actor,
            reason=options.reason,
            target_run=options.run,
            expected=expected,
            baseline=_read_from(using),
        )
    if open_run is not None:
        notice(f"run {open_run.pk} was open: it is stopped, since a mass rollback begins")
    return run


def _read_from(using: str) -> dict[str, str]:
    """Return the marks of a rollback that begins now: it may reverse what was written since the earliest live run."""
    connection = connections[using]
    first = quick.first_live_run(connection)
    known = {} if first is None else MigrationRun.objects.using(using).get(pk=first).baseline
    return quick.marks(connection) | {name: known.get(name, "0") for name in (quick.RECORDS, quick.ENTRIES)}


def describe_selection(options: RollbackOptions) -> str:
    """Say in words what a rollback selects."""
    if options.users:
        return "for the named user" if len(options.users) == 1 else f"for the {len(options.users):,} named users"
    if options.run is not None:
        return f"of run {options.run}"
    if options.since is not None:
        return f"since {timezone.localtime(options.since):%Y-%m-%d %H:%M:%S %Z}"
    return "at all"


def join(
    run: MigrationRun, options: RollbackOptions, *, actor: Actor, using: str, notice: runs.Notice = runs.silent
) -> None:
    """Go on with the open rollback, if it is the one that this request means.

    Raises:
        RunConflictError: see ``refuse_to_join``.
    """
    refuse_to_join(run, options)
    notice(f"run {run.pk}, opened {timezone.localtime(run.created_at):%H:%M} on {run.host}: going on")
    runs.note_resumed_work(run.pk, actor=actor, using=using)


def refuse_to_join(run: MigrationRun, options: RollbackOptions) -> None:
    """Refuse a request that the open rollback cannot be meant by.

    Raises:
        RunConflictError: it takes something else back, or on other terms, or is paused.
    """
    frozen, asked = run.options, options.as_dict()
    contradictions = [
        f"{name} is {frozen.get(name)!r}, not {asked[name]!r}"
        for name in ("run", "since", "everything", "emergency", "on_shortfall", "preserve_logs")
        if asked[name] != frozen.get(name)
    ]
    contradictions += run.controls_in_force.contradictions(options.controls, options.given)
    if contradictions:
        raise RunConflictError(
            f"rollback run {run.pk} is open with other options: {'; '.join(contradictions)}. "
            f"Let it finish, or stop it with migrate_users --stop {run.pk}"
        )
    if run.status == RunStatus.PAUSED:
        raise RunConflictError(f"run {run.pk} is paused; let it go on with migrate_users --resume {run.pk}")


def work_on_rollback(
    run_id: int,
    *,
    actor: Actor,
    joining: bool = False,
    **context: Unpack[RunContext],
) -> RunSummary:
    """Work on an open rollback until it ends, a signal comes or it leaves our hands.

    ``joining``: others work on it too; what they have begun to check is theirs.  Nobody is told how
    many users are left: whoever calls may have been told of another run's.
    """
    begun = time.monotonic()
    using, notice = context.get("using", "default"), context.get("notice", runs.silent)
    stop, progress = context.get("stop") or StopFlag(), context.get("progress")
    run = MigrationRun.objects.using(using).get(pk=run_id)
    options = run.rollback_options
    pause = None if options.emergency else throttle.Throttle(run_id, using, stop, notice, progress)
    work = RollbackWork(terms_of(options, run_id))
    worker = Worker(run_id, work, using=using, stop=stop, progress=progress, throttle=pause, notice=notice)
    ending = Ending.DONE if run.status == RunStatus.CHECKING else worker.run()
    if ending is Ending.DONE and runs.to_checking(run_id, actor=actor, using=using, joining=joining):
        finish(run_id, options, actor=actor, using=using, notice=notice)
    run.refresh_from_db(using=using)
    figures = totals.folded_figures(run, using)
    return RunSummary(
        run=run.pk,
        kind=run.kind,
        dry_run=False,
        status=run.status,
        totals=Totals.from_dict(figures["totals"]),
        seconds=time.monotonic() - begun,
        cause=run.stop_cause,
        reason=run.stop_reason,
        started_at=run.created_at,
        handled=worker.handled,
        halving=totals.halving(run, using, figures),
    )


def finish(
    run_id: int, options: RollbackOptions, *, actor: Actor, using: str, notice: runs.Notice = runs.silent
) -> None:
    """Check the books after a rollback and close it, and the run that it took back."""
    notice("everybody is accounted for: checking the books")
    report = validation.check_run(using, run_id)
    with transaction.atomic(using=using):
        if runs.end_check(run_id, broken=report.broken, actor=actor, details=report.as_details(), using=using):
            close_targets(options, run_id, actor=actor, using=using)


def close_targets(options: RollbackOptions, rollback_run: int, *, actor: Actor, using: str) -> None:
    """Mark the runs that were taken back: those without a live conversion, and the one whose breaker asked for it."""
    migrations = MigrationRun.objects.using(using).migrations()
    live = UserMigration.objects.using(using).live()
    if options.run is not None:
        migrations, live = migrations.filter(pk=options.run), live.filter(run_id=options.run)
    remaining = dict(live.order_by().values_list("run_id").annotate(Count("id")))
    for run in migrations.filter(status__in=statuses_before(RunStatus.ROLLED_BACK)):
        left = remaining.get(run.pk, 0)
        ended = run.status == RunStatus.ROLLING_BACK and options.run == run.pk
        if not ended and (left or not totals.run_totals(run, using).migrated):
            continue
        reason = f"taken back by run {rollback_run}"
        if left:
            reason += f"; {left:,} users had spent their mana and stay migrated"
        runs.change_status(run.pk, RunStatus.ROLLED_BACK, actor=actor, reason=reason, using=using)
