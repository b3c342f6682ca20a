"""The metrics: exact text, no names."""

from dataclasses import replace
from datetime import timedelta

import pytest
from prometheus_client.parser import text_string_to_metric_families

from mana_migration.domain.snapshot import RunSnapshot
from mana_migration.engine.totals import BUCKETS
from mana_migration.reports.metrics import metrics_text
from mana_migration.selectors.runs import run_snapshot
from mana_migration.states import RunStatus
from tests.mana_migration.history import after, make_history

STATUSES = tuple(RunStatus.values)


def samples(seen: RunSnapshot | None) -> dict[str, float]:
    """Return every sample by its name and own labels."""
    text = metrics_text(seen, statuses=STATUSES, buckets=BUCKETS, database="default").decode()
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            own = {name: value for name, value in sample.labels.items() if name not in ("database", "run", "kind")}
            assert sample.labels["database"] == "default"
            found[" ".join([sample.name.removeprefix("mana_migration_"), *own.values()])] = sample.value
    return found


@pytest.fixture
def seen(db: None) -> RunSnapshot:
    """Return the snapshot of a finished run."""
    make_history(20)
    seen = run_snapshot("default", now=after(90))
    assert seen is not None
    return seen


def test_a_database_without_a_run_says_just_that() -> None:
    assert samples(None) == {"run_known": 0.0}


def test_every_figure_of_the_run_is_there(seen: RunSnapshot) -> None:
    found = samples(seen)
    assert found["run_known"] == 1.0
    assert [status for status in STATUSES if found[f"run_status {status}"]] == ["completed"]
    assert found["run_users migrated"] == seen.totals.migrated
    assert found["run_users failed"] == seen.totals.failed == 4
    assert found["run_users skipped"] == seen.totals.skipped
    assert found["run_users rolled_back"] == 0
    assert found["run_users_expected"] == 20
    assert found["run_wishes red"] == seen.totals.red
    assert found["run_mana"] == seen.totals.mana
    assert found["run_errors negative_balance"] == 4
    assert found["run_skips locked"] == seen.totals.skips["locked"]
    assert seen.last_progress is not None
    assert found["run_seconds_since_progress"] == (after(90) - seen.last_progress).total_seconds()
    assert found["run_stalled"] == found["run_waiting"] == 0
    assert (found["run_batches_verified"], found["run_value_conserved"]) == (5, 1)


def test_the_histogram_is_cumulative_and_complete(seen: RunSnapshot) -> None:
    found = samples(seen)
    counts = [found[f"batch_duration_seconds_bucket {bound}"] for bound in (*BUCKETS, "+Inf")]
    assert counts == sorted(counts)
    assert counts[-1] == found["batch_duration_seconds_count"] == seen.batches == 5
    assert found["batch_duration_seconds_sum"] == pytest.approx(seen.batch_seconds)


def test_a_run_that_waits_or_stands_still_says_so(seen: RunSnapshot) -> None:
    waiting = samples(replace(seen, waiting="replication lag 12 s", waiting_for="replication_lag"))
    assert waiting["run_waiting"] == waiting["run_waiting_for replication_lag"] == 1
    assert waiting["run_waiting_for database_lost"] == waiting["run_waiting_for waiting_locks"] == 0
    stalled = samples(replace(seen, progress=replace(seen.progress, stalled=True)))
    assert stalled["run_stalled"] == 1


def test_without_any_progress_the_time_since_the_start_counts(seen: RunSnapshot) -> None:
    idle = replace(seen, last_progress=None, progress=replace(seen.progress, idle=42.0))
    assert samples(idle)["run_seconds_since_progress"] == 42
    never = replace(seen, last_progress=None, progress=replace(seen.progress, idle=None))
    assert "run_seconds_since_progress" not in samples(never)


def test_a_clock_that_runs_backwards_gives_no_negative_time(seen: RunSnapshot) -> None:
    assert samples(replace(seen, taken_at=after(0) - timedelta(hours=1)))["run_seconds_since_progress"] == 0


def test_nothing_that_people_wrote_is_in_it(seen: RunSnapshot) -> None:
    text = metrics_text(
        replace(seen, actor="canary", host="canary", reason="canary", stop_reason="canary", standstill="canary"),
        statuses=STATUSES,
        buckets=BUCKETS,
        database="default",
    )
    assert b"canary" not in text
