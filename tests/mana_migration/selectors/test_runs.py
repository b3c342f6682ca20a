from datetime import datetime
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from mana_migration.domain.results import Splits, Totals
from mana_migration.engine import totals as figures
from mana_migration.errors import RunNotFoundError
from mana_migration.models import MigrationRun
from mana_migration.reports.console import plain_line
from mana_migration.reports.run_lines import facts, progress_words
from mana_migration.reports.snapshot_json import snapshot_json
from mana_migration.selectors.runs import run_snapshot, runs_since
from mana_migration.states import BatchStatus, EventKind, RunKind, RunStatus
from tests.mana_migration.history import NOON, after, done, make_batch, make_event, make_history, make_run

pytestmark = pytest.mark.django_db


def snapshot(run: MigrationRun | None = None, *, at: datetime | None = None) -> Any:
    found = run_snapshot(run_id=run.pk if run else None, now=at)
    assert found is not None
    return found


def running(**values: Any) -> MigrationRun:
    return make_run(**{"status": RunStatus.RUNNING, "expected": 1_000, **values})


def test_there_is_no_snapshot_without_a_run() -> None:
    assert run_snapshot() is None


def test_an_unknown_run_is_named() -> None:
    with pytest.raises(RunNotFoundError, match="there is no run 99"):
        run_snapshot(run_id=99)


def test_the_open_run_comes_before_a_later_closed_one() -> None:
    opened = running()
    make_run()
    assert snapshot().run == opened.pk


def test_without_an_open_run_the_latest_that_is_no_import_is_shown() -> None:
    make_run()
    latest = make_run(kind=RunKind.ROLLBACK)
    make_run(kind=RunKind.IMPORT)
    assert snapshot().run == latest.pk


def test_figures_are_those_folded_and_those_of_the_batches_done_since() -> None:
    run = running()
    errors = Totals(selected=100, migrated=80, failed=15, skipped=5, green=7, mana=70)
    errors.errors.update({"overflow": 15})
    errors.skips.update({"locked": 5})
    make_batch(run, errors, start=0)
    figures.fold(run, "default")
    run.save()
    make_batch(run, done(100, red=2**62, mana=1000 * 2**52), start=5)
    make_batch(run, done(50), start=9, status=BatchStatus.PLANNED)
    make_batch(run, Totals(), start=9, status=BatchStatus.CANCELLED)
    seen = snapshot(run, at=after(10))
    assert (seen.totals.selected, seen.totals.migrated, seen.totals.failed, seen.totals.skipped) == (200, 180, 15, 5)
    assert (seen.totals.green, seen.totals.red, seen.totals.mana) == (7, 2**62, 70 + 1000 * 2**52)
    assert dict(seen.totals.errors) == {"overflow": 15}
    assert dict(seen.totals.skips) == {"locked": 5}
    assert seen.mana_by_colour == {"green": 70, "blue": 0, "red": 1000 * 2**62}
    assert (seen.batches, seen.batch_seconds) == (2, 2.0)
    assert seen.progress.share == 0.2


def test_the_error_rate_stands_against_the_breakers_limit() -> None:
    run = running(controls={"error_threshold": "12.5"})
    make_batch(run, Totals(selected=100, migrated=70, failed=10, skipped=20))
    rate = snapshot(run).error_rate
    assert (rate.failed, rate.attempted, rate.limit) == (10, 80, 0.125)
    assert rate.share == 0.125


@pytest.mark.parametrize(
    "values", [{"kind": RunKind.ROLLBACK}, {"options": {"users": ["5"]}}], ids=["rollback", "named users"]
)
def test_a_run_without_a_breaker_has_no_limit(values: dict[str, Any]) -> None:
    assert snapshot(running(**values)).error_rate.limit is None


def test_rates_are_those_now_and_on_average() -> None:
    run = running()
    for second in range(0, 100, 10):
        make_batch(run, done(10), start=second, seconds=10)
    seen = snapshot(run, at=after(120))
    assert seen.progress.rate_average == pytest.approx(100 * 60 / 120)
    assert seen.progress.rate_now == pytest.approx(40 * 60 / 60)
    assert seen.progress.remaining is not None
    assert not seen.progress.stalled
    assert seen.standstill == ""


def test_time_on_pause_counts_neither_for_the_average_nor_as_standstill() -> None:
    run = running(status=RunStatus.PAUSED)
    make_batch(run, done(100), start=0, seconds=60)
    make_event(run, EventKind.PAUSED, 60, actor="olga", message="the backup runs")
    seen = snapshot(run, at=after(3600))
    assert (seen.elapsed, seen.worked) == (3600, 60)
    assert seen.progress.rate_average == pytest.approx(100)
    assert not seen.progress.stalled
    assert seen.standstill == "paused by olga because the backup runs"


@pytest.mark.parametrize("kind", [EventKind.INTERRUPTED, EventKind.WINDOW_OVER])
def test_the_end_of_all_work_counts_like_a_pause_until_it_is_resumed(kind: EventKind) -> None:
    run = running()
    make_batch(run, done(100), start=0, seconds=60)
    make_event(run, kind, 61)
    assert snapshot(run, at=after(1061)).worked == 61
    assert snapshot(run, at=after(1061)).progress.rate_average == snapshot(run, at=after(9_999)).progress.rate_average
    make_event(run, EventKind.RESUMED_WORK, 1061)
    seen = snapshot(run, at=after(1100))
    assert seen.worked == 100
    assert "(including 16 min 40 s paused)" in facts(seen)[0].value


def test_the_window_of_a_run_is_one_of_its_settings_with_its_zone() -> None:
    run = running(controls={"batch_size": 50, "until": "2026-11-24T05:00:00+00:00"})
    (settings,) = (fact.value for fact in facts(snapshot(run), NOON.tzinfo) if fact.label == "Settings")
    assert settings == "batch size 50, window until 2026-11-24 05:00:00 UTC"


def test_the_time_after_a_process_that_was_killed_counts_like_a_pause() -> None:
    run = running()
    make_batch(run, done(100), start=0, seconds=60)
    make_event(run, EventKind.RESUMED_WORK, 1060)
    make_batch(run, done(100), start=1060, seconds=40)
    assert snapshot(run, at=after(1100)).worked == pytest.approx(100, abs=8)  # the width of a slice


def test_a_process_that_joins_others_is_no_sign_of_a_pause() -> None:
    run = running()
    for second in range(0, 300, 10):
        make_batch(run, done(10), start=second, seconds=10)
    make_event(run, EventKind.RESUMED_WORK, 155)
    assert snapshot(run, at=after(300)).worked == 300


def test_an_interruption_of_one_process_among_others_is_no_pause() -> None:
    run = running()
    make_event(run, EventKind.INTERRUPTED, 10)
    make_batch(run, done(100), start=20, seconds=20)
    figures.fold(run, "default")
    run.save()
    make_event(run, EventKind.RESUMED_WORK, 60)
    assert snapshot(run, at=after(100)).worked == 100


def test_a_run_without_progress_for_a_minute_is_said_to_stand_still() -> None:
    run = running()
    make_batch(run, done(100), start=0, seconds=1)
    assert not snapshot(run, at=after(60)).progress.stalled
    seen = snapshot(run, at=after(61))
    assert seen.progress.stalled
    assert "no process seems to work on it" in seen.standstill


def test_an_interrupted_run_says_how_to_go_on() -> None:
    run = running()
    make_event(run, EventKind.INTERRUPTED, 5, message="asked to end")
    assert "its process was asked to end" in snapshot(run, at=after(100)).standstill


def test_a_run_whose_only_process_has_just_been_interrupted_says_so_at_once_and_no_remaining_time() -> None:
    run = running()
    make_batch(run, done(100), start=0, seconds=5)
    assert snapshot(run, at=after(7)).progress.remaining is not None
    make_event(run, EventKind.INTERRUPTED, 6, message="asked to end")
    seen = snapshot(run, at=after(7))
    assert (seen.progress.remaining, seen.progress.stalled) == (None, False)
    assert "its process was asked to end; give the same command again to resume" in plain_line(seen)
    make_batch(run, done(100), start=6.5, seconds=0.4)  # there are others
    seen = snapshot(run, at=after(7))
    assert (seen.standstill, seen.progress.remaining is None) == ("", False)


def test_a_run_that_was_just_gone_on_with_does_not_stand_still() -> None:
    run = running()
    make_event(run, EventKind.RESUMED_WORK, 3600)
    assert snapshot(run, at=after(3601)).standstill == ""


def test_a_throttled_run_says_what_it_waits_for_until_it_progresses() -> None:
    run = running()
    make_batch(run, done(100), start=0)
    held = {"wait": "hard", "sign": "replication_lag"}
    make_event(run, EventKind.THROTTLED, 10, message="replication lag is 12 s", details=held)
    seen = snapshot(run, at=after(20))
    assert (seen.waiting, seen.waiting_for, seen.standstill) == ("replication lag is 12 s", "replication_lag", "")
    assert snapshot(run, at=after(90)).standstill == "replication lag is 12 s"
    make_event(run, EventKind.DATABASE_LOST, 90, message="the database was gone")
    assert snapshot(run, at=after(90)).waiting_for == "database_lost"
    make_event(run, EventKind.THROTTLED, 91, message="the database has recovered", details={"wait": "none"})
    assert (snapshot(run, at=after(92)).waiting, snapshot(run, at=after(92)).waiting_for) == ("", "")
    make_batch(run, done(100), start=93)
    assert snapshot(run, at=after(95)).waiting == ""


@pytest.mark.parametrize(
    ("wait", "waiting", "label"),
    [
        ("hard", "waiting while the database is under load: 24 sessions wait", "Waiting"),
        ("soft", "going at half the pace: 24 sessions wait", "Slowed down"),
    ],
)
def test_a_wait_is_told_in_the_same_words_everywhere(wait: str, waiting: str, label: str) -> None:
    run = running(expected=1000)
    make_batch(run, done(100), start=0)
    details = {"wait": wait, "sign": "waiting_locks", "reason": "24 sessions wait"}
    make_event(run, EventKind.THROTTLED, 10, message="as an earlier version put it: 24 sessions wait", details=details)
    seen = snapshot(run, at=after(20))
    assert seen.waiting == waiting
    assert ("Held up", waiting) in [(fact.label, fact.value) for fact in facts(seen)]
    assert ("Remaining", "unknown while it waits") in [(fact.label, fact.value) for fact in facts(seen)]
    assert seen.progress.remaining is None
    assert waiting in plain_line(seen)
    assert (seen.events[0].label, seen.events[0].message) == (label, "24 sessions wait")
    assert snapshot(run, at=after(90)).standstill == waiting


def test_the_screen_says_how_often_batches_were_split_and_what_to_do_about_it() -> None:
    run = running(folded=figures.empty() | {"planned_batches": 10})
    for _ in range(29):
        make_batch(run, done(1))
    make_batch(run, done(1), status="planned")
    seen = snapshot(run)
    assert seen.splits == Splits(20, 30)
    (told,) = [fact.value for fact in facts(seen) if fact.label == "Splits"]
    assert told.startswith("20 splits of batches, to isolate single users; most batches come from splits,")
    assert snapshot_json(seen)["batches_halved"] == 20


def test_a_rollback_has_no_error_threshold_among_its_settings() -> None:
    run = running()
    assert ("Settings", "batch size 50, delay 0 s, error threshold 10 %") in [
        (fact.label, fact.value) for fact in facts(snapshot(run))
    ]
    MigrationRun.objects.update(kind=RunKind.ROLLBACK)
    assert ("Settings", "batch size 50, delay 0 s") in [(fact.label, fact.value) for fact in facts(snapshot(run))]


def test_the_end_of_a_wait_is_called_going_on() -> None:
    run = running()
    make_event(run, EventKind.THROTTLED, 10, message="well again", details={"wait": "none", "sign": "", "reason": ""})
    (event,) = snapshot(run, at=after(20)).events
    assert (event.label, event.message) == ("Resuming", "the database has recovered")


def test_a_closed_run_neither_waits_nor_stands_still() -> None:
    run = make_run(finished_at=after(50))
    make_event(run, EventKind.THROTTLED, 10, message="replication lag is 12 s")
    seen = snapshot(run, at=after(90_000))
    assert (seen.elapsed, seen.waiting, seen.standstill) == (50, "", "")
    assert seen.progress.idle is None


def test_the_latest_check_is_told_in_words() -> None:
    run = make_run()
    make_event(run, EventKind.CHECKED, 1, details={"ok": False, "checks": {"ledger_mismatch": 1_234}})
    seen = snapshot(run)
    assert seen.check.ok is False
    assert seen.check.message == "a check failed (ledger_mismatch 1,234)"
    make_event(run, EventKind.CHECKED, 2, details={"ok": True, "checks": {}})
    assert snapshot(run).check.message == "all checks passed"


def test_the_ten_latest_events_are_shown_latest_first() -> None:
    run = running()
    for number in range(12):
        make_event(run, EventKind.BATCH_SPLIT, number, message=str(number))
    change = {"setting": "batch_size", "old": 50, "new": 100}
    make_event(run, EventKind.SETTING_CHANGED, 20, message="faster", actor="olga", details=change)
    events = snapshot(run).events
    assert [event.message for event in events[:3]] == ["batch_size from 50 to 100: faster", "11", "10"]
    assert len(events) == 10


def test_the_histogram_runs_from_the_fastest_to_the_slowest_bucket_in_use() -> None:
    run = running()
    for seconds in (0.02, 0.2, 0.2, 99):
        make_batch(run, done(1), seconds=seconds)
    durations = snapshot(run).durations
    assert durations[0] == ("0.025", 1)
    assert ("0.25", 2) in durations
    assert durations[-1] == ("+Inf", 1)


def _queries(run: MigrationRun) -> list[str]:
    with CaptureQueriesContext(
        connection,
    ) as captured:
        run_snapshot(run_id=run.pk)
    return [query["sql"] for query in captured]


def test_the_snapshot_asks_the_same_few_queries_whatever_the_size() -> None:
    small, large = make_history(2), make_history(60, batch_size=3)
    for number in range(30):
        make_event(large.run, EventKind.THROTTLED, number)
    few, many = _queries(small.run), _queries(large.run)
    assert len(few) == len(many) <= 12
    assert not any("usermigration" in sql.lower() or "wishes_" in sql.lower() for sql in many)


def test_the_snapshot_reads_no_more_rows_of_batches_than_are_unfolded_or_recent() -> None:
    run = running()
    for second in range(5):
        make_batch(run, done(10), start=second)
    figures.fold(run, "default")
    run.save()
    limits = [sql for sql in _queries(run) if "migrationbatch" in sql]
    assert all("LIMIT 300" in sql or "folded" in sql for sql in limits)


def test_runs_since_are_listed_latest_first_with_their_totals() -> None:
    make_run(created_at=after(-1))
    first = make_history(12).run
    second = make_run(created_at=after(5), kind=RunKind.ROLLBACK)
    lines = runs_since("default", NOON)
    assert [line.run for line in lines] == [second.pk, first.pk]
    assert lines[1].totals.selected == 12


def test_a_cohort_that_was_larger_than_estimated_is_not_more_than_all() -> None:
    run = make_run(expected=50, finished_at=after(5))
    make_batch(run, done(53))
    seen = snapshot(run)
    assert progress_words(seen) == "100 %, 53 users in 1 batch (about 50 expected)"
    assert "; 100 %, 53 users; " in f"; {plain_line(seen).split('; ', 1)[1]}"


def test_an_import_says_how_many_users_it_added() -> None:
    run = make_run(kind=RunKind.IMPORT, expected=5, baseline={"imported": {"users": "4995"}}, finished_at=after(5))
    make_batch(run, done(5))
    seen = snapshot(run)
    assert progress_words(seen) == "4,995 users imported, 5 of them migrated by the old system"
    assert (seen.progress.expected, seen.progress.share) == (None, None)


def test_a_run_whose_checks_nobody_runs_is_stalled() -> None:
    run = make_run(status=RunStatus.CHECKING, expected=10)
    make_batch(run, done(10), start=0, seconds=1)
    seen = snapshot(run, at=after(62))
    assert seen.progress.stalled
    assert seen.standstill == "no process seems to run its integrity checks; give the same command again to resume it"
    assert not snapshot(run, at=after(60)).progress.stalled
