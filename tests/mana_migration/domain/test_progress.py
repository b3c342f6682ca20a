from datetime import UTC, datetime, timedelta

import pytest

from mana_migration.domain.progress import (
    CAUTION,
    CHECK_CAUTION,
    CHECK_OPTIMISM,
    CHECKED_AT_MOST,
    CHECKED_PER_SECOND,
    CLOSING,
    OPTIMISM,
    Finished,
    Remaining,
    check_time,
    measure,
    paused_seconds,
    rates_over_time,
    recent_rate,
    remaining_time,
)

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


def after(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def test_remaining_time_is_a_range_between_the_rate_now_and_the_average() -> None:
    progress = measure(
        handled=500, expected=1_000, worked=60, recent=250.0, idle=1, waits=False, checked_per_second=100.0
    )
    assert (progress.rate_now, progress.rate_average) == (250.0, 500.0)
    assert progress.remaining is not None
    assert progress.remaining.low == pytest.approx(60 * OPTIMISM + 10 * CHECK_OPTIMISM)
    assert progress.remaining.high == pytest.approx(120 * CAUTION + 10 * CHECK_CAUTION + CLOSING)


@pytest.mark.parametrize(
    ("known", "passed", "low", "high"),
    [
        (None, 0, 1_000_000 / CHECKED_AT_MOST, 1_000_000 / CHECKED_PER_SECOND + CLOSING),
        (None, 20, 0, 1_000_000 / CHECKED_PER_SECOND + CLOSING - 20),
        (100_000.0, 0, 10 * CHECK_OPTIMISM, 10 * CHECK_CAUTION + CLOSING),
        (100_000.0, 9, 0, 10 * CHECK_CAUTION + CLOSING - 9),
        (100_000.0, 50, 0, 0),
    ],
)
def test_while_a_run_is_checked_what_is_left_of_the_check_remains(
    known: float | None, passed: float, low: float, high: float
) -> None:
    progress = measure(
        handled=1_000_000, expected=1_000_000, worked=60, recent=9_000_000.0, idle=passed, waits=False,
        checking=True, complete=True, checked_per_second=known,
    )  # fmt: skip
    assert progress.remaining == Remaining(pytest.approx(low), pytest.approx(high))


def test_users_who_turn_out_not_to_be_there_do_not_remain_while_the_run_is_checked() -> None:
    progress = measure(
        handled=900, expected=1_000, worked=60, recent=None, idle=0, waits=False,
        checking=True, complete=True, checked_per_second=1_000.0,
    )  # fmt: skip
    assert progress.remaining == Remaining(CHECK_OPTIMISM, CHECK_CAUTION + CLOSING)


@pytest.mark.parametrize(("handled", "told"), [(9, False), (10, True)])
def test_remaining_time_is_not_told_before_one_percent(handled: int, told: bool) -> None:
    progress = measure(handled=handled, expected=1_000, worked=10, recent=60.0, idle=0, waits=False)
    assert (progress.remaining is not None) is told


@pytest.mark.parametrize(("idle", "stalled"), [(59.9, False), (60.0, True), (None, False)])
def test_a_run_without_progress_for_a_minute_is_stalled(idle: float | None, stalled: bool) -> None:
    progress = measure(handled=500, expected=1_000, worked=100, recent=None, idle=idle, waits=False)
    assert progress.stalled is stalled
    assert progress.rate_now == (0.0 if stalled else None)
    if stalled:
        assert progress.remaining is None


def test_a_paused_run_is_not_stalled_and_promises_no_end() -> None:
    progress = measure(handled=500, expected=1_000, worked=100, recent=100.0, idle=600, waits=True)
    assert not progress.stalled
    assert (progress.rate_now, progress.remaining) == (None, None)


def test_a_closed_run_keeps_its_average_only() -> None:
    progress = measure(handled=1_000, expected=1_000, worked=60, recent=None, idle=None, waits=False)
    assert (progress.share, progress.rate_now, progress.rate_average) == (1.0, None, 1_000.0)
    assert progress.remaining is None


def test_nobody_counted_means_no_share_and_no_remaining_time() -> None:
    progress = measure(handled=10, expected=None, worked=60, recent=10.0, idle=0, waits=False)
    assert (progress.share, progress.remaining) == (None, None)


def test_an_empty_selection_is_complete() -> None:
    assert measure(handled=0, expected=0, worked=0, recent=None, idle=0, waits=False).share == 1.0


def test_more_users_than_expected_are_still_all_of_them() -> None:
    progress = measure(handled=1_010, expected=1_000, worked=60, recent=1_000.0, idle=0, waits=False)
    assert progress.share == 1.0
    assert progress.remaining == check_time(1_010, None, passed=0)


def test_no_rate_gives_no_remaining_time() -> None:
    assert remaining_time(100, []) is None


def test_the_rate_now_counts_the_batches_of_the_last_minute() -> None:
    batches = [Finished(after(second), 10, 1.0) for second in range(0, 120, 10)]
    # finished at 60 s is a whole minute ago: out; 70, 80, 90, 100 and 110 are in
    assert recent_rate(batches, after(120)) == pytest.approx(50 * 60 / 51)


def test_the_rate_now_of_a_fast_run_counts_the_time_that_its_batches_span() -> None:
    batches = [Finished(after(second), 1_000, 1.0) for second in (1, 2, 3)]
    assert recent_rate(batches, after(3)) == pytest.approx(60_000)


def test_the_rate_now_is_unknown_without_batches_in_the_last_minute() -> None:
    assert recent_rate([Finished(after(0), 10, 1.0)], after(61)) is None


def test_paused_time_is_summed_up_and_an_open_pause_lasts() -> None:
    marks = [(after(10), True), (after(15), True), (after(30), False), (after(31), False), (after(50), True)]
    assert paused_seconds(marks, after(60)) == 30


def test_rates_over_time_lie_between_the_points() -> None:
    series = [(after(60), 100), (after(120), 300), (after(120), 400)]
    assert rates_over_time(NOON, series) == [(after(60), 100.0), (after(120), 200.0)]


@pytest.mark.parametrize(
    ("handled", "idle", "stalled"),
    [(0, 60, True), (1_000_000, 60, False), (1_000_000, 109, False), (1_000_000, 110, True)],
)
def test_a_run_whose_checks_take_far_too_long_is_stalled(handled: int, idle: float, stalled: bool) -> None:
    progress = measure(
        handled=handled, expected=handled, worked=60, recent=None, idle=idle, waits=False, checking=True, complete=True
    )
    assert progress.stalled is stalled


@pytest.mark.parametrize(
    ("handled", "complete", "share", "differs"),
    [
        (53, True, 1.0, True),
        (47, True, 1.0, True),
        (50, True, 1.0, False),
        (53, False, 1.0, True),
        (47, False, 0.94, False),
    ],
)
def test_an_estimate_that_was_missed_is_no_share(handled: int, complete: bool, share: float, differs: bool) -> None:
    progress = measure(handled=handled, expected=50, worked=1, recent=None, idle=None, waits=False, complete=complete)
    assert (progress.share, progress.differs) == (share, differs)
