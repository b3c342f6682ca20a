"""A run that Celery's workers do: sent to them, followed to its end, and what one of them does.

# Note [Messages]
The database is the queue of batches; a message only says "work on this run".  It may be lost,
delivered twice or late: the worker that gets it works on what is left, or finds the run closed.  A
task passes its work to a new one after a while (``MANA_MIGRATION_CELERY_TASK_SECONDS``): brokers
deliver a message again that is not acknowledged in time (Redis after its visibility timeout, an
hour), or close the connection (RabbitMQ after half an hour).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from datetime import datetime
from typing import Final

from django.db import DatabaseError, InterfaceError, connections

from mana_migration.domain.results import BatchResult, RunSummary, Totals
from mana_migration.domain.words import counted
from mana_migration.engine import failures, totals
from mana_migration.errors import BrokerUnavailableError, RunConflictError, UsageError
from mana_migration.models import MigrationRun, RunEvent
from mana_migration.selectors.runs import event_line
from mana_migration.services import logs, operation, preflight, runs
from mana_migration.services.context import DATABASE_LOST, RunContext
from mana_migration.services.executors import celery_broker, local
from mana_migration.services.operation import Operation
from mana_migration.states import EventKind, RunKind, RunStatus

#: Seconds between two polls of a run that is followed.
POLL_SECONDS: Final = 0.5

#: Seconds without progress after which the workers are asked for a sign of life, and between two such requests.
ASK_AFTER: Final = 5.0

#: Seconds between two reports of the same problem.
REPORT_EVERY: Final = 60.0

#: Events of the workers that are reported.
_REPORTED: Final = (
    EventKind.RESUMED_WORK,
    EventKind.PAUSED,
    EventKind.RESUMED,
    EventKind.STOPPED,
    EventKind.THROTTLED,
    EventKind.DATABASE_LOST,
    EventKind.BREAKER_TRIPPED,
)

_WAITED_OUT: Final = (failures.Failure.CONNECTION, failures.Failure.TRANSIENT)


# --- The command that asks --------------------------------------------------------------------------------------------


def execute(asked: Operation, context: RunContext, *, workers: int = 1) -> RunSummary:
    """Open a run or resume the open one, send it to so many Celery workers and follow it to its end.

    No user is handled in this process.

    Raises:
        UsageError: Celery is not installed, users are selected one by one, or this database takes fewer workers.
        BrokerUnavailableError: the broker cannot be reached; no run was opened.
        MigrationError: see ``operation.execute``.
    """
    if asked.selected_users:
        raise UsageError("selected users are handled at once, by this process: leave --executor celery out")
    _prepare(workers, context.using)
    return _send(operation.open_or_resume(asked, context), context, workers=workers)


def join_run(run_id: int, context: RunContext, *, workers: int = 1) -> RunSummary:
    """Send an open run to so many more workers and follow it to its end; for a closed one return its outcome.

    Raises:
        RunNotFoundError: there is no such run.
        RunConflictError: it is paused, or an import.
        UsageError, BrokerUnavailableError: see ``execute``.
    """
    _prepare(workers, context.using)
    run = local.find_to_join(run_id, context)
    if not run.is_open:
        return operation.summary(run.pk, using=context.using, seconds=0.0, handled=0)
    return _send(run, context, workers=workers)


def _prepare(workers: int, using: str) -> None:
    """Check everything that must hold before a run is opened."""
    local.check_workers(workers, using)
    preflight.check(using)
    celery_broker.check()


def _send(run: MigrationRun, context: RunContext, *, workers: int) -> RunSummary:
    follower = Follower(run, context, tasks=workers)
    if run.expected is not None:
        context.expecting(max(0, run.expected - totals.run_totals(run, context.using).selected))
    celery_broker.send(run, using=context.using, times=workers)
    context.notice(f"run {run.pk} is sent to Celery in {counted(workers, 'task')}; this command only follows it")
    return follower.follow()


#: Seconds without progress after which the workers of a run whose window is over have finished their batches.
WINDOW_GRACE: Final = 2.0


class Follower:
    """Follow a run that Celery's workers do, to its end or until asked to stop; report where no worker does it.

    ``tasks``: how many share the run, all of which are sent again where all are lost.
    """

    def __init__(self, run: MigrationRun, context: RunContext, *, tasks: int = 1) -> None:
        self._tasks = tasks
        self._run, self._context, self._using = run, context, context.using
        using = context.using
        self._begun = self._moved = self._asked = self._polled = time.monotonic()
        self._reported: dict[str, float] = {}
        self._waits_for = ""
        self._before = totals.run_totals(run, using).selected
        self._seen: dict[int, Totals] = {run.pk: totals.run_totals(run, using)}
        self._event = RunEvent.objects.using(using).order_by("-id").values_list("id", flat=True).first() or 0

    def follow(self) -> RunSummary:
        """Follow the run and return what became of it."""
        lost = False
        while True:
            try:
                current = self._poll()
                lost = False
            except (DatabaseError, InterfaceError) as error:
                if failures.kind_of(error) not in _WAITED_OUT:
                    raise
                if not lost:
                    self._context.notice(f"the database does not answer ({failures.describe(error)}); trying again")
                    self._context.show_wait(self._run.pk, DATABASE_LOST)
                lost = True
                connections[self._using].close()
            else:
                if current is None:
                    break
                self._ask(current)
            if self._context.stop.wait(POLL_SECONDS):
                self._context.notice(
                    f"no longer following run {self._run.pk}: its workers continue; pause it with "
                    f"control_migration pause {self._run.pk}, stop it with control_migration stop {self._run.pk}"
                )
                break
        return self._summary()

    def _poll(self) -> MigrationRun | None:
        """Report what happened since the last poll; return the run that is worked on, None where it is over."""
        run = MigrationRun.objects.using(self._using).get(pk=self._run.pk)
        run = runs.find_breaker_rollback(run.pk, using=self._using) or run
        now, moment = totals.run_totals(run, self._using), time.monotonic()
        done = now.since(self._seen.get(run.pk, Totals()))
        self._seen[run.pk] = now
        events = RunEvent.objects.using(self._using).filter(id__gt=self._event, run_id__in=self._seen)
        for event in events.order_by("id"):
            self._event, self._moved = event.pk, moment
            if event.kind in _REPORTED:
                line = event_line(event)
                what = line.label.lower()
                said = line.message if line.message.startswith(what) else f"{what}: {line.message}".rstrip(": ")
                self._context.notice(f"run {event.run_id}: {said}")
            if event.kind == EventKind.THROTTLED:
                self._waits_for = "" if event.details.get("wait") == "none" else event.message
        if done.selected:
            self._moved, self._waits_for = moment, ""
        self._context.progress(BatchResult(run.pk, 0, done, moment - self._polled, self._waits_for))
        self._polled = moment
        return run if run.is_open and not self._has_stopped_at_window(run, moment) else None

    def _has_stopped_at_window(self, run: MigrationRun, moment: float) -> bool:
        """Say whether the run's window is over and its workers have finished their batches."""
        return run.controls_in_force.window_is_over() and moment - self._moved >= WINDOW_GRACE

    def _ask(self, run: MigrationRun) -> None:
        """Where nothing has moved for a while, ask the workers, and say what to do."""
        moment = time.monotonic()
        if run.status == RunStatus.PAUSED or min(moment - self._moved, moment - self._asked) < ASK_AFTER:
            return
        try:
            found = celery_broker.presence(run.pk, using=self._using)
        except BrokerUnavailableError as error:
            self._report("broker", str(error))
            return
        finally:
            self._asked = time.monotonic()
        if found.tasks:
            return  # a worker has it and waits for something
        start = f"start one on any machine with this database and this broker: {celery_broker.worker_command()}"
        if not found.workers:
            self._report("workers", f"run {run.pk} makes no progress: no Celery worker answers; {start}")
        elif found.waiting:
            others = "worker is" if found.workers == 1 else f"{found.workers} workers are"
            self._report(
                "busy", f"run {run.pk} makes no progress: the {others} busy, or listening to other queues; {start}"
            )
        else:  # the workers that had it are gone, and their messages with them
            sent = counted(self._tasks, "task")
            self._context.notice(f"no worker has run {run.pk} any more: sending it again, in {sent}")
            with contextlib.suppress(BrokerUnavailableError):
                celery_broker.send(run, using=self._using, times=self._tasks)

    def _report(self, about: str, sentence: str) -> None:
        moment = time.monotonic()
        if moment - self._reported.get(about, -REPORT_EVERY) >= REPORT_EVERY:
            self._reported[about] = moment
            self._context.notice(sentence)

    def _summary(self) -> RunSummary:
        run = MigrationRun.objects.using(self._using).get(pk=self._run.pk)
        handled = totals.run_totals(run, self._using).selected - self._before
        # what was asked for is the migration that its breaker ended, not its rollback
        shown = run.tripped_run or run.pk
        return operation.summary(shown, using=self._using, seconds=time.monotonic() - self._begun, handled=handled)


# --- The worker ------------------------------------------------------------------------------------------------------


def work_on_message(run_id: int, context: RunContext, *, opened: str, again: bool) -> bool:
    """Do what a message asks for: work on a run until it ends or until asked to stop; return whether work is left.

    A message may be late, lost or delivered twice; see Note [Messages].  A paused run is waited for.

    Raises:
        UsageError: there is no such database here.
        RunConflictError: the run of this number is another one: this is not the sender's database.
        RunNotFoundError: there is none.
        DatabaseUnavailableError: the database cannot be reached or cannot do the work.
    """
    using = context.using
    if using not in connections:
        raise UsageError(f"there is no database {using!r} here: give this worker the settings of the sender")
    preflight.check(using)
    run = runs.get_run(run_id, using=using)
    if run.kind == RunKind.IMPORT or run.created_at != datetime.fromisoformat(opened):
        raise RunConflictError(
            f"run {run.pk} of database {using!r} is not the one that was sent: give this worker the same database"
        )
    run = runs.find_breaker_rollback(run.pk, using=using) or run
    if not run.is_open:
        return False
    with _log(run, using):
        if not again:
            runs.note_resumed_work(run.pk, actor=context.actor, using=using)
        # the worker that checked it may be dead, and its message is delivered again for that reason
        operation.work_on_run(run.pk, context, joining=run.status != RunStatus.CHECKING)
    if not context.stop.requested:
        return False
    left = runs.get_run(run_id, using=using)
    return left.is_open or runs.find_breaker_rollback(left.pk, using=using) is not None


@contextlib.contextmanager
def _log(run: MigrationRun, using: str) -> Iterator[None]:
    """Write this machine's daily log file, as a command does."""
    logs.configure(logs.ROLLBACK if run.is_rollback else logs.MIGRATION, "info", database=using)
    try:
        yield
    finally:
        logs.release()
