"""Which batch is next: read ahead, avoid the batches of other workers, plan more before they run out.

# Note [Planning early]
Several workers run dry at the same moment, and all but the one who plans would wait for its lock on
the run.  So a worker of several that finds, when it reads ahead, that less than half of a planning is
left plans the next part while the others continue; where another worker plans already, it does not.

# Note [Planning in turns]
At the end of a run all workers run dry at once, and to find that no user is left the last one has to
scan all users once more.  A worker that had to wait for another one's lock on the run waits a moment
longer instead of scanning again: either there are batches then, or the run has ended.
"""

from __future__ import annotations

import enum
import json
import random
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from django.db import transaction

from mana_migration.domain.claim_offset import spread
from mana_migration.domain.options import Controls
from mana_migration.domain.pacing import BatchSize
from mana_migration.engine import dialect, planning, totals
from mana_migration.engine.batches import Task
from mana_migration.engine.planning import Slice
from mana_migration.models import MigrationBatch, MigrationRun
from mana_migration.services import runs
from mana_migration.services.worker.context import WorkerContext
from mana_migration.states import RunStatus

#: Batches read ahead in one go, claimed one by one or some together.  Several workers read more, to choose
#: different ones.
READ_AHEAD, READ_AROUND = 120, 2_000


class Refill(enum.Enum):
    """What a queue that had run dry found."""

    MORE = "more"
    """There are batches to claim, just planned by this worker or another one."""
    WAIT = "wait"
    """Others hold what is left, or one of them plans."""
    PAUSED = "paused"
    """An operator paused the run."""
    ELSEWHERE = "elsewhere"
    """The run is not running any more."""
    DONE = "done"
    """No user is left to handle."""


class BatchQueue:
    """The batches that one worker tries next.

    Args:
        context: the run and its work.
        controls: those in force when the work begins.
        together: batches that are claimed together at most: so far from other workers' to keep.
    """

    def __init__(self, context: WorkerContext, *, together: int, controls: Controls) -> None:
        self._context, self._together = context, together
        self._ahead: deque[Task] = deque()
        self._seen = 0  # batches that the latest reading found
        self._untouched = False  # none of them could be claimed yet
        self._cut_all = False  # the last early planning of this pass found no user
        self._size: BatchSize | None = None
        self._controls_read: str | Mapping[str, Any] = {}
        self.controls = controls  # those in force, as of the latest batch or planning
        self.in_company = False  # others work on this run

    def next(self) -> Task | None:
        """Return the next batch to try; None where none is planned or others hold all of them."""
        if not self._ahead:
            if self._untouched and self._seen:
                return None  # none of those just read could be claimed
            waiting = self._read_ahead()
            if waiting and self.in_company and not self._cut_all:
                self._plan_early(waiting)
        return self._ahead.popleft() if self._ahead else None

    def more(self, most: int) -> list[Task]:
        """Return what comes after the next one, of what was seen already, so many at most."""
        return [self._ahead.popleft() for _ in range(min(most, len(self._ahead)))]

    def put_back(self, tasks: Sequence[Task]) -> None:
        """Let these come next again."""
        self._ahead.extendleft(reversed(tasks))

    def forget(self) -> None:
        """Read ahead again before the next batch."""
        self._ahead.clear()
        self._seen = 0

    def found_taken(self) -> None:
        """Read again, or choose another of those just read: a batch was another worker's."""
        self.in_company = True
        if not self._untouched:
            self.forget()
        elif self._ahead:
            self._ahead.rotate(random.randrange(len(self._ahead)))  # noqa: S311 (no secret)

    def found_free(self) -> None:
        """Note that one of those just read could be claimed."""
        self._untouched = False

    def apply(self, controls: str | Mapping[str, Any] | None) -> None:
        """Apply the controls in force, which may have been changed since the last batch."""
        if controls is not None and controls != self._controls_read:
            values = json.loads(controls) if isinstance(controls, str) else controls
            self._controls_read, self.controls = controls, Controls.from_dict(values)

    def observe(self, users: int, seconds: float) -> None:
        """Take the time of one batch into account for the size of those planned next."""
        if self._size is not None:
            self._size.observe(users, seconds)

    def _read_ahead(self) -> int:
        """Read which batches wait, without locking any, for claiming one is part of the work on it; return how many.

        Alone, it reads no more than it takes.
        """
        with self._context.connection.cursor() as cursor:
            cursor.execute(
                "SELECT b.id, b.first_user, b.last_user FROM mana_migration_migrationbatch b "
                "JOIN mana_migration_migrationrun r ON r.id = b.run_id "
                "WHERE b.run_id = %s AND NOT b.folded AND b.status = 'planned' AND r.status = 'running' "
                # what was split first, so that failures are known early; what was locked last, to be free by then
                "ORDER BY b.attempts, b.planned, b.id LIMIT %s",
                [self._context.run_id, READ_AROUND if self.in_company else READ_AHEAD],
            )
            waiting = [Task(batch, first, last, self._context.name) for batch, first, last in cursor.fetchall()]
        found = len(waiting)
        if self.in_company and waiting:
            places = spread([task.batch for task in waiting], least=self._together)
            waiting = [waiting[place] for place in places[:READ_AHEAD]]
        self._ahead.extend(waiting)
        self._seen, self._untouched = len(waiting), True
        return found

    # Planning

    def refill(self) -> Refill:
        """Plan more, or find out why there is nothing to plan; see Note [Planning in turns]."""
        using, run_id = self._context.using, self._context.run_id
        held, self._seen, self._cut_all = bool(self._seen), 0, False
        with transaction.atomic(using=using, durable=True):
            run = runs.lock_run_if_free(run_id, using)
            waited = run is None
            if run is None:
                run = runs.lock_run(run_id, using)
            self.apply(run.controls)
            status = RunStatus(run.status)
            if status is not RunStatus.RUNNING:
                return Refill.PAUSED if status is RunStatus.PAUSED else Refill.ELSEWHERE
            waiting = MigrationBatch.objects.using(using).planned().filter(run=run)
            left = waiting.count()
            if left and not held:
                return Refill.MORE  # another worker planned them a moment ago
            planned = not waited and self._plan(run, others_at_work=left > 0)
            self.in_company = self.in_company and left > 0
        if planned:
            return Refill.MORE
        return Refill.WAIT if left or waited else Refill.DONE

    def _plan_early(self, waiting: int) -> None:
        """Plan more where few batches wait, so that no worker will wait for it; see Note [Planning early]."""
        if self._size is None or waiting * 2 >= self._size.batches_ahead:
            return
        with transaction.atomic(using=self._context.using, durable=True):
            run = runs.lock_run_if_free(self._context.run_id, self._context.using)
            # at the end of a pass, whether to make another is decided when all is handled
            if run is not None and run.status == RunStatus.RUNNING and run.cursor:
                self.apply(run.controls)
                self._cut_all = not self._plan(run, others_at_work=True)

    def _plan(self, run: MigrationRun, *, others_at_work: bool) -> bool:
        """Plan the next batches under the run's lock; return False when no user is left to plan."""
        using, work = self._context.using, self._context.work
        if self._size is None or self._size.asked != self.controls.batch_size:
            self._size = BatchSize(self.controls.batch_size)
        size = self._size.current
        room = size * self._size.batches_ahead
        if work.limit is not None:
            room = min(room, work.limit - run.planned_users)
        totals.fold(run, using)
        found: list[Slice] = []
        first_pass = run.passes == 1
        fresh = run.cursor == "" and not (first_pass and work.limit is not None)  # whose first pass leaves users out
        if room > 0:
            dialect.read_by_key(self._context.connection)
            found = work.plan(using, after=run.cursor, size=size, limit=room, first_pass=first_pass)
        planning.write_batches(self._context.connection, run.pk, found)
        totals.count_planned(run, len(found))
        again = False
        if found:
            run.cursor = found[-1].last
            run.planned_users += sum(part.users for part in found)
        elif not fresh and room > 0 and not others_at_work:
            run.cursor, run.passes = "", run.passes + 1  # one more pass from the start
            again = True
        run.save(using=using, update_fields=["cursor", "planned_users", "passes", "folded"])
        return bool(found) or again
