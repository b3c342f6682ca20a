"""The worker's loop on committed data: splitting, locks, pauses, stops, lost connections, several workers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest import mock

import pytest
from django.db import DatabaseError, IntegrityError, OperationalError, connection, connections

from mana_migration.domain.options import Controls
from mana_migration.domain.results import BatchResult, Splits
from mana_migration.errors import DatabaseUnavailableError
from mana_migration.models import MigrationBatch, MigrationRun, RunEvent, UserMigration
from mana_migration.selectors.runs import run_snapshot
from mana_migration.services import migration, runs
from mana_migration.services.context import Actor, RunContext, StopFlag, ignore
from mana_migration.services.worker.loop import Ending, Worker
from mana_migration.services.worker.queue import BatchQueue, Refill
from mana_migration.states import BatchStatus, EventKind, RunKind, RunStatus
from tests.factories import make_wallets
from tests.mana_migration.running import balanced, converted, people, planted, records, wallet
from tests.support.together import together
from wishes.rates import BIGINT_MAX

pytestmark = pytest.mark.django_db(transaction=True)

SOMEBODY = Actor("somebody", "here")


class Patience(StopFlag):
    """A stop flag whose waits do something instead of taking time."""

    def __init__(self, meanwhile: Callable[[int], None] = lambda count: None) -> None:
        super().__init__()
        self.meanwhile, self.waits = meanwhile, 0

    def wait(self, seconds: float) -> bool:
        """Do what happens meanwhile; give up after many."""
        self.waits += 1
        assert self.waits < 200, "the worker waits for ever"
        self.meanwhile(self.waits)
        return self.requested


def open_run(batch_size: int | str = 10, *, expected: int | None = None, **options: Any) -> MigrationRun:
    """Open a migration."""
    return runs.create_run(
        using="default",
        kind=RunKind.MIGRATION,
        options=options,
        rates={"green": 10, "blue": 100, "red": 1000},
        controls=Controls(batch_size=batch_size, delay=0.0),
        expected=expected,
        actor=SOMEBODY,
    )


def make_worker(
    run: MigrationRun,
    *,
    stop: StopFlag | None = None,
    progress: Callable[[BatchResult], None] = ignore,
    notice: Callable[[str], None] = ignore,
) -> Worker:
    """Return a worker on a run."""
    work = migration.MigrationWork(migration.terms_of(run), run.options.get("limit"))
    return Worker(run.pk, work, RunContext(stop=stop or Patience(), progress=progress, notice=notice))


@contextmanager
def another_connection() -> Iterator[Any]:
    """Return a cursor of a second connection, in a transaction that is rolled back at the end."""
    other = connections["default"].copy()
    try:
        other.set_autocommit(False)
        with other.cursor() as cursor:
            yield cursor
    finally:
        other.rollback()
        other.close()


@contextmanager
def holding_wallet(key: Any) -> Iterator[Any]:
    """Hold a user's wallet, as the site could; return the cursor of who holds it."""
    with another_connection() as other:
        other.execute("SELECT 1 FROM wishes_wallet WHERE user_id = %s FOR UPDATE", [key])
        yield other


def somebody_waits() -> bool:
    """Say whether a session waits for another one's lock."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT COUNT(*) FROM pg_locks WHERE NOT granted")
        return bool(cursor.fetchone()[0])


def each_done_once(run: MigrationRun, results: list[BatchResult]) -> None:
    """Fail unless every batch that handled somebody was told once, with its figures."""
    done = MigrationBatch.objects.filter(run=run, status=BatchStatus.DONE, selected__gt=0)
    told = sorted((result.batch, result.totals.selected, result.totals.migrated) for result in results)
    assert told == sorted(done.values_list("id", "selected", "migrated"))


@pytest.fixture(params=[False, True], ids=["one by one", "together"])
def however_sent(request: pytest.FixtureRequest) -> Iterator[None]:
    """Send batches one by one, and several in a message."""
    with together(most=8) if request.param else nullcontext():
        yield


def test_everybody_is_converted_in_batches_of_the_size_asked_for() -> None:
    people(25)
    run, seen = open_run(10), []
    with balanced():
        worker = make_worker(run, progress=lambda result: seen.append(result.totals.selected))
        assert worker.run() is Ending.DONE
    assert sorted(seen) == [5, 10, 10]
    assert worker.handled == converted() == 25
    batches = MigrationBatch.objects.filter(run=run)
    assert set(batches.values_list("status", flat=True)) == {BatchStatus.DONE}
    assert all(name.endswith(worker.name) for name in batches.values_list("worker", flat=True))


def test_a_window_that_is_moved_while_the_run_is_paused_does_not_end_at_its_old_time() -> None:
    people(30)
    run = open_run(10)
    soon = datetime.now(UTC) + timedelta(seconds=2)
    runs.change_controls(run.pk, {"until": soon.isoformat()}, actor=SOMEBODY)

    def pause(result: BatchResult) -> None:
        if converted() == 10:
            runs.pause_run(run.pk, actor=SOMEBODY, reason="lunch")
            runs.change_controls(run.pk, {"until": "none"}, actor=SOMEBODY)

    def resume(waits: int) -> None:
        if waits == 1:
            time.sleep(max(0.0, (soon - datetime.now(UTC)).total_seconds()) + 0.1)
        if waits == 2:
            runs.resume_run(run.pk, actor=SOMEBODY, reason="lunch is over")

    with balanced():
        assert make_worker(run, stop=Patience(resume), progress=pause).run() is Ending.DONE
    assert converted() == 30
    assert not RunEvent.objects.filter(kind=EventKind.WINDOW_OVER).exists()


def test_a_run_that_another_process_ended_has_no_end_of_a_window() -> None:
    people(30)
    run = open_run(10)
    runs.change_controls(run.pk, {"until": (datetime.now(UTC) + timedelta(seconds=1)).isoformat()}, actor=SOMEBODY)

    def stop(result: BatchResult) -> None:
        runs.stop_run(run.pk, actor=SOMEBODY, reason="enough")
        time.sleep(1.1)

    assert make_worker(run, progress=stop).run() is Ending.TAKEN_OVER
    assert not RunEvent.objects.filter(kind=EventKind.WINDOW_OVER).exists()


@pytest.mark.postgres
def test_stopping_a_run_cancels_what_a_batch_is_split_into_at_that_moment() -> None:
    people(20)
    run = open_run(20)
    worker = make_worker(run)
    task = worker._queue.next()
    if task is None:
        assert worker._queue.refill() is Refill.MORE
        task = worker._queue.next()
    assert task is not None
    stopping = threading.Thread(target=_stop, args=[run.pk])
    split = worker._recovery._split

    def split_slowly(batch: MigrationBatch, error: DatabaseError) -> Any:
        stopping.start()
        for _ in range(200):
            if somebody_waits():
                break
            time.sleep(0.01)
        assert somebody_waits()
        return split(batch, error)

    with mock.patch.object(worker._recovery, "_split", split_slowly):
        worker._recovery.recover(task, IntegrityError())
    stopping.join(10)
    run.refresh_from_db()
    statuses = MigrationBatch.objects.filter(run=run).values_list("status", flat=True)
    assert (run.status, list(statuses)) == ("stopped", ["cancelled", "cancelled"])


def _stop(run_id: int) -> None:
    try:
        runs.stop_run(run_id, actor=SOMEBODY, reason="enough")
    finally:
        connection.close()


def test_a_bad_user_is_isolated_by_splitting_and_costs_no_other() -> None:
    keys = people(20)
    run = open_run(20)
    with balanced(), planted([keys[3], keys[17]]):
        assert make_worker(run).run() is Ending.DONE
    assert [key for key in keys if not wallet(key)[4]] == [keys[3], keys[17]]
    assert records(keys[3]) == records(keys[17])
    assert [status for status, _ in records(keys[3])] == ["failed"]
    sizes = sorted(MigrationBatch.objects.filter(run=run).values_list("selected", flat=True))
    assert sizes[:2] == [1, 1]
    assert sum(sizes) == 20
    assert sizes[-1] > 1


def test_how_often_a_batch_was_split_is_known_and_noted_once_a_run() -> None:
    keys = people(40)
    run, told = open_run(10), list[str]()
    with balanced(), planted([keys[3], keys[17]]):
        assert make_worker(run, notice=told.append).run() is Ending.DONE
    run.refresh_from_db()
    batches = MigrationBatch.objects.filter(run=run).count()
    seen = run_snapshot(run_id=run.pk)
    assert seen is not None
    assert run.folded["planned_batches"] == 4
    assert seen.splits == Splits(batches - 4, batches)
    assert 6 <= seen.splits.count <= 8  # ten users take three to four times
    sentence = f"the database refused a batch ({records(keys[3])[0][1]}): splitting it to isolate single users"
    assert told == [sentence]
    noted = RunEvent.objects.filter(run=run, kind=EventKind.BATCH_SPLIT)
    assert [event.message for event in noted] == [sentence]
    with planted([keys[3]]):
        make_worker(run)._recovery._note_split(IntegrityError())
    assert noted.count() == 1


def test_a_run_that_an_earlier_version_opened_has_no_count_of_splits() -> None:
    keys = people(20)
    run = open_run(10)
    make_worker(run, stop=(stop := StopFlag()), progress=lambda result: stop.request()).run()
    run.refresh_from_db()
    run.folded.pop("planned_batches")
    run.save()
    with balanced(), planted([keys[13]]):
        make_worker(run).run()
    assert run_snapshot(run_id=run.pk).splits == Splits()  # type: ignore[union-attr]


@pytest.mark.postgres
def test_a_number_out_of_range_is_an_overflow() -> None:
    keys = people(4)
    with planted([keys[1]], state="22003"):
        assert make_worker(open_run()).run() is Ending.DONE
    assert records(keys[1]) == [("failed", "overflow")]
    assert converted() == 3


def test_a_batch_whose_sums_leave_bigint_is_split() -> None:
    keys = [found.pk for found in make_wallets([(BIGINT_MAX // 10, 0, 0)] * 5)]
    run = open_run(10)
    with balanced():
        assert make_worker(run).run() is Ending.DONE
    assert converted() == 5
    assert MigrationBatch.objects.filter(run=run, selected=1).count() == 5
    assert wallet(keys[0])[3] == BIGINT_MAX // 10 * 10


def test_a_paused_run_waits_and_goes_on_when_resumed() -> None:
    people(20)
    run, seen = open_run(10), []
    told: list[str] = []

    def resume(count: int) -> None:
        seen.append(converted())
        if count == 3:
            runs.resume_run(run.pk, actor=SOMEBODY, reason="")

    def pause_once(result: BatchResult) -> None:
        if not seen:
            runs.pause_run(run.pk, actor=SOMEBODY, reason="lunch")

    with balanced():
        worker = make_worker(run, stop=Patience(resume), progress=pause_once, notice=told.append)
        assert worker.run() is Ending.DONE
    assert seen == [10, 10, 10]  # nobody while it was paused
    assert told == [
        f"run {run.pk} is paused; resume it with control_migration resume {run.pk}",
        f"run {run.pk} is resumed",
    ]
    assert converted() == 20


def test_a_run_that_is_stopped_ends_after_the_batch_in_hand() -> None:
    people(30)
    run = open_run(10)

    def stop(result: BatchResult) -> None:
        runs.stop_run(run.pk, actor=SOMEBODY, reason="enough")

    with balanced():
        assert make_worker(run, progress=stop).run() is Ending.TAKEN_OVER
    assert converted() == 10
    assert MigrationBatch.objects.filter(run=run, status=BatchStatus.CANCELLED).count() == 2
    assert not MigrationBatch.objects.filter(run=run, status=BatchStatus.PLANNED).exists()


def test_a_signal_ends_after_the_batch_in_hand_and_leaves_the_run_open() -> None:
    people(30)
    run, stop = open_run(10), StopFlag()
    with balanced():
        assert make_worker(run, stop=stop, progress=lambda result: stop.request(15)).run() is Ending.INTERRUPTED
    assert converted() == 10
    run.refresh_from_db()
    assert run.status == RunStatus.RUNNING
    assert RunEvent.objects.filter(run=run, kind=EventKind.INTERRUPTED).exists()
    with balanced():
        assert make_worker(run).run() is Ending.DONE
    assert converted() == 30


def test_a_changed_batch_size_holds_from_the_next_planning() -> None:
    people(400)
    run, seen = open_run(2), []

    def grow(result: BatchResult) -> None:
        seen.append(result.totals.selected)
        if len(seen) == 1:
            runs.change_controls(run.pk, {"batch_size": 100}, actor=SOMEBODY, using="default")

    with balanced():
        assert make_worker(run, progress=grow).run() is Ending.DONE
    assert seen[0] == 2
    assert sum(seen) == 400
    assert set(seen) <= {2, 100}


def test_a_limit_is_kept() -> None:
    people(30)
    with balanced():
        assert make_worker(open_run(7, limit=11)).run() is Ending.DONE
    assert converted() == 11


def test_users_who_sign_up_during_the_run_are_found_by_a_later_look() -> None:
    people(10)
    run, late = open_run(10), []

    def sign_up(result: BatchResult) -> None:
        if not late:
            late.extend(people(3, green=0, blue=0, red=0))

    with balanced():
        assert make_worker(run, progress=sign_up).run() is Ending.DONE
    assert converted() == 13


def test_the_breaker_ends_the_loop() -> None:
    keys = people(100)
    with planted(keys[:20]):
        assert make_worker(open_run(50)).run() is Ending.TRIPPED
    assert converted() < 100


# --- Others are in the way --------------------------------------------------------------------------------------------


@pytest.mark.postgres
@pytest.mark.usefixtures("however_sent")
def test_a_batch_that_another_worker_holds_is_left_to_it() -> None:
    people(100)
    run = open_run(5)
    make_worker(run, stop=(stop := StopFlag()), progress=lambda result: stop.request()).run()
    held = MigrationBatch.objects.filter(run=run, status=BatchStatus.PLANNED).order_by("id")[4]
    with another_connection() as other, balanced():
        other.execute(f"SELECT 1 FROM mana_migration_migrationbatch WHERE id = {held.pk} FOR NO KEY UPDATE")
        seen: list[int] = []

        def let_go(count: int) -> None:
            seen.append(converted())
            if count == 2:
                other.connection.rollback()

        assert make_worker(run, stop=Patience(let_go)).run() is Ending.DONE
    assert seen[:2] == [95, 95]  # everybody else's turn came
    assert converted() == 100


@pytest.mark.postgres
@pytest.mark.usefixtures("however_sent")
def test_a_user_whose_wallet_somebody_holds_comes_last(settings: Any) -> None:
    settings.MANA_MIGRATION_LOCK_TIMEOUT_MS = 10
    keys = people(100)
    run = open_run(5)
    with holding_wallet(keys[42]) as other, balanced():

        def let_go(result: BatchResult) -> None:
            if converted() == 99:
                other.connection.rollback()

        assert make_worker(run, progress=let_go).run() is Ending.DONE
    assert converted() == 100
    assert records(keys[42]) == [("migrated", "")]
    run.refresh_from_db()
    assert run.passes > 1


@pytest.mark.postgres
def test_a_user_whose_wallet_is_held_all_the_time_is_left_out_with_that_reason(settings: Any) -> None:
    settings.MANA_MIGRATION_LOCK_TIMEOUT_MS = 10
    keys = people(5)
    run = open_run(10)
    with holding_wallet(keys[4]), balanced():
        assert make_worker(run).run() is Ending.DONE
    assert converted() == 4
    assert records(keys[4]) == [("skipped", "locked")]


@pytest.mark.postgres
def test_while_all_that_is_left_waits_for_a_held_wallet_it_is_said_what_for(settings: Any) -> None:
    settings.MANA_MIGRATION_LOCK_TIMEOUT_MS = 10
    keys = people(20)
    run = open_run(10, expected=20)
    told: list[str] = []
    shown: list[str] = []
    seen: list[Any] = []
    with holding_wallet(keys[14]) as other, balanced():

        def look(count: int) -> None:
            seen.append(run_snapshot(run_id=run.pk))
            if count == 3:  # the other ten are done, and the ten with that wallet were tried three times
                other.connection.rollback()

        worker = make_worker(
            run, stop=Patience(look), progress=lambda result: shown.append(result.waits_for), notice=told.append
        )
        assert worker.run() is Ending.DONE
    sentence = "waiting for a wallet that another session holds"
    assert [snapshot.waiting for snapshot in seen] == ["", sentence, sentence]
    assert (seen[1].waiting_for, seen[1].progress.remaining) == ("held_wallets", None)
    assert (seen[1].events[0].label, seen[1].events[0].message) == ("Waiting", "another session holds a wallet")
    assert shown == ["", sentence, ""]
    assert told == [sentence]
    assert RunEvent.objects.filter(run=run, kind=EventKind.THROTTLED).count() == 1
    assert run_snapshot(run_id=run.pk).waiting == ""  # type: ignore[union-attr]
    assert converted() == 20


@pytest.mark.postgres
def test_a_wallet_that_is_held_all_the_time_is_told_of_once_a_minute_and_known_at_each_look(settings: Any) -> None:
    settings.MANA_MIGRATION_LOCK_TIMEOUT_MS = 10
    keys = people(5)
    run = open_run(10)
    told: list[str] = []
    with holding_wallet(keys[4]), balanced():
        assert make_worker(run, notice=told.append).run() is Ending.DONE
    assert told == ["waiting for a wallet that another session holds"]
    assert RunEvent.objects.filter(run=run, kind=EventKind.THROTTLED).count() < 10


@pytest.mark.sqlite
def test_a_database_that_somebody_else_writes_to_is_said_to_be_busy() -> None:
    people(5)
    told: list[str] = []
    worker = make_worker(open_run(), notice=told.append)
    with pytest.MonkeyPatch.context() as patch:
        failing = [OperationalError("database is locked")] * 3

        def locked_for_a_while() -> None:
            if failing:
                raise failing.pop()

        look = BatchQueue.next
        patch.setattr(BatchQueue, "next", lambda queue: locked_for_a_while() or look(queue))
        assert worker.run() is Ending.DONE
    assert told == ["the database is busy (database is locked): trying again"]
    assert converted() == 5


@pytest.mark.postgres
def test_a_lost_connection_costs_no_user() -> None:
    people(30)
    run, lost = open_run(10), []
    told: list[str] = []

    def lose_it(result: BatchResult) -> None:
        if not lost:
            lost.append(1)
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_backend_pid()")
                (pid,) = cursor.fetchone()
            with another_connection() as other:
                other.execute("SELECT pg_terminate_backend(%s, 10000)", [pid])

    with balanced():
        assert make_worker(run, progress=lose_it, notice=told.append).run() is Ending.DONE
    assert converted() == 30
    assert [sentence.split(" (")[0].split(",")[0] for sentence in told] == [
        "the database is lost",
        "the database is back",
    ]
    assert RunEvent.objects.filter(run=run, kind=EventKind.DATABASE_LOST).count() == 1


@pytest.mark.postgres
@pytest.mark.usefixtures("however_sent")
def test_workers_side_by_side_convert_everybody_once() -> None:
    people(300)
    run = open_run(5)
    workers, endings, results = [], [], list[BatchResult]()

    def work() -> None:
        try:
            worker = make_worker(run, stop=StopFlag(), progress=results.append)
            workers.append(worker)
            endings.append(worker.run())
        finally:
            connections.close_all()

    with balanced():
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert endings == [Ending.DONE] * 4
    assert sum(worker.handled for worker in workers) == converted() == 300
    assert UserMigration.objects.count() == 300
    assert MigrationBatch.objects.filter(run=run).exclude(status=BatchStatus.DONE).count() == 0
    each_done_once(run, [result for result in results if result.totals.selected])
    assert MigrationBatch.objects.values("worker").exclude(worker="").distinct().count() > 1


@pytest.mark.postgres
@pytest.mark.parametrize("table", ["wishes_manaentry", "mana_migration_usermigration"])
@pytest.mark.usefixtures("however_sent")
def test_a_sequence_that_is_set_back_meanwhile_is_no_users_failure_and_stops_the_work(table: str) -> None:
    people(200)
    run, batches = open_run(5), list[int]()

    def set_back(result: BatchResult) -> None:
        batches.append(result.batch)
        if len(batches) == 2:
            with connection.cursor() as cursor:
                cursor.execute(f"SELECT setval('{table}_id_seq', (SELECT MIN(id) FROM {table}), false)")

    with balanced(), pytest.raises(DatabaseUnavailableError, match=f"the sequence of {table} is behind its table"):
        make_worker(run, progress=set_back).run()
    run.refresh_from_db()
    assert run.status == RunStatus.RUNNING
    assert not UserMigration.objects.filter(status="failed").exists()
    assert 10 <= converted() < 200
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT setval('{table}_id_seq', (SELECT MAX(id) FROM {table}))")
