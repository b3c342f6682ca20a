"""Several processes on one run, seen from inside: who may, what is refused, how endings and progress are told."""

from __future__ import annotations

import io
import subprocess
import sys

import pytest

from mana_migration.domain.options import Controls, MigrationOptions, RollbackOptions
from mana_migration.domain.results import BatchResult, Totals
from mana_migration.errors import RunConflictError, RunNotFoundError, UsageError
from mana_migration.models import MigrationRun
from mana_migration.services import runs
from mana_migration.services.context import Actor, RunContext, StopFlag
from mana_migration.services.executors import celery, celery_broker, local, processes
from mana_migration.services.migration import Migration
from mana_migration.services.rollback import Rollback
from mana_migration.states import EventKind, RunKind, RunStatus
from tests.mana_migration.history import done, make_batch, make_event, make_run
from tests.mana_migration.running import events, migrate, people, refusal, told
from tests.support.commands import run_command

pytestmark = pytest.mark.django_db

SOMEBODY = Actor("somebody", "here")


def open_run() -> MigrationRun:
    """Open a migration that nobody works on yet."""
    return runs.create_run(
        using="default",
        kind=RunKind.MIGRATION,
        options=MigrationOptions().as_dict(),
        rates={"green": 10, "blue": 100, "red": 1000},
        controls=Controls(batch_size=5),
        actor=SOMEBODY,
    )


# --- Joining ----------------------------------------------------------------------------------------------------------


def test_joining_works_on_the_run_until_it_ends() -> None:
    people(12)
    run = open_run()
    said: list[str] = []
    expected: list[int] = []
    found = local.join_run(run.pk, RunContext(actor=SOMEBODY, notice=said.append, expecting=expected.append))
    assert (found.run, found.status, found.handled) == (run.pk, "completed", 12)
    assert said[0] == f"joining migration run {run.pk}, which is running"
    assert events(run.pk)[:2] == ["started", "joined"]


def test_joining_a_run_that_is_taken_back_helps_to_take_it_back() -> None:
    people(8)
    run = open_run()
    local.join_run(run.pk, RunContext(actor=SOMEBODY))
    MigrationRun.objects.filter(pk=run.pk).update(status=RunStatus.ROLLING_BACK)
    back = Rollback(RollbackOptions(run=run.pk, breaker=True)).open(RunContext(actor=SOMEBODY))
    found = local.join_run(run.pk, RunContext(actor=SOMEBODY))
    assert (found.run, found.status, found.extra["rollback"]["run"]) == (run.pk, "rolled_back", back.pk)
    assert found.extra["rollback"]["rolled_back"] == 8


@pytest.mark.parametrize("status", [RunStatus.COMPLETED, RunStatus.STOPPED, RunStatus.FAILED, RunStatus.ROLLED_BACK])
def test_of_a_closed_run_only_its_outcome_is_told(status: RunStatus) -> None:
    run = make_run(status=status)
    said: list[str] = []
    found = local.join_run(run.pk, RunContext(actor=SOMEBODY, notice=said.append))
    assert (found.run, found.status, found.handled) == (run.pk, status, 0)
    assert said == [f"run {run.pk} is {status.label.lower()}: nothing is left to do"]
    assert events(run.pk) == []


def test_a_paused_run_is_not_joined() -> None:
    run = open_run()
    runs.pause_run(run.pk, actor=SOMEBODY, reason="")
    said = refusal(run_command("migrate_users", "--join", run.pk))
    assert f"run {run.pk} is paused; resume it with control_migration resume {run.pk}" in said
    with pytest.raises(RunConflictError):
        local.join_run(run.pk, RunContext(actor=SOMEBODY))


@pytest.mark.parametrize("executor", ["local", "celery"])
def test_an_import_is_not_joined(executor: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(celery_broker, "check", lambda: None)  # nothing is sent
    run = make_run(kind=RunKind.IMPORT)
    said = refusal(run_command("migrate_users", "--join", run.pk, "--executor", executor))
    assert f"run {run.pk} is an import, which is done at once: there is nothing to join" in said


def test_a_run_that_does_not_exist_is_not_joined() -> None:
    assert "there is no run 77" in refusal(run_command("migrate_users", "--join", 77))
    with pytest.raises(RunNotFoundError):
        local.join_run(77, RunContext(actor=SOMEBODY))


@pytest.mark.parametrize(
    ("status", "cause", "code"),
    [
        ("completed", "", 0),
        ("stopped", "operator", 1),
        ("stopped", "breaker", 4),
        ("failed", "integrity", 3),
        ("rolled_back", "breaker", 4),
        ("rolled_back", "", 1),
    ],
)
def test_joining_a_closed_run_exits_with_the_code_of_the_run(status: str, cause: str, code: int) -> None:
    run = make_run(status=status, stop_cause=cause)
    found = told(run_command("migrate_users", "--join", run.pk, "--format", "json"), code)
    assert (found["run"], found["status"]) == (run.pk, status)


# --- What is refused --------------------------------------------------------------------------------------------------


@pytest.mark.sqlite
@pytest.mark.parametrize(
    "argv",
    [
        ("migrate_users",),
        ("migrate_users", "--join", 1),
        ("migrate_users", "--rollback", "--no-input"),
        ("rollback_migration", "--all", "--no-input"),
    ],
)
def test_sqlite_takes_one_worker(argv: tuple[object, ...]) -> None:
    said = refusal(run_command(*argv, "--workers", 2), code=2)
    assert "2 workers: SQLite has one writer at a time; leave --workers out, or use PostgreSQL" in said
    assert not MigrationRun.objects.exists()


def test_one_worker_is_what_there_is_anyway() -> None:
    people(3)
    assert migrate("--workers", 1)["users"]["migrated"] == 3
    back = told(run_command("rollback_migration", "--all", "--workers", 1, "--no-input", "--format", "json"))
    assert back["users"]["rolled_back"] == 3


@pytest.mark.parametrize("command", ["migrate_users", "rollback_migration"])
@pytest.mark.parametrize("workers", ["0", "-1", "abc", "65", "1.5", ""])
def test_a_number_of_workers_is_from_1_to_64(command: str, workers: str) -> None:
    said = refusal(run_command(command, f"--workers={workers}"), code=2)
    assert f"{workers!r} workers: give a whole number of processes from 1 to 64" in said


@pytest.mark.parametrize("run", ["0", "-1", "abc", "1.5", ""])
def test_a_run_to_join_is_a_number(run: str) -> None:
    assert "give a whole number from 1" in refusal(run_command("migrate_users", f"--join={run}"), code=2)


@pytest.mark.parametrize(
    "argv",
    [
        ("migrate_users", "--join", 1, "--batch-size", 10),
        ("migrate_users", "--join", 1, "--dry-run"),
        ("migrate_users", "--join", 1, "--rollback"),
        ("migrate_users", "--join", 1, "--user-id", "{user}"),
        ("migrate_users", "--join", 1, "--stop"),
        ("migrate_users", "--workers", 2, "--pause"),
        ("migrate_users", "--workers", 2, "--user-id", "{user}"),
        ("migrate_users", "--workers", 2, "--dry-run"),
        ("migrate_users", "--workers", 2, "--validate-only"),
        ("migrate_users", "--workers", 2, "--rollback", "--dry-run"),
        ("rollback_migration", "--workers", 2, "--all", "--dry-run"),
        ("rollback_migration", "--workers", 2, "--user-id", "{user}"),
    ],
)
def test_what_means_nothing_together_is_bad_usage(argv: tuple[object, ...]) -> None:
    (key,) = people(1)
    given = [str(word).format(user=f"pk:{key}") for word in argv]
    assert "cannot be combined with" in refusal(run_command(*given), code=2)


def test_the_library_refuses_too_many_workers_with_the_limit() -> None:
    with pytest.raises(UsageError, match="give a whole number of processes from 1 to 64"):
        local.execute(Migration(MigrationOptions()), RunContext(actor=SOMEBODY), workers=65)


# --- How it is told ---------------------------------------------------------------------------------------------------


def test_progress_is_that_of_all_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    moments = iter([0.0, 0.1, 1.0, 2.0])
    monkeypatch.setattr(processes.time, "monotonic", lambda: next(moments))
    run = make_run()
    make_batch(run, done(10))
    told_of: list[Totals] = []
    joint = processes.JointProgress(
        processes.Helpers(RunContext()), run.pk, RunContext(progress=lambda result: told_of.append(result.totals))
    )
    own = BatchResult(run.pk, 1, done(3), 0.1)
    make_batch(run, done(3))
    joint(own)  # too soon after the last look
    make_batch(run, done(20, mana=7))  # another process
    joint(own)
    joint(own)
    assert [(totals.selected, totals.mana) for totals in told_of] == [(23, 7), (0, 0)]


def test_what_this_process_waits_for_is_told_at_once_with_the_figures_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes.time, "monotonic", lambda: 0.0)  # no time has passed since the last look
    run, told_of = make_run(), list[BatchResult]()
    joint = processes.JointProgress(processes.Helpers(RunContext()), run.pk, RunContext(progress=told_of.append))
    make_batch(run, done(20))  # another process
    joint(BatchResult(run.pk, 0, Totals(), 0.0, waits_for="waiting for a wallet"))
    assert [(result.totals.selected, result.waits_for) for result in told_of] == [(20, "waiting for a wallet")]


def test_whoever_follows_a_run_is_told_what_its_workers_wait_for_until_they_go_on() -> None:
    run, shown, said = make_run(status=RunStatus.RUNNING), list[BatchResult](), list[str]()
    follower = celery.Follower(run, RunContext(stop=StopFlag(), progress=shown.append, notice=said.append))
    sentence = "waiting for a wallet that another session holds"
    details = {"wait": "wallets", "sign": "held_wallets", "reason": "another session holds a wallet"}
    make_event(run, EventKind.THROTTLED, 1, message=sentence, details=details)
    follower._poll()
    follower._poll()
    make_batch(run, done(5))
    follower._poll()
    make_event(run, EventKind.THROTTLED, 2, message="a standby is behind", details={"wait": "hard"})
    follower._poll()
    make_event(run, EventKind.THROTTLED, 3, message="well again", details={"wait": "none"})
    follower._poll()
    assert [result.waits_for for result in shown] == [sentence, sentence, "", "a standby is behind", ""]
    assert said[0] == f"run {run.pk}: waiting: another session holds a wallet"


def helper(code: str) -> processes.Helper:
    """Return a helper that runs this Python and has ended."""
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE)
    _, complaints = process.communicate(timeout=60)
    return processes.Helper(2, process, io.BytesIO(complaints))


@pytest.mark.parametrize(
    ("code", "ending"),
    [
        ("", ""),
        (
            "import sys; print('a line', file=sys.stderr); sys.exit('CommandError: the disk is full')",
            "worker 2 ended with exit code 1 (CommandError: the disk is full): the others continue",
        ),
        ("import sys; sys.exit(3)", "worker 2 ended with exit code 3: the others continue"),
        (
            "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
            "worker 2 was killed by SIGKILL: the others continue",
        ),
    ],
)
def test_the_bad_end_of_a_helper_is_told_once(code: str, ending: str) -> None:
    said: list[str] = []
    helpers = processes.Helpers(RunContext(notice=said.append), [helper(code)])
    helpers.report_endings()
    helpers.report_endings()
    helpers.close()
    assert said == [ending] * bool(ending)


def test_an_error_ends_the_helpers_at_once() -> None:
    stop = StopFlag()
    found: list[processes.Helper] = []
    with pytest.raises(ZeroDivisionError), processes.helpers(0, RunContext(stop=stop)) as helpers:
        process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        helpers.all.append(processes.Helper(2, process, io.BytesIO()))
        found += helpers.all
        raise ZeroDivisionError
    assert found[0].process.returncode == -9
    assert stop.listeners == []


def test_asking_for_the_end_closes_the_pipe_to_each_helper() -> None:
    stop = StopFlag()
    with processes.helpers(0, RunContext(stop=stop)) as helpers:
        process = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
        helpers.all.append(processes.Helper(2, process, io.BytesIO()))
        stop.request()
    assert process.returncode == 0
