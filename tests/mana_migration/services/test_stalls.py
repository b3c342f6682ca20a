"""A run without progress is recorded and announced once, by the first who sees it and may write."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import timedelta

import pytest
from django.conf import LazySettings
from django.db import connection

from mana_migration.domain import progress
from mana_migration.domain.results import Totals
from mana_migration.models import MigrationBatch, MigrationRun, RunEvent
from mana_migration.selectors.runs import run_snapshot
from mana_migration.services import runs, stalls
from mana_migration.services.worker.loop import Ending
from mana_migration.states import BatchStatus, EventKind, RunStatus
from tests.mana_migration.history import make_batch, make_event, make_run
from tests.mana_migration.running import people
from tests.mana_migration.services.worker.test_loop import Patience, another_connection, make_worker, open_run
from tests.support.commands import run_command
from tests.support.receivers import http_server

pytestmark = pytest.mark.django_db(transaction=True)


def recorded() -> list[str]:
    """Return the messages of the stalls that were recorded."""
    return list(RunEvent.objects.filter(kind=EventKind.STALLED).order_by("id").values_list("message", flat=True))


def stalled_run(status: RunStatus = RunStatus.RUNNING) -> MigrationRun:
    """Create an open run whose latest batch was done long ago."""
    run = make_run(status=status, expected=100, options={})
    make_batch(run, Totals(selected=10, migrated=10))
    return run


@pytest.mark.parametrize(
    ("status", "why"),
    [
        (RunStatus.RUNNING, "no process seems to work on it; give the same command again to resume it"),
        (RunStatus.CHECKING, "no process seems to run its integrity checks; give the same command again to resume it"),
    ],
)
def test_cron_records_and_announces_a_stall_once(settings: LazySettings, status: RunStatus, why: str) -> None:
    pytest.importorskip("apprise")
    run = stalled_run(status)
    with http_server() as hook:
        settings.MANA_MIGRATION_NOTIFY = f"json://127.0.0.1:{hook.port}/"
        for _ in range(2):
            found = run_command("monitor_migration", "--status", "--format", "json")
            assert '"stalled": true' in found.out
        hook.wait_for(1)
    (message,) = recorded()
    assert message.startswith("no progress since ")
    assert message.endswith(f": {why}")
    assert [found["title"] for found in hook] == [f"Migration run {run.pk} makes no progress"]
    assert why in hook[0]["message"]


def test_the_next_stall_after_progress_is_another_one() -> None:
    run = stalled_run()
    seen = run_snapshot("default", run.pk)
    assert seen is not None
    assert stalls.note(seen, using="default")
    assert not stalls.note(seen, using="default")
    later = replace(seen, taken_at=runs.database_now("default") + timedelta(hours=1))
    progressed = replace(later, progress=replace(seen.progress, idle=120.0))
    assert stalls.note(progressed, using="default")
    assert len(recorded()) == 2


@pytest.mark.parametrize("why", ["paused", "interrupted", "waits", "closed"])
def test_what_is_known_to_stand_still_is_no_stall(why: str) -> None:
    run = stalled_run({"paused": RunStatus.PAUSED, "closed": RunStatus.STOPPED}.get(why, RunStatus.RUNNING))
    if why == "interrupted":
        make_event(run, EventKind.INTERRUPTED, 5)
    elif why == "waits":
        make_event(run, EventKind.DATABASE_LOST, 5)
    assert not stalls.note(run_snapshot("default", run.pk), using="default")
    assert not stalls.note(None, using="default")
    assert recorded() == []


@pytest.mark.postgres
def test_a_session_that_cannot_write_records_nothing() -> None:
    run = stalled_run()
    with connection.cursor() as cursor:
        cursor.execute("SET default_transaction_read_only = on")
    try:
        assert not stalls.note(run_snapshot("default", run.pk), using="default")
    finally:
        connection.close()
    assert recorded() == []


@pytest.mark.postgres
def test_a_worker_says_that_others_hold_all_that_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the process that holds them hangs."""
    monkeypatch.setattr(progress, "STALLED_AFTER", 0.5)
    people(20)
    run, said = open_run(5), list[str]()
    make_worker(run, stop=(stop := Patience()), progress=lambda result: stop.request()).run()
    held = MigrationBatch.objects.filter(run=run, status=BatchStatus.PLANNED).order_by("id")[1]
    with another_connection() as other:
        other.execute(f"SELECT 1 FROM mana_migration_migrationbatch WHERE id = {held.pk} FOR NO KEY UPDATE")

        def let_go(count: int) -> None:
            time.sleep(0.01)
            if said:
                other.connection.rollback()

        assert make_worker(run, stop=Patience(let_go), notice=said.append).run() is Ending.DONE
    assert said[0].startswith("no progress for a minute: other processes hold the batches that are left")
    (message,) = recorded()
    assert "other processes hold the batches that are left" in message
