"""When the breaker trips, in whole numbers."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mana_migration.domain import breaker
from mana_migration.domain.results import Totals

TEN = Decimal(10)


def totals(failed: int, migrated: int, skipped: int = 0) -> Totals:
    return Totals(selected=failed + migrated + skipped, failed=failed, migrated=migrated, skipped=skipped)


def judge(whole: Totals, window: Totals | None = None, *, final: bool = False) -> breaker.BreakerVerdict:
    return breaker.judge(whole, window or whole, TEN, final=final)


@pytest.mark.parametrize(
    ("failed", "attempted", "threshold", "trips"),
    [
        (10, 100, "10", False),
        (11, 100, "10", True),
        (1, 3, "33.33", True),
        (1, 3, "33.34", False),
        (1, 10**18, "0", True),
        (0, 10**18, "0", False),
        (10**18, 10**18, "100", False),
        (0, 0, "0", False),
        (333, 1000, "33.3", False),
    ],
)
def test_more_than_the_threshold_trips(failed: int, attempted: int, threshold: str, trips: bool) -> None:
    assert breaker.exceeds(failed, attempted, Decimal(threshold)) is trips


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)  # on a busy machine fractions take their time
@given(
    attempted=st.integers(1, 10**12),
    share=st.fractions(0, 1),
    threshold=st.decimals(0, 100, allow_nan=False, allow_infinity=False),
)
def test_the_comparison_is_that_of_exact_fractions(attempted: int, share: Fraction, threshold: Decimal) -> None:
    failed = int(share * attempted)
    assert breaker.exceeds(failed, attempted, threshold) is (Fraction(failed, attempted) > Fraction(threshold) / 100)


def test_nothing_trips_before_50_were_attempted() -> None:
    assert not judge(totals(49, 0)).tripped
    assert judge(totals(50, 0)).tripped
    assert judge(totals(6, 44)).tripped
    assert not judge(totals(5, 45)).tripped


def test_the_last_look_has_no_minimum() -> None:
    assert judge(totals(1, 8), final=True).tripped
    assert not judge(totals(1, 9), final=True).tripped
    assert not judge(totals(0, 0), final=True).tripped


def test_users_left_out_on_purpose_do_not_count() -> None:
    assert judge(totals(6, 44, skipped=1000)).tripped
    assert not judge(totals(6, 40, skipped=1000)).tripped


def test_the_latest_thousand_trip_late_in_a_long_run() -> None:
    verdict = judge(totals(101, 999_899), totals(101, 899))
    assert verdict.tripped
    assert verdict.reason == "101 of 1000 users attempted (latest 1,000) failed"
    assert not judge(totals(100, 999_900), totals(100, 900)).tripped


def test_the_whole_run_is_named_first() -> None:
    assert judge(totals(20, 80)).reason == "20 of 100 users attempted (whole run) failed"
    assert judge(totals(1, 99)).reason == ""


def test_a_small_window_at_the_end_has_its_minimum() -> None:
    assert not judge(totals(4, 996), totals(4, 6), final=True).tripped


def test_a_breaker_that_holds_has_neither_figures_nor_a_reason() -> None:
    held = judge(totals(1, 99))
    assert (held.tripped, held.failed, held.attempted, held.scope, held.reason) == (False, 0, 0, "", "")


def test_few_users_do_not_trip_it_before_the_end_unless_said() -> None:
    few = totals(5, 0)
    assert not breaker.judge(few, few, TEN).tripped
    assert breaker.judge(few, few, TEN, final=True).tripped


def test_a_verdict_is_not_changed_afterwards() -> None:
    verdict = judge(totals(0, 1))
    with pytest.raises(FrozenInstanceError):
        verdict.tripped = True  # type: ignore[misc]
