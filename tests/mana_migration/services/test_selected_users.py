"""Named users: all in one transaction, each on their own, whatever run is open."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import connection, transaction

from mana_migration.domain.options import Controls, MigrationOptions, RollbackOptions
from mana_migration.errors import DatabaseUnavailableError, RunConflictError, UsageError
from mana_migration.models import MigrationBatch, MigrationRun, UserMigration
from mana_migration.services import operation, runs, selected_users
from mana_migration.services.context import Actor, RunContext
from mana_migration.services.migration import Migration
from mana_migration.services.rollback import Rollback
from mana_migration.states import RunKind, RunStatus
from tests.mana_migration.running import balanced, entries, people, refuse_records, wallet
from tests.support.driver import psycopg
from tests.support.oracle import assert_nothing_changes

pytestmark = pytest.mark.django_db

OLGA = Actor("olga", "db-1")
RATES = {"green": 10, "blue": 100, "red": 1000}


def convert(*keys: Any, **values: Any) -> Any:
    return operation.execute(Migration(MigrationOptions(users=tuple(map(str, keys)), **values)), RunContext(actor=OLGA))


def take_back(*keys: Any, **values: Any) -> Any:
    return operation.execute(Rollback(RollbackOptions(users=tuple(map(str, keys)), **values)), RunContext(actor=OLGA))


def open_migration() -> MigrationRun:
    return runs.create_run(
        using="default", kind=RunKind.MIGRATION, options={}, rates=RATES, controls=Controls(delay=0.0), actor=OLGA
    )


def test_the_run_of_named_users_is_closed_from_the_start_and_holds_no_slot() -> None:
    keys = people(3)
    opened = open_migration()
    with balanced():
        done = convert(*keys[:2])
    run = MigrationRun.objects.get(pk=done.run)
    assert (run.status, run.planned_users, run.finished_at is not None) == ("completed", 2, True)
    assert run.folded["totals"]["migrated"] == 2
    assert MigrationBatch.objects.filter(run=run, status="done", folded=True, planned=1).count() == 2
    assert MigrationRun.objects.get(pk=opened.pk).status == "running"


@pytest.mark.parametrize("action", [convert, take_back])
def test_more_users_than_one_transaction_should_hold_are_refused(action: Any) -> None:
    with assert_nothing_changes(), pytest.raises(UsageError, match="1,001 users are selected; select at most 1,000"):
        action(*range(1001))


def test_the_outer_transaction_takes_the_conversion_with_it() -> None:
    (key,) = people(1)
    with assert_nothing_changes(), transaction.atomic():
        convert(key)
        assert wallet(key)[4]
        transaction.set_rollback(True)


def test_a_failure_is_undone_alone() -> None:
    keys = people(3)
    refuse_records(keys[1:2])
    with balanced():
        done = convert(*keys)
    assert (done.totals.migrated, done.totals.failed) == (2, 1)
    assert [wallet(key)[4] for key in keys] == [True, False, True]
    assert entries(keys[1]) == []


def test_an_open_run_does_not_convert_a_named_user_again() -> None:
    keys = people(4)
    opened = open_migration()
    with balanced():
        convert(keys[0])
        done = operation.work_on_run(opened.pk, RunContext(actor=OLGA))
    assert (done.totals.migrated, done.status) == (3, "completed")
    assert [kind for kind, *_ in entries(keys[0])] == ["conversion"]


def test_a_user_taken_back_is_kept_from_the_open_run_once() -> None:
    (key,) = people(1)
    convert(key)
    opened = open_migration()
    with balanced():
        take_back(key)
        convert(key)  # the operator's own word counts more than the run's
        take_back(key)
        done = operation.work_on_run(opened.pk, RunContext(actor=OLGA))
    assert (done.totals.selected, done.totals.skips) == (1, {"rolled_back_during_run": 1})
    assert UserMigration.objects.filter(user_id=key, run=opened).count() == 1
    assert not wallet(key)[4]


def test_a_rollback_of_named_users_is_possible_while_a_mass_rollback_is_open() -> None:
    keys = people(3)
    convert(*keys)
    back = Rollback(RollbackOptions(everything=True)).open(RunContext(actor=OLGA))
    with balanced():
        assert take_back(keys[0]).totals.rolled_back == 1
        with pytest.raises(RunConflictError, match=f"rollback run {back.pk} is running"):
            convert(keys[0])
        done = operation.work_on_run(back.pk, RunContext(actor=OLGA))
    assert (done.status, done.totals.rolled_back) == ("completed", 2)


def test_nobody_has_a_record_where_there_is_no_wallet() -> None:
    assert selected_users.left_out.__doc__
    keys = people(1)
    convert(*keys)
    with balanced():
        done = convert(*keys)
    assert UserMigration.objects.filter(run=done.run, status="skipped", error_class="already_migrated").exists()


@pytest.mark.postgres
@pytest.mark.django_db(transaction=True)
def test_a_wallet_that_is_held_for_too_long_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = people(3)
    monkeypatch.setattr("mana_migration.conf.lock_timeout_ms", lambda: 2)
    values = connection.settings_dict
    other = psycopg.connect(host=values["HOST"], port=values["PORT"] or None, user=values["USER"],
                             password=values["PASSWORD"], dbname=values["NAME"])  # fmt: skip
    try:
        with other.cursor() as cursor, assert_nothing_changes():
            cursor.execute("SELECT 1 FROM wishes_wallet WHERE user_id = %s FOR UPDATE", [keys[2]])
            with pytest.raises(DatabaseUnavailableError, match="nothing was changed"):
                convert(*keys)
    finally:
        other.close()
    with balanced():
        assert convert(*keys).totals.migrated == 3


def test_a_closed_run_stays_closed_to_workers() -> None:
    (key,) = people(1)
    run = convert(key).run
    done = operation.work_on_run(run, RunContext(actor=OLGA))
    assert done.status == RunStatus.COMPLETED
    assert done.handled == 0
