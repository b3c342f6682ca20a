"""Work that a page asks for and a worker process does."""

import pytest
from django.db import OperationalError, connections

from mana_migration.domain.options import MigrationOptions, RollbackOptions
from mana_migration.errors import FindingsError, NothingToRollBackError, RunConflictError
from mana_migration.models import MigrationRun
from mana_migration.services import runs
from mana_migration.services.context import Actor, RunContext, StopFlag
from mana_migration.services.executors import background
from mana_migration.services.migration import Migration
from mana_migration.services.rollback import Rollback
from mana_migration.states import RunStatus
from tests.factories import make_wallets
from tests.mana_migration.history import make_run
from wishes.models import Wallet

pytestmark = pytest.mark.django_db

SAM = Actor("sam", "web-1")
WORKER = Actor("worker", "db-1")


def work_until_nothing_is_left() -> list[tuple[int | None, str]]:
    """Let a worker do everything that is open."""
    done = background.work(RunContext(actor=WORKER, stop=StopFlag()), once=True)
    return [(each.run, each.status) for each in done]


def test_a_worker_does_the_migration_and_the_rollback_that_were_asked_for() -> None:
    make_wallets([(3, 2, 1), (0, 0, 5)])
    run = background.open_run(Migration(MigrationOptions(), "go"), RunContext(actor=SAM))
    assert work_until_nothing_is_left() == [(run.pk, "completed")]
    assert Wallet.objects.filter(migrated_at__isnull=False).count() == 2
    back = background.open_run(Rollback(RollbackOptions(run=run.pk, reason="undo")), RunContext(actor=SAM))
    assert work_until_nothing_is_left() == [(back.pk, "completed")]
    run.refresh_from_db()
    assert run.status == RunStatus.ROLLED_BACK
    assert Wallet.objects.filter(migrated_at__isnull=False).count() == 0


def test_a_worker_without_work_does_nothing() -> None:
    assert work_until_nothing_is_left() == []


def test_a_worker_leaves_a_paused_run_alone() -> None:
    make_wallets([(3, 2, 1)])
    run = background.open_run(Migration(MigrationOptions(), "go"), RunContext(actor=SAM))
    runs.pause_run(run.pk, actor=SAM, reason="wait")
    assert work_until_nothing_is_left() == []
    runs.resume_run(run.pk, actor=SAM, reason="go on")
    assert work_until_nothing_is_left() == [(run.pk, "completed")]


def test_a_worker_takes_up_a_run_that_a_dead_process_left_in_its_check() -> None:
    run = make_run(status=RunStatus.CHECKING)
    assert [key for key, _ in work_until_nothing_is_left()] == [run.pk]
    run.refresh_from_db()
    assert run.status not in (RunStatus.CHECKING, RunStatus.RUNNING)


def test_a_worker_that_was_asked_to_end_leaves_the_run_open() -> None:
    make_wallets([(3, 2, 1)])
    run = background.open_run(Migration(MigrationOptions(), "go"), RunContext(actor=SAM))
    stop = StopFlag()
    stop.request()
    assert background.work(RunContext(actor=WORKER, stop=stop)) == []
    run.refresh_from_db()
    assert run.status == RunStatus.RUNNING


def test_a_worker_ends_while_it_waits() -> None:
    stop = StopFlag()
    looks = []

    class Impatient(StopFlag):
        def wait(self, seconds: float) -> bool:
            looks.append(seconds)
            if len(looks) == 3:
                stop.request()
                self.request()
            return self.requested

    assert background.work(RunContext(actor=WORKER, stop=Impatient()), poll_seconds=7.0) == []
    assert looks == [7.0, 7.0, 7.0]


def test_a_waiting_worker_outlives_a_lost_database(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([OperationalError("connection refused"), None, OperationalError("gone again")])
    said: list[str] = []
    stop = StopFlag()

    def find_work(using: str) -> None:
        answer = next(answers, None)
        if answer is not None:
            raise answer
        if len(said) == 2:
            stop.request()

    monkeypatch.setattr(background, "find_work", find_work)
    monkeypatch.setattr(connections["default"], "close", lambda: None)  # the test's own transaction is in it
    assert background.work(RunContext(actor=WORKER, stop=stop, notice=said.append), poll_seconds=0) == []
    assert [sentence.startswith("the database does not answer") for sentence in said] == [True, True]


def test_what_cannot_start_is_refused_when_it_is_asked_for() -> None:
    make_wallets([(-3, 2, 1)])
    with pytest.raises(FindingsError):
        background.open_run(Migration(MigrationOptions(), "go"), RunContext(actor=SAM))
    with pytest.raises(NothingToRollBackError):
        background.open_run(Rollback(RollbackOptions(everything=True)), RunContext(actor=SAM))
    make_run(status=RunStatus.RUNNING)
    with pytest.raises(RunConflictError):
        background.open_run(Migration(MigrationOptions(skip_invalid=True), "go"), RunContext(actor=SAM))
    assert MigrationRun.objects.count() == 1


@pytest.mark.parametrize(("seconds", "idle"), [(None, False), (0.0, False), (9.9, False), (10.0, True), (3600.0, True)])
def test_a_run_without_progress_looks_idle_after_ten_seconds(seconds: float | None, idle: bool) -> None:
    assert background.looks_idle(seconds) is idle
