"""Totals of any size, added and kept as JSON."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from mana_migration.domain.results import FIGURES, RunSummary, Totals

numbers = st.integers(0, 2**80)
totals = st.builds(
    lambda figures, errors, skips: _with(Totals(**figures), errors, skips),
    st.fixed_dictionaries(dict.fromkeys(FIGURES, numbers)),
    st.dictionaries(st.sampled_from(["overflow", "locked"]), st.integers(1, 10**6)),
    st.dictionaries(st.sampled_from(["shortfall", "locked"]), st.integers(1, 10**6)),
)


def _with(made: Totals, errors: dict[str, int], skips: dict[str, int]) -> Totals:
    made.errors.update(errors)
    made.skips.update(skips)
    return made


@given(totals, totals)
def test_adding_adds_each_figure_and_each_reason(first: Totals, second: Totals) -> None:
    whole = Totals()
    whole.add(first)
    whole.add(second)
    for name in FIGURES:
        assert getattr(whole, name) == getattr(first, name) + getattr(second, name)
    assert whole.errors == first.errors + second.errors
    assert whole.skips == first.skips + second.skips


@given(totals)
def test_totals_survive_json_exactly(one: Totals) -> None:
    assert Totals.from_dict(json.loads(json.dumps(one.as_dict()))) == one


def test_absent_figures_are_0() -> None:
    assert Totals.from_dict({"migrated": 3}) == Totals(migrated=3)


def test_those_skipped_were_not_attempted() -> None:
    assert Totals(migrated=3, rolled_back=4, failed=5, skipped=100).attempted == 12


def summary(**values: object) -> RunSummary:
    defaults = {"run": 1, "kind": "migration", "dry_run": False, "status": "completed", "totals": Totals(selected=60)}
    return RunSummary(**(defaults | {"seconds": 30.0} | values))  # type: ignore[arg-type]


def test_the_speed_is_that_of_this_command() -> None:
    assert summary().users_per_minute == 120
    assert summary(handled=10).users_per_minute == 20
    assert summary(seconds=0.0).users_per_minute == 0
