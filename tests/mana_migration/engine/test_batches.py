"""Claiming and marking a batch, and how its statement is sent."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from django.db import DatabaseError, connection, transaction
from django.test.utils import CaptureQueriesContext

from mana_migration.domain.results import Totals
from mana_migration.engine import batches, conversion, dialect, prepared, reversal
from mana_migration.engine.batches import Limits, Task
from mana_migration.engine.conversion import ConversionTerms
from mana_migration.models import MigrationBatch, MigrationRun
from mana_migration.services import runs
from mana_migration.states import BatchStatus, RunKind
from tests.mana_migration.engine.one_batch import RATES, SOMEBODY, in_transaction, open_run, plan
from tests.mana_migration.running import balanced, converted, people, wallet
from wishes.models import Wallet

pytestmark = pytest.mark.django_db(transaction=True)

LIMITS = Limits(lock_ms=1_000, statement_ms=60_000)


def task_of(batch: MigrationBatch) -> Task:
    """Return the task of handling a batch."""
    return Task(batch.pk, batch.first_user, batch.last_user, "host:1")


def convert(run: MigrationRun, task: Task) -> batches.Handled | None:
    """Convert a batch in a transaction of its own, as a worker does."""
    terms = ConversionTerms(run=run.pk, rates=RATES)
    return in_transaction(lambda: conversion.convert(connection, terms, task, LIMITS))


@pytest.fixture
def forgotten() -> Iterator[None]:
    """Begin with a session that nobody has used."""
    connection.close()
    yield
    connection.close()


# --- Claiming ---------------------------------------------------------------------------------------------------------


def test_a_batch_is_handled_once() -> None:
    keys = people(3)
    run = open_run()
    task = task_of(plan(run, keys))
    with balanced():
        assert convert(run, task) is not None
        assert convert(run, task) is None
    assert converted() == 3


def test_a_batch_of_a_paused_run_is_left_alone() -> None:
    keys = people(3)
    run = open_run()
    task = task_of(plan(run, keys))
    runs.pause_run(run.pk, actor=SOMEBODY, reason="")
    assert convert(run, task) is None
    assert converted() == 0
    assert MigrationBatch.objects.get().status == BatchStatus.PLANNED


def test_a_batch_that_was_split_since_it_was_seen_is_another_one() -> None:
    keys = people(4)
    run = open_run()
    batch = plan(run, keys)
    seen = task_of(batch)
    MigrationBatch.objects.filter(pk=batch.pk).update(last_user=str(keys[1]), planned=2)
    assert convert(run, seen) is None
    assert convert(run, replace(seen, last=str(keys[1]))) is not None
    assert converted() == 2


@pytest.mark.postgres
def test_a_batch_that_somebody_holds_is_left_to_them_without_waiting() -> None:
    keys = people(2)
    run = open_run()
    batch = plan(run, keys)
    other = connection.copy()
    try:
        other.set_autocommit(False)
        with other.cursor() as cursor:
            cursor.execute("SELECT 1 FROM mana_migration_migrationbatch WHERE id = %s FOR NO KEY UPDATE", [batch.pk])
        assert convert(run, task_of(batch)) is None
    finally:
        other.rollback()
        other.close()
    assert convert(run, task_of(batch)) is not None


def test_an_empty_batch_is_marked_unless_that_is_not_wanted() -> None:
    keys = people(1)
    run = open_run()
    Wallet.objects.filter(pk=keys[0]).update(green=0, blue=0, red=0, migrated_at="2026-01-01T00:00:00Z")
    batch = plan(run, keys)
    assert convert(run, replace(task_of(batch), even_if_empty=False)) is None
    batch.refresh_from_db()
    assert batch.status == BatchStatus.PLANNED
    handled = convert(run, task_of(batch))
    assert handled is not None
    assert handled.totals == Totals()
    batch.refresh_from_db()
    assert batch.status == BatchStatus.DONE


def test_the_controls_in_force_come_with_the_batch() -> None:
    keys = people(1)
    run = open_run()
    runs.change_controls(run.pk, {"batch_size": 7}, actor=SOMEBODY)
    handled = convert(run, task_of(plan(run, keys)))
    assert handled is not None
    assert '"batch_size": 7' in str(handled.controls)


# --- Marking with figures that are known ------------------------------------------------------------------------------


def test_a_batch_that_is_done_with_is_not_marked_again() -> None:
    batch = plan(open_run(), [1, 2])
    with transaction.atomic():
        batches.mark(connection, batch.pk, Totals(), worker="host:1")
    with pytest.raises(DatabaseError, match="no longer planned"), transaction.atomic():
        batches.mark(connection, batch.pk, Totals(), worker="host:1")


# --- How it is sent ---------------------------------------------------------------------------------------------------


def sent(run: MigrationRun, keys: list[Any]) -> list[str]:
    """Convert these users and return what was sent to the database for it."""
    task = task_of(plan(run, keys))
    with CaptureQueriesContext(connection) as seen:
        assert convert(run, task) is not None
    return [query["sql"] for query in seen.captured_queries if query["sql"] not in ("BEGIN", "COMMIT", "ROLLBACK")]


def test_a_batch_is_handled_where_queries_are_logged() -> None:
    """As with ``DEBUG``: SQLite binds every parameter then, whether its statement has a place for it or not."""
    keys = people(2)
    run = open_run()
    assert sent(run, keys)
    assert converted() == 2


@pytest.mark.postgres
@pytest.mark.usefixtures("forgotten")
def test_a_batch_is_one_message_in_its_transaction_whose_statements_are_prepared_once() -> None:
    keys = people(6)
    run = open_run()
    with balanced():
        messages = [sent(run, keys[place : place + 2]) for place in (0, 2, 4)]
    assert [len(found) for found in messages] == [1, 1, 1]
    assert [found[0].count("PREPARE mana_") for found in messages] == [3, 0, 0]
    assert [found[0].count("EXECUTE mana_") for found in messages] == [3, 3, 3]
    assert converted() == 6


@pytest.mark.postgres
def test_nothing_of_a_message_outlives_it() -> None:
    keys = people(2)
    names = ("lock_timeout", "statement_timeout", "synchronous_commit", *batches.PLANNER)

    def settings_now() -> list[Any]:
        with connection.cursor() as cursor:
            cursor.execute("SELECT " + ", ".join(f"current_setting('{name}')" for name in names))
            return list(cursor.fetchone())

    before = settings_now()
    run = open_run()
    sent(run, keys)
    back = open_run(RunKind.ROLLBACK)
    task = task_of(plan(back, keys))
    terms = reversal.ReversalTerms(run=back.pk)
    assert in_transaction(lambda: reversal.reverse(connection, terms, task, LIMITS)) is not None
    assert settings_now() == before
    with connection.cursor() as cursor:
        cursor.execute("SELECT COALESCE(current_setting('wishes.reversal', true), '')")
        assert cursor.fetchone() == ("",)


@pytest.mark.postgres
@pytest.mark.usefixtures("forgotten")
def test_another_session_behind_a_pooler_is_taught_the_statement_again() -> None:
    keys = people(8)
    run = open_run()
    with balanced():
        sent(run, keys[:2])
        with connection.cursor() as cursor:
            cursor.execute("DEALLOCATE ALL")
        refused, again = sent(run, keys[2:4])
        assert "PREPARE" not in refused
        assert "PREPARE" in again
        assert len(sent(run, keys[4:6])) == 1
        # another client of the pooler has prepared it on this session, unknown to us
        prepared._sessions.clear()
        assert len(sent(run, keys[6:])) == 2
    assert converted() == 8


@pytest.mark.postgres
@pytest.mark.usefixtures("forgotten")
def test_a_session_that_forgets_again_and_again_is_sent_plain_text() -> None:
    keys = people(20)
    run = open_run()
    with balanced():
        for place in range(0, 20, 2):
            with connection.cursor() as cursor:
                cursor.execute("DEALLOCATE ALL")
            last = sent(run, keys[place : place + 2])
    assert len(last) == 1
    assert "PREPARE" not in last[0]
    assert "EXECUTE" not in last[0]
    assert converted() == 20


@pytest.mark.postgres
@pytest.mark.usefixtures("forgotten")
def test_nothing_is_prepared_where_session_state_is_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(connection.settings_dict, "DISABLE_SERVER_SIDE_CURSORS", True)
    (message,) = sent(open_run(), people(2))
    assert "PREPARE" not in message
    assert "set_config('lock_timeout', '1000', true)" in message
    assert converted() == 2


@pytest.mark.postgres
def test_the_callers_transaction_gets_no_settings_and_no_prepared_statement() -> None:
    keys = people(2)
    run = open_run()
    task = task_of(plan(run, keys))
    with transaction.atomic(), CaptureQueriesContext(connection) as seen:
        assert conversion.convert(connection, ConversionTerms(run=run.pk, rates=RATES), task) is not None
    sent = " ".join(query["sql"] for query in seen.captured_queries)
    assert not any(word in sent for word in ("set_config", "PREPARE", "EXECUTE"))
    assert wallet(keys[0])[4]


@pytest.mark.postgres
def test_no_table_is_read_as_a_whole() -> None:
    """However the tables grow: the plan that a session keeps was made while they were empty."""
    keys = people(2)
    run = open_run()
    sent(run, keys)
    with connection.cursor() as cursor:
        cursor.execute("SELECT name FROM pg_prepared_statements WHERE name LIKE 'mana_%%' ORDER BY name", [])
        _, (work,), (told,) = cursor.fetchall()
        lines = []
        for name, values in ((work, [0, "x", keys[0], keys[1], "w"]), (told, [0, "w"])):
            given = ", ".join(["%s"] * len(values))
            cursor.execute(f"BEGIN; {dialect.settings_sql(batches.PLANNER)}")
            cursor.execute(f"EXPLAIN EXECUTE {name} ({given})", values)
            lines += [line for (line,) in cursor.fetchall()]
            cursor.execute("ROLLBACK")
    # an index scan or a bitmap of the index, as the table's size has it
    assert any("wishes_wallet_pkey" in line for line in lines), lines
    assert not [line for line in lines if "Seq Scan" in line or "Hash Join" in line]


# --- The time that a batch took ---------------------------------------------------------------------------------------


@pytest.fixture
def clocked_writes() -> Iterator[None]:
    """Let the session remember when it last wrote a wallet, a record or an entry."""
    tables = ("wishes_wallet", "mana_migration_usermigration", "wishes_manaentry")
    with connection.cursor() as cursor:
        cursor.execute(
            "CREATE FUNCTION note_the_time() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            "PERFORM set_config('test.last_write', clock_timestamp()::text, false); RETURN NEW; END $$"
        )
        for table in tables:
            cursor.execute(
                f"CREATE TRIGGER note_the_time BEFORE INSERT OR UPDATE ON {table} "
                "FOR EACH ROW EXECUTE FUNCTION note_the_time()"
            )
        yield
        for table in tables:
            cursor.execute(f"DROP TRIGGER note_the_time ON {table}")
        cursor.execute("DROP FUNCTION note_the_time()")


@pytest.mark.postgres
@pytest.mark.parametrize("kind", ["migration", "rollback"])
def test_a_batch_is_finished_when_its_last_row_is_written(kind: str, clocked_writes: None) -> None:
    keys = people(20)
    batch = plan(open_run(), keys)
    convert(batch.run, task_of(batch))
    if kind == "rollback":
        batch = plan(open_run(RunKind.ROLLBACK), keys)
        terms = reversal.ReversalTerms(run=batch.run_id)
        assert in_transaction(lambda: reversal.reverse(connection, terms, task_of(batch), LIMITS)) is not None
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT finished_at >= current_setting('test.last_write')::timestamptz "
            "FROM mana_migration_migrationbatch WHERE id = %s",
            [batch.pk],
        )
        assert cursor.fetchone() == (True,)
