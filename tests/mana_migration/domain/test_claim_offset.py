"""Where a worker begins among the batches that wait."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mana_migration.domain.claim_offset import spread

LEAST = 8


def chosen(numbers: list[int]) -> list[int]:
    """Return the batches at the places that are chosen."""
    return [numbers[place] for place in spread(numbers, least=LEAST)]


@given(st.lists(st.integers(1, 300), min_size=1, unique=True).map(sorted))
def test_it_is_the_end_of_a_stretch_without_a_gap_or_everything_from_some_place_on(numbers: list[int]) -> None:
    found = chosen(numbers)
    stretch = found == list(range(found[0], found[0] + len(found))) and found[-1] + 1 not in numbers
    place = numbers.index(found[0])
    assert stretch or found == numbers[place:] + numbers[:place]


@given(st.integers(LEAST, 200))
def test_who_has_begun_at_the_beginning_is_met_after_a_quarter_at_the_earliest(length: int) -> None:
    found = chosen(list(range(length)))
    assert length // 4 <= found[0] <= 3 * (length // 4)
    assert found[-1] == length - 1


def test_every_stretch_is_chosen_now_and_then_the_longest_most_often() -> None:
    short, long = list(range(10)), list(range(100, 190))
    begun = [chosen(short + long)[0] for _ in range(400)]
    assert 0 < sum(number in short for number in begun) < 100


def test_single_batches_are_all_returned() -> None:
    numbers = [1, 3, 5, 7]
    assert sorted(chosen(numbers)) == numbers
