"""Where a worker begins among the batches that wait, so that several seldom meet."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mana_migration.engine.batches import Task
from mana_migration.services.worker import TOGETHER, _apart


def waiting(numbers: list[int]) -> list[Task]:
    """Return the tasks of batches with these numbers."""
    return [Task(number, "", "", "host:1") for number in numbers]


def numbers_of(tasks: list[Task]) -> list[int]:
    return [task.batch for task in tasks]


@given(st.lists(st.integers(1, 300), min_size=1, unique=True).map(sorted))
def test_it_is_the_end_of_a_stretch_without_a_gap_or_everything_from_some_place_on(numbers: list[int]) -> None:
    found = numbers_of(_apart(waiting(numbers)))
    stretch = found == list(range(found[0], found[0] + len(found))) and found[-1] + 1 not in numbers
    place = numbers.index(found[0])
    assert stretch or found == numbers[place:] + numbers[:place]


@given(st.integers(TOGETHER, 200))
def test_who_has_begun_at_the_beginning_is_met_after_a_quarter_at_the_earliest(length: int) -> None:
    found = numbers_of(_apart(waiting(list(range(length)))))
    assert length // 4 <= found[0] <= 3 * (length // 4)
    assert found[-1] == length - 1


def test_every_stretch_is_chosen_now_and_then_the_longest_most_often() -> None:
    short, long = list(range(10)), list(range(100, 190))
    begun = [numbers_of(_apart(waiting(short + long)))[0] for _ in range(400)]
    assert 0 < sum(number in short for number in begun) < 100


def test_single_batches_are_all_returned() -> None:
    numbers = [1, 3, 5, 7]
    assert sorted(numbers_of(_apart(waiting(numbers)))) == numbers
