"""Named users: converted or taken back at once, in a single transaction, whatever run is open.

Their run is created closed in that same transaction, so it never holds the database's one slot.
Each user stands alone in a ``transaction.atomic()`` of their own: one user's error costs no other.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from django.db import DatabaseError, connections, transaction

from mana_migration import conf
from mana_migration.domain.options import MAX_SELECTED_USERS, Controls, MigrationOptions, RollbackOptions
from mana_migration.domain.results import RunSummary, Totals
from mana_migration.engine import batches, conversion, dialect, failures, records, reversal, totals
from mana_migration.engine.batches import Task
from mana_migration.engine.conversion import ConversionTerms
from mana_migration.engine.reversal import ReversalTerms
from mana_migration.errors import DatabaseUnavailableError, RunConflictError, UsageError
from mana_migration.models import MigrationBatch, MigrationRun, UserMigration
from mana_migration.services import runs
from mana_migration.services.runs import Actor
from mana_migration.services.worker.context import worker_name
from mana_migration.states import RunKind, RunStatus, UserStatus
from wishes import conf as wishes_conf


def migrate_selected(
    options: MigrationOptions, *, actor: Actor, reason: str = "", using: str = "default"
) -> RunSummary:
    """Convert named users in one transaction; there is no breaker, failures are reported.

    Raises:
        UsageError: more users are named than one transaction should hold.
        DatabaseUnavailableError: somebody held a wallet for too long; nobody was converted.
    """
    check_number(options.users)
    rates = wishes_conf.rates()

    def handle(run: MigrationRun, task: Task) -> Totals:
        terms = ConversionTerms(run=run.pk, rates=rates, skip_invalid=options.skip_invalid, per_user=True)
        handled = conversion.convert(connections[using], terms, task)
        return left_out(run, task, "already_migrated", using) if handled is None else handled.totals

    return _in_one_transaction(
        options.users,
        kind=RunKind.MIGRATION,
        frozen=options.as_dict(),
        rates=rates.as_dict(),
        handle=handle,
        actor=actor,
        reason=reason,
        using=using,
    )


def roll_back_selected(options: RollbackOptions, *, actor: Actor, using: str = "default") -> RunSummary:
    """Take the conversions of named users back in one transaction.

    A user taken back while a migration is open is not converted again by it.

    Raises:
        UsageError: more users are named than one transaction should hold.
        RunConflictError: records were to be deleted while a migration is open.
        DatabaseUnavailableError: somebody held a wallet for too long; nobody was taken back.
    """
    check_number(options.users)

    def handle(run: MigrationRun, task: Task) -> Totals:
        open_run = runs.share_open_migration(using)
        if open_run is not None and not options.preserve_logs:
            raise RunConflictError(
                f"run {open_run.pk} is open and needs the records of its users; "
                "leave out --no-preserve-logs, or wait until it has ended"
            )
        terms = ReversalTerms(
            run=run.pk, write_off=options.write_off, preserve_logs=options.preserve_logs, selected=True
        )
        handled = reversal.reverse(connections[using], terms, task)
        if handled is None:
            return left_out(run, task, "not_migrated", using)
        if handled.totals.rolled_back and open_run is not None:
            keep_from(open_run, task.first, using)
        return handled.totals

    return _in_one_transaction(
        options.users,
        kind=RunKind.ROLLBACK,
        frozen=options.as_dict(),
        rates={},
        handle=handle,
        actor=actor,
        reason=options.reason,
        using=using,
    )


def check_number(users: tuple[str, ...]) -> None:
    """Refuse more named users than one transaction should hold.

    Raises:
        UsageError: there are too many.
    """
    if len(users) > MAX_SELECTED_USERS:
        raise UsageError(f"{len(users):,} users are named; name at most {MAX_SELECTED_USERS:,} at a time")


def task_of(batch: int, user: str) -> Task:
    """Return the task of handling one user whose batch was created in the same transaction."""
    return Task(batch, user, user, worker_name(), of_running_run=False, even_if_empty=False)


def left_out(run: MigrationRun, task: Task, reason: str, using: str) -> Totals:
    """Record that there was nothing to do for a named user, and why; a user without a wallet has no record."""
    sentences = {
        "already_migrated": "the user is migrated already",
        "not_migrated": "the user is not migrated: there is nothing to take back",
        "no_wallet": "the user has no wallet",
    }
    recorded = records.record_problem(
        connections[using],
        run=run.pk,
        batch=task.batch,
        user=task.first,
        status=UserStatus.SKIPPED,
        error_class=reason,
        error_message=sentences[reason],
    )
    result = Totals(selected=1, skipped=1)
    result.skips[reason if recorded else "no_wallet"] = 1
    batches.mark(connections[using], task.batch, result, worker=task.worker)
    return result


def keep_from(run: MigrationRun, user: str, using: str) -> None:
    """Keep an open migration from converting a user again who was just taken back."""
    if UserMigration.objects.using(using).filter(run=run, user_id=user).exists():
        return
    batch = MigrationBatch.objects.using(using).create(run=run, first_user=user, last_user=user, planned=1)
    reason = "rolled_back_during_run"
    records.record_problem(
        connections[using],
        run=run.pk,
        batch=batch.pk,
        user=user,
        status=UserStatus.SKIPPED,
        error_class=reason,
        error_message="the user was rolled back while this run was open",
    )
    result = Totals(selected=1, skipped=1)
    result.skips[reason] = 1
    batches.mark(connections[using], batch.pk, result, worker=worker_name())


def _in_one_transaction(
    users: tuple[str, ...],
    *,
    kind: RunKind,
    frozen: dict[str, object],
    rates: dict[str, int],
    handle: Callable[[MigrationRun, Task], Totals],
    actor: Actor,
    reason: str,
    using: str,
) -> RunSummary:
    begun = time.monotonic()
    whole = Totals()
    try:
        with transaction.atomic(using=using):
            dialect.set_timeouts(
                connections[using],
                lock_ms=10 * conf.lock_timeout_ms(),
                statement_ms=conf.statement_timeout_ms(),
            )
            run = runs.create_run(
                using=using,
                kind=kind,
                options=frozen,
                rates=rates,
                controls=Controls(),
                actor=actor,
                reason=reason,
                status=RunStatus.COMPLETED,
                expected=len(users),
                message=f"{len(users):,} named users",
            )
            for user in sorted(users):
                whole.add(_one_user(run, user, handle, using))
            run.planned_users = len(users)
            totals.fold(run, using)
            run.save(using=using, update_fields=["planned_users", "folded"])
    except DatabaseError as error:
        raise DatabaseUnavailableError(
            f"nothing was changed: {failures.describe(error)}; give the command again"
        ) from error
    return RunSummary(
        run=run.pk, kind=kind, dry_run=False, status=run.status, totals=whole,
        seconds=time.monotonic() - begun, started_at=run.created_at,
    )  # fmt: skip


def _one_user(run: MigrationRun, user: str, handle: Callable[[MigrationRun, Task], Totals], using: str) -> Totals:
    batch = MigrationBatch.objects.using(using).create(run=run, first_user=user, last_user=user, planned=1)
    try:
        with transaction.atomic(using=using):
            return handle(run, task_of(batch.pk, user))
    except DatabaseError as error:
        if failures.judge(error) is not failures.Failure.DATA:
            raise
        error_class = failures.classify(error)
        records.record_problem(
            connections[using],
            run=run.pk,
            batch=batch.pk,
            user=user,
            status=UserStatus.FAILED,
            error_class=error_class,
            error_message=failures.describe(error),
        )
        result = Totals(selected=1, failed=1)
        result.errors[error_class] = 1
        batches.mark(connections[using], batch.pk, result, worker=worker_name())
        return result
