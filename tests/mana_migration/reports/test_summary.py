"""What a run did, as JSON and as lines."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from mana_migration.domain.results import RunSummary, Totals
from mana_migration.reports import summary

TOTALS = Totals(
    selected=1234567, migrated=1234000, skipped=500, failed=67, green=10, blue=20, red=2**64, mana=2**74,
    errors=Counter(overflow=60, constraint=7), skips=Counter(locked=500),
)  # fmt: skip
DONE = RunSummary(
    run=7, kind="migration", dry_run=False, status="completed", totals=TOTALS, seconds=61.23456, handled=1_000
)
BACK = RunSummary(
    run=8, kind="rollback", dry_run=False, status="completed", seconds=1.0,
    totals=Totals(selected=10, rolled_back=9, skipped=1, green=1, mana=90, shortfall=5, skips=Counter(shortfall=1)),
)  # fmt: skip


def lines(done: RunSummary) -> list[str]:
    return list(summary.as_lines(done))


def test_json_has_exact_integers_of_any_size() -> None:
    found = summary.as_json(DONE)
    assert found["users"] == {"selected": 1234567, "migrated": 1234000, "rolled_back": 0, "skipped": 500, "failed": 67}
    assert (found["wishes"]["red"], found["mana"]) == (2**64, 2**74)
    assert (found["errors"], found["skipped"]) == ({"constraint": 7, "overflow": 60}, {"locked": 500})
    assert (found["seconds"], found["users_per_minute"]) == (61.235, 980)


def test_what_a_command_adds_is_part_of_the_json() -> None:
    assert summary.as_json(replace(DONE, extra={"plan": "abc"}))["plan"] == "abc"


def test_a_migration_is_told_line_by_line() -> None:
    assert lines(DONE) == [
        "run 7 (migration): completed",
        "  users      1,234,567 handled",
        "  migrated   1,234,000",
        "  skipped    500 (locked 500)",
        "  failed     67 (constraint 7, overflow 60)",
        f"  wishes     10 green, 20 blue, {2**64:,} red converted",
        f"  mana       {2**74:,} credited",
        "  time       61.2 s, 980 users per minute",
    ]


def test_a_rollback_is_told_line_by_line() -> None:
    assert lines(BACK)[:2] == ["run 8 (rollback): completed", "  users      10 handled"]
    for line in (
        "  rolled back 9",
        "  skipped    1 (shortfall 1)",
        "  wishes     1 green, 0 blue, 0 red given back",
        "  mana       90 debited",
        "  shortfall  5 mana had been spent and is written off",
    ):
        assert line in lines(BACK)


def test_the_reason_of_an_early_end_is_told() -> None:
    assert lines(replace(DONE, status="rolling_back", reason="11 of 100 failed"))[0] == (
        "run 7 (migration): rolling back - 11 of 100 failed"
    )


def test_what_was_taken_back_is_told() -> None:
    back = {"run": 8, "status": "completed", "rolled_back": 9, "skipped": 1, "failed": 0, "mana": 90}
    assert "  taken back by run 8 (completed): 9 users, 90 mana; 1 skipped, 0 failed" in lines(
        replace(DONE, extra={"rollback": back})
    )


@pytest.mark.parametrize(
    ("drift", "words"),
    [
        ({"selected": 0, "mana": 0}, "  plan       exactly as promised"),
        ({"selected": 1, "mana": -2000}, "  plan       selected +1, mana -2,000 against the promise"),
    ],
)
def test_the_drift_from_a_plan_is_told(drift: dict[str, Any], words: str) -> None:
    assert words in lines(replace(DONE, extra={"drift": drift}))


def test_a_dry_run_says_that_nothing_was_written_and_tells_no_speed() -> None:
    told = lines(replace(DONE, dry_run=True, status="dry_run", run=None))
    assert told[0] == "dry run: nothing was written"
    assert "would be handled" in told[1]
    assert not any("time" in line for line in told)
