from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mana_migration.domain.pacing import (
    AHEAD_LEAST,
    AHEAD_MOST,
    AHEAD_SECONDS,
    AHEAD_USERS,
    AUTO,
    GROWTH,
    LARGEST,
    SMALLEST,
    START,
    TARGET_SECONDS,
    BatchSize,
)


def test_a_number_stays_what_was_asked_for() -> None:
    size = BatchSize(50)
    size.observe(50, 99.0)
    size.observe(50, 0.0001)
    assert size.current == 50


def test_fast_batches_grow_by_a_fifth_a_step() -> None:
    size = BatchSize(AUTO)
    seen = [size.current]
    for _ in range(3):
        size.observe(size.current, 0.001)
        seen.append(size.current)
    assert seen == [START, 60, 72, 86]


def test_few_batches_are_planned_of_a_size_that_grows() -> None:
    size = BatchSize(AUTO)
    assert size.batches_ahead == AHEAD_LEAST
    size.observe(START, 0.001)
    assert size.batches_ahead == AHEAD_LEAST
    size.observe(size.current, TARGET_SECONDS)
    assert size.batches_ahead == 16
    assert BatchSize(START).batches_ahead == AHEAD_MOST


def test_an_overshoot_shrinks_at_once_to_what_fits() -> None:
    size = BatchSize(AUTO, current=1_000)
    size.observe(1_000, 2.5)
    assert size.current == 100


def test_a_batch_on_target_keeps_its_size() -> None:
    size = BatchSize(AUTO, current=400)
    size.observe(400, TARGET_SECONDS)
    assert size.current == 400


def test_the_size_stays_within_its_bounds() -> None:
    size = BatchSize(AUTO, current=LARGEST)
    size.observe(LARGEST, 0.001)
    assert size.current == LARGEST
    size.observe(LARGEST, 3600.0)
    assert size.current == SMALLEST


@pytest.mark.parametrize(("users", "seconds"), [(0, 1.0), (3, 0.001), (100, 0.0)])
def test_what_says_nothing_about_larger_batches_changes_nothing(users: int, seconds: float) -> None:
    size = BatchSize(AUTO, current=100)
    size.observe(users, seconds)
    assert size.current == 100


def test_a_slow_remainder_shrinks_all_the_same() -> None:
    size = BatchSize(AUTO, current=1_000)
    size.observe(100, 2.5)
    assert size.current == 10


@given(
    st.integers(SMALLEST, LARGEST),
    st.lists(st.tuples(st.integers(0, LARGEST), st.floats(0, 100)), max_size=30),
)
def test_no_step_grows_by_more_than_a_fifth_and_none_leaves_the_bounds(
    start: int, batches: list[tuple[int, float]]
) -> None:
    size = BatchSize(AUTO, current=start)
    for users, seconds in batches:
        before = size.current
        size.observe(users, seconds)
        assert SMALLEST <= size.current <= LARGEST
        assert size.current <= round(before * GROWTH)


@given(st.integers(1, 100_000))
def test_planning_goes_some_batches_ahead_whatever_their_size(asked: int) -> None:
    assert AHEAD_LEAST <= BatchSize(asked).batches_ahead <= AHEAD_MOST


def test_how_many_batches_are_planned_depends_on_their_size() -> None:
    assert [BatchSize(size).batches_ahead for size in (99, 1_000, 3_000, 4_999, 10_000)] == [
        AHEAD_MOST, 60, 20, 12, 6,
    ]  # fmt: skip
    assert BatchSize(100_000).batches_ahead == AHEAD_LEAST


@pytest.mark.parametrize(("seconds", "ahead"), [(0.01, 60), (0.1, 40), (0.3, 13), (2.0, AHEAD_LEAST)])
def test_of_slow_batches_no_more_is_planned_than_a_worker_does_in_some_seconds(seconds: float, ahead: int) -> None:
    size = BatchSize(1_000)
    size.observe(1_000, seconds)
    assert size.batches_ahead == ahead
    size.observe(0, 60.0)  # nobody was found
    assert size.batches_ahead == ahead


def test_a_batch_of_a_tenth_less_says_something_about_larger_ones_and_a_smaller_one_does_not() -> None:
    size = BatchSize(AUTO, current=100)
    size.observe(89, 0.001)
    assert size.current == 100
    size.observe(90, 0.001)
    assert size.current == 120


def test_a_time_that_cannot_be_says_nothing() -> None:
    size = BatchSize(AUTO, current=100)
    size.observe(100, -1.0)
    size.observe(100, 0.0)
    size.observe(0, 1.0)
    assert size.current == 100


def test_the_largest_size_does_not_grow() -> None:
    size = BatchSize(AUTO, current=int("10000"))  # equal to the bound, and another object
    size.observe(LARGEST, 0.001)
    assert (size.current, size.growing) == (LARGEST, False)


def test_the_word_for_automatic_may_come_from_anywhere() -> None:
    size = BatchSize("".join(["au", "to"]))
    assert (size.current, size.growing) == (START, True)


def test_the_bounds_are_those_that_the_documentation_names() -> None:
    assert (START, SMALLEST, LARGEST) == (50, 10, 10_000)
    assert (AHEAD_USERS, AHEAD_LEAST, AHEAD_MOST, AHEAD_SECONDS) == (60_000, 4, 200, 4.0)


@pytest.mark.parametrize(
    ("users", "seconds", "current", "growing"),
    [
        (480, TARGET_SECONDS, 480, True),  # a fifth more is just what the target allows
        (476, TARGET_SECONDS, 476, False),
        (484, TARGET_SECONDS, 480, True),
        (400, TARGET_SECONDS * 400 / 442.6, 443, False),  # rounded, not cut off
    ],
)
def test_it_grows_while_the_target_allows_the_whole_next_step(
    users: int, seconds: float, current: int, growing: bool
) -> None:
    size = BatchSize(AUTO, current=400)
    size.observe(users, seconds)
    assert (size.current, size.growing) == (current, growing)


def test_a_small_remainder_that_is_just_on_target_ends_the_growth() -> None:
    size = BatchSize(AUTO, current=400)
    assert size.growing
    size.observe(100, TARGET_SECONDS / 4)
    assert (size.current, size.growing) == (400, False)


def test_automatic_is_what_the_word_says_and_not_which_object_it_is() -> None:
    size = BatchSize("".join(("au", "to")), current=400)
    size.observe(400, 0.001)
    assert size.current == 480
