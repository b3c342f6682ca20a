"""Batches that go to PostgreSQL in one message, each in a transaction of its own; see Note [Together]."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest
from django.db import DatabaseError, OperationalError, connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from mana_migration.domain.options import Controls, RollbackOptions
from mana_migration.domain.results import BatchResult
from mana_migration.engine import pipeline
from mana_migration.models import MigrationBatch, UserMigration
from mana_migration.services import rollback, runs
from mana_migration.services.context import RunContext, StopFlag
from mana_migration.services.rollback import Rollback
from mana_migration.services.worker import loop, throttle
from mana_migration.services.worker.loop import Ending, Worker
from mana_migration.states import BatchStatus
from tests.factories import make_wallets
from tests.mana_migration.running import balanced, keys_of, people, planted, records, wallet
from tests.mana_migration.services.worker.test_loop import (
    SOMEBODY,
    Patience,
    another_connection,
    converted,
    each_done_once,
    make_worker,
    open_run,
)
from tests.support.oracle import assert_books_balance, endowment
from tests.support.together import together

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.postgres]


@pytest.fixture(autouse=True)
def at_once() -> Iterator[None]:
    """Send batches together from the second one on, however slow this machine is."""
    with together(most=8, alone_after_trouble=100):
        yield


def batches_in(message: object) -> list[str]:
    """Return the first statement of each batch in a message."""
    return re.findall(r"EXECUTE mana_\w+_0\b", str(message))


def messages(queries: CaptureQueriesContext) -> list[int]:
    """Return how many batches each message had."""
    counts = [len(batches_in(query["sql"])) for query in queries.captured_queries]
    return [count for count in counts if count]


def test_several_batches_are_one_message_and_a_transaction_each() -> None:
    people(100)
    run, results = open_run(5), []
    with balanced(), CaptureQueriesContext(connection) as queries:
        work = make_worker(run, progress=results.append)
        assert work.run() is Ending.DONE
    assert messages(queries) == [1, 8, 8, 3]
    each_done_once(run, results)
    assert work.handled == converted() == 100
    transactions = "SELECT count(DISTINCT xmin::text) FROM mana_migration_usermigration"
    with connection.cursor() as cursor:
        cursor.execute(transactions)
        assert cursor.fetchone() == (20,)


def test_batches_whose_users_are_locked_first_go_together_too() -> None:
    keys = keys_of(make_wallets([(3, 2, 1)] * 59 + [(-1, 0, 0)]))
    run = open_run(5, skip_invalid=True)
    with balanced(), CaptureQueriesContext(connection) as queries:
        assert make_worker(run).run() is Ending.DONE
    assert max(messages(queries)) == 8
    assert converted() == 59
    assert records(keys[-1]) == [("skipped", "negative_balance")]


def test_conversions_of_a_time_are_taken_back_together() -> None:
    people(60)
    make_worker(open_run(30)).run()
    record = UserMigration.objects.order_by("pk")[0]
    options = RollbackOptions(since=record.created_at, until=timezone.now(), controls=Controls(batch_size=5, delay=0.0))
    back = Rollback(options).open(RunContext(actor=SOMEBODY))
    terms = rollback.terms_of(RollbackOptions.from_dict(back.options, back.controls), back.pk)
    with balanced(), CaptureQueriesContext(connection) as queries:
        assert Worker(back.pk, rollback.RollbackWork(terms), RunContext(stop=StopFlag())).run() is Ending.DONE
    assert max(messages(queries)) == 8
    assert UserMigration.objects.filter(status="rolled_back").count() == 60


def test_conversions_are_taken_back_together_too() -> None:
    people(60)
    make_worker(open_run(30)).run()
    back = Rollback(RollbackOptions(everything=True, controls=Controls(batch_size=5, delay=0.0))).open(
        RunContext(actor=SOMEBODY)
    )
    terms = rollback.terms_of(RollbackOptions.from_dict(back.options, back.controls), back.pk)
    with balanced(), CaptureQueriesContext(connection) as queries:
        taken = Worker(back.pk, rollback.RollbackWork(terms), RunContext(stop=StopFlag()))
        assert taken.run() is Ending.DONE
    assert max(messages(queries)) == 8
    assert taken.handled == UserMigration.objects.filter(status="rolled_back").count() == 60


def test_a_bad_user_among_several_batches_costs_no_other_and_each_batch_is_told_once() -> None:
    keys = people(100)
    run, results = open_run(5), []
    with balanced(), planted([keys[33], keys[71]]):
        work = make_worker(run, progress=results.append)
        assert work.run() is Ending.DONE
    assert [key for key in keys if not wallet(key)[4]] == [keys[33], keys[71]]
    assert [status for status, _ in records(keys[33]) + records(keys[71])] == ["failed", "failed"]
    each_done_once(run, results)
    assert work.handled == 100


@mock.patch.object(loop, "ALONE_AFTER_TROUBLE", 4)
def test_after_a_failure_batches_go_one_by_one() -> None:
    keys = people(100)
    with balanced(), planted([keys[7]]), CaptureQueriesContext(connection) as queries:
        make_worker(open_run(5)).run()
    sizes = messages(queries)
    trouble = sizes.index(8)  # the message that met the user
    assert set(sizes[trouble + 1 : trouble + 5]) == {1}
    assert max(sizes[trouble + 5 :]) > 1


def test_a_trigger_that_the_site_attaches_in_the_middle_of_a_run_does_not_keep_it_waiting() -> None:
    people(100)
    run, attached = open_run(5), []

    def attach(result: BatchResult) -> None:
        if not attached:
            attached.append(result.batch)
            with connection.cursor() as cursor:
                cursor.execute(
                    "CREATE OR REPLACE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;"
                    "CREATE TRIGGER late BEFORE INSERT ON wishes_manaentry FOR EACH ROW EXECUTE FUNCTION late()"
                )

    try:
        with balanced(), CaptureQueriesContext(connection) as queries:
            assert make_worker(run, progress=attach).run() is Ending.DONE
    finally:
        with connection.cursor() as cursor:
            cursor.execute("DROP FUNCTION IF EXISTS late() CASCADE")
    assert converted() == 100
    assert sum(messages(queries)) < 20  # the rest went one after another, and was compared


def test_each_batch_of_a_message_took_its_own_time() -> None:
    people(100)
    run = open_run(5)
    make_worker(run).run()
    times = list(MigrationBatch.objects.filter(run=run).order_by("id").values_list("started_at", "finished_at"))
    for (_, end), (begin, _) in itertools.pairwise(times):
        assert begin >= end


def test_the_breaker_trips_after_the_message() -> None:
    keys = people(400)
    with planted(keys[80:200]):
        assert make_worker(open_run(10)).run() is Ending.TRIPPED
    assert converted() < 200


def test_a_run_that_is_paused_or_stopped_meanwhile_gets_no_further_batch() -> None:
    people(200)
    run = open_run(5)
    numbers = itertools.count()

    def stop(result: BatchResult) -> None:
        if next(numbers) == 3:  # the second message has been answered
            runs.stop_run(run.pk, actor=SOMEBODY, reason="enough")

    with balanced():
        assert make_worker(run, progress=stop).run() is Ending.TAKEN_OVER
    assert converted() == 45
    assert not MigrationBatch.objects.filter(run=run, status=BatchStatus.PLANNED).exists()


def test_a_run_that_is_stopped_in_the_middle_of_a_message_ends_before_its_next_batch() -> None:
    keys = people(100)
    run = open_run(5)
    with connection.cursor() as cursor:  # whoever converts this user stops the run, as somebody else might just then
        cursor.execute(
            "CREATE FUNCTION stop_it() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            "UPDATE mana_migration_migrationrun SET status = 'paused' WHERE status = 'running'; RETURN NEW; END $$"
        )
        cursor.execute(
            "CREATE TRIGGER stop_it BEFORE INSERT ON mana_migration_usermigration FOR EACH ROW "
            f"WHEN (NEW.user_id = '{keys[22]}') EXECUTE FUNCTION stop_it()"
        )
    before = endowment()
    try:
        stop = Patience(lambda count: stop.request())
        assert make_worker(run, stop=stop).run() is Ending.INTERRUPTED
    finally:
        with connection.cursor() as cursor:
            cursor.execute("DROP TRIGGER stop_it ON mana_migration_usermigration; DROP FUNCTION stop_it()")
    assert converted() == 25  # up to the batch that the user is in
    assert_books_balance(expected=before)  # the chain would say, rightly, that no event paused the run
    runs.resume_run(run.pk, actor=SOMEBODY, reason="")
    with balanced():
        assert make_worker(run).run() is Ending.DONE
    assert converted() == 100


def test_a_signal_ends_after_the_message() -> None:
    people(100)
    run, stop, numbers = open_run(5), StopFlag(), itertools.count()

    def ask(result: BatchResult) -> None:
        if next(numbers) == 1:
            stop.request(15)

    with balanced():
        assert make_worker(run, stop=stop, progress=ask).run() is Ending.INTERRUPTED
    assert converted() == 45


def test_a_session_that_forgets_its_statements_is_taught_them_again() -> None:
    people(100)
    run, forgotten = open_run(5), []

    def forget(result: BatchResult) -> None:
        if result.totals.selected and len(forgotten) < 2:
            forgotten.append(1)
            with connection.cursor() as cursor:
                cursor.execute("DEALLOCATE ALL")

    with balanced():
        work = make_worker(run, progress=forget)
        assert work.run() is Ending.DONE
    assert work.handled == converted() == 100


@pytest.mark.parametrize("after", [False, True], ids=["before it is sent", "after it was done"])
def test_an_error_loses_no_batch_and_tells_none_twice(after: bool) -> None:
    people(100)
    run, results, failed = open_run(5), [], []

    def fail_once(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        if failed or len(batches_in(sql)) < 2:
            return execute(sql, params, many, context)
        failed.append(1)
        if after:
            execute(sql, params, many, context)
        raise DatabaseError("something went wrong")

    with balanced(), connection.execute_wrapper(fail_once):
        work = make_worker(run, progress=results.append)
        assert work.run() is Ending.DONE
    assert failed
    each_done_once(run, results)
    assert work.handled == converted() == 100


def test_a_connection_that_is_cut_in_the_middle_of_a_message_costs_no_user() -> None:
    people(100)
    run, cut = open_run(5), []

    def cut_once(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        if cut or len(batches_in(sql)) < 2:
            return execute(sql, params, many, context)
        cut.append(1)
        begin, _, rest = str(sql).partition("COMMIT; ")  # one batch is done, then the server ends the session
        execute(f"{begin}COMMIT; SELECT pg_terminate_backend(pg_backend_pid()); {rest}", params, many, context)
        raise AssertionError("the session was not ended")

    with balanced(), connection.execute_wrapper(cut_once):
        assert make_worker(run).run() is Ending.DONE
    assert cut
    assert converted() == 100
    assert UserMigration.objects.count() == 100


def test_a_connection_that_is_lost_while_an_error_is_dealt_with_is_made_again() -> None:
    keys = people(100)
    run, cut = open_run(5), []

    def cut_after_the_error(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        try:
            return execute(sql, params, many, context)
        except DatabaseError:
            if not cut and len(batches_in(sql)) > 1:
                cut.append(1)
                with another_connection() as other:
                    other.execute("SELECT pg_terminate_backend(%s, 10000)", [connection.connection.info.backend_pid])
            raise

    with balanced(), planted([keys[33]]), connection.execute_wrapper(cut_after_the_error):
        assert make_worker(run).run() is Ending.DONE
    assert cut
    assert [key for key in keys if not wallet(key)[4]] == [keys[33]]


@pytest.mark.parametrize("delay", ["auto", 0.001])
def test_work_that_is_to_wait_goes_one_by_one(delay: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    people(60)
    run = open_run(5)
    runs.change_controls(run.pk, {"delay": delay}, actor=SOMEBODY, using="default")
    pause = throttle.Throttle(run.pk, RunContext(stop=StopFlag()))
    if delay == "auto":
        monkeypatch.setattr(pause, "_poll", lambda seconds: None)
        pause._pressure = throttle.Pressure.SOFT
    work = make_worker(run)
    work._throttle = pause
    with balanced(), CaptureQueriesContext(connection) as queries:
        assert work.run() is Ending.DONE
    assert set(messages(queries)) == {1}
    assert converted() == 60


@mock.patch.object(pipeline, "SECONDS", 0)
def test_large_batches_go_one_by_one() -> None:
    people(60)
    with balanced(), CaptureQueriesContext(connection) as queries:
        make_worker(open_run(5)).run()
    assert set(messages(queries)) == {1}


@mock.patch.object(loop, "ALONE_AT_FIRST", 20)
def test_a_new_worker_begins_one_by_one() -> None:
    people(100)
    with balanced(), CaptureQueriesContext(connection) as queries:
        make_worker(open_run(5)).run()
    assert messages(queries)[:5] == [1, 1, 1, 1, 8]


def test_a_database_that_is_not_there_is_waited_for() -> None:
    people(100)
    run, gone = open_run(5), []

    def gone_once(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        if len(gone) < 2 and "mana_" in str(sql) and len(batches_in(sql)) != 1:
            gone.append(1)
            raise OperationalError("server closed the connection unexpectedly")
        return execute(sql, params, many, context)

    with balanced():
        worker_ = make_worker(run)
        with connection.execute_wrapper(gone_once):
            assert worker_.run() is Ending.DONE
    assert converted() == 100
