"""The loop that works on a run: claim a batch, handle it, mark it, commit; the next one.

# Note [Claim, work and mark are one transaction]
The row lock on the batch is the lease.  A process that dies takes its lock and all it did with it;
there is nothing to time out and nothing to clean up.  Any number of processes on any number of
machines may run this loop on one run.

# Note [Together]
Where batches are small and nothing fails, several of them go to the database in one message, each in a
transaction of its own.  A pause, an end or a trip by another process still takes effect before the next
batch, for claiming one reads the status of its run; what this process does by itself, ending at a signal and
judging the breaker, comes after the message: about an eighth of a second later, by what the latest
batches took.  A failed user, a wait that the operator or the database wants, and an error make it go
on one by one for a while.
"""

from __future__ import annotations

import enum
import logging
import random
import time
from collections.abc import Callable
from typing import Final

from django.db import DatabaseError, InterfaceError

from mana_migration import conf
from mana_migration.domain import breaker, progress
from mana_migration.domain.breaker import BreakerVerdict
from mana_migration.domain.options import Controls
from mana_migration.domain.results import FIGURES, BatchResult, Totals
from mana_migration.domain.words import counted
from mana_migration.engine import failures, pipeline, sessions
from mana_migration.engine.batches import Limits, Task
from mana_migration.models import UserMigration
from mana_migration.selectors.runs import run_snapshot
from mana_migration.services import logs, runs, stalls
from mana_migration.services.context import RunContext
from mana_migration.services.worker.context import Work, WorkerContext
from mana_migration.services.worker.failures import Recovery
from mana_migration.services.worker.outage import Outage
from mana_migration.services.worker.queue import BatchQueue, Refill
from mana_migration.states import EventKind

#: Seconds between two polls of a paused run or of batches that others hold.
IDLE_WAIT: Final = 0.2

#: Users that a worker handles before it sends batches together, and batches that it sends alone after trouble.
ALONE_AT_FIRST: Final = 1_000
ALONE_AFTER_TROUBLE: Final = 100

#: Seconds between two status lines in the log.
STATUS_SECONDS: Final = 60.0

_HELD: Final = "other processes hold the batches that are left; monitor_migration --report lists their sessions"

#: Errors that are no single batch's: the database is gone, or cannot do the work at all.
_NO_BATCHS: Final = (failures.Failure.CONNECTION, failures.Failure.ENVIRONMENT)


class Ending(enum.Enum):
    """Why a worker's loop ended."""

    DONE = "done"
    """No user is left to handle."""
    INTERRUPTED = "interrupted"
    """A signal asked for it; the run stays open."""
    TAKEN_OVER = "taken_over"
    """Another process ended the run, or is checking it or rolling it back."""
    TRIPPED = "tripped"
    """Too many users failed."""
    WINDOW_OVER = "window_over"
    """The run's window has ended; the run stays open."""


_ENDINGS: Final = {Refill.ELSEWHERE: Ending.TAKEN_OVER, Refill.DONE: Ending.DONE}


class Worker:
    """Work on one run until no user is left, a signal comes or another process ends it.

    Args:
        run_id: the run, open.
        work: what to do with its users.
        context: see ``RunContext``; asked between batches whether to stop.
        controls: those in force when the work begins.
        throttle: called between batches with the controls in force and the latest batch's seconds;
            waits if it must, and returns whether the work may continue at its full pace.
    """

    def __init__(
        self,
        run_id: int,
        work: Work,
        context: RunContext,
        *,
        controls: Controls | None = None,
        throttle: Callable[[Controls, float], bool] | None = None,
    ) -> None:
        self._context = WorkerContext.of(context, run_id, work)
        self._queue = BatchQueue(self._context, together=pipeline.MOST, controls=controls or Controls())
        self._recovery = Recovery(self._context)
        self._outage = Outage(run_id, self._context)
        self._throttle = throttle
        self._limits = Limits(conf.lock_timeout_ms(), conf.statement_timeout_ms())
        self._logged, self._logged_users = time.monotonic(), 0  # when the status was logged last
        self.handled = 0  # users that this worker processed
        self.verdict = BreakerVerdict(tripped=False)  # the one that ended the work, if the breaker tripped
        self._attempted = 0  # those of them that count for the error rate
        self._alone = 0  # batches still to be sent one by one
        self._seconds = 0.0  # that the latest batch took
        self._paused = False  # the run was when last read
        self._waits_since: float | None = None  # for batches that other processes hold
        self._stall_noted = False

    @property
    def name(self) -> str:
        """Return the worker's name in the batches that it does."""
        return self._context.name

    def run(self) -> Ending:
        """Work until an ending; see ``Ending``.

        Raises:
            DatabaseUnavailableError: the database cannot do the work (disk full, read-only, no table).
            django.db.Error: a statement failed for a reason that is no single user's.
        """
        with sessions.named(self._session_name()):
            return self._run()

    def _session_name(self) -> str:
        """Return what this worker is called in the database's list of sessions."""
        try:
            kind = (
                "rollback" if runs.get_run(self._context.run_id, using=self._context.using).is_rollback else "migrate"
            )
        except (DatabaseError, InterfaceError):  # the loop itself waits for a lost database
            kind = "work on"
        return f"{kind} run {self._context.run_id}, worker {self._context.number}"

    def _run(self) -> Ending:
        while True:
            if self._context.stop.requested:
                self._note_interruption()
                return Ending.INTERRUPTED
            try:
                ending = self._step()
            except (DatabaseError, InterfaceError) as error:
                self._outage.survive(error)
                continue
            self._outage.over()
            if ending is not None:
                return ending

    def _step(self) -> Ending | None:
        if self._queue.controls.window_is_over():
            if runs.end_window(self._context.run_id, using=self._context.using):
                return Ending.WINDOW_OVER
            return self._without_batch()
        task = self._queue.next()
        if task is None:
            return self._without_batch()
        tasks = [task, *self._queue.more(self._together() - 1)]
        return self._one(task) if len(tasks) == 1 else self._several(tasks)

    def _together(self) -> int:
        """Return how many batches to send in one message, see Note [Together]."""
        if self._alone > 0 or self.handled < ALONE_AT_FIRST:
            self._alone = max(0, self._alone - 1)
            return 1
        return pipeline.batches_at_once(self._context.connection, seconds=self._seconds)

    def _one(self, task: Task) -> Ending | None:
        """Handle one batch; where it fails, recover from that."""
        begun = time.monotonic()
        try:
            handled = self._context.work.handle(self._context.using, task, self._limits)
        except DatabaseError as error:
            if failures.kind_of(error) in _NO_BATCHS:
                raise
            self._queue.forget()
            settled = self._recovery.recover(task, error)
            return None if settled is None else self._after(task.batch, settled, 0.0)
        if handled is None:
            self._queue.found_taken()
            return None
        self._queue.found_free()
        self._report_pause(paused=False)
        self._queue.apply(handled.controls)
        return self._after(task.batch, handled.totals, time.monotonic() - begun)

    def _several(self, tasks: list[Task]) -> Ending | None:
        """Handle several batches in one message; where one of them fails, those not done come next, one by one."""
        begun = time.monotonic()
        try:
            answers = self._context.work.handle_several(self._context.using, tasks, self._limits)
            again = tasks[len(answers) :]
        except DatabaseError as error:
            if failures.kind_of(error) in _NO_BATCHS:
                raise
            done = pipeline.done_by(self._context.connection, [task.batch for task in tasks], self.name)
            answers = [done.get(task.batch) for task in tasks]
            again = [task for task in tasks if task.batch not in done]
            self._alone = ALONE_AFTER_TROUBLE
        handled = [(task, answer) for task, answer in zip(tasks, answers, strict=False) if answer is not None]
        seconds = (time.monotonic() - begun) / max(1, len(handled))
        self._queue.put_back(again)
        if not handled and not again:
            self._queue.found_taken()
            self._alone = max(self._alone, 1)  # sent alone, a batch shows why it was not claimed
            return None
        if len(handled) + len(again) < len(tasks):
            self._queue.in_company = True
        self._queue.found_free()
        self._report_pause(paused=False)
        endings = []
        for task, answer in handled:
            self._queue.apply(answer.controls)
            endings.append(self._after(task.batch, answer.totals, seconds))
        return next(filter(None, endings), None)

    def _after(self, batch: int, result: Totals, seconds: float) -> Ending | None:
        """Log and report a committed batch, learn from its time, judge the breaker, wait."""
        run_id = self._context.run_id
        if logs.writes(logging.DEBUG):
            logs.write(
                logging.DEBUG,
                f"batch {batch} of run {run_id}: {result.selected} users",
                run=run_id,
                batch=batch,
                seconds=round(seconds, 4),
                **{name: getattr(result, name) for name in FIGURES},
            )
        if result.errors or result.skips:
            self._log_left_out(batch)
        self.handled += result.selected
        self._waits_since, self._stall_noted = None, False
        self._log_status()
        self._recovery.handled(result.selected)
        self._seconds = seconds
        if result.failed:
            self._alone = ALONE_AFTER_TROUBLE
        self._queue.observe(result.selected, seconds)
        self._context.progress(BatchResult(run_id, batch, result, seconds))
        # Without a new failure the rate can only fall, but the first verdict comes when enough were attempted.
        due = result.failed or self._attempted < breaker.MINIMUM_ATTEMPTED
        self._attempted += result.attempted
        if due and (verdict := self._context.work.verdict(self._context.using)).tripped:
            self.verdict = verdict
            return Ending.TRIPPED
        if self._throttle is not None and not self._throttle(self._queue.controls, seconds):
            self._alone = ALONE_AFTER_TROUBLE
        return None

    def _log_left_out(self, batch: int) -> None:
        """Log each user of a batch who failed or was skipped, by the number of the record."""
        records = UserMigration.objects.using(self._context.using).filter(batch=batch).exclude(error_class="")
        for record, error_class, message in records.order_by("pk").values_list("pk", "error_class", "error_message"):
            logs.write(
                logging.WARNING,
                f"record {record}: {error_class}: {message}",
                run=self._context.run_id,
                batch=batch,
                record=record,
                error_class=error_class,
            )

    def _log_status(self) -> None:
        """Log once a minute how far this process is."""
        moment = time.monotonic()
        if moment - self._logged < STATUS_SECONDS:
            return
        rate = round(60 * (self.handled - self._logged_users) / (moment - self._logged))
        self._logged, self._logged_users = moment, self.handled
        logs.write(
            logging.INFO,
            f"run {self._context.run_id}: {counted(self.handled, 'user')} processed by {self.name}, {rate:,} a minute",
            run=self._context.run_id,
            users=self.handled,
        )

    def _without_batch(self) -> Ending | None:
        """Nothing could be claimed: plan more, wait, or find that the run has ended."""
        found = self._queue.refill()
        if found is Refill.PAUSED:
            self._report_pause(paused=True)
            self._context.stop.wait(IDLE_WAIT)
        elif found is Refill.WAIT:
            self._note_stall()
            self._context.stop.wait(random.uniform(0.5, 1.5) * IDLE_WAIT)  # noqa: S311 (jitter)
        return _ENDINGS.get(found)

    def _note_stall(self) -> None:
        """Say, once, that for a minute nothing was left but what other processes hold; one of them may hang."""
        moment = time.monotonic()
        self._waits_since = self._waits_since or moment
        if self._stall_noted or moment - self._waits_since < progress.STALLED_AFTER:
            return
        self._stall_noted = True
        self._context.notice(f"no progress for a minute: {_HELD}")
        stalls.note(run_snapshot(self._context.using, self._context.run_id), using=self._context.using, reason=_HELD)

    def _report_pause(self, *, paused: bool) -> None:
        """Say once that the run is paused, and once that it is not any more."""
        if paused is not self._paused:
            self._paused = paused
            run_id = self._context.run_id
            resume = f"paused; resume it with control_migration resume {run_id}"
            self._context.notice(f"run {run_id} is {resume if paused else 'resumed'}")
            self._context.show_wait(run_id, resume if paused else "")

    def _note_interruption(self) -> None:
        if self._context.stop.quiet:
            return
        try:
            runs.add_event(
                self._context.run_id,
                EventKind.INTERRUPTED,
                message=f"{self.name} was asked to end; the run stays open",
                using=self._context.using,
            )
        except (DatabaseError, InterfaceError):
            logs.write(logging.WARNING, "interrupted while the database was lost", run=self._context.run_id)
