"""What an operator may ask for: bounds, JSON and back, contradictions."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from mana_migration.domain import options
from mana_migration.domain.options import Controls, MigrationOptions, RollbackOptions
from mana_migration.errors import UsageError


@pytest.mark.parametrize(("value", "size"), [(1, 1), ("50", 50), ("100000", 100_000), ("auto", "auto"), (" 7 ", 7)])
def test_batch_sizes_within_bounds_are_taken(value: object, size: object) -> None:
    assert options.parse_batch_size(value) == size


@pytest.mark.parametrize("value", [0, -1, 100_001, 10**9, "1.5", "abc", "", None, 2.5, "Auto", "1" * 5000])
def test_other_batch_sizes_are_refused_with_the_value(value: object) -> None:
    with pytest.raises(UsageError, match="batch size") as caught:
        options.parse_batch_size(value)
    assert "from 1 to 100000, or auto" in str(caught.value)


@pytest.mark.parametrize("value", ["0", "100", "10", "0.001", 12.5, Decimal("99.99"), "1e1"])
def test_thresholds_from_0_to_100_are_taken_exactly(value: object) -> None:
    assert options.parse_threshold(value) == Decimal(str(value))


@pytest.mark.parametrize("value", ["-0.01", "100.01", "101", "nan", "sNaN", "inf", "-inf", "abc", "", None])
def test_other_thresholds_are_refused(value: object) -> None:
    with pytest.raises(UsageError, match="from 0 to 100"):
        options.parse_threshold(value)


@pytest.mark.parametrize(("value", "delay"), [("0", 0.0), ("3600", 3600.0), ("0.05", 0.05), ("auto", "auto"), (2, 2.0)])
def test_delays_up_to_an_hour_are_taken(value: object, delay: object) -> None:
    assert options.parse_delay(value) == delay


@pytest.mark.parametrize("value", ["-1", "3600.1", "nan", "inf", "abc", "", None])
def test_other_delays_are_refused(value: object) -> None:
    with pytest.raises(UsageError, match="from 0 to 3600"):
        options.parse_delay(value)


@pytest.mark.parametrize(
    ("value", "share"), [("1%", 100), ("0.25%", 25), ("100", 10_000), ("0.01 %", 1), ("10%", 1_000)]
)
def test_cohorts_are_hundredths_of_a_percent(value: str, share: int) -> None:
    assert options.parse_cohort(value) == share


@pytest.mark.parametrize("value", ["0", "0.001%", "100.01%", "-1%", "abc", "", "%", "1%%", "nan", "inf"])
def test_other_cohorts_are_refused(value: str) -> None:
    with pytest.raises(UsageError, match=r"0\.01% to 100%"):
        options.parse_cohort(value)


CONTROLS = Controls(batch_size=7, delay=0.5, error_threshold=Decimal("2.5"))


def test_controls_survive_json() -> None:
    assert Controls.from_dict(json.loads(json.dumps(CONTROLS.as_dict()))) == CONTROLS
    assert Controls.from_dict({}) == Controls()


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"delay": "soon"}, {"error_threshold": "NaN"}])
def test_controls_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Controls.from_dict(wrong)


def test_only_what_was_asked_for_by_name_can_contradict() -> None:
    asked = Controls(batch_size=8)
    assert CONTROLS.contradictions(asked, ()) == []
    assert CONTROLS.contradictions(asked, {"batch_size"}) == ["batch_size is 7, not 8"]
    assert CONTROLS.contradictions(asked, {"delay", "error_threshold"}) == [
        "delay is 0.5, not 'auto'",
        "error_threshold is '2.5', not '10'",
    ]


def test_equal_values_written_otherwise_do_not_contradict() -> None:
    same = Controls(batch_size=7, delay=0.50, error_threshold=Decimal("2.500"))
    assert CONTROLS.contradictions(same, set(CONTROLS.as_dict())) == []


def test_migration_options_survive_json() -> None:
    asked = MigrationOptions(
        users=("1", "b3"), limit=5, cohort=25, skip_invalid=True, retry_failed=True, auto_fix=True, auto_rollback=False,
        plan_digest="abc", controls=CONTROLS,
    )  # fmt: skip
    kept = json.loads(json.dumps([asked.as_dict(), asked.controls.as_dict()]))
    assert MigrationOptions.from_dict(*kept) == asked


def test_options_that_a_later_version_adds_are_left_out() -> None:
    assert MigrationOptions.from_dict({"limit": 3, "novelty": 1}, {}) == MigrationOptions(limit=3)


def test_rollback_options_survive_json() -> None:
    moment = datetime(2026, 11, 23, 10, tzinfo=UTC)
    asked = RollbackOptions(since=moment, until=moment, on_shortfall=options.WRITE_OFF, preserve_logs=False)
    kept = json.loads(json.dumps([asked.as_dict(), asked.controls.as_dict()]))
    assert RollbackOptions.from_dict(*kept) == asked


@pytest.mark.parametrize(
    "selection", [{}, {"users": ("1",), "everything": True}, {"run": 1, "since": datetime(2026, 1, 1, tzinfo=UTC)}]
)
def test_a_rollback_takes_exactly_one_selection(selection: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="exactly one of"):
        RollbackOptions(**selection)


@pytest.mark.parametrize(
    ("values", "writes_off"),
    [({}, False), ({"emergency": True}, True), ({"on_shortfall": options.WRITE_OFF}, True)],
)
def test_an_emergency_writes_shortfalls_off(values: dict[str, Any], writes_off: bool) -> None:
    assert RollbackOptions(everything=True, **values).write_off is writes_off
