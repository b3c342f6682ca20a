"""Users over time, by slices."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from mana_migration.domain.time_series import FIRST_WIDTH, SLICES, UserSeries

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


def after(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def series_of(*batches: tuple[float, int]) -> UserSeries:
    series = UserSeries(start=NOON)
    for seconds, users in batches:
        series.add(after(seconds), users)
    return series


@given(st.lists(st.tuples(st.floats(0, 1e7), st.integers(0, 10**6)), min_size=1, max_size=50))
def test_nobody_is_lost_and_everybody_is_counted_within_a_slice_of_the_time(batches: list[tuple[float, int]]) -> None:
    series = series_of(*batches)
    points = UserSeries.from_json(series.as_json()).points()
    assert len(points) <= SLICES + 1
    assert points[-1][1] == sum(users for _, users in batches)
    for at, handled in points:
        by_then = sum(users for seconds, users in batches if after(seconds) < at)
        later = sum(users for seconds, users in batches if after(seconds) > at)
        assert by_then <= handled <= points[-1][1] - later


def test_a_pause_is_flat_and_not_a_slope() -> None:
    points = dict(series_of((1, 10), (2, 10), (62, 10)).points())
    assert points[after(5)] == points[after(60)] == 20


def test_a_clock_that_was_set_back_loses_no_user() -> None:
    assert series_of((5, 1), (-3600, 2)).points()[-1][1] == 3


def test_progress_is_looked_for_between_two_moments() -> None:
    series = series_of((1, 10), (30, 10))
    assert series.handled_between(after(0), after(2))
    assert not series.handled_between(after(2), after(29))
    assert not UserSeries().handled_between(after(0), after(2))


def test_users_handled_last_before_a_moment_are_found_by_their_slice() -> None:
    series = UserSeries()
    series.add(after(0), 1)
    series.add(after(10), 1)
    assert series.latest_before(after(0)) is None
    assert series.latest_before(after(9)) == after(FIRST_WIDTH)
    assert series.latest_before(after(10.01)) == after(10.01)  # in the slice that it is in
    assert series.latest_before(after(30)) == after(10 + FIRST_WIDTH)
    assert UserSeries().latest_before(after(1)) is None


def test_the_series_of_an_earlier_version_goes_on() -> None:
    old = [(after(10).isoformat(), 100), (after(20).isoformat(), 250)]
    series = UserSeries.from_json(old)
    series.add(after(30), 50)
    assert series.points()[-1][1] == 300
    assert UserSeries.from_json([]).points() == []
