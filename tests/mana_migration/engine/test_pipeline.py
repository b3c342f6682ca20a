"""Several batches in one message write the same rows as one by one, and are durable when it is answered."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.db import DatabaseError, connection, transaction
from django.db.models import Q
from django.test.utils import CaptureQueriesContext

from mana_migration.domain.results import FIGURES
from mana_migration.engine import batches, conversion, pipeline, reversal
from mana_migration.engine.batches import Limits, Task
from mana_migration.engine.conversion import ConversionTerms
from mana_migration.engine.reversal import ReversalTerms
from mana_migration.models import MigrationBatch, MigrationRun, UserMigration
from mana_migration.states import BatchStatus, RunKind
from tests.mana_migration.engine.one_batch import RATES, convert, open_run, plan
from tests.mana_migration.running import balanced, people, planted
from tests.support.together import together
from wishes.models import ManaEntry, Wallet

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.postgres]

#: Bytes that something in the background may have logged just then; four batches of ten users log twice as much.
NOISE = 20_000

LIMITS = Limits(lock_ms=1_000, statement_ms=60_000)
NAME = "host:1"


@pytest.fixture(autouse=True)
def commits_wait() -> Iterator[None]:
    """Let commits wait for the log, as they do outside of tests, and batches go together."""
    with together():
        yield from _waiting()


def _waiting() -> Iterator[None]:
    with connection.cursor() as cursor:
        cursor.execute("SET synchronous_commit = on")
    yield
    with connection.cursor() as cursor:
        cursor.execute("RESET synchronous_commit")


def unflushed() -> int:
    """Return the bytes of the write-ahead log that a crash of the server would lose now."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT (pg_current_wal_insert_lsn() - pg_current_wal_flush_lsn())::bigint")
        return int(cursor.fetchone()[0])


def prepared_tasks(run: MigrationRun, keys: list[Any]) -> list[Task]:
    """Return the tasks of batches of ten users; the statements are prepared by handling the first one."""
    parts = [plan(run, keys[place : place + 10]) for place in range(0, len(keys), 10)]
    first, *tasks = [Task(part.pk, part.first_user, part.last_user, NAME) for part in parts]
    assert convert_several(run, [first]) != [None]
    return tasks


def convert_several(run: MigrationRun, tasks: list[Task]) -> list[batches.Handled | None]:
    """Convert batches in one message."""
    return pipeline.convert_several(connection, ConversionTerms(run=run.pk, rates=RATES), tasks, LIMITS)


def test_only_the_last_commit_waits_and_all_are_durable_then() -> None:
    keys = people(60)
    run = open_run()
    tasks = prepared_tasks(run, keys)
    with balanced(), CaptureQueriesContext(connection) as queries:
        answers = convert_several(run, tasks)
        left = unflushed()
    assert all(answer is not None for answer in answers)
    assert left < NOISE
    *before, last = queries.captured_queries[0]["sql"].split("COMMIT; ")
    assert len(before) == 4
    assert all("SET LOCAL synchronous_commit = off" in part for part in before)
    assert "synchronous_commit" not in last


def test_a_commit_that_does_not_wait_is_seen_by_these_tests() -> None:
    def put_off() -> int:
        with connection.cursor() as cursor:
            cursor.execute(
                "BEGIN; SET LOCAL synchronous_commit = off; "
                "SELECT pg_logical_emit_message(true, 'test', repeat('x', 100000)); COMMIT"
            )
        return unflushed()

    assert any(put_off() > NOISE for _ in range(20))  # the server may have flushed it a moment later by itself


def test_what_is_done_is_durable_also_where_somebody_else_has_the_last_batch() -> None:
    keys = people(60)
    run = open_run()
    tasks = prepared_tasks(run, keys)
    MigrationBatch.objects.filter(pk=tasks[-1].batch).update(status=BatchStatus.DONE, worker="somebody else")
    answers = convert_several(run, tasks)
    assert unflushed() < NOISE
    assert [answer is not None for answer in answers] == [True, True, True, True, False]


def test_what_is_done_is_durable_also_where_the_last_batch_fails() -> None:
    keys = people(60)
    run = open_run()
    tasks = prepared_tasks(run, keys)
    with balanced(), planted([keys[55]]):
        with pytest.raises(DatabaseError):
            convert_several(run, tasks)
        done = pipeline.done_by(connection, [task.batch for task in tasks], NAME)
        left = unflushed()
    assert left < NOISE
    assert sorted(done) == [task.batch for task in tasks[:-1]]


def written(run: int) -> list[list[tuple[Any, ...]]]:
    """Return what a run wrote, without moments and numbers of rows."""
    batches_of_run = MigrationBatch.objects.filter(run=run).order_by("id")
    figures = ("first_user", "last_user", "status", *FIGURES, "errors", "skips", "worker")
    return [
        list(batches_of_run.values_list(*figures)),
        list(Wallet.objects.order_by("pk").values_list("pk", "green", "blue", "red", "mana", Q(migrated_at=None))),
        list(ManaEntry.objects.order_by("user_id", "id").values_list("user_id", "amount", "balance_after", "kind")),
        list(
            UserMigration.objects.order_by("user_id", "id").values_list(
                "user_id", "status", "green", "blue", "red", "mana_before", "mana_credited", "mana_debited", "shortfall"
            )
        ),
    ]


@pytest.mark.parametrize("kind", ["migration", "rollback"])
def test_both_ways_write_the_same_rows(kind: str) -> None:
    keys = people(40)
    Wallet.objects.filter(pk=keys[7]).update(green=-1)
    if kind == "rollback":
        convert(open_run(), keys)
    run = open_run(RunKind(kind))
    tasks = [
        Task(part.pk, part.first_user, part.last_user, NAME)
        for part in (plan(run, keys[at : at + 10]) for at in range(0, 40, 10))
    ]

    def one(task: Task) -> batches.Handled | None:
        if kind == "migration":
            return conversion.convert(connection, ConversionTerms(run=run.pk, rates=RATES), task, LIMITS)
        return reversal.reverse(connection, ReversalTerms(run=run.pk), task, LIMITS)

    def several(group: list[Task]) -> list[batches.Handled | None]:
        if kind == "migration":
            return pipeline.convert_several(connection, ConversionTerms(run=run.pk, rates=RATES), group, LIMITS)
        return pipeline.reverse_several(connection, ReversalTerms(run=run.pk), group, LIMITS)

    class Undo(Exception):
        """Ends a transaction that is only looked into."""

    plainly: list[Any] = []
    with pytest.raises(Undo), transaction.atomic():  # the plain way, and all of it undone
        for task in tasks:
            with transaction.atomic():
                plainly.append(one(task))
        rows = written(run.pk)
        raise Undo
    assert [answer.totals for answer in (*several(tasks[:1]), *several(tasks[1:])) if answer is not None] == [
        answer.totals for answer in plainly
    ]
    assert written(run.pk) == rows
