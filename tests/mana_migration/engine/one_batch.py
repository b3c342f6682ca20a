"""One batch, handled as its worker does: for tests of the engine's statements."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from django.db import DatabaseError, transaction

from mana_migration.domain.options import Controls
from mana_migration.domain.results import FIGURES, Totals
from mana_migration.engine import driver
from mana_migration.engine.batches import Handled, Limits, Task
from mana_migration.engine.conversion import ConversionTerms
from mana_migration.engine.reversal import ReversalTerms
from mana_migration.models import MigrationBatch, MigrationRun
from mana_migration.services import runs
from mana_migration.services.context import Actor
from mana_migration.services.migration import MigrationWork
from mana_migration.services.rollback import RollbackWork
from mana_migration.states import BatchStatus, RunKind, RunStatus
from wishes.rates import Rates

SOMEBODY = Actor("somebody", "here")
RATES = Rates(10, 100, 1000)


def open_run(kind: RunKind = RunKind.MIGRATION, rates: Rates = RATES, **options: Any) -> MigrationRun:
    """Open a run, closing the one that is open."""
    for run in MigrationRun.objects.open():
        runs.change_status(run.pk, RunStatus.STOPPED, actor=SOMEBODY, using="default")
    return runs.create_run(
        using="default",
        kind=kind,
        options=options,
        rates=rates.as_dict() if kind == RunKind.MIGRATION else {},
        controls=Controls(),
        actor=SOMEBODY,
    )


def plan(run: MigrationRun, keys: Iterable[Any]) -> MigrationBatch:
    """Plan a batch from the smallest to the largest of these keys."""
    inside = sorted(keys)
    return MigrationBatch.objects.create(
        run=run, first_user=str(inside[0]), last_user=str(inside[-1]), planned=len(inside)
    )


def convert(run: MigrationRun, keys: Iterable[Any], *, rates: Rates = RATES, **terms: Any) -> Totals:
    """Convert the users from the smallest to the largest of these keys; the batch must say what the engine says."""
    return handle(MigrationWork(ConversionTerms(run=run.pk, rates=rates, **terms)), plan(run, keys))


def reverse(run: MigrationRun, keys: Iterable[Any], **terms: Any) -> Totals:
    """Take the conversions of these users back."""
    return handle(RollbackWork(ReversalTerms(run=run.pk, **terms)), plan(run, keys))


def in_transaction(statement: Callable[[], Handled | None]) -> Handled | None:
    """Handle a batch in a transaction of its own, once more where a pooler's session did not know its statements."""
    while True:
        try:
            with transaction.atomic(durable=True):
                return statement()
        except DatabaseError as error:
            if driver.sqlstate(error) not in ("26000", "42P05"):
                raise


def handle(work: MigrationWork | RollbackWork, batch: MigrationBatch) -> Totals:
    """Handle a batch in a transaction."""
    task = Task(batch.pk, batch.first_user, batch.last_user, "host:1")
    handled = work.handle("default", task, Limits(lock_ms=1_000, statement_ms=60_000))
    assert handled is not None
    result = handled.totals
    batch.refresh_from_db()
    assert batch.status == BatchStatus.DONE
    assert {name: getattr(batch, name) for name in FIGURES} == {name: getattr(result, name) for name in FIGURES}
    assert (batch.errors, batch.skips) == (dict(result.errors), dict(result.skips))
    assert batch.started_at is not None
    assert batch.finished_at is not None
    assert batch.started_at <= batch.finished_at
    return result
