"""The worker process of the staff pages."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

import pytest

from mana_migration.domain.options import MigrationOptions
from mana_migration.models import MigrationRun
from mana_migration.services.context import Actor, RunContext
from mana_migration.services.executors import background
from mana_migration.services.migration import Migration
from mana_migration.states import RunStatus
from tests.factories import make_wallets
from tests.mana_migration.history import make_run
from tests.support.commands import PROJECT, manage_environment, run_command, run_manage
from wishes.models import Wallet

SAM = Actor("sam", "web-1")


@pytest.mark.django_db
def test_once_works_until_nothing_is_open() -> None:
    make_wallets([(3, 2, 1)])
    run = background.open_run(Migration(MigrationOptions(), "go"), RunContext(actor=SAM))
    done = run_command("work_migration", "--once")
    assert (done.code, done.err) == (0, "")
    assert f"working on migration run {run.pk}" in done.out
    assert f"run {run.pk} is completed: 1 user processed" in done.out


@pytest.mark.django_db
def test_once_without_work_ends_at_once() -> None:
    assert run_command("work_migration", "--once").code == 0


@pytest.mark.django_db
def test_json_is_one_object_on_stdout() -> None:
    run = make_run(status=RunStatus.CHECKING)
    done = run_command("work_migration", "--once", "--format", "json")
    assert json.loads(done.out)["runs"][0]["run"] == run.pk


@contextmanager
def worker() -> Iterator[tuple[subprocess.Popen[str], IO[str]]]:
    """Start a worker process and return it with its output."""
    process = subprocess.Popen(
        [sys.executable, "-u", "manage.py", "work_migration", "--interval", "0.1"],
        cwd=PROJECT,
        env=manage_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout
    try:
        yield process, process.stdout
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.once
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_a_waiting_worker_in_order(number: signal.Signals, code: int) -> None:
    with worker() as (process, output):
        assert "waiting for open runs" in output.readline()
        os.kill(process.pid, number)
        assert process.wait(timeout=30) == code


@pytest.mark.django_db(transaction=True)
def test_a_waiting_worker_takes_up_what_is_opened_meanwhile() -> None:
    make_wallets([(3, 2, 1)] * 120)
    with worker() as (process, output):
        assert "waiting for open runs" in output.readline()
        run = background.open_run(Migration(MigrationOptions(), "go"), RunContext(actor=SAM))
        line = ""
        while f"run {run.pk} is completed" not in line:
            line = output.readline()
            assert line, "the worker ended"
        process.terminate()
        assert process.wait(timeout=30) == 143
    assert MigrationRun.objects.get().status == RunStatus.COMPLETED
    assert Wallet.objects.filter(migrated_at__isnull=True).count() == 0


@pytest.mark.once
@pytest.mark.django_db(transaction=True)
def test_a_lost_database_ends_it_with_one_line() -> None:
    done = run_manage("work_migration", "--once", env={"DATABASE_URL": "postgres://nobody@127.0.0.1:1/none"})
    assert done.code == 1
    assert "Traceback" not in done.err
    assert len(done.err.strip().splitlines()) == 1


@pytest.mark.django_db
def test_once_says_that_it_found_no_run() -> None:
    done = run_command("work_migration", "--once")
    assert (done.code, done.out, done.err) == (0, "no run is open that can be worked on now\n", "")
