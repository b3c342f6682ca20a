"""What a wish is worth: exact numbers, and nothing but whole positive rates."""

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wishes.errors import InvalidRatesError
from wishes.rates import BIGINT_MAX, COLOURS, RATE_MAX, Rates

RATES = st.integers(1, RATE_MAX)
ANY = st.integers(-(10**30), 10**30)


def test_the_constants_are_what_everything_else_counts_on() -> None:
    assert COLOURS == ("green", "blue", "red")
    assert BIGINT_MAX == 9_223_372_036_854_775_807
    assert RATE_MAX == 1_000_000_000


def test_the_default_rates_are_those_that_users_were_promised() -> None:
    assert Rates().as_dict() == {"green": 10, "blue": 100, "red": 1000}


@settings(deadline=None)
@given(st.tuples(RATES, RATES, RATES), ANY, ANY, ANY)
def test_the_worth_is_exact_whatever_the_size_and_the_sign(
    each: tuple[int, int, int], greens: int, blues: int, reds: int
) -> None:
    rates = Rates(*each)
    green, blue, red = each
    assert rates.worth(greens, blues, reds) == sum([greens * green, blues * blue, reds * red])
    assert (rates.of("green"), rates.of("blue"), rates.of("red")) == (green, blue, red)
    assert Rates.from_mapping(rates.as_dict()) == rates


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("rate", [1, 2, RATE_MAX - 1, RATE_MAX])
def test_a_rate_at_the_edge_is_accepted(colour: str, rate: int) -> None:
    assert Rates(**{colour: rate}).of(colour) == rate


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("rate", [0, -1, RATE_MAX + 1, True, False, 1.0, "10", None])
def test_a_rate_that_is_no_whole_number_in_range_is_refused_by_name(colour: str, rate: Any) -> None:
    with pytest.raises(InvalidRatesError, match=re.escape(f"the rate of a {colour} wish is {rate!r}")):
        Rates(**{colour: rate})


@pytest.mark.parametrize("names", [(), ("green",), ("green", "blue"), (*COLOURS, "gold"), ("green", "blue", "gold")])
def test_rates_are_given_for_exactly_the_three_colours(names: tuple[str, ...]) -> None:
    told = ", ".join(sorted(names)) or "no colour"
    with pytest.raises(InvalidRatesError, match=f"rates are given for {told}; give exactly green, blue, red"):
        Rates.from_mapping(dict.fromkeys(names, 1))


@pytest.mark.parametrize("colour", ["gold", "", "Green", "worth", "a", "z"])
def test_there_is_no_other_wish(colour: str) -> None:
    with pytest.raises(InvalidRatesError, match=f"there is no '{colour}' wish; choose from green, blue, red"):
        Rates().of(colour)


def test_rates_never_change() -> None:
    rates = Rates()
    with pytest.raises(AttributeError):
        rates.green = 11  # type: ignore[misc]
    with pytest.raises((AttributeError, TypeError)):
        rates.gold = 1  # type: ignore[attr-defined]
    assert hash(rates) == hash(Rates())
