"""What the database itself refuses about the migration's records."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.db import DatabaseError, IntegrityError, connection, transaction

from mana_migration import guards
from mana_migration.models import MigrationBatch, MigrationRun, RunEvent, UserMigration
from tests.mana_migration.running import migrate, people, roll_back
from tests.support.oracle import assert_nothing_changes
from wishes.models import ManaEntry, Wallet

pytestmark = pytest.mark.django_db


@pytest.fixture
def record() -> UserMigration:
    people(2)
    migrate()
    return UserMigration.objects.order_by("id")[0]


def refused(write: Callable[[], Any], words: str) -> None:
    with assert_nothing_changes(), pytest.raises(IntegrityError, match=words), transaction.atomic():
        write()


@pytest.mark.parametrize(
    "change",
    [
        {"green": 4}, {"blue": 0}, {"red": 9}, {"mana_before": 5}, {"mana_credited": 1}, {"status": "failed"},
        {"status": "skipped"}, {"user_id": 0}, {"run_id": 0}, {"batch_id": 0},
    ],
    ids=lambda change: f"{next(iter(change))}={next(iter(change.values()))}",
)  # fmt: skip
def test_a_record_of_what_happened_is_not_changed(record: UserMigration, change: dict[str, Any]) -> None:
    refused(lambda: UserMigration.objects.filter(pk=record.pk).update(**change), "only its reversal may be added")


def test_a_reversal_is_added_once(record: UserMigration) -> None:
    roll_back("--all")
    for change in ({"status": "migrated"}, {"mana_debited": 1}, {"reversal_run_id": None}, {"shortfall": 7}):
        refused(lambda change=change: UserMigration.objects.filter(pk=record.pk).update(**change), "is a record")


def test_a_second_live_conversion_is_refused(record: UserMigration) -> None:
    other = MigrationRun.objects.create(kind="migration", status="stopped")
    ours = {"user_id": record.user_id, "batch_id": record.batch_id}
    refused(lambda: UserMigration.objects.create(run=other, status="migrated", **ours), "one_live_record|UNIQUE")


def test_a_second_record_of_one_run_is_refused(record: UserMigration) -> None:
    refused(
        lambda: UserMigration.objects.create(
            user_id=record.user_id, run_id=record.run_id, batch_id=record.batch_id, status="skipped"
        ),
        "one_record_per_run|UNIQUE",
    )


@pytest.mark.parametrize("model", [MigrationRun, MigrationBatch, RunEvent])
def test_history_is_never_deleted(record: UserMigration, model: Any) -> None:
    table = model._meta.db_table

    def delete() -> None:
        with connection.cursor() as cursor:
            cursor.execute(f"DELETE FROM {table}")

    refused(delete, "never deleted")


@pytest.mark.parametrize("statement", ["UPDATE wishes_manaentry SET amount = 1", "DELETE FROM wishes_manaentry"])
def test_the_ledger_is_never_changed_by_anybody(record: UserMigration, statement: str) -> None:
    def write() -> None:
        with connection.cursor() as cursor:
            cursor.execute(statement)

    refused(write, "append-only")


def test_a_stale_save_does_not_unmigrate_a_user() -> None:
    (key,) = people(1)
    stale = Wallet.objects.get(pk=key)
    migrate()
    refused(stale.save, "migrated to mana")
    assert ManaEntry.objects.count() == 1


@pytest.mark.sqlite
@pytest.mark.parametrize("value", ["'many'", "1.5", "9223372036854775807 + 1"])
def test_sqlite_takes_no_text_or_float_in_a_record(record: UserMigration, value: str) -> None:
    def write() -> None:
        with connection.cursor() as cursor:
            cursor.execute(
                "INSERT INTO mana_migration_usermigration (user_id, run_id, batch_id, status, green, blue, red, "
                "mana_before, mana_credited, error_class, error_message, created_at) "
                f"VALUES (999, 999, 999, 'failed', {value}, 0, 0, 0, 0, '', '', '2026-01-01')"
            )

    refused(write, "whole numbers only")


def test_every_guard_is_in_force() -> None:
    assert guards.faults(connection) == {}
    guards.uninstall(connection)
    expected = {guard.name: "missing" for guard in guards.statements(connection.vendor)}
    assert guards.faults(connection) == expected
    guards.install(connection)
    assert guards.faults(connection) == {}


def test_unknown_words_are_refused_by_constraints(record: UserMigration) -> None:
    for write in (
        lambda: MigrationRun.objects.create(kind="migration", status="lost"),
        lambda: MigrationRun.objects.create(kind="wish", status="stopped"),
        lambda: MigrationBatch.objects.filter(pk=record.batch_id).update(selected=99),
    ):
        with pytest.raises(DatabaseError), transaction.atomic():
            write()
