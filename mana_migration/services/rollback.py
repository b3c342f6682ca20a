"""Rolling back: what may be reversed, how a batch and a selected user are reversed, which runs are closed with it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Final

from django.db import connections, transaction
from django.db.models import Count
from django.utils import timezone
from django.utils.translation import gettext as _

from mana_migration.domain.breaker import BreakerVerdict
from mana_migration.domain.options import MAX_SELECTED_USERS, Controls, RollbackOptions
from mana_migration.domain.results import RunSummary, Totals
from mana_migration.domain.words import counted
from mana_migration.engine import pipeline, reversal, totals
from mana_migration.engine.batches import Handled, Limits, Task
from mana_migration.engine.integrity import quick
from mana_migration.engine.planning import Slice
from mana_migration.engine.reversal import ReversalTerms
from mana_migration.errors import NothingToRollBackError, RunConflictError
from mana_migration.models import MigrationRun, UserMigration
from mana_migration.services import approval, autofix, closing, logs, runs, selected_users, validation
from mana_migration.services.approval import Approval
from mana_migration.services.context import RunContext
from mana_migration.states import RunKind, RunStatus, StopCause, statuses_before

#: What a request must have in common with the open rollback that it resumes.
_SAME: Final = ("run", "since", "everything", "emergency", "on_shortfall", "preserve_logs", "keep_fixes")


@dataclass(frozen=True, slots=True)
class RollbackWork:
    """What a worker does for a rollback; see ``worker.context.Work``."""

    terms: ReversalTerms
    limit: int | None = None
    throttled: bool = True

    @classmethod
    def of(cls, run: MigrationRun) -> RollbackWork:
        """Return the work on an open rollback."""
        options = run.rollback_options
        return cls(terms_of(options, run.pk), throttled=not options.emergency)

    def plan(self, using: str, *, after: str, size: int, limit: int, first_pass: bool) -> list[Slice]:
        """Cut the next users whose conversions are still to be reversed."""
        return reversal.plan_rollback(connections[using], self.terms, after=after, size=size, limit=limit)

    def keys(self, using: str, *, first: str, last: str) -> list[str]:
        """Return the keys of a range whose conversions are still to be reversed."""
        return reversal.rollback_keys(connections[using], self.terms, first=first, last=last)

    def handle(self, using: str, task: Task, limits: Limits) -> Handled | None:
        """Reverse the conversions of a batch in one transaction: claim it, reverse them, mark it."""
        with transaction.atomic(using=using, durable=True):
            return reversal.reverse(connections[using], self.terms, task, limits)

    def handle_several(self, using: str, tasks: Sequence[Task], limits: Limits) -> list[Handled | None]:
        """Reverse the conversions of batches, a transaction each."""
        return pipeline.reverse_several(connections[using], self.terms, tasks, limits)

    def verdict(self, using: str, *, final: bool = False) -> BreakerVerdict:
        """Return that it continues: a rollback has no breaker, it reverses what it can and lists the rest."""
        return BreakerVerdict(tripped=False)

    def before_check(self, context: RunContext) -> None:
        """Undo what auto-fix did for the runs that were rolled back."""
        rollback = MigrationRun.objects.using(context.using).get(pk=self.terms.run)
        undo_fixes(rollback.pk, rollback.rollback_options, context)

    def on_close(self, context: RunContext) -> None:
        """Close the runs that were rolled back: those without a live conversion, and the one whose breaker tripped."""
        rollback = MigrationRun.objects.using(context.using).get(pk=self.terms.run)
        close_targets(rollback, context)


@dataclass(frozen=True, slots=True)
class Rollback:
    """A rollback as it is asked for; see ``operation.Operation``."""

    options: RollbackOptions
    approval: Approval | None = None

    @property
    def controls(self) -> Controls:
        """The pace, the error threshold and the window that are asked for."""
        return self.options.controls

    @property
    def selected_users(self) -> tuple[str, ...]:
        """The users that are selected one by one, empty for a mass run."""
        return self.options.users

    @property
    def reverses(self) -> bool:
        """Whether conversions are reversed."""
        return True

    def shown_run(self, run: MigrationRun) -> int:
        """Return the run whose outcome is reported: the rollback itself."""
        return run.pk

    def can_resume(self, run: MigrationRun) -> bool:
        """Say whether the open run is a rollback; an open migration is stopped instead."""
        return run.is_rollback

    def refuse_to_resume(self, run: MigrationRun) -> None:
        """Refuse a request that cannot mean the open rollback.

        Raises:
            RunConflictError: it reverses something else, or on other terms, or is paused.
        """
        frozen, asked = run.options, self.options.as_dict()
        contradictions = [
            f"{name} is {frozen.get(name)!r}, not {asked[name]!r}"
            for name in _SAME
            if asked.get(name) != frozen.get(name)
        ]
        contradictions += run.controls_in_force.contradictions(self.options.controls, self.options.given)
        if contradictions:
            raise RunConflictError(
                _(
                    "rollback run {run} is open with other options: {differences}. "
                    "Let it finish, or stop it with control_migration stop {run}"
                ).format(run=run.pk, differences="; ".join(contradictions))
            )
        runs.refuse_paused(run)

    def describe_resumed(self, run: MigrationRun, using: str) -> str:
        """Say which run is resumed."""
        return f"run {run.pk}, opened {timezone.localtime(run.created_at):%H:%M} on {run.host}: resuming"

    def open(self, context: RunContext) -> MigrationRun:
        """Open a rollback run with its selection frozen; an open migration is stopped first.

        Raises:
            NothingToRollBackError: the selection holds no conversion.
            RunConflictError, RunNotFoundError: the target cannot be rolled back, or another rollback is open.
            ApprovalError: a second person's approval is needed.
        """
        options, using = self.options, context.using
        check_target(options, using)
        granted = self.approval or Approval(options.approved_by)
        if not options.breaker:
            closing.require_open(using, actor=context.actor, approved_by=options.approved_by)
            approval.require(granted, actor=context.actor, using=using)
        with transaction.atomic(using=using):
            approval.lock(granted, using)
            open_run = runs.open_run_or_none(using)
            if open_run is not None and open_run.kind == RunKind.MIGRATION:
                runs.change_status(
                    open_run.pk,
                    RunStatus.STOPPED,
                    actor=context.actor,
                    cause=StopCause.MASS_ROLLBACK,
                    reason=options.reason or "a mass rollback begins",
                    using=using,
                )
            # a millisecond is the resolution of SQLite's clock
            frozen = replace(options, until=runs.database_now(using) + timedelta(milliseconds=1))
            expected = reversal.forecast(connections[using], terms_of(frozen, run=0)).selected
            if not expected and not options.breaker:
                raise NothingToRollBackError(nothing_to_roll_back(frozen) + _("; nothing was changed"))
            run = runs.create_run(
                using=using,
                kind=RunKind.ROLLBACK,
                options=frozen.as_dict(),
                rates={},
                controls=frozen.controls,
                actor=context.actor,
                reason=options.reason,
                target_run=options.run,
                expected=expected,
                # where records are deleted all users are checked afterwards, so what is wrong before must be known
                baseline=_read_from(using)
                | ({} if options.preserve_logs else {"findings": validation.error_counts(using)}),
            )
            approval.record(granted, run, actor=context.actor, using=using)
        if open_run is not None:
            context.notice(f"run {open_run.pk} was open: it is stopped, since a mass rollback begins")
        return run

    def handle_selected(self, context: RunContext) -> RunSummary:
        """Reverse the conversions of selected users at once, each in a transaction of their own.

        A user rolled back while a migration is open is not converted again by it.

        Raises:
            UsageError: more users are selected than one transaction should hold.
            NothingToRollBackError: no selected user is migrated.
            RunConflictError: records were to be deleted while a migration is open.
            DatabaseUnavailableError: another session held a wallet for too long; no user was rolled back.
        """
        options, using = self.options, context.using
        if not any_migrated(options, using):
            raise NothingToRollBackError(nothing_to_roll_back(options) + _("; nothing was changed"))

        def reverse(run: MigrationRun, task: Task) -> Totals:
            open_run = runs.share_open_migration(using)
            if open_run is not None and not options.preserve_logs:
                raise RunConflictError(
                    f"run {open_run.pk} is open and needs the records of its users; "
                    "leave out --no-preserve-logs, or wait until it has ended"
                )
            handled = reversal.reverse(connections[using], terms_of(options, run.pk), task)
            if handled is None:
                return selected_users.left_out(run, task, "not_migrated", using)
            if handled.totals.rolled_back and open_run is not None:
                selected_users.keep_from(open_run, task.first, using)
            return handled.totals

        return selected_users.execute(
            options.users,
            reverse,
            kind=RunKind.ROLLBACK,
            options=options.as_dict(),
            rates={},
            reason=options.reason,
            context=context,
            before_end=lambda run: undo_fixes(run, options, context),
        )


def undo_fixes(run_id: int, options: RollbackOptions, context: RunContext) -> None:
    """Undo what auto-fix did for the runs rolled back, unless the options keep it."""
    if options.keep_fixes:
        return
    undone = autofix.undo_of_rollback(run_id, options, actor=context.actor.name, using=context.using)
    if undone:
        context.notice(
            f"{counted(undone, 'integrity fix', 'integrity fixes')} undone: those wallets are as before the run"
        )
        logs.write(logging.INFO, "integrity fixes undone", run=run_id, fixes=undone)


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


def _read_from(using: str) -> dict[str, Any]:
    """Return the marks of a rollback that begins now: it may reverse what was written since the earliest live run."""
    connection = connections[using]
    first = quick.first_live_run(connection)
    known = {} if first is None else MigrationRun.objects.using(using).get(pk=first).baseline
    return (
        quick.marks(connection)
        | quick.SHORTFALLS_BOOKED
        | {name: known.get(name, "0") for name in (quick.RECORDS, quick.ENTRIES)}
    )


def check_target(options: RollbackOptions, using: str) -> None:
    """Refuse a target that cannot be rolled back.

    Raises:
        RunNotFoundError: there is no such run.
        RunConflictError: the run is no migration.
    """
    if options.run is None:
        return
    target = MigrationRun.objects.using(using).numbered(options.run)
    if target.kind != RunKind.MIGRATION:
        sentence = (
            _("run {run} is an import: only the conversions of a migration run can be rolled back")
            if target.kind == RunKind.IMPORT
            else _("run {run} is a rollback: only the conversions of a migration run can be rolled back")
        )
        raise RunConflictError(sentence.format(run=target.pk))


def any_migrated(options: RollbackOptions, using: str) -> bool:
    """Say whether a selected user is migrated; of too many to ask for at once it is assumed."""
    live = UserMigration.objects.using(using).live().filter(user_id__in=options.users)
    return len(options.users) > MAX_SELECTED_USERS or live.exists()


def nothing_to_roll_back(options: RollbackOptions) -> str:
    """Say that a selection holds no conversion."""
    if options.users:
        which = _("the user is not migrated") if len(options.users) == 1 else _("none of these users is migrated")
    elif options.run is not None:
        which = _("no user is migrated by run {run}").format(run=options.run)
    elif options.since is not None:
        since = f"{timezone.localtime(options.since):%Y-%m-%d %H:%M:%S %Z}"
        which = _("no user was migrated since {moment}").format(moment=since)
    else:
        which = _("no user is migrated by a migration run")
    return _("nothing to roll back: {why}").format(why=which)


def close_targets(rollback: MigrationRun, context: RunContext) -> None:
    """Close the runs that a rollback reversed: those without a live conversion, and the one whose breaker tripped."""
    using, target = context.using, rollback.target_run_id
    migrations = MigrationRun.objects.using(using).migrations()
    live = UserMigration.objects.using(using).live()
    if target is not None:
        migrations, live = migrations.filter(pk=target), live.filter(run_id=target)
    remaining = dict(live.order_by().values_list("run_id").annotate(Count("id")))
    for run in migrations.filter(status__in=statuses_before(RunStatus.ROLLED_BACK)):
        left = remaining.get(run.pk, 0)
        ended = run.status == RunStatus.ROLLING_BACK and target == run.pk
        if not ended and (left or not totals.run_totals(run, using).migrated):
            continue
        reason = f"rolled back by run {rollback.pk}"
        if left:
            reason += f"; {counted(left, 'user')} had spent their mana and stay migrated"
        runs.change_status(run.pk, RunStatus.ROLLED_BACK, actor=context.actor, reason=reason, using=using)
