"""Runs that are interrupted, killed, paused, stopped or shaken by the database end like those that were not."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
from django.db import connection

from mana_migration.models import MigrationBatch, MigrationRun, RunEvent, UserMigration
from mana_migration.services import operation
from mana_migration.services.context import RunContext, current_actor
from mana_migration.services.migration import Migration
from mana_migration.services.worker import failures
from tests.factories import make_wallets
from tests.mana_migration.running import balanced, events, planted, records, status, town, wallet
from tests.support.driver import psycopg
from tests.support.oracle import assert_books_balance, endowment
from tests.support.processes import doomed, manage, run
from wishes.models import ManaEntry, Wallet

pytestmark = pytest.mark.django_db(transaction=True)

MIGRATE = ("migrate_users", "--format", "json", "--batch-size", "5", "--delay", "0")


def outcome(keys: list[Any]) -> dict[str, Any]:
    """Return everything that two equal outcomes agree on: no moments, no numbers given by the database."""
    place = {key: number for number, key in enumerate(keys)}

    def rows(found: Any, *columns: str) -> list[tuple[Any, ...]]:
        return [(place[key], *values) for key, *values in found.values_list("user_id", *columns)]

    before = ("green", "blue", "red", "mana_before", "mana_credited", "mana_debited", "shortfall", "error_class")
    return {
        "wallets": rows(Wallet.objects.order_by("user_id"), "green", "blue", "red", "mana"),
        "migrated": rows(Wallet.objects.filter(migrated_at__isnull=False).order_by("user_id")),
        "entries": rows(ManaEntry.objects.order_by("user_id", "id"), "kind", "amount", "balance_after"),
        "records": rows(UserMigration.objects.order_by("user_id", "id"), "status", *before),
        "runs": [(found.kind, found.status, found.folded["totals"]) for found in MigrationRun.objects.order_by("id")],
    }


def undisturbed(number: int = 60) -> dict[str, Any]:
    """Return what the migration of the town comes to when nothing happens to it."""
    keys = town(number)
    assert run(*MIGRATE).code == 0
    found = outcome(keys)
    assert found["runs"][0][1] == "completed"
    return found


def forget_everything() -> None:
    """Empty the tables between two towns of one test."""
    from django.core.management import call_command

    call_command("flush", interactive=False, verbosity=0)


def reached(batches: int) -> bool:
    return done_batches() >= batches


def done_batches() -> int:
    return MigrationBatch.objects.filter(status="done").count()


# --- Signals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_command_after_its_batch_and_the_same_command_goes_on(number: int, code: int) -> None:
    keys = town(30)
    before = endowment()
    with manage("migrate_users", "--batch-size", "5", "--delay", "600") as running:
        running.until(done_batches)
        running.send(number)
        result = running.end()
    assert result.code == code
    assert "finishing the current batch" in result.err
    assert f"run {MigrationRun.objects.get().pk} (migration): interrupted; what was done is kept" in result.out
    assert "next: the same command resumes run" in result.out
    (opened,) = MigrationRun.objects.all()
    assert opened.status == "running"
    assert "interrupted" in events(opened.pk)
    assert sum(wallet(key)[4] for key in keys) == 5
    assert_books_balance(expected=before)
    result = run("migrate_users", "--set", "delay=0")
    assert result.code == 0
    result = run("migrate_users")
    assert result.code == 0
    assert f"run {opened.pk}, opened" in result.out
    assert "last progress" in result.out
    assert "resuming" in result.out
    assert status(opened.pk) == "completed"
    assert all(wallet(key)[4] for key in keys)
    assert_books_balance(expected=before)


@pytest.mark.postgres
def test_the_second_signal_aborts_the_batch() -> None:
    keys = town(10)
    with other_session() as other, balanced():
        other.execute("SELECT 1 FROM wishes_wallet WHERE user_id = %s FOR UPDATE", [keys[7]])
        with manage(*MIGRATE) as running:
            running.until(waits_for_a_lock)
            running.send(signal.SIGINT, signal.SIGTERM)
            result = running.end()
        assert result.code in (130, 143)
        assert "aborted" in result.err
        other.connection.rollback()
        assert sum(wallet(key)[4] for key in keys) == 5
        assert run(*MIGRATE).code == 0
        assert all(wallet(key)[4] for key in keys)


# --- Kills ------------------------------------------------------------------------------------------------------------

POINTS = [
    ("mana_migration.services.runs:add_event", 1),
    ("mana_migration.engine.batches:BatchStatements.run", 1),
    ("mana_migration.engine.batches:BatchStatements.run", 7),
    ("mana_migration.services.worker.loop:Worker._after", 12),
    ("mana_migration.engine.totals:fold", 2),
    ("mana_migration.services.runs:to_checking", 1),
    ("mana_migration.services.validation:check_run", 1),
    ("mana_migration.services.runs:end_check", 1),
]


def test_a_run_killed_at_any_moment_ends_like_one_never_killed() -> None:
    expected = undisturbed()
    for point, nth in POINTS:
        forget_everything()
        keys = town(60)
        before = endowment()
        with doomed(point, nth, *MIGRATE) as running:
            assert running.end().code == -signal.SIGKILL, point
        assert_books_balance(expected=before)
        with manage(*MIGRATE) as again:
            done = again.told()
        assert (done["status"], done["users"]["migrated"]) == ("completed", 60), point
        assert outcome(keys) == expected, point
        assert_books_balance(expected=before)


def test_a_run_killed_again_and_again_ends_like_one_never_killed() -> None:
    expected = undisturbed()
    forget_everything()
    keys = town(60)
    before = endowment()
    slowly = (*MIGRATE[:-1], "0.02")  # or it might end between two looks
    for _ in range(4):
        goal = done_batches() + 2
        with manage(*slowly) as running:
            running.until(partial(reached, goal))
            running.kill()
        assert_books_balance(expected=before)
    with manage(*slowly) as running:
        running.told()
    assert outcome(keys) == expected


def test_a_rollback_killed_at_any_moment_ends_like_one_never_killed() -> None:
    back = ("rollback_migration", "--all", "--no-input", "--batch-size", "5", "--format", "json")
    keys = town(40)
    run(*MIGRATE)
    run(*back)
    expected = outcome(keys)
    for point, nth in [
        ("mana_migration.engine.batches:BatchStatements.run", 4),
        ("mana_migration.engine.totals:fold", 2),
        ("mana_migration.services.rollback:close_targets", 1),
    ]:
        forget_everything()
        keys = town(40)
        before = endowment()
        run(*MIGRATE)
        with doomed(point, nth, *back) as running:
            assert running.end().code == -signal.SIGKILL
        assert_books_balance(expected=before)
        with manage(*back) as again:
            assert again.told()["users"]["rolled_back"] == 40
        assert outcome(keys) == expected, point
        assert_books_balance(expected=before)


@pytest.mark.parametrize(
    ("point", "nth"),
    [("mana_migration.services.rollback:Rollback.open", 1), ("mana_migration.engine.reversal:reverse", 3)],
)
def test_the_same_command_goes_on_with_the_breakers_rollback_after_a_kill(point: str, nth: int) -> None:
    keys = town(200)
    before = endowment()
    with planted(keys[170:]):
        # the rollback's batches have the default size of 50
        with doomed(point, nth, *MIGRATE) as running:
            assert running.end().code == -signal.SIGKILL
        assert_books_balance(expected=before)
        result = run(*MIGRATE)
    assert result.code == 4, result
    taken_back = MigrationRun.objects.get(kind="migration")
    assert taken_back.status == "rolled_back"
    assert not any(wallet(key)[4] for key in keys)
    assert f'"run": {taken_back.pk}, "kind": "migration"' in result.out
    assert '"status": "rolled_back"' in result.out
    if nth == 3:
        assert f"is rolling back run {taken_back.pk}, whose breaker tripped: resuming it" in result.err
    assert_books_balance(expected=before)


def test_a_signal_during_the_breakers_rollback_leaves_it_open_for_the_same_command() -> None:
    keys = town(120)
    before = endowment()
    with planted(keys[100:]):
        with manage(*MIGRATE, "--delay", "0.02") as running:
            running.until(lambda: UserMigration.objects.filter(status="failed").exists())
            running.send(signal.SIGTERM)
            assert running.end().code in (143, 4)
        assert run("migrate_users", "--batch-size", "5").code == 4
    assert status(MigrationRun.objects.get(kind="migration").pk) == "rolled_back"
    assert_books_balance(expected=before)


# --- Control from another process -------------------------------------------------------------------------------------


def test_a_run_is_paused_changed_resumed_and_stopped_from_another_terminal() -> None:
    keys = town(100)
    before = endowment()
    with manage("migrate_users", "--batch-size", "5", "--delay", "600", "--format", "json") as running:
        running.until(done_batches)
        assert run("migrate_users", "--pause", "--reason", "backup").code == 0
        assert run("migrate_users", "--set", "delay=0.3", "--reason", "too slow").code == 0
        paused = done_batches()
        assert paused <= 2
        assert running.runs
        assert run("migrate_users", "--resume").code == 0
        running.until(lambda: done_batches() >= paused + 2)
        assert run("migrate_users", "--stop", "--reason", "enough").code == 0
        done = running.told(1)
    assert (done["status"], done["reason"]) == ("stopped", "enough")
    assert events(done["run"]) == ["started", "paused", "setting_changed", "resumed", "stopped"]
    (change,) = RunEvent.objects.filter(run=done["run"], kind="setting_changed")
    assert change.details == {"setting": "delay", "old": 600.0, "new": 0.3}
    assert (change.message, bool(change.actor)) == ("too slow", True)
    assert 15 <= sum(wallet(key)[4] for key in keys) < 100
    assert not MigrationBatch.objects.filter(status="planned").exists()
    assert_books_balance(expected=before)
    assert run(*MIGRATE).code == 0
    assert all(wallet(key)[4] for key in keys)


def test_a_changed_delay_and_threshold_are_in_force_within_a_batch() -> None:
    keys = town(60)
    before = endowment()
    with planted(keys[20:26]), manage("migrate_users", "--batch-size", "5", "--delay", "600") as running:
        running.until(done_batches)
        assert run("migrate_users", "--set", "error_threshold=5", "--set", "delay=0").code == 0
        assert running.end().code == 4
    assert not any(wallet(key)[4] for key in keys)
    assert_books_balance(expected=before)


def test_a_mass_rollback_stops_a_running_migration_and_takes_it_back() -> None:
    keys = town(40)
    before = endowment()
    with manage("migrate_users", "--batch-size", "5", "--delay", "600") as running:
        running.until(done_batches)
        assert run("rollback_migration", "--all", "--no-input").code == 0
        result = running.end()
    assert result.code == 1, result
    assert not any(wallet(key)[4] for key in keys)
    assert_books_balance(expected=before)


# --- The database -----------------------------------------------------------------------------------------------------


@contextmanager
def other_session() -> Iterator[Any]:
    """Yield a cursor of a second session on the test's PostgreSQL database, inside a transaction."""
    values = connection.settings_dict
    session = psycopg.connect(
        host=values["HOST"], port=values["PORT"] or None, user=values["USER"], password=values["PASSWORD"],
        dbname=values["NAME"],
    )  # fmt: skip
    try:
        with session.cursor() as cursor:
            yield cursor
    finally:
        session.close()


def waits_for_a_lock() -> bool:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT EXISTS (SELECT 1 FROM pg_stat_activity WHERE datname = current_database() "
            "AND cardinality(pg_blocking_pids(pid)) > 0)"
        )
        return bool(cursor.fetchone()[0])


@pytest.mark.postgres
def test_a_wallet_that_somebody_holds_is_tried_again_and_is_no_failure() -> None:
    keys = town(20)
    with other_session() as other, balanced():
        other.execute("SELECT 1 FROM wishes_wallet WHERE user_id = %s FOR UPDATE", [keys[7]])
        with manage(*MIGRATE) as running:
            running.until(lambda: MigrationBatch.objects.filter(attempts__gte=1).exists())
            other.connection.rollback()
            done = running.told()
    assert (done["users"]["migrated"], done["users"]["failed"]) == (20, 0)


@pytest.mark.postgres
def test_a_wallet_that_is_held_all_the_time_is_left_out_with_the_reason() -> None:
    from tests.mana_migration.running import migrate

    keys = town(6)
    with other_session() as other, balanced(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(failures, "TRANSIENT_TRIES", 2)
        patch.setattr(failures, "FIRST_WAIT", 0.001)
        patch.setattr("mana_migration.conf.lock_timeout_ms", lambda: 20)
        other.execute("SELECT 1 FROM wishes_wallet WHERE user_id = %s FOR UPDATE", [keys[2]])
        done = migrate(code=3)
        assert (done["status"], done["users"]["migrated"], done["skipped"]) == ("completed", 5, {"locked": 1})
        assert records(keys[2]) == [("skipped", "locked")]
        other.connection.rollback()
        assert migrate()["users"]["migrated"] == 1


@pytest.mark.postgres
def test_a_deadlock_is_tried_again_and_is_no_failure() -> None:
    keys = town(10)
    name = connection.settings_dict["NAME"]
    with connection.cursor() as cursor:
        cursor.execute(f'ALTER DATABASE "{name}" SET deadlock_timeout = 10')  # ms: the run's session is the victim
    try:
        with other_session() as other, balanced():
            other.execute("SET deadlock_timeout = '60s'")
            other.execute("SELECT 1 FROM wishes_wallet WHERE user_id = %s FOR UPDATE", [keys[4]])
            with manage(*MIGRATE) as running:
                running.until(waits_for_a_lock)  # it holds the first four and wants the fifth
                other.execute("SELECT 1 FROM wishes_wallet WHERE user_id = %s FOR UPDATE", [keys[0]])
                other.connection.commit()
                done = running.told()
    finally:
        with connection.cursor() as cursor:
            cursor.execute(f'ALTER DATABASE "{name}" RESET deadlock_timeout')
    assert (done["users"]["migrated"], done["users"]["failed"]) == (10, 0)
    assert MigrationBatch.objects.filter(attempts__gte=1).exists()


@pytest.mark.postgres
@pytest.mark.parametrize("table", ["wishes_wallet", "mana_migration_usermigration"])
def test_a_schema_change_meanwhile_is_waited_for_and_is_no_failure(table: str) -> None:
    town(60)
    try:
        with balanced(), other_session() as other, manage(*MIGRATE, "--delay", "0.02") as running:
            running.until(done_batches)
            other.execute(f"ALTER TABLE {table} ADD COLUMN noted integer DEFAULT 7")  # holds the table until committed
            running.until(waits_for_a_lock)
            other.connection.commit()  # the plans that the run has prepared are of the old table
            done = running.told()
    finally:
        with connection.cursor() as cursor:
            cursor.execute(f"ALTER TABLE {table} DROP COLUMN IF EXISTS noted")
    assert (done["status"], done["users"]["migrated"], done["users"]["failed"]) == ("completed", 60, 0)


@pytest.mark.postgres
def test_a_server_that_ends_idle_transactions_finds_none() -> None:
    town(60)
    name = connection.settings_dict["NAME"]
    with connection.cursor() as cursor:
        cursor.execute(f'ALTER DATABASE "{name}" SET idle_in_transaction_session_timeout = 500')  # ms
    try:
        with balanced(), manage(*MIGRATE, "--delay", "0.1") as running:  # it waits for longer than that in all
            done = running.told()
        assert (done["status"], done["users"]["migrated"], done["users"]["failed"]) == ("completed", 60, 0)
        assert "database_lost" not in [kind for (kind,) in RunEvent.objects.values_list("kind")]
        with balanced(), manage("rollback_migration", "--all", "--no-input", "--format", "json") as running:
            assert running.told()["users"]["rolled_back"] == 60
    finally:
        with connection.cursor() as cursor:
            cursor.execute(f'ALTER DATABASE "{name}" RESET idle_in_transaction_session_timeout')


@pytest.mark.postgres
def test_a_lost_connection_is_waited_for_and_is_no_failure() -> None:
    keys = town(60)
    with balanced(), manage(*MIGRATE, "--delay", "0.02") as running:
        running.until(done_batches)
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        done = running.told()
    assert (done["users"]["migrated"], done["users"]["failed"]) == (60, 0)
    assert "database_lost" in events(done["run"])
    assert all(wallet(key)[4] for key in keys)


# --- People who come and go -------------------------------------------------------------------------------------------


def test_those_who_sign_up_during_a_run_are_migrated_by_it() -> None:
    from mana_migration.domain.options import Controls, MigrationOptions

    town(20)
    before = endowment()
    newcomers: list[Any] = []

    def sign_up(result: Any) -> None:
        if len(newcomers) < 3:
            newcomers.append(make_wallets([(0, 0, 0)])[0].pk)

    options = MigrationOptions(controls=Controls(batch_size=10, delay=0.0))
    done = operation.execute(Migration(options), RunContext(actor=current_actor(), progress=sign_up))
    assert (done.status, done.totals.migrated) == ("completed", 23)
    assert all(wallet(key)[4] for key in newcomers)
    assert not Wallet.objects.filter(migrated_at__isnull=True).exists()
    assert_books_balance(expected=before)
