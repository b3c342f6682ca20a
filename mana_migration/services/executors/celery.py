"""A run that workers of Celery do: handed over, followed to its end, and what one of them does.

# Note [Messages]
The database is the queue of batches; a message only says "work on this run".  It may be lost,
delivered twice or late: whoever gets it works on what is left, or finds the run closed.  A task
hands its work on to a new one after a while (``MANA_MIGRATION_CELERY_TASK_SECONDS``): brokers
deliver a message again that is not acknowledged in time (Redis after its visibility timeout, an
hour), or close the connection (RabbitMQ after half an hour).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from datetime import datetime
from typing import Final, Unpack

from django.db import DatabaseError, InterfaceError, connections

from mana_migration.domain.options import MigrationOptions, RollbackOptions
from mana_migration.domain.results import BatchResult, ProgressCallback, RunSummary, Totals
from mana_migration.engine import failures, totals
from mana_migration.errors import BrokerUnavailableError, RunConflictError, UsageError
from mana_migration.models import MigrationRun, RunEvent
from mana_migration.selectors.runs import event_line
from mana_migration.services import logs, migration, preflight, rollback, runs
from mana_migration.services.context import RunContext, StopFlag
from mana_migration.services.executors import celery_broker, local
from mana_migration.services.runs import Actor
from mana_migration.states import EventKind, RunKind, RunStatus

#: Seconds between two looks at a run that others do.
LOOK_EVERY: Final = 0.5

#: Seconds without progress after which the workers are asked who is there, and between two such questions.
ASK_AFTER: Final = 5.0

#: Seconds between two times that the same complaint is told.
COMPLAIN_EVERY: Final = 60.0

#: What workers do that whoever follows should hear of.
_TOLD: Final = (
    EventKind.RESUMED_WORK,
    EventKind.PAUSED,
    EventKind.RESUMED,
    EventKind.STOPPED,
    EventKind.THROTTLED,
    EventKind.DATABASE_LOST,
    EventKind.BREAKER_TRIPPED,
)

_WAITED_OUT: Final = (failures.Failure.CONNECTION, failures.Failure.TRANSIENT)


# --- Whoever asks -----------------------------------------------------------------------------------------------------


def migrate_elsewhere(
    options: MigrationOptions,
    workers: int,
    *,
    actor: Actor,
    reason: str = "",
    **context: Unpack[RunContext],
) -> RunSummary:
    """Open a migration or go on with the open one, hand it to so many workers of Celery and follow it to its end.

    Nobody is converted in this process.

    Raises:
        UsageError: Celery is not installed, users are named one by one, or this database takes fewer workers.
        BrokerUnavailableError: the broker cannot be reached; no run was opened.
        MigrationError: as ``migration.migrate`` does.
    """
    if options.users:
        raise UsageError("users who are named one by one are converted at once: leave --executor celery out")
    using, notice = context.get("using", "default"), context.get("notice", runs.silent)
    _prepare(workers, using)
    run = migration.open_or_join(options, actor=actor, reason=reason, using=using, notice=notice)
    return _hand_over(run, workers, **context)


def roll_back_elsewhere(
    options: RollbackOptions,
    workers: int,
    *,
    actor: Actor,
    **context: Unpack[RunContext],
) -> RunSummary:
    """Open a mass rollback or go on with the open one, hand it to so many workers and follow it to its end.

    Raises:
        UsageError: Celery is not installed, users are named one by one, or this database takes fewer workers.
        BrokerUnavailableError: the broker cannot be reached; no run was opened.
        MigrationError: as ``rollback.roll_back`` does.
    """
    if options.users:
        raise UsageError("users who are named one by one are rolled back at once: leave --executor celery out")
    using, notice = context.get("using", "default"), context.get("notice", runs.silent)
    _prepare(workers, using)
    run = rollback.open_or_join(options, actor=actor, using=using, notice=notice)
    return _hand_over(run, workers, **context)


def join_elsewhere(run_id: int, workers: int, **context: Unpack[RunContext]) -> RunSummary:
    """Hand an open run to so many more workers and follow it to its end; of a closed one tell the outcome.

    Raises:
        RunNotFoundError: there is no such run.
        RunConflictError: it is paused, or an import.
        UsageError, BrokerUnavailableError: see ``migrate_elsewhere``.
    """
    using, notice = context.get("using", "default"), context.get("notice", runs.silent)
    _prepare(workers, using)
    run = local.find_to_join(run_id, using=using, notice=notice)
    if not run.is_open:
        return migration.summary(run.pk, using=using, seconds=0.0, handled=0)
    return _hand_over(run, workers, **context)


def _prepare(workers: int, using: str) -> None:
    """Check everything that must hold before a run is opened."""
    local.check_workers(workers, using)
    preflight.check(using)
    celery_broker.check()


def _hand_over(run: MigrationRun, workers: int, **context: Unpack[RunContext]) -> RunSummary:
    using, notice = context.get("using", "default"), context.get("notice", runs.silent)
    expecting = context.get("expecting", runs.ignore_expected)
    stop, progress = context.get("stop") or StopFlag(), context.get("progress")
    follower = Follower(run, using=using, stop=stop, progress=progress, notice=notice)
    if run.expected is not None:
        expecting(max(0, run.expected - totals.run_totals(run, using).selected))
    celery_broker.send(run, using=using, times=workers)
    tasks = "1 task" if workers == 1 else f"{workers} tasks"
    notice(f"run {run.pk} is handed to Celery in {tasks}; this command only follows it")
    return follower.follow()


class Follower:
    """Follow a run that workers elsewhere do, to its end or until asked to stop; complain where nobody works."""

    def __init__(
        self,
        run: MigrationRun,
        *,
        using: str,
        stop: StopFlag,
        progress: ProgressCallback | None,
        notice: runs.Notice,
    ) -> None:
        self._run, self._using, self._stop, self._notice = run, using, stop, notice
        self._progress = progress
        self._begun = self._moved = self._asked = self._looked = time.monotonic()
        self._complained: dict[str, float] = {}
        self._waits_for = ""
        self._before = totals.run_totals(run, using).selected
        self._seen: dict[int, Totals] = {run.pk: totals.run_totals(run, using)}
        self._event = RunEvent.objects.using(using).order_by("-id").values_list("id", flat=True).first() or 0

    def follow(self) -> RunSummary:
        """Follow the run and return what became of it."""
        lost = False
        while True:
            try:
                current = self._look()
                lost = False
            except (DatabaseError, InterfaceError) as error:
                if failures.judge(error) not in _WAITED_OUT:
                    raise
                if not lost:
                    self._notice(f"the database does not answer ({failures.describe(error)}); trying again")
                lost = True
                connections[self._using].close()
            else:
                if current is None:
                    break
                self._ask(current)
            if self._stop.wait(LOOK_EVERY):
                self._notice(
                    f"no longer following run {self._run.pk}: its workers go on; hold it with migrate_users "
                    f"--pause {self._run.pk}, end it with migrate_users --stop {self._run.pk}"
                )
                break
        return self._summary()

    def _look(self) -> MigrationRun | None:
        """Tell what happened since the last look; return the run that is worked on, None where it is over."""
        run = MigrationRun.objects.using(self._using).get(pk=self._run.pk)
        if run.status == RunStatus.ROLLING_BACK:
            run = runs.find_takeback(run.pk, using=self._using) or run
        now, moment = totals.run_totals(run, self._using), time.monotonic()
        done = now.since(self._seen.get(run.pk, Totals()))
        self._seen[run.pk] = now
        events = RunEvent.objects.using(self._using).filter(id__gt=self._event, run_id__in=self._seen)
        for event in events.order_by("id"):
            self._event, self._moved = event.pk, moment
            if event.kind in _TOLD:
                line = event_line(event)
                what = line.label.lower()
                said = line.message if line.message.startswith(what) else f"{what}: {line.message}".rstrip(": ")
                self._notice(f"run {event.run_id}: {said}")
            if event.kind == EventKind.THROTTLED:
                self._waits_for = "" if event.details.get("wait") == "none" else event.message
        if done.selected:
            self._moved, self._waits_for = moment, ""
        if self._progress is not None:
            self._progress(BatchResult(run.pk, 0, done, moment - self._looked, self._waits_for))
        self._looked = moment
        return run if run.is_open else None

    # Nobody works

    def _ask(self, run: MigrationRun) -> None:
        """Where nothing has moved for a while, ask who is there, and say what to do."""
        moment = time.monotonic()
        if run.status == RunStatus.PAUSED or min(moment - self._moved, moment - self._asked) < ASK_AFTER:
            return
        try:
            found = celery_broker.look(run.pk, using=self._using)
        except BrokerUnavailableError as error:
            self._complain("broker", str(error))
            return
        finally:
            self._asked = time.monotonic()
        if found.tasks:
            return  # somebody has it and waits for something
        start = f"start one on any machine with this database and this broker: {celery_broker.worker_command()}"
        if not found.workers:
            self._complain("workers", f"nobody works on run {run.pk}: no Celery worker answers; {start}")
        elif found.waiting:
            others = "worker is" if found.workers == 1 else f"{found.workers} workers are"
            self._complain(
                "busy", f"nobody works on run {run.pk}: the {others} busy, or listening to other queues; {start}"
            )
        else:  # whoever had it is gone, and its message with it
            self._notice(f"nobody works on run {run.pk} any more: handing it over again")
            with contextlib.suppress(BrokerUnavailableError):
                celery_broker.send(run, using=self._using, times=1)

    def _complain(self, about: str, sentence: str) -> None:
        moment = time.monotonic()
        if moment - self._complained.get(about, -COMPLAIN_EVERY) >= COMPLAIN_EVERY:
            self._complained[about] = moment
            self._notice(sentence)

    def _summary(self) -> RunSummary:
        run = MigrationRun.objects.using(self._using).get(pk=self._run.pk)
        handled = totals.run_totals(run, self._using).selected - self._before
        # what was asked for is the migration that its breaker ended, not the run that takes it back
        shown = run.tripped_run or run.pk
        return migration.summary(shown, using=self._using, seconds=time.monotonic() - self._begun, handled=handled)


# --- Whoever does the work --------------------------------------------------------------------------------------------


def work_on_message(run_id: int, *, using: str, opened: str, again: bool, actor: Actor, stop: StopFlag) -> bool:
    """Do what a message asks for: work on a run until it ends or until asked to stop; return whether work is left.

    A message may be late, lost or delivered twice; see Note [Messages].  A paused run is waited for.

    Raises:
        UsageError: there is no such database here.
        RunConflictError: the run of this number is another one: this is not the sender's database.
        RunNotFoundError: there is none.
        DatabaseUnavailableError: the database cannot be reached or cannot do the work.
    """
    if using not in connections:
        raise UsageError(f"there is no database {using!r} here: give this worker the settings of the sender")
    preflight.check(using)
    run = runs.get_run(run_id, using=using)
    if run.kind == RunKind.IMPORT or run.created_at != datetime.fromisoformat(opened):
        raise RunConflictError(
            f"run {run.pk} of database {using!r} is not the one handed over: give this worker the same database"
        )
    if run.status == RunStatus.ROLLING_BACK:
        run = runs.find_takeback(run.pk, using=using) or run
    if not run.is_open:
        return False
    with _log(run, using):
        if not again:
            runs.note_resumed_work(run.pk, actor=actor, using=using)
        # whoever checked it may be dead, and its message is delivered again for that reason: then nobody else will
        migration.work_on_run(run.pk, actor=actor, using=using, stop=stop, joining=run.status != RunStatus.CHECKING)
    if not stop.requested:
        return False
    left = runs.get_run(run_id, using=using)
    return left.is_open or runs.find_takeback(left.pk, using=using) is not None


@contextlib.contextmanager
def _log(run: MigrationRun, using: str) -> Iterator[None]:
    """Write this machine's daily log file, as a command does."""
    logs.configure(logs.ROLLBACK if run.kind == RunKind.ROLLBACK else logs.MIGRATION, "info", database=using)
    try:
        yield
    finally:
        logs.release()
