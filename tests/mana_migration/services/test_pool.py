"""Several processes on one run: who does what, who hears signals, what a dead one costs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mana_migration.domain.options import Controls, MigrationOptions
from mana_migration.errors import UsageError
from mana_migration.models import MigrationBatch, MigrationRun, RunEvent
from mana_migration.services import pool, runs
from mana_migration.services.runs import Actor
from mana_migration.states import RunKind
from tests.mana_migration.running import balanced, people, refusal, told
from tests.support.commands import manage_environment, run_command, run_manage
from wishes.models import Wallet

PROJECT = Path(__file__).resolve().parents[3]
SOMEBODY = Actor("somebody", "here")

committed = pytest.mark.django_db(transaction=True)


def open_run(batch_size: int = 5) -> MigrationRun:
    """Open a migration with small batches and a little time between them."""
    return runs.create_run(
        using="default",
        kind=RunKind.MIGRATION,
        options=MigrationOptions().as_dict(),
        rates={"green": 10, "blue": 100, "red": 1000},
        controls=Controls(batch_size=batch_size, delay=0.01),
        actor=SOMEBODY,
    )


def start(*argv: object) -> subprocess.Popen[str]:
    """Start a command beside the test."""
    return subprocess.Popen(
        [sys.executable, "manage.py", *map(str, argv)],
        cwd=PROJECT,
        env=manage_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def helpers_of(process: subprocess.Popen[str]) -> list[int]:
    """Return the process ids of a command's helpers."""
    text = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    return [int(pid) for pid in text.split()]


def converted() -> int:
    """Return how many wallets are migrated."""
    return Wallet.objects.exclude(migrated_at=None).count()


def workers() -> set[str]:
    """Return who handled batches."""
    return set(MigrationBatch.objects.exclude(worker="").values_list("worker", flat=True))


@committed
@pytest.mark.postgres
def test_so_many_processes_share_a_run_and_tell_it_as_one() -> None:
    people(400)
    with balanced():
        result = run_manage("migrate_users", "--workers", 3, "--batch-size", 2, "--delay", "0.02", "--format", "json")
    found = told(result)
    assert (found["status"], found["users"]["migrated"]) == ("completed", 400)
    assert converted() == 400
    assert 2 <= len(workers()) <= 3
    assert RunEvent.objects.filter(kind="checked").count() == 1


@committed
@pytest.mark.postgres
def test_a_killed_helper_does_not_end_the_run() -> None:
    people(600)
    with balanced():
        process = start("migrate_users", "--workers", 2, "--batch-size", 2, "--delay", "0.02", "--format", "json")
        while len(workers()) < 2:
            assert process.poll() is None, process.communicate()
        (helper,) = helpers_of(process)
        os.kill(helper, signal.SIGKILL)
        out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "worker 2 was killed by SIGKILL: the others go on" in err
    assert '"status": "completed"' in out
    assert converted() == 600


@committed
@pytest.mark.postgres
def test_a_signal_reaches_all_of_them_once() -> None:
    people(600)
    with balanced():
        process = start("migrate_users", "--workers", 2, "--batch-size", 2, "--delay", "0.02")
        while len(workers()) < 2:
            assert process.poll() is None, process.communicate()
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=120)
        assert process.returncode == 143, err
        assert 0 < converted() < 600
        run = MigrationRun.objects.get()
        assert run.status == "running"
        # both said so, and neither aborted its batch
        assert RunEvent.objects.filter(run=run, kind="interrupted").count() == 2
        assert told(run_manage("migrate_users", "--set", "delay=0", "--format", "json"))["status"] == "running"
        assert told(run_manage("migrate_users", "--format", "json"))["status"] == "completed"
    assert converted() == 600


@committed
@pytest.mark.postgres
def test_helpers_end_when_the_process_that_started_them_is_killed() -> None:
    people(2_000)
    with balanced():
        process = start("migrate_users", "--workers", 2, "--batch-size", 2, "--delay", "0.05")
        while len(workers()) < 2:
            assert process.poll() is None, process.communicate()
        (helper,) = helpers_of(process)
        process.kill()
        process.communicate()
        while Path(f"/proc/{helper}").exists() and "Z" not in Path(f"/proc/{helper}/stat").read_text().split()[2]:
            pass
    assert converted() < 2_000


@committed
@pytest.mark.postgres
def test_anybody_may_lend_a_hand_to_an_open_run() -> None:
    people(40)
    run = open_run()
    with balanced():
        found = told(run_manage("migrate_users", "--join", run.pk, "--format", "json"))
    assert (found["run"], found["status"], found["users"]["migrated"]) == (run.pk, "completed", 40)
    again = run_manage("migrate_users", "--join", run.pk)
    assert again.code == 0
    assert f"run {run.pk} is completed: nothing is left to do" in again.out


@pytest.mark.django_db
def test_a_run_that_does_not_exist_cannot_be_joined() -> None:
    assert "there is no run 77" in refusal(run_command("migrate_users", "--join", 77))


@pytest.mark.sqlite
@pytest.mark.django_db
@pytest.mark.parametrize("what", [(), ("--join", 1)])
def test_sqlite_takes_one_worker(what: tuple[object, ...]) -> None:
    said = refusal(run_command("migrate_users", "--workers", 2, *what), code=2)
    assert "SQLite has one writer at a time; leave --workers out, or use PostgreSQL" in said
    assert run_command("migrate_users", "--workers", 1).code == 0


@pytest.mark.django_db
@pytest.mark.parametrize(
    "argv",
    [
        ("--workers", 0),
        ("--workers", "two"),
        ("--workers", 65),
        ("--join", 1, "--batch-size", 10),
        ("--join", 1, "--dry-run"),
        ("--workers", 2, "--user-id", "1"),
    ],
)
def test_what_means_nothing_is_bad_usage(argv: tuple[object, ...]) -> None:
    assert run_command("migrate_users", *argv).code == 2


@pytest.mark.django_db
def test_too_many_workers_are_refused_with_the_limit() -> None:
    with pytest.raises(UsageError, match="give a whole number of processes from 1 to 64"):
        pool.check_workers(65, "default")
