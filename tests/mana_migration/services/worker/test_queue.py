"""Which batch is next: planning before several workers run dry, and whom it makes wait."""

import threading
import time
from typing import Any
from unittest import mock

import pytest
from django.db import connections

from mana_migration.models import MigrationRun, UserMigration
from mana_migration.services import migration, runs
from mana_migration.services.context import RunContext
from mana_migration.services.worker.context import WorkerContext
from mana_migration.services.worker.loop import Ending
from mana_migration.services.worker.queue import BatchQueue, Refill
from tests.factories import make_wallets
from tests.mana_migration.running import balanced, people
from tests.mana_migration.services.worker.test_loop import (
    SOMEBODY,
    another_connection,
    converted,
    make_worker,
    open_run,
    somebody_waits,
)

pytestmark = pytest.mark.django_db(transaction=True)


def make_queue(run: MigrationRun) -> BatchQueue:
    """Return the queue of a worker on a run."""
    work = migration.MigrationWork(migration.terms_of(run), run.options.get("limit"))
    return BatchQueue(WorkerContext.of(RunContext(), run.pk, work), together=24, controls=run.controls_in_force)


def figures(run: MigrationRun) -> tuple[int, int, bool]:
    """Return how many users are planned, at which look, and whether that is under way."""
    run.refresh_from_db()
    return run.planned_users, run.passes, bool(run.cursor)


def test_what_was_seen_is_handed_out_in_order_and_put_back_at_the_front() -> None:
    people(20)
    queue = make_queue(open_run(5))
    assert queue.next() is None
    assert queue.refill() is Refill.MORE
    first = queue.next()
    assert first is not None
    others = queue.more(9)
    assert len(others) == 3
    assert queue.more(1) == []
    queue.put_back(others[1:])
    assert queue.next() == others[1]
    queue.forget()
    assert queue.next() == first  # nobody has handled any: all of them wait still


def test_a_queue_that_ran_dry_says_why() -> None:
    people(5)
    run = open_run(5)
    queue = make_queue(run)
    assert queue.refill() is Refill.MORE
    runs.pause_run(run.pk, actor=SOMEBODY, reason="lunch")
    assert queue.refill() is Refill.PAUSED
    runs.resume_run(run.pk, actor=SOMEBODY, reason="")
    make_worker(run).run()
    assert make_queue(run).refill() is Refill.DONE
    runs.stop_run(run.pk, actor=SOMEBODY, reason="enough")
    assert queue.refill() is Refill.ELSEWHERE


def test_whose_batches_are_all_taken_waits_for_the_others() -> None:
    people(10)
    queue = make_queue(open_run(5))
    queue.refill()
    while queue.next() is not None:
        queue.found_taken()
    assert queue.in_company
    assert queue.refill() is Refill.WAIT


def test_of_several_the_one_who_sees_little_left_plans_while_the_others_go_on() -> None:
    people(60)
    run = open_run(5)
    queue = make_queue(run)
    queue.refill()
    assert figures(run)[0] == 60  # all, since there are few
    make_wallets([(1, 1, 1)] * 40)
    queue.in_company = True
    queue.next()
    assert figures(run)[:2] == (100, 1)
    with balanced():
        assert make_worker(run).run() is Ending.DONE
    assert converted() == UserMigration.objects.count() == 100


def test_what_is_planned_early_at_the_end_is_nothing_and_asked_once() -> None:
    people(60)
    run = open_run(5)
    queue = make_queue(run)
    queue.refill()
    queue.in_company = True
    asked: list[str] = []
    plan = migration.MigrationWork.plan

    def counted(work: migration.MigrationWork, using: str, **where: Any) -> Any:
        asked.append(where["after"])
        return plan(work, using, **where)

    with mock.patch.object(migration.MigrationWork, "plan", counted):
        for _ in range(3):
            assert queue.next() is not None
            queue.found_free()
            queue.forget()
    assert len(asked) == 1
    assert figures(run) == (60, 1, True)  # whether to look once more is open


@pytest.mark.postgres
def test_nobody_waits_for_who_plans_early() -> None:
    people(60)
    run = open_run(5)
    queue = make_queue(run)
    queue.refill()
    make_wallets([(1, 1, 1)] * 40)
    queue.in_company = True
    with another_connection() as other:
        other.execute("SELECT 1 FROM mana_migration_migrationrun WHERE id = %s FOR NO KEY UPDATE", [run.pk])
        assert queue.next() is not None
    assert figures(run)[0] == 60


@pytest.mark.postgres
def test_who_waited_for_another_one_to_plan_or_to_find_nobody_does_not_look_at_everybody_again() -> None:
    people(60)
    run, found = open_run(5), list[Refill]()
    queue = make_queue(run)

    def work() -> None:
        try:
            found.append(queue.refill())
        finally:
            connections.close_all()

    with another_connection() as other:
        other.execute("SELECT 1 FROM mana_migration_migrationrun WHERE id = %s FOR NO KEY UPDATE", [run.pk])
        thread = threading.Thread(target=work)
        thread.start()
        while thread.is_alive() and not somebody_waits():
            time.sleep(0.01)
    thread.join()
    assert (found, figures(run)[0]) == ([Refill.WAIT], 0)
    assert queue.refill() is Refill.MORE
    assert figures(run)[0] == 60  # the other one has not planned them
