"""The life of a run: one slot, allowed ways, controls, events, and who waits for whom."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.db import IntegrityError, connection, transaction
from django.db.models import F
from django.utils import timezone

from mana_migration.domain.options import Controls
from mana_migration.engine import totals
from mana_migration.errors import RunConflictError, RunNotFoundError, TransitionError, UsageError
from mana_migration.models import MigrationBatch, MigrationRun, RunEvent
from mana_migration.services import runs
from mana_migration.services.context import Actor, current_actor
from mana_migration.states import BatchStatus, EventKind, RunKind, RunStatus
from tests.mana_migration.history import make_event, make_run

pytestmark = pytest.mark.django_db

OLGA = Actor("olga", "db-1")
RATES = {"green": 10, "blue": 100, "red": 1000}


def open_run(**values: Any) -> MigrationRun:
    defaults: dict[str, Any] = {
        "using": "default", "kind": RunKind.MIGRATION, "options": {}, "rates": RATES, "controls": Controls(),
        "actor": OLGA,
    }  # fmt: skip
    return runs.create_run(**(defaults | values))


def batch(run: MigrationRun, **values: Any) -> MigrationBatch:
    return MigrationBatch.objects.create(run=run, **({"first_user": "1", "last_user": "9", "planned": 9} | values))


def test_a_new_run_is_running_with_its_first_event() -> None:
    run = open_run(reason="launch")
    assert (run.status, run.actor, run.host, run.reason, run.finished_at) == ("running", "olga", "db-1", "launch", None)
    assert run.folded == totals.empty()
    (event,) = RunEvent.objects.all()
    assert (event.kind, event.actor, event.message) == ("started", "olga", "launch")


def test_a_second_open_run_is_refused_with_the_first_one_named() -> None:
    first = open_run()
    with pytest.raises(RunConflictError) as caught:
        open_run(kind=RunKind.ROLLBACK)
    assert f"migration run {first.pk} is running since" in str(caught.value)
    assert "on db-1" in str(caught.value)
    assert f"control_migration stop {first.pk}" in str(caught.value)
    assert MigrationRun.objects.count() == 1


@pytest.mark.parametrize("status", [RunStatus.RUNNING, RunStatus.PAUSED, RunStatus.CHECKING])
def test_every_open_status_holds_the_one_slot(status: RunStatus) -> None:
    open_run(status=status)
    with pytest.raises(IntegrityError), transaction.atomic():
        MigrationRun.objects.create(kind="migration", status="running")


def test_closed_runs_hold_no_slot() -> None:
    for status in RunStatus:
        if status not in (RunStatus.RUNNING, RunStatus.PAUSED, RunStatus.CHECKING):
            assert open_run(status=status).finished_at is not None
    assert open_run().is_open


@pytest.mark.parametrize(
    ("change", "first", "last"),
    [
        (runs.pause_run, RunStatus.RUNNING, RunStatus.PAUSED),
        (runs.resume_run, RunStatus.PAUSED, RunStatus.RUNNING),
        (runs.stop_run, RunStatus.RUNNING, RunStatus.STOPPED),
        (runs.stop_run, RunStatus.PAUSED, RunStatus.STOPPED),
        (runs.stop_run, RunStatus.CHECKING, RunStatus.STOPPED),
    ],
)
def test_a_change_is_made_once_and_recorded_once(change: Any, first: RunStatus, last: RunStatus) -> None:
    run = open_run(status=first)
    assert change(run.pk, actor=OLGA, reason="because") is True
    assert change(run.pk, actor=OLGA, reason="again") is False
    run.refresh_from_db()
    assert run.status == last
    noted = RunEvent.objects.filter(run=run).exclude(kind="started").values_list("actor", "message")
    assert list(noted) == [("olga", "because")]


@pytest.mark.parametrize("change", [runs.pause_run, runs.resume_run, runs.stop_run])
def test_a_closed_run_is_left_as_it_is(change: Any) -> None:
    run = open_run(status=RunStatus.COMPLETED)
    with pytest.raises(TransitionError):
        change(run.pk, actor=OLGA, reason="")
    with pytest.raises(RunNotFoundError, match="there is no run 99"):
        change(99, actor=OLGA, reason="")


def test_a_run_that_is_being_checked_is_not_paused_and_cannot_be_resumed() -> None:
    run = open_run(status=RunStatus.CHECKING)
    words = (
        f"^run {run.pk} is checking and cannot become running: it is being checked and ends by itself when the checks"
    )
    with pytest.raises(TransitionError, match=words):
        runs.resume_run(run.pk, actor=OLGA, reason="")
    run.refresh_from_db()
    assert run.status == RunStatus.CHECKING
    assert not RunEvent.objects.filter(run=run, kind="resumed").exists()


def test_stopping_cancels_what_nobody_has_handled_and_keeps_what_was_done() -> None:
    run = open_run()
    waiting = batch(run)
    done = batch(run, status=BatchStatus.DONE, selected=3, migrated=3, mana=30,
                 started_at=timezone.now(), finished_at=timezone.now())  # fmt: skip
    runs.stop_run(run.pk, actor=OLGA, reason="enough")
    for found in (waiting, done, run):
        found.refresh_from_db()
    assert (waiting.status, waiting.folded, done.status, done.folded) == ("cancelled", True, "done", True)
    assert (run.folded["totals"]["migrated"], run.folded["totals"]["mana"]) == (3, 30)
    assert (run.stop_reason, run.finished_at is not None) == ("enough", True)


def test_the_check_of_a_run_is_ended_by_whoever_comes_first() -> None:
    run = open_run(status=RunStatus.CHECKING)
    details = {"ok": True, "checks": {}}
    assert runs.end_check(run.pk, actor=OLGA, details=details, using="default") is True
    assert runs.end_check(run.pk, broken="ledger_mismatch 1", actor=OLGA, details=details, using="default") is False
    assert MigrationRun.objects.get(pk=run.pk).status == "completed"
    assert list(RunEvent.objects.order_by("id").values_list("kind", flat=True)) == ["started", "checked", "finished"]


@pytest.mark.parametrize("status", RunStatus)
def test_only_a_run_in_progress_goes_to_its_check(status: RunStatus) -> None:
    run = open_run(status=status)
    expected = status in (RunStatus.RUNNING, RunStatus.CHECKING)
    assert runs.to_checking(run.pk, actor=OLGA, using="default") is expected


def test_controls_change_while_a_run_is_open_and_not_afterwards() -> None:
    run = open_run()
    changed = runs.change_controls(run.pk, {"batch_size": "auto"}, actor=OLGA, reason="slow")
    assert changed.batch_size == "auto"
    runs.change_controls(run.pk, {"batch_size": "auto"}, actor=OLGA)  # nothing changes, nothing is recorded
    assert RunEvent.objects.filter(kind=EventKind.SETTING_CHANGED).count() == 1
    with pytest.raises(UsageError):
        runs.change_controls(run.pk, {"delay": "-1"}, actor=OLGA)
    runs.stop_run(run.pk, actor=OLGA, reason="")
    with pytest.raises(RunConflictError, match="can no longer be changed"):
        runs.change_controls(run.pk, {"delay": 1}, actor=OLGA)
    with pytest.raises(RunNotFoundError):
        runs.change_controls(99, {}, actor=OLGA)


def test_without_a_number_the_open_run_is_meant_then_the_latest() -> None:
    with pytest.raises(RunNotFoundError, match="start one"):
        runs.get_run(None, using="default")
    first = open_run()
    open_run(status=RunStatus.COMPLETED)
    assert runs.get_run(None, using="default") == first
    runs.stop_run(first.pk, actor=OLGA, reason="")
    last = open_run(status=RunStatus.STOPPED, kind=RunKind.ROLLBACK)
    open_run(status=RunStatus.COMPLETED, kind=RunKind.IMPORT)
    assert runs.get_run(None, using="default") == last
    assert runs.get_run(first.pk, using="default") == first


def test_the_database_tells_the_time() -> None:
    told = runs.database_now("default")
    assert told.tzinfo is not None
    assert abs((told - timezone.now()).total_seconds()) < 60


def test_an_account_without_a_name_is_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    def nameless() -> str:
        raise KeyError

    monkeypatch.setattr("getpass.getuser", nameless)
    assert current_actor().name.startswith("uid ")


@pytest.mark.postgres
@pytest.mark.django_db(transaction=True)
def test_who_adds_a_batch_does_not_wait_for_who_stops_the_run() -> None:
    """A worker splits the batch it holds and adds another; whoever stops the run holds the run and waits for it."""
    from tests.support.stepping import stage

    run = open_run()
    held = batch(run)

    def split() -> Any:
        with transaction.atomic():
            MigrationBatch.objects.select_for_update(of=("self",)).get(pk=held.pk)
            yield
            batch(run)
            yield

    def stop() -> Any:
        runs.stop_run(run.pk, actor=OLGA, reason="")
        yield

    with stage("worker", "operator") as both:
        both.walk(["worker", "operator", "worker", "worker"], {"worker": split, "operator": stop})
        assert [both.actors[name].error for name in ("worker", "operator")] == [None, None]
        assert both.waited["operator"] == 0 or both.postponed
    assert MigrationRun.objects.get(pk=run.pk).status == "stopped"


@pytest.mark.parametrize("status", RunStatus)
def test_events_are_recorded_for_every_status_that_people_ask_about(status: RunStatus) -> None:
    for first in RunStatus:
        if status in first.state.leads_to:
            with transaction.atomic():
                run = open_run(status=first)
                runs.change_status(run.pk, status, actor=OLGA, reason="r", using="default")
                count = RunEvent.objects.filter(run=run).count()
                assert count == (1 if status is RunStatus.CHECKING else 2)
                transaction.set_rollback(True)
    assert connection.in_atomic_block


def test_a_run_that_is_created_closed_does_not_end_before_it_begins() -> None:
    run = open_run(status=RunStatus.COMPLETED)
    kept = MigrationRun.objects.get(pk=run.pk)
    assert kept.finished_at is not None
    assert kept.finished_at >= kept.created_at
    assert run.finished_at == kept.finished_at


def test_a_run_does_not_end_before_it_begins_where_the_databases_clock_is_set_back() -> None:
    run = open_run()
    MigrationRun.objects.update(created_at=timezone.now() + timedelta(hours=1))
    runs.stop_run(run.pk, actor=OLGA, reason="r", using="default")
    run.refresh_from_db()
    assert run.finished_at == run.created_at


@pytest.mark.parametrize(("model", "begins"), [(MigrationRun, "created_at"), (MigrationBatch, "started_at")])
def test_an_end_before_the_beginning_is_refused(model: Any, begins: str) -> None:
    run = open_run()
    batch(run, started_at=timezone.now())
    model.objects.update(finished_at=F(begins))
    with pytest.raises(IntegrityError, match="ends_after_start"):
        model.objects.update(finished_at=timezone.now() - timedelta(days=1))


def test_a_run_keeps_how_fast_the_latest_check_of_many_users_was() -> None:
    for users in (2_000, 5):  # a check of five says nothing
        run = make_run(folded={"totals": {"selected": users}})
        make_event(run, EventKind.CHECKED, 1, details={"ok": True, "seconds": 4.0})
    found = open_run()
    assert found.baseline == {"checked_per_second": "500"}
