"""Several real processes on one run: nobody twice, nobody left out, whoever of them is killed, interrupted or late."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from django.db import connection

from mana_migration.domain.options import Controls, MigrationOptions, RollbackOptions
from mana_migration.models import MigrationBatch, MigrationRun, UserMigration
from mana_migration.services import runs
from mana_migration.services.context import Actor, RunContext
from mana_migration.services.rollback import Rollback
from mana_migration.states import RunKind
from tests.factories import make_wallets
from tests.mana_migration.running import balanced, converted, events, migrate, people, status, told, town
from tests.support import processes
from tests.support.commands import database_url
from tests.support.oracle import assert_books_balance, endowment
from tests.support.processes import Running
from wishes.models import ManaEntry

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.postgres]

SOMEBODY = Actor("somebody", "here")
JSON = ("--format", "json")


def manage(*argv: object) -> AbstractContextManager[Running]:
    """Start "manage.py ARGV" beside the test; processes that it starts in turn work on the test database as well."""

    def prepare() -> None:
        os.environ["DATABASE_URL"] = database_url()

    return processes.manage(*argv, prepare=prepare)


def open_run(**controls: Any) -> MigrationRun:
    """Open a migration that nobody works on yet."""
    return runs.create_run(
        using="default",
        kind=RunKind.MIGRATION,
        options=MigrationOptions().as_dict(),
        rates={"green": 10, "blue": 100, "red": 1000},
        controls=Controls(**controls),
        actor=SOMEBODY,
    )


def workers() -> set[str]:
    """Return who handled batches."""
    return set(MigrationBatch.objects.exclude(worker="").values_list("worker", flat=True))


def children(pid: int | None) -> list[int]:
    """Return the processes that a process has started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def lives(pid: int) -> bool:
    """Say whether a process has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def until_gone(pids: Iterable[int]) -> None:
    """Wait until these processes have ended."""
    ended = processes.FORK.Event()
    for _ in range(1200):
        if not any(lives(pid) for pid in pids):
            return
        ended.wait(0.1)
    pytest.fail("they do not end")


def sessions() -> int:
    """Return how many other sessions the test database has."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT COUNT(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() "
            "AND backend_type = 'client backend'"
        )
        (count,) = cursor.fetchone()
    return int(count)


@contextmanager
def a_gate_before(keys: Iterable[Any]) -> Iterator[None]:
    """Keep whoever converts one of these users in mid-batch, until the gate is opened."""
    condition = f"NEW.user_id IN ({', '.join(map(str, keys))})"
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE gate (shut boolean)")
        cursor.execute("INSERT INTO gate VALUES (true)")
        cursor.execute(
            "CREATE FUNCTION at_the_gate() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            "WHILE EXISTS (SELECT FROM gate) LOOP PERFORM pg_sleep(0.01); END LOOP; RETURN NEW; END $$"
        )
        cursor.execute(
            f"CREATE TRIGGER at_the_gate BEFORE INSERT ON mana_migration_usermigration FOR EACH ROW WHEN ({condition}) "
            "EXECUTE FUNCTION at_the_gate()"
        )
    try:
        yield
    finally:
        open_the_gate()
        until(lambda: sessions() == 0)
        with connection.cursor() as cursor:
            cursor.execute("DROP TRIGGER at_the_gate ON mana_migration_usermigration")
            cursor.execute("DROP FUNCTION at_the_gate")
            cursor.execute("DROP TABLE gate")


def open_the_gate() -> None:
    """Let those who wait in mid-batch go on."""
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM gate")


def at_the_gate() -> int:
    """Return how many wait in mid-batch."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT COUNT(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'")
        (count,) = cursor.fetchone()
    return int(count)


def until(condition: Any) -> None:
    """Wait until something holds that other processes bring about."""
    never = processes.FORK.Event()
    for _ in range(1200):
        if condition():
            return
        never.wait(0.1)
    pytest.fail("it never happened")


# --- All of them together ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [2, 4])
def test_so_many_processes_share_a_run_and_tell_it_as_one(number: int) -> None:
    keys = town(240)
    with balanced(), manage("migrate_users", "--workers", number, "--batch-size", 2, "--delay", 0.05, *JSON) as running:
        found = running.told()
    assert (found["status"], found["users"]["selected"], found["users"]["migrated"]) == ("completed", 240, 240)
    assert 2 <= len(workers()) <= number
    assert converted() == UserMigration.objects.count() == len(keys)
    assert found["mana"] == sum(ManaEntry.objects.values_list("amount", flat=True))
    assert events(found["run"]).count("checked") == 1
    assert events(found["run"]).count("finished") == 1


def test_a_mass_rollback_is_shared_as_well() -> None:
    town(400)
    with balanced():
        migrate("--batch-size", 100)
        slowly = RollbackOptions(everything=True, controls=Controls(batch_size=2, delay=0.02))
        Rollback(slowly).open(RunContext(actor=SOMEBODY))
        with manage("rollback_migration", "--all", "--workers", 3, "--no-input", *JSON) as running:
            found = running.told()
    assert (found["kind"], found["status"], found["users"]["rolled_back"]) == ("rollback", "completed", 400)
    assert converted() == 0
    assert len(workers()) > 2  # that of the migration is one


def test_a_limit_is_a_limit_for_all_of_them_together() -> None:
    town(300)
    with balanced(), manage("migrate_users", "--workers", 3, "--limit", 101, "--batch-size", 3, *JSON) as running:
        assert running.told()["users"]["selected"] == 101
    assert converted() == 101


def test_two_commands_with_several_processes_each_work_on_one_run() -> None:
    town(240)
    argv = ("migrate_users", "--workers", 2, "--batch-size", 2, "--delay", "0.05", *JSON)
    with balanced(), manage(*argv) as one, manage(*argv) as other:
        first, second = one.told(), other.told()
    assert {first["status"], second["status"]} == {"completed"}
    assert (first["run"], first["users"], converted()) == (second["run"], second["users"], 240)


def test_the_process_behind_the_pages_works_beside_them() -> None:
    town(200)
    run = open_run(batch_size=2, delay=0.04)
    with (
        balanced(),
        manage("work_migration", "--once", *JSON) as page,
        manage("migrate_users", "--workers", 2, *JSON) as command,
    ):
        assert command.told()["status"] == "completed"
        assert page.told()["runs"][-1]["run"] == run.pk
    assert (status(run.pk), converted()) == ("completed", 200)


# --- Some of them are killed or interrupted ---------------------------------------------------------------------------


def test_the_others_finish_when_a_helper_is_killed_in_the_middle_of_a_batch() -> None:
    keys = town(300)
    before = endowment()
    with (
        a_gate_before(keys[2::3]),
        manage("migrate_users", "--workers", 2, "--batch-size", 3, "--delay", 0, *JSON) as running,
    ):
        running.until(lambda: at_the_gate() == 2)
        assert converted() == 0
        (helper,) = children(running.process.pid)
        os.kill(helper, signal.SIGKILL)
        open_the_gate()
        result = running.end()
    assert "worker 2 was killed by SIGKILL: the others continue" in result.err
    assert told(result)["status"] == "completed"
    assert converted() == UserMigration.objects.count() == 300
    assert_books_balance(expected=before)


def test_helpers_end_after_their_batch_when_the_process_that_started_them_is_killed() -> None:
    town(2_000)
    with balanced():
        argv = ("migrate_users", "--workers", 3, *JSON)
        with manage(*argv, "--batch-size", 2, "--delay", "0.05") as running:
            running.until(lambda: len(workers()) == 3)
            helpers = children(running.process.pid)
            running.kill()
            until_gone(helpers)
        run = MigrationRun.objects.get()
        assert run.is_open
        assert 0 < converted() < 2_000
        assert events(run.pk).count("interrupted") == 2  # in order, after the batch in hand
        runs.change_controls(run.pk, {"delay": 0, "batch_size": 100}, actor=SOMEBODY)
        with manage(*argv) as running:
            assert running.told()["run"] == run.pk
    assert converted() == 2_000


def test_helpers_of_a_paused_run_end_with_the_process_that_started_them() -> None:
    town(2_000)
    with balanced(), manage("migrate_users", "--workers", 2, "--batch-size", 2, "--delay", "0.05") as running:
        running.until(lambda: len(workers()) == 2)
        runs.pause_run(MigrationRun.objects.get().pk, actor=SOMEBODY, reason="")
        helpers = children(running.process.pid)
        running.kill()
        until_gone(helpers)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_ends_all_of_them_after_the_batch_in_hand(number: signal.Signals) -> None:
    town(1_000)
    with balanced():
        with manage("migrate_users", "--workers", 3, "--batch-size", 2, "--delay", "0.05", *JSON) as running:
            running.until(lambda: len(workers()) == 3)
            helpers = children(running.process.pid)
            running.send(number)
            found = running.told(128 + number)
            until_gone(helpers)
        run = MigrationRun.objects.get()
        assert found["status"] == run.status == "running"
        assert found["users"]["migrated"] == converted() < 1_000
        assert events(run.pk).count("interrupted") == 3
        runs.change_controls(run.pk, {"delay": 0, "batch_size": 100}, actor=SOMEBODY)
        with manage("migrate_users", *JSON) as running:
            assert running.told()["status"] == "completed"
    assert converted() == 1_000


def test_the_second_signal_ends_all_of_them_in_the_middle_of_a_batch() -> None:
    keys = town(300)
    before = endowment()
    with (
        a_gate_before(keys[2::3]),
        manage("migrate_users", "--workers", 2, "--batch-size", 3, "--delay", 0) as running,
    ):
        running.until(lambda: at_the_gate() == 2)
        helpers = children(running.process.pid)
        running.send(signal.SIGINT, signal.SIGTERM)
        open_the_gate()  # a statement under way is not interrupted
        result = running.end()
        until_gone(helpers)
    assert (result.code, "aborted" in result.err) == (143, True)
    assert MigrationRun.objects.get().status == "running"
    assert_books_balance(expected=before)


# --- What concerns the run reaches all of them ------------------------------------------------------------------------


@contextmanager
def refused_after(users: int) -> Iterator[None]:
    """Let the database refuse conversions after so many, and take its time over each that is taken back."""
    with connection.cursor() as cursor:
        cursor.execute(
            "CREATE SEQUENCE so_far; CREATE FUNCTION refuse_later() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            "IF NEW.kind = 'reversal' THEN PERFORM pg_sleep(0.002); "
            f"ELSIF nextval('so_far') > {users} THEN RAISE EXCEPTION USING ERRCODE = '23514', MESSAGE = 'planted'; "
            "END IF; RETURN NEW; END $$; "
            "CREATE TRIGGER refuse_later BEFORE INSERT ON wishes_manaentry FOR EACH ROW EXECUTE FUNCTION refuse_later()"
        )
    try:
        yield
    finally:
        with connection.cursor() as cursor:
            cursor.execute("DROP TRIGGER refuse_later ON wishes_manaentry; DROP FUNCTION refuse_later()")
            cursor.execute("DROP SEQUENCE so_far")


def test_a_tripped_breaker_takes_everybody_back_once() -> None:
    people(1_000)
    argv = ("migrate_users", "--workers", 4, "--batch-size", 10, "--delay", "0", *JSON)
    with balanced(), refused_after(500), manage(*argv) as running:
        found = running.told(4)
    run, back = MigrationRun.objects.get(kind="migration"), MigrationRun.objects.get(kind="rollback")
    assert (found["run"], found["status"]) == (run.pk, "rolled_back")
    assert found["rollback"] | {"run": back.pk, "status": "completed", "failed": 0} == found["rollback"]
    assert found["rollback"]["rolled_back"] == found["users"]["migrated"] > 0
    assert (converted(), back.status) == (0, "completed")
    assert events(run.pk).count("breaker_tripped") == 1
    assert len(set(MigrationBatch.objects.filter(run=back).exclude(worker="").values_list("worker", flat=True))) > 1


def test_pause_resume_and_stop_reach_all_of_them() -> None:
    town(2_000)
    with balanced(), manage("migrate_users", "--workers", 3, "--batch-size", 2, "--delay", "0.02", *JSON) as running:
        running.until(lambda: len(workers()) == 3)
        run = MigrationRun.objects.get()
        runs.pause_run(run.pk, actor=SOMEBODY, reason="")
        pause = runs.database_now("default")
        with manage("monitor_migration", *JSON) as look:
            look.told()
        helpers, paused, resume = children(running.process.pid), converted(), runs.database_now("default")
        runs.resume_run(run.pk, actor=SOMEBODY, reason="")
        running.until(lambda: converted() > paused + 20)
        runs.stop_run(run.pk, actor=SOMEBODY, reason="enough")
        result = running.end()
        until_gone(helpers)
    found = json.loads(result.out)
    assert (result.code, found["status"], found["reason"]) == (1, "stopped", "enough")
    assert found["users"]["migrated"] == converted() < 2_000
    assert "worker" not in result.err  # nobody came to a bad end
    begun = MigrationBatch.objects.filter(run=run, started_at__gt=pause, started_at__lt=resume)
    assert not begun.exists()


# --- Joining ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [1, 2])
def test_anybody_may_lend_a_hand_to_an_open_migration(number: int) -> None:
    town(100)
    run = open_run(batch_size=2)
    with balanced(), manage("migrate_users", "--join", run.pk, "--workers", number, *JSON) as running:
        found = running.told()
    assert (found["run"], found["status"], found["users"]["migrated"]) == (run.pk, "completed", 100)


def test_anybody_may_lend_a_hand_to_an_open_mass_rollback() -> None:
    town(100)
    with balanced():
        migrate()
        run = Rollback(RollbackOptions(everything=True)).open(RunContext(actor=SOMEBODY))
        with manage("migrate_users", "--join", run.pk, *JSON) as running:
            found = running.told()
    assert (found["run"], found["kind"], found["status"]) == (run.pk, "rollback", "completed")
    assert found["users"]["rolled_back"] == 100
    assert converted() == 0


def test_who_joins_ends_after_the_batch_in_hand_and_the_others_go_on() -> None:
    town(240)
    with balanced(), manage("migrate_users", "--batch-size", 2, "--delay", "0.05", *JSON) as first:
        first.until(workers)
        run = MigrationRun.objects.get()
        with manage("migrate_users", "--join", run.pk, *JSON) as second:
            second.until(lambda: len(workers()) == 2)
            second.send(signal.SIGTERM)
            assert second.told(143)["status"] == "running"
        assert first.told()["users"]["migrated"] == 240


def test_a_run_whose_check_was_broken_off_is_checked_by_who_joins_it() -> None:
    town(40)
    run = open_run(batch_size=10)
    with balanced():
        with manage("migrate_users", *JSON) as running:
            running.told()
        MigrationRun.objects.filter(pk=run.pk).update(status="checking", finished_at=None)
        with manage("migrate_users", "--join", run.pk, *JSON) as running:
            assert running.told()["status"] == "completed"


def test_who_joins_late_finds_nothing_left_to_do() -> None:
    town(10)
    found = migrate()
    with manage("migrate_users", "--join", found["run"]) as running:
        result = running.end()
    assert (result.code, result.out.splitlines()[0]) == (
        0,
        f"run {found['run']} is completed: nothing is left to do",
    )


def told_on_the_pipe(line: str) -> processes.Running:
    """Start a helper that is told this line, and then to end."""

    def prepare() -> None:
        os.environ["DATABASE_URL"] = database_url()
        os.environ["MANA_MIGRATION_HELPER"] = "yes"
        read, write = os.pipe()
        os.write(write, line.encode())
        os.close(write)
        os.dup2(read, 0)

    return Running(("migrate_users", *JSON), prepare)


def test_a_helper_refuses_the_run_of_another_database() -> None:
    run = open_run()
    running = told_on_the_pipe(f"{run.pk} 2020-01-01T00:00:00+00:00\n")
    result = running.end()
    running.close()
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert "database 'default' is another one here than in the process that started this helper" in result.err


def test_a_helper_that_is_told_nothing_ends_quietly() -> None:
    running = told_on_the_pipe("")
    result = running.end()
    running.close()
    assert (result.code, result.out, result.err) == (0, "", "")


def test_helpers_end_with_a_command_that_is_refused() -> None:
    make_wallets([(-1, 0, 0)] * 3)
    with manage("migrate_users", "--workers", 3, *JSON) as running:
        result = running.end()
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert "negative_balance" in result.err
    until(lambda: sessions() == 0)
