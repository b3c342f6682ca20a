"""What is done with a batch that failed: try it again, split it, or record its one user as failed.

# Note [Splitting]
A batch that fails for its data is replaced by two smaller ones, in a transaction of its own, and so
on until one user is left who causes the error; only then is a failure recorded.  The parts are
ordinary batches, so a crash in between loses nothing and other workers may claim them.
"""

from __future__ import annotations

import logging
import random
import time
from typing import Final

from django.db import DatabaseError, transaction

from mana_migration.domain.pressure import HELD_WALLET, HELD_WALLET_IN_WORDS, Sign
from mana_migration.domain.results import Totals
from mana_migration.engine import batches, failures, planning, records
from mana_migration.engine.batches import Task
from mana_migration.engine.planning import Slice
from mana_migration.models import MigrationBatch, MigrationRun, RunEvent
from mana_migration.services import logs, runs
from mana_migration.services.worker.context import WorkerContext
from mana_migration.states import BatchStatus, EventKind, UserStatus

#: Tries of one batch against a transient error, and the first wait in seconds; each wait doubles, ±25 %.
TRANSIENT_TRIES: Final = 5
FIRST_WAIT: Final = 0.1

#: Tries after which a run says that it waits for a wallet: what is held comes last, so little else is left then.
HELD_TRIES: Final = 2

#: Seconds between two notices of it on the terminal.
REPORT_HELD_EVERY: Final = 60.0

#: Passes after which users who are locked every time are left out with that reason.
PATIENT_PASSES: Final = 3


class Recovery:
    """Deal with the batches of one worker that failed."""

    def __init__(self, context: WorkerContext) -> None:
        self._context = context
        self._held_wallet = False  # the wait for a wallet was reported, and no user was handled since
        self._held_tries = HELD_TRIES
        self._reported_held: float | None = None  # when the terminal last showed it
        self._split_noted = False

    def handled(self, users: int) -> None:
        """Note that so many users were handled: if any, a wallet that is waited for is reported anew."""
        self._held_wallet = self._held_wallet and not users

    def recover(self, task: Task, error: DatabaseError) -> Totals | None:
        """Try a batch that failed again later, split it, or record its one user as failed.

        Returns what was settled with that, None where nothing was.
        """
        using = self._context.using
        transient = failures.kind_of(error) is failures.Failure.TRANSIENT
        with transaction.atomic(using=using, durable=True):
            batch = (
                MigrationBatch.objects.using(using)
                .select_for_update(of=("self",))
                .filter(pk=task.batch, status=BatchStatus.PLANNED, first_user=task.first, last_user=task.last)
                .first()
            )
            if batch is None:
                return None  # another worker was faster
            batch.attempts += 1
            batch.save(using=using, update_fields=["attempts"])
            result = None
            if transient and batch.attempts < TRANSIENT_TRIES:
                wait = FIRST_WAIT * 2 ** (batch.attempts - 1) * random.uniform(0.75, 1.25)  # noqa: S311 (jitter)
            else:
                wait = 0.0
                result = self._split(batch, error)
        logs.write(
            logging.WARNING,
            f"batch {task.batch} was rolled back: {failures.classify(error)}: {failures.describe(error)}",
            run=self._context.run_id,
            batch=task.batch,
            attempt=batch.attempts,
            error_class=failures.classify(error),
        )
        if transient and batch.attempts >= self._held_tries:
            self._report_held_wallet()
        if wait:
            self._context.stop.wait(wait)
            return None
        if result is None:
            if not transient:
                self._note_split(error)
            return None
        if transient and not result.selected:  # left to a later pass, which waits for the same wallet
            self._held_wallet, self._held_tries = False, 1
        return result

    def _report_held_wallet(self) -> None:
        """Report that the run waits for a wallet: once until a user is handled, on the terminal once a minute."""
        if self._held_wallet:
            return
        self._held_wallet, moment = True, time.monotonic()
        if self._reported_held is None or moment - self._reported_held >= REPORT_HELD_EVERY:
            self._reported_held = moment
            self._context.notice(HELD_WALLET_IN_WORDS)
        self._context.show_wait(self._context.run_id, HELD_WALLET_IN_WORDS)
        runs.add_event(
            self._context.run_id,
            EventKind.THROTTLED,
            message=HELD_WALLET_IN_WORDS,
            details={"wait": "wallets", "sign": Sign.HELD_WALLETS.value, "reason": HELD_WALLET},
            using=self._context.using,
        )

    def _split(self, batch: MigrationBatch, error: DatabaseError) -> Totals | None:
        """Replace a batch by two smaller ones, or settle its single user; the caller holds its lock."""
        using = self._context.using
        users = self._context.work.keys(using, first=batch.first_user, last=batch.last_user)
        if len(users) > 1:
            middle = len(users) // 2
            last = batch.last_user
            batch.last_user, batch.planned, batch.attempts = users[middle - 1], middle, 0
            batch.save(using=using, update_fields=["last_user", "planned", "attempts"])
            planning.write_batch(
                self._context.connection, self._context.run_id, Slice(users[middle], last, len(users) - middle)
            )
            return None
        result = self._settle(batch.pk, users[0], error) if users else Totals()
        batches.mark(self._context.connection, batch.pk, result, worker=self._context.name)
        return result

    def _note_split(self, error: DatabaseError) -> None:
        """Record, once a run, that a batch was split; how often is known without, see ``totals.splits``."""
        if self._split_noted:
            return
        self._split_noted = True
        using, run_id = self._context.using, self._context.run_id
        known = RunEvent.objects.using(using).filter(run_id=run_id, kind=EventKind.BATCH_SPLIT)
        if not known.exists():
            sentence = (
                f"the database refused a batch ({failures.classify(error)}): splitting it to isolate single users"
            )
            self._context.notice(sentence)
            runs.add_event(run_id, EventKind.BATCH_SPLIT, message=sentence, using=using)

    def _settle(self, batch: int, user: str, error: DatabaseError) -> Totals:
        """Record the one user that a batch failed for; one who is merely locked is left to later passes first."""
        using = self._context.using
        error_class = failures.classify(error)
        status, message = UserStatus.FAILED, failures.describe(error)
        if failures.kind_of(error) is failures.Failure.TRANSIENT:
            passes = MigrationRun.objects.using(using).values_list("passes", flat=True).get(pk=self._context.run_id)
            if passes < PATIENT_PASSES:
                return Totals()
            status, error_class = UserStatus.SKIPPED, "locked"
            message = "another session held the wallet every time; give the command again when it is free"
        recorded = records.record_problem(
            self._context.connection,
            run=self._context.run_id,
            batch=batch,
            user=user,
            status=status,
            error_class=error_class,
            error_message=message,
        )
        result = Totals()
        if recorded:
            result.selected = 1
            if status is UserStatus.FAILED:
                result.failed, result.errors[error_class] = 1, 1
            else:
                result.skipped, result.skips[error_class] = 1, 1
        return result
