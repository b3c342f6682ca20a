"""Commands given at the same time, by several processes, do everything once."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from django.db import connection

from mana_migration.models import MigrationRun, UserMigration
from tests.factories import make_wallets
from tests.mana_migration.running import entries, keys_of, people, status, wallet
from tests.support.commands import Result
from tests.support.oracle import assert_books_balance, assert_everyone_is_accounted_for, endowment
from tests.support.processes import FORK, manage, run
from wishes.models import ManaEntry

pytestmark = pytest.mark.django_db(transaction=True)


def together(*commands: tuple[object, ...]) -> list[Result]:
    """Run commands as processes that set out at the same moment."""
    start = FORK.Barrier(len(commands))
    with contextlib.ExitStack() as stack:
        running = [stack.enter_context(manage(*argv, prepare=start.wait)) for argv in commands]  # type: ignore[arg-type]
        return [process.end() for process in running]


@pytest.mark.parametrize("processes", [2, 4])
def test_one_user_migrated_by_several_processes_at_once_has_one_conversion(processes: int) -> None:
    (key,) = people(1)
    before = endowment()
    results = together(*[("migrate_users", "--user-id", f"pk:{key}", "--format", "json")] * processes)
    assert {result.code for result in results} == {0}, results
    assert sum(json.loads(result.out)["users"]["migrated"] for result in results) == 1
    assert entries(key) == [("conversion", 1230, 1230)]
    assert UserMigration.objects.filter(user_id=key, status="migrated").count() == 1
    assert_books_balance(expected=before)


def test_two_mass_migrations_at_once_are_one_run() -> None:
    keys = keys_of(make_wallets([(n % 7, n % 5, n % 3) for n in range(150)]))
    before = endowment()
    results = together(*[("migrate_users", "--batch-size", "5", "--delay", "0", "--format", "json")] * 3)
    assert {result.code for result in results} == {0}, results
    (opened,) = MigrationRun.objects.all()
    assert opened.status == "completed"
    assert all(wallet(key)[4] for key in keys)
    assert opened.folded["totals"]["migrated"] == 150
    assert ManaEntry.objects.filter(kind="conversion").count() == UserMigration.objects.exclude(mana_credited=0).count()
    assert_everyone_is_accounted_for(opened.pk)
    assert_books_balance(expected=before)


def test_two_mass_rollbacks_at_once_are_one_run() -> None:
    keys = people(60)
    run("migrate_users", "--delay", "0")
    before = endowment()
    argv = ("rollback_migration", "--all", "--no-input", "--batch-size", "5", "--format", "json")
    results = together(*[argv] * 3)
    assert {result.code for result in results} <= {0, 1}, results  # 1: nothing left when it came
    assert 0 in {result.code for result in results}
    assert MigrationRun.objects.filter(kind="rollback").count() == 1
    assert {wallet(key) for key in keys} == {(3, 2, 1, 0, False)}
    assert_books_balance(expected=before)


def test_a_user_named_while_a_run_reaches_them_is_converted_once() -> None:
    keys = people(40)
    before = endowment()
    named: list[Any] = [f"--user-id=pk:{key}" for key in keys[::3]]
    results = together(("migrate_users", "--batch-size", "3", "--delay", "0"), ("migrate_users", *named))
    assert {result.code for result in results} == {0}, results
    for key in keys:
        assert entries(key) == [("conversion", 1230, 1230)]
    assert_books_balance(expected=before)


def test_a_migration_and_a_rollback_at_once_leave_each_user_one_or_the_other() -> None:
    keys = people(40)
    run("migrate_users", "--user-id", f"pk:{keys[0]}", "--user-id", f"pk:{keys[1]}")
    before = endowment()
    results = together(
        ("migrate_users", "--batch-size", "3", "--delay", "0"), ("rollback_migration", "--all", "--no-input")
    )
    assert all(result.code in (0, 1, 3) for result in results), results
    assert not any("Traceback" in result.err for result in results), results
    assert_books_balance(expected=before)
    assert run("migrate_users").code == 0
    assert all(wallet(key)[4] for key in keys)
    assert_books_balance(expected=before)


@pytest.mark.postgres
def test_a_second_process_takes_its_share() -> None:
    keys = people(60)
    first, second = together(*[("migrate_users", "--batch-size", "2", "--delay", "0.02")] * 2)
    assert (first.code, second.code) == (0, 0)
    with connection.cursor() as cursor:
        cursor.execute("SELECT COUNT(DISTINCT worker) FROM mana_migration_migrationbatch WHERE migrated > 0")
        assert cursor.fetchone()[0] == 2
    assert all(wallet(key)[4] for key in keys)
    assert status(MigrationRun.objects.get().pk) == "completed"
    assert_books_balance()
