"""Rehearse a migration: convert and reverse real users with the real statements, and keep nothing.

# Note [Rolled back, batch by batch]
Each batch is one transaction that is always rolled back: convert, verify each user, reverse, verify that each wallet is
as before.  So locks are held for one batch at a time, triggers and policies of the site fire as they will in the night,
and nothing stays but used sequence numbers and dead rows that the next vacuum removes.  Side effects outside the
database (a trigger that sends something) do happen.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from django.db import DatabaseError, connections, transaction

from mana_migration import conf
from mana_migration.domain.options import Controls, MigrationOptions
from mana_migration.domain.rehearsal import Rehearsal, broken_rule
from mana_migration.domain.repairs import UserState
from mana_migration.domain.results import BatchResult, Totals
from mana_migration.engine import conversion, dialect, failures, planning, reversal
from mana_migration.engine.batches import Task
from mana_migration.engine.conversion import ConversionTerms
from mana_migration.engine.integrity import states
from mana_migration.engine.planning import Slice
from mana_migration.engine.reversal import ReversalTerms
from mana_migration.errors import DatabaseUnavailableError, RunConflictError
from mana_migration.models import MigrationBatch, MigrationRun
from mana_migration.models import Rehearsal as StoredRehearsal
from mana_migration.services import preflight, runs
from mana_migration.services.context import RunContext
from mana_migration.services.worker.context import worker_name
from mana_migration.states import RunKind, RunStatus
from wishes import conf as wishes_conf
from wishes.rates import Rates

#: Users rehearsed unless a number is given, and users in one transaction unless the options say.
SAMPLE: Final = 1_000
AUTO_SIZE: Final = 1_000

#: Tries of a batch whose wallets another session holds, and the seconds between them.
TRIES, WAIT = 3, 0.2


class _Undo(Exception):
    """Rolls a rehearsed batch back."""


def rehearse(options: MigrationOptions, context: RunContext, *, sample: int = SAMPLE) -> Rehearsal:
    """Convert and reverse a stable sample of users, roll everything back and keep the result.

    Args:
        options: what the real run will be asked; its users, cohort and batch size choose the sample.
        context: see ``RunContext``.
        sample: users at most, spread evenly over all keys in whole batches; 0: all.

    Raises:
        DatabaseUnavailableError, PreflightError: the database is not fit for any run.
        RunConflictError: a run is open, whose batches would hold the same wallets.
    """
    using = context.using
    preflight.check(using)
    open_run = runs.open_run_or_none(using)
    if open_run is not None:
        raise RunConflictError(f"{open_run} is open: rehearse before a run begins, or after it has ended")
    rates = wishes_conf.rates()
    terms = ConversionTerms(
        run=conversion.NO_RUN, rates=rates, skip_invalid=options.skip_invalid, cohort=options.cohort,
        retry_failed=options.retry_failed,
    )  # fmt: skip
    size = options.controls.batch_size if isinstance(options.controls.batch_size, int) else AUTO_SIZE
    result = Rehearsal(all_users=_count(terms, using))
    everyone = result.all_users
    parts = _sample(terms, options.users, sample=sample or everyone, size=size, all_users=everyone, using=using)
    context.expecting(sum(part.users for part in parts))
    for part in parts:
        if context.stop.requested:
            result.interrupted = True
            break
        before = result.rehearsed
        _rehearse(part, terms, result, using)
        context.progress(BatchResult(0, 0, Totals(selected=result.rehearsed - before), 0.0))
    StoredRehearsal.objects.using(using).create(
        result=result.as_dict(), actor=context.actor.name, host=context.actor.host
    )
    return result


def _count(terms: ConversionTerms, using: str) -> int:
    with connections[using].cursor() as cursor:
        cursor.execute(f"SELECT COUNT(*) FROM wishes_wallet w WHERE {conversion.selection_sql(terms)}", {})
        (users,) = cursor.fetchone()
    return int(users)


def _sample(
    terms: ConversionTerms, users: Sequence[str], *, sample: int, size: int, all_users: int, using: str
) -> list[Slice]:
    """Return whole batches, the same each time: single users, or slices spread evenly over all keys."""
    if users:
        return [Slice(user, user, 1) for user in users]
    batches = -(-sample // size)
    if batches * size >= all_users:
        return planning.plan_migration(connections[using], terms, after="", size=size, limit=max(1, all_users))
    parts: list[Slice] = []
    for after in planning.spread_keys(connections[using], terms, parts=batches, count=all_users):
        parts += planning.plan_migration(connections[using], terms, after=after, size=size, limit=size)
    return parts


def _rehearse(part: Slice, terms: ConversionTerms, result: Rehearsal, using: str) -> None:
    """Rehearse one batch; where it fails, its parts, down to the user who would fail."""
    for attempt in range(1, TRIES + 1):
        try:
            totals, seconds = _in_transaction(part, terms, using)
        except DatabaseError as error:
            kind = failures.kind_of(error)
            if kind is failures.Failure.TRANSIENT and attempt < TRIES:
                time.sleep(WAIT)
                continue
            if kind in (failures.Failure.CONNECTION, failures.Failure.ENVIRONMENT):
                raise DatabaseUnavailableError(
                    f"the database refuses the rehearsal: {failures.describe(error)}; nothing was kept"
                ) from error
            error_class, message = failures.classify(error), failures.describe(error)
            _split(part, terms, result, error_class=error_class, message=message, using=using)
            return
        except _BrokenRuleError as broken:
            _split(part, terms, result, error_class="rule_broken", message=str(broken), using=using)
            return
        result.rehearsed += totals.selected
        result.converted += totals.migrated
        result.converting.add(totals.selected, seconds[0])
        result.reversing.add(totals.migrated, seconds[1])
        for name, users in (totals.errors + totals.skips).items():
            result.add_failure(name, conversion.PROBLEMS.get(name, name), f"{part.first} to {part.last}", users)
        return


class _BrokenRuleError(Exception):
    """A rule does not hold for a user after the conversion or the reversal."""


def _split(
    part: Slice, terms: ConversionTerms, result: Rehearsal, *, using: str, error_class: str, message: str
) -> None:
    keys = planning.migration_keys(connections[using], terms, first=part.first, last=part.last)
    if len(keys) <= 1:
        result.rehearsed += 1
        result.add_failure(error_class, message, part.first)
        return
    middle = len(keys) // 2
    for smaller in (keys[:middle], keys[middle:]):
        _rehearse(Slice(smaller[0], smaller[-1], len(smaller)), terms, result, using)


def _in_transaction(part: Slice, terms: ConversionTerms, using: str) -> tuple[Totals, tuple[float, float]]:
    """Convert, verify, reverse and verify one batch, then roll it back; return its totals and both times in seconds."""
    connection = connections[using]
    found: list[tuple[Totals, tuple[float, float]]] = []
    try:
        with transaction.atomic(using=using, durable=True):
            dialect.set_timeouts(connection, lock_ms=conf.lock_timeout_ms(), statement_ms=conf.statement_timeout_ms())
            keys = planning.migration_keys(connection, terms, first=part.first, last=part.last)
            states.lock_wallets(connection, keys)
            before = states.load(connection, keys)
            run, task = _temporary_run(RunKind.MIGRATION, part, rates=terms.rates, using=using)
            begun = time.monotonic()
            handled = conversion.convert(connection, replace(terms, run=run.pk, per_user=True), task)
            converting = time.monotonic() - begun
            totals = Totals() if handled is None else handled.totals
            _verify_conversion(before, states.load(connection, keys), totals, terms.rates)

            back, task = _temporary_run(RunKind.ROLLBACK, part, target=run, using=using)
            begun = time.monotonic()
            reversal.reverse(connection, ReversalTerms(run=back.pk, target_run=run.pk), task)
            reversing = time.monotonic() - begun
            _verify_reversal(before, states.load(connection, keys))
            found.append((totals, (converting, reversing)))
            raise _Undo
    except _Undo:
        return found[0]


def _temporary_run(
    kind: RunKind, part: Slice, *, rates: Rates | None = None, target: MigrationRun | None = None, using: str
) -> tuple[MigrationRun, Task]:
    """Create a run with one batch that never outlive their transaction, so they take no slot and have no event."""
    run = MigrationRun.objects.using(using).create(
        kind=kind,
        status=RunStatus.COMPLETED,
        rates=rates.as_dict() if rates else {},
        controls=Controls().as_dict(),
        actor="rehearsal",
        target_run=target,
    )
    batch = MigrationBatch.objects.using(using).create(
        run=run, first_user=part.first, last_user=part.last, planned=part.users
    )
    return run, Task(batch.pk, part.first, part.last, worker_name(), of_running_run=False)


def _verify_conversion(before: dict[str, UserState], after: dict[str, UserState], totals: Totals, rates: Rates) -> None:
    converted = 0
    for key, state in after.items():
        if not state.migrated:
            if state != before[key]:
                raise _BrokenRuleError("a user who was not converted changed all the same")
            continue
        converted += 1
        if sentence := broken_rule(before[key], state, rates.as_dict()):
            raise _BrokenRuleError(sentence)
    if converted != totals.migrated:
        raise _BrokenRuleError(f"{totals.migrated:,} users were counted as converted, {converted:,} are")


def _verify_reversal(before: dict[str, UserState], after: dict[str, UserState]) -> None:
    for key, state in after.items():
        if state.migrated != before[key].migrated or state.wallet != before[key].wallet:
            raise _BrokenRuleError("the wallet is not as before after the reversal")
        if state.ledger.total != before[key].ledger.total or state.live != before[key].live:
            raise _BrokenRuleError("the ledger or the records are not as before after the reversal")
