"""The loop that works on a run: claim a batch, handle it, mark it, commit; plan ahead; look once more.

# Note [Claim, work and mark are one transaction]
The row lock on the batch is the lease.  A process that dies takes its lock and all it did with it;
there is nothing to time out and nothing to clean up.  Any number of processes on any number of
machines may run this loop on one run.

# Note [Splitting]
A batch that fails for its data is replaced by its two halves, in a transaction of its own, and so
on until the guilty user stands alone; only then is a failure recorded.  The halves are ordinary
batches, so a crash in between loses nothing and other workers may take them.

# Note [Planning early]
Several workers run dry at the same moment, and all but the one who plans would wait for its lock on
the run.  So whoever of several sees, when it looks ahead, that less than half of a planning is left
plans the next part while the others go on; where somebody does so already, it leaves it at that.

# Note [Planning in turns]
At the end of a run all workers run dry at once, and to find that nobody is left the last one has to
look at everybody once more.  Whoever had to wait for somebody else's lock on the run waits a moment
longer instead of looking again: either there are batches then, or the run has ended.

# Note [Together]
Where batches are small and all is well, several of them go to the database in one message, each in a
transaction of its own.  A pause, an end or a trip by somebody else still comes before the next batch,
for each looks at its run when it is claimed; what this process does by itself, ending at a signal and
judging the breaker, comes after the message: about an eighth of a second later, by what the latest
batches took.  A failed user, a wait that the operator or the database wants, and an error make it go
on one by one for a while.
"""

from __future__ import annotations

import enum
import json
import logging
import os
import random
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol

from django.db import DatabaseError, InterfaceError, connections, transaction

from mana_migration import conf
from mana_migration.domain import breaker
from mana_migration.domain.apart import apart
from mana_migration.domain.options import Controls
from mana_migration.domain.pacing import BatchSize
from mana_migration.domain.pressure import HELD_WALLET, HELD_WALLET_IN_WORDS, Sign
from mana_migration.domain.results import FIGURES, BatchResult, ProgressCallback, Totals
from mana_migration.engine import batches, dialect, failures, planning, totals
from mana_migration.engine.batches import Handled, Limits, Task
from mana_migration.engine.planning import Slice
from mana_migration.errors import DatabaseUnavailableError
from mana_migration.models import MigrationBatch, MigrationRun, RunEvent
from mana_migration.services import logs, runs
from mana_migration.services.attendance import StopFlag
from mana_migration.states import BatchStatus, EventKind, RunStatus, UserStatus

#: Tries of one batch against a transient error, and the first wait in seconds; each wait doubles, ±25 %.
TRANSIENT_TRIES: Final = 5
FIRST_WAIT: Final = 0.1

#: Seconds to wait for a lost database: the first wait, and the longest.
LOST_FIRST_WAIT, LOST_LONGEST_WAIT = 0.5, 15.0

#: Tries after which a run says that it waits for a wallet: what is held comes last, so little else is left then.
HELD_TRIES: Final = 2

#: Seconds between two times that the terminal is told of it.
TELL_HELD_EVERY: Final = 60.0

#: Looks after the first before users who are locked all the time are left out with that reason.
PATIENT_LOOKS: Final = 3

#: Seconds between two looks at a paused run or at batches that others hold.
IDLE_WAIT: Final = 0.2

#: Batches looked at ahead: read in one go, claimed one by one or some together.  Several workers look at more, to
#: choose apart from each other.
LOOK_AHEAD, LOOK_AROUND = 120, 2_000

#: Batches in one message at most, and the seconds that they should take, by what the latest one took.
TOGETHER: Final = 24
TOGETHER_SECONDS: Final = 0.12

#: Users that a worker handles before it sends batches together, and batches that it sends alone after trouble.
ALONE_AT_FIRST: Final = 1_000
ALONE_AFTER_TROUBLE: Final = 100


class Ending(enum.Enum):
    """Why a worker's loop ended."""

    DONE = "done"
    """Nobody is left to handle."""
    INTERRUPTED = "interrupted"
    """A signal asked for it; the run stays open."""
    TAKEN_OVER = "taken_over"
    """The run left ``running`` in other hands: stopped, being checked, or taken back."""
    TRIPPED = "tripped"
    """Too many users failed."""


class Work(Protocol):
    """What a run does with its users."""

    def plan(self, using: str, *, after: str, size: int, limit: int) -> list[Slice]:
        """Cut the next users after a key into slices; empty: from the start."""

    def keys(self, using: str, *, first: str, last: str) -> list[str]:
        """Return the keys from ``first`` to ``last`` that are still to be handled, in order."""

    def handle(self, using: str, task: Task, limits: Limits) -> Handled | None:
        """Claim, handle and mark a batch in a transaction of its own; None where it could not be claimed."""

    def handle_each(self, using: str, tasks: Sequence[Task], limits: Limits) -> list[Handled | None]:
        """Do so with the first of several batches, at least one; answer for each that was tried."""

    def record_problem(self, using: str, *, batch: int, user: str, status: str, error_class: str, message: str) -> bool:
        """Record that one user was left as they are."""

    def tripped(self, using: str) -> bool:
        """Say, after a commit, whether the run has failed too many users."""

    @property
    def limit(self) -> int | None:
        """Users to handle at most; None for all."""


def worker_name() -> str:
    """Return this worker's name in batches: host and process, and the thread unless it is the main one."""
    thread = threading.current_thread()
    own = "" if thread is threading.main_thread() else f"/{thread.native_id}"
    return f"{socket.gethostname()[:60]}:{os.getpid()}{own}"


class Worker:
    """Work on one run until nobody is left, a signal comes or the run leaves our hands.

    Args:
        run_id: the run, open.
        work: what to do with its users.
        using: database alias.
        stop: asked between batches.
        progress: told of each committed batch.
        throttle: called between batches with the controls in force and the latest batch's seconds;
            waits as it sees fit, and says whether the work may go on at its full pace.
        notice: told, in sentences, what the work waits for and when it goes on.
    """

    def __init__(
        self,
        run_id: int,
        work: Work,
        *,
        using: str,
        stop: StopFlag,
        progress: ProgressCallback | None = None,
        throttle: Callable[[Controls, float], bool] | None = None,
        notice: runs.Notice = runs.silent,
    ) -> None:
        self._run_id, self._work, self._using, self._stop = run_id, work, using, stop
        self._progress, self._throttle, self._notice = progress, throttle, notice
        self._name = worker_name()
        self.handled = 0  # users that this worker accounted for
        self._size: BatchSize | None = None
        self._controls = Controls()
        self._controls_read: str | Mapping[str, Any] = {}
        self._ahead: deque[Task] = deque()
        self._seen = 0  # batches that the latest look ahead found
        self._untouched = False  # none of them could be claimed yet
        self._in_company = False  # others work on this run
        self._cut_all = False  # the last early planning of this look found nobody
        self._alone = 0  # batches still to be sent one by one
        self._seconds = 0.0  # that the latest batch took
        self._attempted = 0  # users that count for the error rate, in batches of this worker
        self._held = False  # the run was paused when last looked at
        self._held_wallet = False  # a wallet is waited for, which was told; nobody was handled since
        self._held_tries = HELD_TRIES
        self._told_held: float | None = None  # when the terminal was told last
        self._split_noted = False
        self._lost_since: float | None = None
        self._lost_tries = 0
        self._limits = Limits(conf.lock_timeout_ms(), conf.statement_timeout_ms())

    def run(self) -> Ending:
        """Work until an ending; see ``Ending``.

        Raises:
            DatabaseUnavailableError: the database cannot do the work (disk full, read-only, no table).
            django.db.Error: a statement failed for a reason that is no single user's.
        """
        while True:
            if self._stop.requested:
                self._note_interruption()
                return Ending.INTERRUPTED
            try:
                ending = self._step()
            except (DatabaseError, InterfaceError) as error:
                self._survive(error)
                continue
            self._recovered()
            if ending is not None:
                return ending

    def _step(self) -> Ending | None:
        task = self._next()
        if task is None:
            return self._without_batch()
        together = min(self._together(), 1 + len(self._ahead))
        if together > 1:
            return self._several([task, *(self._ahead.popleft() for _ in range(together - 1))])
        begun = time.monotonic()
        try:
            handled = self._work.handle(self._using, task, self._limits)
        except DatabaseError as error:
            if failures.judge(error) in (failures.Failure.CONNECTION, failures.Failure.ENVIRONMENT):
                raise
            self._forget()
            return self._recover(task, error)
        if handled is None:
            self._claim_elsewhere()
            return None
        self._untouched = False
        self._tell_hold(paused=False)
        self._heed(handled.controls)
        return self._after(task.batch, handled.totals, time.monotonic() - begun)

    def _together(self) -> int:
        """Return how many batches to send in one message, see Note [Together]."""
        if connections[self._using].vendor != "postgresql":
            return 1
        if self._alone > 0 or self.handled < ALONE_AT_FIRST or self._seconds <= 0:
            self._alone = max(0, self._alone - 1)
            return 1
        return max(1, min(TOGETHER, int(TOGETHER_SECONDS / self._seconds)))

    def _several(self, tasks: list[Task]) -> Ending | None:
        """Handle several batches in one message; where one of them fails, those not done come next, one by one."""
        begun = time.monotonic()
        try:
            answers = self._work.handle_each(self._using, tasks, self._limits)
            again = tasks[len(answers) :]
        except DatabaseError as error:
            if failures.judge(error) in (failures.Failure.CONNECTION, failures.Failure.ENVIRONMENT):
                raise
            done = batches.done_by(connections[self._using], [task.batch for task in tasks], self._name)
            answers = [done.get(task.batch) for task in tasks]
            again = [task for task in tasks if task.batch not in done]
            self._alone = ALONE_AFTER_TROUBLE
        handled = [(task, answer) for task, answer in zip(tasks, answers, strict=False) if answer is not None]
        seconds = (time.monotonic() - begun) / max(1, len(handled))
        self._ahead.extendleft(reversed(again))
        if not handled and not again:
            self._claim_elsewhere()
            return None
        if len(handled) + len(again) < len(tasks):
            self._in_company = True
        self._untouched = False
        self._tell_hold(paused=False)
        endings = []
        for task, answer in handled:
            self._heed(answer.controls)
            endings.append(self._after(task.batch, answer.totals, seconds))
        return next(filter(None, endings), None)

    # Which batch is next

    def _next(self) -> Task | None:
        """Return the next batch to try; None where none is planned or others hold all of them."""
        if not self._ahead:
            if self._untouched and self._seen:
                return None  # nothing that was seen could be had
            waiting = self._look_ahead()
            if waiting and self._in_company and not self._cut_all:
                self._plan_early(waiting)
        return self._ahead.popleft() if self._ahead else None

    def _look_ahead(self) -> int:
        """Read which batches wait, without locking any, for claiming one is part of the work on it; return how many.

        Alone, it reads no more than it takes.
        """
        with connections[self._using].cursor() as cursor:
            cursor.execute(
                "SELECT b.id, b.first_user, b.last_user FROM mana_migration_migrationbatch b "
                "JOIN mana_migration_migrationrun r ON r.id = b.run_id "
                "WHERE b.run_id = %s AND NOT b.folded AND b.status = 'planned' AND r.status = 'running' "
                # what was split first, so that failures are known early; what somebody held last, to be free by then
                "ORDER BY b.attempts, b.planned, b.id LIMIT %s",
                [self._run_id, LOOK_AROUND if self._in_company else LOOK_AHEAD],
            )
            waiting = [Task(batch, first, last, self._name) for batch, first, last in cursor.fetchall()]
        found = len(waiting)
        if self._in_company and waiting:
            places = apart([task.batch for task in waiting], least=TOGETHER)
            waiting = [waiting[place] for place in places[:LOOK_AHEAD]]
        self._ahead.extend(waiting)
        self._seen, self._untouched = len(waiting), True
        return found

    def _claim_elsewhere(self) -> None:
        """A batch was somebody else's: look again, or try another one of those just seen."""
        self._in_company = True
        if not self._untouched:
            self._forget()
        elif self._ahead:
            self._ahead.rotate(random.randrange(len(self._ahead)))  # noqa: S311 (no secret)

    def _forget(self) -> None:
        """Look ahead anew before the next batch."""
        self._ahead.clear()
        self._seen = 0

    def _heed(self, controls: str | Mapping[str, Any] | None) -> None:
        """Take over the controls in force, which may have been changed since the last batch."""
        if controls is not None and controls != self._controls_read:
            values = json.loads(controls) if isinstance(controls, str) else controls
            self._controls_read, self._controls = controls, Controls.from_dict(values)

    def _after(self, batch: int, result: Totals, seconds: float) -> Ending | None:
        """Look at a committed batch: log, tell, size, breaker, pause."""
        if logs.writes(logging.DEBUG):
            logs.write(
                logging.DEBUG,
                f"batch {batch} of run {self._run_id}: {result.selected} users",
                run=self._run_id,
                batch=batch,
                seconds=round(seconds, 4),
                **{name: getattr(result, name) for name in FIGURES},
            )
        for name, count in result.errors.items():
            logs.write(
                logging.WARNING,
                f"{count} users of batch {batch} failed: {name}",
                run=self._run_id,
                batch=batch,
                error_class=name,
                count=count,
            )
        self.handled += result.selected
        self._held_wallet = self._held_wallet and not result.selected
        self._seconds = seconds
        if result.failed:
            self._alone = ALONE_AFTER_TROUBLE
        if self._size is not None:
            self._size.observe(result.selected, seconds)
        if self._progress is not None:
            self._progress(BatchResult(self._run_id, batch, result, seconds))
        # Without a new failure the rate can only fall, but the first look comes when enough were attempted.
        due = result.failed or self._attempted < breaker.MINIMUM_ATTEMPTED
        self._attempted += result.attempted
        if due and self._work.tripped(self._using):
            return Ending.TRIPPED
        if self._throttle is not None and not self._throttle(self._controls, seconds):
            self._alone = ALONE_AFTER_TROUBLE
        return None

    # Planning and the end of a run

    def _without_batch(self) -> Ending | None:
        """Nothing could be claimed: plan more, wait, or find that the run has ended; see Note [Planning in turns]."""
        held, self._seen, self._cut_all = bool(self._seen), 0, False
        left, planned = 0, False
        with transaction.atomic(using=self._using, durable=True):
            run = runs.lock_run_if_free(self._run_id, self._using)
            waited = run is None
            if run is None:
                run = runs.lock_run(self._run_id, self._using)
            status = RunStatus(run.status)
            if status is RunStatus.RUNNING:
                waiting = MigrationBatch.objects.using(self._using).filter(
                    run=run, folded=False, status=BatchStatus.PLANNED
                )
                left = waiting.count()
                if left and not held:
                    return None  # somebody planned them a moment ago
                if not waited:
                    planned = self._plan(run, others_at_work=left > 0)
                self._in_company = self._in_company and left > 0
        if status is RunStatus.PAUSED:
            self._tell_hold(paused=True)
            self._stop.wait(IDLE_WAIT)
            return None
        if status is not RunStatus.RUNNING:
            return Ending.TAKEN_OVER
        if planned:
            return None
        if not left and not waited:
            return Ending.DONE
        self._stop.wait(random.uniform(0.5, 1.5) * IDLE_WAIT)  # noqa: S311 (jitter)
        return None

    def _tell_hold(self, *, paused: bool) -> None:
        """Say once that the run is paused, and once that it is not any more."""
        if paused is not self._held:
            self._held = paused
            how = f"paused: waiting until migrate_users --resume {self._run_id}" if paused else "going on"
            self._notice(f"run {self._run_id} is {how}")
            self._show_wait(f"paused, --resume {self._run_id} lets it go on" if paused else "")

    def _show_wait(self, sentence: str) -> None:
        """Tell whoever shows the progress what the run waits for until its next batch; empty: it goes on."""
        if self._progress is not None:
            self._progress(BatchResult(self._run_id, 0, Totals(), 0.0, waits_for=sentence))

    def _plan_early(self, waiting: int) -> None:
        """Plan more where few batches wait, so that nobody will wait for it; see Note [Planning early]."""
        if self._size is None or waiting * 2 >= self._size.batches_ahead:
            return
        with transaction.atomic(using=self._using, durable=True):
            run = runs.lock_run_if_free(self._run_id, self._using)
            # at the end of a look, whether to look once more is decided when all is handled
            if run is not None and run.status == RunStatus.RUNNING and run.cursor:
                self._cut_all = not self._plan(run, others_at_work=True)

    def _plan(self, run: MigrationRun, *, others_at_work: bool) -> bool:
        """Plan the next batches under the run's lock; return False when nobody is left to plan."""
        self._heed(run.controls)
        if self._size is None or self._size.asked != self._controls.batch_size:
            self._size = BatchSize(self._controls.batch_size)
        size = self._size.current
        room = size * self._size.batches_ahead
        if self._work.limit is not None:
            room = min(room, self._work.limit - run.planned_users)
        totals.fold(run, self._using)
        found: list[Slice] = []
        fresh = run.cursor == ""
        if room > 0:
            dialect.read_by_key(connections[self._using])
            found = self._work.plan(self._using, after=run.cursor, size=size, limit=room)
        planning.write_batches(connections[self._using], run.pk, found)
        totals.count_planned(run, len(found))
        again = False
        if found:
            run.cursor = found[-1].last
            run.planned_users += sum(part.users for part in found)
        elif not fresh and room > 0 and not others_at_work:
            run.cursor, run.look = "", run.look + 1  # one more look from the start
            again = True
        run.save(using=self._using, update_fields=["cursor", "planned_users", "look", "folded"])
        return bool(found) or again

    # Trouble

    def _recover(self, task: Task, error: DatabaseError) -> Ending | None:
        """Deal with a batch that failed: the same again, its halves, or its one user set apart."""
        transient = failures.judge(error) is failures.Failure.TRANSIENT
        with transaction.atomic(using=self._using, durable=True):
            batch = (
                MigrationBatch.objects.using(self._using)
                .select_for_update(of=("self",))
                .filter(pk=task.batch, status=BatchStatus.PLANNED, first_user=task.first, last_user=task.last)
                .first()
            )
            if batch is None:
                return None  # another worker was faster
            batch.attempts += 1
            batch.save(using=self._using, update_fields=["attempts"])
            result = None
            if transient and batch.attempts < TRANSIENT_TRIES:
                wait = FIRST_WAIT * 2 ** (batch.attempts - 1) * random.uniform(0.75, 1.25)  # noqa: S311 (jitter)
            else:
                wait = 0.0
                result = self._split(batch, error)
        logs.write(
            logging.WARNING,
            f"batch {task.batch} was rolled back: {failures.classify(error)}",
            run=self._run_id,
            batch=task.batch,
            attempt=batch.attempts,
            error_class=failures.classify(error),
        )
        if transient and batch.attempts >= self._held_tries:
            self._tell_held_wallet()
        if wait:
            self._stop.wait(wait)
            return None
        if result is None:
            if not transient:
                self._note_split(error)
            return None
        if transient and not result.selected:  # left to a later look, which waits for the same wallet
            self._held_wallet, self._held_tries = False, 1
        return self._after(task.batch, result, 0.0)

    def _tell_held_wallet(self) -> None:
        """Say that the run waits for a wallet: once until somebody was handled, on the terminal once a minute."""
        if self._held_wallet:
            return
        self._held_wallet, moment = True, time.monotonic()
        if self._told_held is None or moment - self._told_held >= TELL_HELD_EVERY:
            self._told_held = moment
            self._notice(HELD_WALLET_IN_WORDS)
        self._show_wait(HELD_WALLET_IN_WORDS)
        runs.add_event(
            self._run_id,
            EventKind.THROTTLED,
            message=HELD_WALLET_IN_WORDS,
            details={"wait": "wallets", "sign": Sign.HELD_WALLETS.value, "reason": HELD_WALLET},
            using=self._using,
        )

    def _split(self, batch: MigrationBatch, error: DatabaseError) -> Totals | None:
        """Replace a batch by its halves, or settle its single user; the caller holds its lock."""
        users = self._work.keys(self._using, first=batch.first_user, last=batch.last_user)
        if len(users) > 1:
            middle = len(users) // 2
            last = batch.last_user
            batch.last_user, batch.planned, batch.attempts = users[middle - 1], middle, 0
            batch.save(using=self._using, update_fields=["last_user", "planned", "attempts"])
            MigrationBatch.objects.using(self._using).create(
                run_id=self._run_id, first_user=users[middle], last_user=last, planned=len(users) - middle
            )
            return None
        result = self._settle(batch.pk, users[0], error) if users else Totals()
        batches.mark(connections[self._using], batch.pk, result, worker=self._name)
        return result

    def _note_split(self, error: DatabaseError) -> None:
        """Note, once a run, that a batch was halved; how often is known without, see ``totals.halving``."""
        if self._split_noted:
            return
        self._split_noted = True
        known = RunEvent.objects.using(self._using).filter(run_id=self._run_id, kind=EventKind.BATCH_SPLIT)
        if not known.exists():
            sentence = (
                f"the database refused a batch ({failures.classify(error)}): halving it to set single users apart"
            )
            self._notice(sentence)
            runs.add_event(self._run_id, EventKind.BATCH_SPLIT, message=sentence, using=self._using)

    def _settle(self, batch: int, user: str, error: DatabaseError) -> Totals:
        """Record the one user that a batch failed for; one who is merely locked is left to later looks first."""
        error_class = failures.classify(error)
        status, message = UserStatus.FAILED, failures.describe(error)
        if failures.judge(error) is failures.Failure.TRANSIENT:
            look = MigrationRun.objects.using(self._using).values_list("look", flat=True).get(pk=self._run_id)
            if look < PATIENT_LOOKS:
                return Totals()
            status, error_class = UserStatus.SKIPPED, "locked"
            message = "somebody held the wallet at every look; give the command again when it is free"
        recorded = self._work.record_problem(
            self._using, batch=batch, user=user, status=status, error_class=error_class, message=message
        )
        result = Totals()
        if recorded:
            result.selected = 1
            if status is UserStatus.FAILED:
                result.failed, result.errors[error_class] = 1, 1
            else:
                result.skipped, result.skips[error_class] = 1, 1
        return result

    def _survive(self, error: DatabaseError | InterfaceError) -> None:
        """Wait for a lost or busy database; what it cannot do at all is raised as one clear error."""
        verdict = failures.judge(error)
        if verdict is failures.Failure.ENVIRONMENT:
            logs.write(
                logging.ERROR, "the database refuses the work", run=self._run_id, error_class=failures.sqlstate(error)
            )
            raise DatabaseUnavailableError(
                f"the database refuses the work: {failures.describe(error)}; run {self._run_id} stays open: "
                "cure the cause and give the same command again"
            ) from error
        if verdict is failures.Failure.DATA:
            raise error
        if verdict is failures.Failure.CONNECTION:
            connections[self._using].close()
            if self._lost_since is None:
                self._lost_since = time.monotonic()
                logs.write(logging.WARNING, "the database is lost: waiting for it", run=self._run_id)
                self._notice(f"the database is lost ({failures.describe(error)}): waiting for it")
                self._show_wait("the database is lost: waiting for it")
        elif self._lost_tries == 1:  # SQLite, where somebody else writes for long
            self._notice(f"the database is busy ({failures.describe(error)}): trying again")
            self._show_wait("the database is busy: trying again")
        wait = min(LOST_LONGEST_WAIT, LOST_FIRST_WAIT * 2 ** min(self._lost_tries, 10))
        self._lost_tries += 1
        self._stop.wait(wait * random.uniform(0.75, 1.25))  # noqa: S311 (jitter)

    def _recovered(self) -> None:
        """Note, once, that a lost database is back."""
        self._lost_tries = 0
        if self._lost_since is None:
            return
        seconds = time.monotonic() - self._lost_since
        self._lost_since = None
        self._notice(f"the database is back, it was gone for {seconds:.1f} s: going on")
        runs.add_event(
            self._run_id,
            EventKind.DATABASE_LOST,
            message=f"the database was gone for {seconds:.1f} s; going on",
            details={"seconds": round(seconds, 1)},
            using=self._using,
        )

    def _note_interruption(self) -> None:
        if self._stop.quiet:
            return
        try:
            runs.add_event(
                self._run_id,
                EventKind.INTERRUPTED,
                message=f"{self._name} was asked to end; the run stays open",
                using=self._using,
            )
        except (DatabaseError, InterfaceError):
            logs.write(logging.WARNING, "interrupted while the database was lost", run=self._run_id)
