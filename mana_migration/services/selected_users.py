"""Selected users: converted or rolled back at once, in a single transaction, whatever run is open.

Their run is created closed in that same transaction, so it never holds the database's one slot.
Each user has a ``transaction.atomic()`` of their own in it: one user's error costs no other.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from django.db import DatabaseError, connections, transaction
from django.utils.translation import gettext as _

from mana_migration import conf
from mana_migration.domain.options import MAX_SELECTED_USERS, Controls
from mana_migration.domain.results import RunSummary, Totals
from mana_migration.domain.words import counted, gettext_noop
from mana_migration.engine import batches, dialect, failures, planning, records, totals
from mana_migration.engine import users as user_keys
from mana_migration.engine.batches import Task
from mana_migration.engine.integrity import quick
from mana_migration.engine.planning import Slice
from mana_migration.errors import DatabaseUnavailableError, UsageError
from mana_migration.models import MigrationRun, UserMigration
from mana_migration.services import runs
from mana_migration.services.context import RunContext
from mana_migration.services.worker.context import worker_name
from mana_migration.states import RunKind, RunStatus, UserStatus

HandleUser = Callable[[MigrationRun, Task], Totals]
"""Convert or reverse the one user of a task, inside a transaction; return what was done."""

#: Why a selected user was left as they are, by reason.
REASONS: Final = {
    "already_migrated": gettext_noop("the user is migrated already"),
    "not_migrated": gettext_noop("the user is not migrated: there is nothing to roll back"),
    "rolled_back_during_run": gettext_noop("the user was rolled back while this run was open"),
}


def execute(
    users: Sequence[str],
    handle: HandleUser,
    *,
    kind: RunKind,
    options: Mapping[str, Any],
    rates: Mapping[str, int],
    reason: str,
    context: RunContext,
    before_end: Callable[[int], object] = lambda run: None,
) -> RunSummary:
    """Handle selected users in one transaction, by a run of their own.

    Args:
        users: primary keys as text.
        handle: converts or reverses one user.
        kind, options, rates, reason: of the run.
        context: see ``RunContext``.
        before_end: called with the run, in the same transaction, when all users are handled.

    Raises:
        UsageError: more users are selected than one transaction should hold.
        DatabaseUnavailableError: another session held a wallet for too long; nothing was changed.
    """
    if len(users) > MAX_SELECTED_USERS:
        raise UsageError(
            _("{number} users are selected; select at most {most} at a time").format(
                number=f"{len(users):,}", most=f"{MAX_SELECTED_USERS:,}"
            )
        )
    begun, using, whole = time.monotonic(), context.using, Totals()
    try:
        with transaction.atomic(using=using):
            dialect.set_timeouts(
                context.connection,
                lock_ms=10 * conf.lock_timeout_ms(),
                statement_ms=conf.statement_timeout_ms(),
            )
            run = runs.create_run(
                using=using,
                kind=kind,
                options=options,
                rates=rates,
                controls=Controls(),
                actor=context.actor,
                reason=reason,
                status=RunStatus.COMPLETED,
                expected=len(users),
                baseline=quick.marks_of_selected(context.connection)
                if kind is RunKind.MIGRATION
                else quick.SHORTFALLS_BOOKED,
                message=counted(len(users), "selected user"),
            )
            for user in sorted(users):
                whole.add(_execute_one(run, user, handle, using))
            before_end(run.pk)
            run.planned_users = len(users)
            totals.fold(run, using)
            run.save(using=using, update_fields=["planned_users", "folded"])
    except DatabaseError as error:
        raise DatabaseUnavailableError(
            _("nothing was changed: {why}; give the command again").format(why=failures.describe(error))
        ) from error
    return RunSummary(
        run=run.pk, kind=kind, dry_run=False, status=run.status, totals=whole,
        seconds=time.monotonic() - begun, started_at=run.created_at,
    )  # fmt: skip


def _execute_one(run: MigrationRun, user: str, handle: HandleUser, using: str) -> Totals:
    batch = planning.write_batch(connections[using], run.pk, Slice(user, user, 1))
    task = task_of(batch, user)
    try:
        with transaction.atomic(using=using):
            return handle(run, task)
    except DatabaseError as error:
        if failures.kind_of(error) is not failures.Failure.DATA:
            raise
        error_class, message = failures.classify(error), failures.describe(error)
        _record(run, task, using, status=UserStatus.FAILED, error_class=error_class, message=message)
        return _mark(task, Totals.of_one(failed=error_class), using)


def outcomes(users: Sequence[str], done: RunSummary, *, using: str) -> dict[str, tuple[str, str]]:
    """Return what a run of selected users did to each, as a status and a reason; a user without a wallet has none."""
    keys: list[Any] = list(users)
    records_ = UserMigration.objects.using(using).filter(run=done.run, user__in=keys)
    rows = records_.values_list("user", "status", "error_class")
    return {user_keys.to_text(user): (status, reason) for user, status, reason in rows}


def task_of(batch: int, user: str) -> Task:
    """Return the task of handling one user whose batch was created in the same transaction."""
    return Task(batch, user, user, worker_name(), of_running_run=False, even_if_empty=False)


def left_out(run: MigrationRun, task: Task, reason: str, using: str) -> Totals:
    """Record that there was nothing to do for a selected user, and why; a user without a wallet has no record."""
    recorded = _record(run, task, using, status=UserStatus.SKIPPED, error_class=reason, message=REASONS[reason])
    return _mark(task, Totals.of_one(skipped=reason if recorded else "no_wallet"), using)


def keep_from(run: MigrationRun, user: str, using: str) -> None:
    """Keep an open migration from converting a user again who was just rolled back."""
    if UserMigration.objects.using(using).filter(run=run, user_id=user).exists():
        return
    batch = planning.write_batch(connections[using], run.pk, Slice(user, user, 1))
    task, reason = task_of(batch, user), "rolled_back_during_run"
    _record(run, task, using, status=UserStatus.SKIPPED, error_class=reason, message=REASONS[reason])
    _mark(task, Totals.of_one(skipped=reason), using)


def _record(run: MigrationRun, task: Task, using: str, *, status: UserStatus, error_class: str, message: str) -> bool:
    return records.record_problem(
        connections[using],
        run=run.pk,
        batch=task.batch,
        user=task.first,
        status=status,
        error_class=error_class,
        error_message=message,
    )


def _mark(task: Task, result: Totals, using: str) -> Totals:
    batches.mark(connections[using], task.batch, result, worker=task.worker)
    return result
