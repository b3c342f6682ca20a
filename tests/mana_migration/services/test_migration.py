"""Migrating: what is told on the way, who ends a run, what is judged."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from django.db import OperationalError

from mana_migration.domain import pacing
from mana_migration.domain.breaker import BreakerVerdict
from mana_migration.domain.options import Controls, MigrationOptions
from mana_migration.domain.results import BatchResult
from mana_migration.engine import conversion
from mana_migration.errors import DatabaseUnavailableError, FindingsError, RunConflictError
from mana_migration.models import MigrationBatch, MigrationRun
from mana_migration.services import operation, runs, validation
from mana_migration.services.context import Actor, RunContext, StopFlag
from mana_migration.services.migration import Migration, MigrationWork
from mana_migration.services.worker import failures
from mana_migration.states import RunStatus
from tests.factories import WalletFactory, make_wallets
from tests.mana_migration.running import balanced, events, people, refuse_records, status, wallet
from tests.support.oracle import assert_books_balance, assert_everyone_is_accounted_for, endowment

pytestmark = pytest.mark.django_db

OLGA = Actor("olga", "db-1")


def options(**values: Any) -> MigrationOptions:
    controls = {"batch_size": 5, "delay": 0.0} | {
        name: values.pop(name) for name in ("batch_size", "delay", "error_threshold") if name in values
    }
    return MigrationOptions(controls=Controls(**controls), **values)


def go(**values: Any) -> Any:
    told = {name: values.pop(name) for name in ("progress", "expecting", "notice", "stop") if name in values}
    return operation.execute(Migration(options(**values)), RunContext(actor=OLGA, **told))


# --- What is told -----------------------------------------------------------------------------------------------------


def test_progress_is_told_of_each_committed_batch() -> None:
    people(15)
    results: list[BatchResult] = []
    done = go(progress=results.append)
    assert [result.totals.migrated for result in results] == [5, 5, 5]
    assert {result.run for result in results} == {done.run}
    assert all(MigrationBatch.objects.get(pk=result.batch).status == "done" for result in results)


def test_the_number_of_users_is_told_before_the_first_and_what_is_left_when_going_on() -> None:
    people(15)
    expected: list[int] = []
    stop = StopFlag()

    def interrupt(result: BatchResult) -> None:
        stop.request(2)

    first = go(expecting=expected.append, progress=interrupt, stop=stop)
    assert (first.status, first.handled, first.totals.migrated) == ("running", 5, 5)
    second = go(expecting=expected.append)
    assert expected == [15, 10]
    assert (second.run, second.handled, second.totals.migrated) == (first.run, 10, 15)


def test_what_is_found_and_decided_is_told_in_sentences() -> None:
    people(3)
    said: list[str] = []
    done = go(notice=said.append)
    assert said == [
        f"run {done.run} is open on db-1: about 3 users to migrate",
        "all users processed; running integrity checks",
    ]


# --- Who comes and goes -----------------------------------------------------------------------------------------------


def test_those_who_sign_up_during_the_very_last_batch_are_covered() -> None:
    people(10)
    before = endowment()
    came: list[Any] = []

    def sign_up(result: BatchResult) -> None:
        if len(came) < 7:
            came.append(make_wallets([(0, 0, 0)])[0].pk)

    done = go(progress=sign_up)
    assert (done.status, done.totals.migrated) == ("completed", 17)
    assert_everyone_is_accounted_for(done.run)
    assert_books_balance(expected=before)


def test_a_limit_counts_those_who_come_during_the_run_too() -> None:
    people(6)

    def sign_up(result: BatchResult) -> None:
        make_wallets([(0, 0, 0)])

    assert go(limit=8, progress=sign_up).totals.migrated == 8


def test_a_worker_leaves_a_run_that_somebody_stopped() -> None:
    people(30)

    def stop(result: BatchResult) -> None:
        if MigrationRun.objects.get(pk=result.run).status == "running":
            runs.stop_run(result.run, actor=OLGA, reason="enough")

    with balanced():
        done = go(progress=stop)
    assert (done.status, done.reason, done.totals.migrated) == ("stopped", "enough", 5)


def test_a_run_that_is_stopped_during_its_check_stays_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    people(3)
    original = validation.check_run

    def stop(using: str, run_id: int) -> Any:
        runs.stop_run(run_id, actor=OLGA, reason="enough")
        return original(using, run_id)

    monkeypatch.setattr(validation, "check_run", stop)
    done = go()
    assert (done.status, done.totals.migrated) == ("stopped", 3)


def test_a_changed_batch_size_is_in_force_at_the_next_planning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pacing, "AHEAD_MOST", 4)
    people(60)
    sizes: list[int] = []

    def change(result: BatchResult) -> None:
        sizes.append(result.totals.selected)
        if len(sizes) == 1:
            runs.change_controls(result.run, {"batch_size": 25}, actor=OLGA)

    with balanced():
        go(progress=change)
    assert sorted(sizes) == [5, 5, 5, 5, 15, 25]  # a smaller remainder comes before a larger batch
    assert sizes[:4] == [5] * 4


def test_two_that_start_at_once_end_up_in_one_run(monkeypatch: pytest.MonkeyPatch) -> None:
    people(3)
    original = validation.precheck

    def another(using: str) -> Any:
        monkeypatch.setattr(validation, "precheck", original)
        Migration(options()).open(RunContext(actor=Actor("otto", "db-2")))
        return original(using)

    monkeypatch.setattr(validation, "precheck", another)
    with balanced():
        done = go()
    assert MigrationRun.objects.count() == 1
    assert (done.status, done.totals.migrated) == ("completed", 3)
    assert events(done.run)[:2] == ["started", "joined"]


# --- Refusals ---------------------------------------------------------------------------------------------------------


def test_findings_are_refused_with_their_numbers() -> None:
    for _ in range(3):
        WalletFactory(green=-1)
    with pytest.raises(FindingsError, match=r"3 error-level findings block the run \(negative_balance 3\)"):
        go()


def test_a_refused_start_leaves_the_slot_free() -> None:
    WalletFactory(green=-1)
    with pytest.raises(FindingsError):
        Migration(options()).open(RunContext(actor=OLGA))
    assert runs.open_run_or_none("default") is None


def test_a_contradiction_is_refused_before_anybody_is_converted() -> None:
    keys = people(3)
    Migration(options(limit=2)).open(RunContext(actor=OLGA))
    with pytest.raises(RunConflictError, match="limit is 2, not 3"):
        go(limit=3)
    assert not any(wallet(key)[4] for key in keys)


# --- Judging ----------------------------------------------------------------------------------------------------------


def test_the_threshold_in_force_is_the_latest() -> None:
    keys = people(100)
    refuse_records(keys[:9])
    with balanced():

        def tighten(result: BatchResult) -> None:
            if result.totals.failed:
                runs.change_controls(result.run, {"error_threshold": 5}, actor=OLGA)

        done = go(progress=tighten, error_threshold=Decimal(50))
    assert done.status == "rolled_back"
    assert "the limit is 5 %" in done.reason


def test_a_tripped_run_is_tripped_once() -> None:
    keys = people(20)
    refuse_records(keys)
    done = go()
    verdict = MigrationWork.of(MigrationRun.objects.get(pk=done.run)).verdict("default", final=True)
    operation.trip(done.run, verdict, RunContext(actor=OLGA))
    assert MigrationRun.objects.filter(kind="rollback").count() == 1
    assert events(done.run).count("breaker_tripped") == 1


@pytest.mark.parametrize(("auto_rollback", "ended"), [(True, "rolled_back"), (False, "stopped")])
def test_the_breaker_trips_a_run_that_is_paused_while_its_latest_batch_is_handled(
    auto_rollback: bool, ended: str
) -> None:
    refuse_records(people(100)[50:60])

    def pause(result: BatchResult) -> None:
        if result.totals.failed and status(result.run) == RunStatus.RUNNING:
            runs.pause_run(result.run, actor=OLGA, reason="it fails")

    with balanced():
        done = go(progress=pause, auto_rollback=auto_rollback, batch_size=1, error_threshold=Decimal(1))
    assert (done.status, done.cause) == (ended, "breaker")
    assert events(done.run)[-4:].count("paused") == 1


def test_the_reason_is_the_verdict_by_which_the_worker_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_records(people(60)[:10])
    judge, verdicts = MigrationWork.verdict, list[bool]()

    def judge_once(self: MigrationWork, using: str, *, final: bool = False) -> BreakerVerdict:
        found = judge(self, using, final=final)
        if any(verdicts):  # others have converted so many users meanwhile
            found = BreakerVerdict(tripped=False)
        verdicts.append(found.tripped)
        return found

    monkeypatch.setattr(MigrationWork, "verdict", judge_once)
    with balanced():
        done = go()
    assert done.status == "rolled_back"
    assert done.reason.startswith("10 of 50 users attempted (whole run) failed, the limit is 10 %")


def test_the_summary_of_a_tripped_run_tells_what_was_taken_back() -> None:
    keys = people(20)
    refuse_records(keys[10:])
    with balanced():
        done = go()
    back = MigrationRun.objects.get(kind="rollback")
    assert done.extra["rollback"] == {
        "run": back.pk, "status": "completed", "rolled_back": 10, "skipped": 0, "failed": 0, "mana": 12_300,
    }  # fmt: skip


# --- Trouble ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["database or disk is full", "attempt to write a readonly database", "no such table: wishes_wallet"]
)
def test_a_database_that_cannot_do_the_work_leaves_the_run_open(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    people(15)
    original, calls = conversion.convert, list[int]()

    def failing(*args: Any, **values: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise OperationalError(text)
        return original(*args, **values)

    monkeypatch.setattr(conversion, "convert", failing)
    with balanced():
        with pytest.raises(
            DatabaseUnavailableError, match="stays open: remove the cause and give the same command again"
        ):
            go()
        (run,) = MigrationRun.objects.all()
        assert (run.status, MigrationBatch.objects.filter(status="done").count()) == ("running", 1)
        assert go().totals.migrated == 15


def test_a_busy_database_is_tried_again_without_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    people(15)
    original, calls = conversion.convert, list[int]()

    def failing(*args: Any, **values: Any) -> Any:
        calls.append(1)
        if len(calls) in (2, 3):
            raise OperationalError("database is locked")
        return original(*args, **values)

    monkeypatch.setattr(conversion, "convert", failing)
    monkeypatch.setattr(failures, "FIRST_WAIT", 0.001)
    with balanced():
        done = go()
    assert (done.totals.migrated, done.totals.failed) == (15, 0)
    assert sum(MigrationBatch.objects.values_list("attempts", flat=True)) == 2


def test_an_interrupted_run_is_open_and_says_who_left() -> None:
    people(15)
    stop = StopFlag()
    stop.request(15)
    done = go(stop=stop)
    assert (done.status, done.totals.selected) == (RunStatus.RUNNING, 0)
    assert events(done.run) == ["started", "interrupted"]
    assert status(go().run) == "completed"
