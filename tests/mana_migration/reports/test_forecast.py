"""What a dry run found, as JSON and as lines."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from mana_migration.domain.forecast import NONE_FAILED, Finding, Forecast, LargeConversion
from mana_migration.domain.options import MigrationOptions
from mana_migration.domain.results import RollbackForecast, Totals
from mana_migration.reports import forecast, rollback

TOLD = Forecast(
    options=MigrationOptions(),
    rates={"green": 10, "blue": 100, "red": 1000},
    totals=Totals(selected=12_345, migrated=12_345, red=5, mana=5_000),
    findings=(Finding("negative_balance", "error", 1_234), Finding("no_wallet", "info", 0)),
    largest=(LargeConversion("57", 0, 0, 4, 4_000),),
    blocked="",
    expected_seconds=90.0,
    rate=137.0,
    rate_source="measured in run 3",
    seconds=0.5,
)


def lines(told: Forecast) -> str:
    return "\n".join(forecast.as_lines(told))


def test_json_has_what_only_a_forecast_knows() -> None:
    found = forecast.as_json(TOLD)
    assert (found["dry_run"], found["run"], found["status"]) == (True, None, "dry_run")
    assert found["largest"] == [{"user": "57", "green": 0, "blue": 0, "red": 4, "mana": 4000}]
    assert found["findings"][0] == {"id": "negative_balance", "severity": "error", "count": 1234}
    assert found["expected_rate"] == {"users_per_second": 137, "source": "measured in run 3"}
    assert (found["expected_seconds"], found["blocked"], found["rates"]) == (90.0, "", TOLD.rates)


def test_lines_tell_rates_duration_findings_and_the_largest() -> None:
    text = lines(TOLD)
    for words in (
        "10 mana a green, 100 a blue, 1000 a red wish",
        "about 2 min at 137 users per second (measured in run 3)",
        "error    negative_balance                1,234",
        "user 57: 0 green, 0 blue, 4 red = 4,000 mana",
        "next: the same command without --dry-run",
    ):
        assert words in text


def test_a_blocked_run_is_told_with_the_way_out_instead_of_the_next_step() -> None:
    text = lines(replace(TOLD, blocked="1,234 findings: use --auto-fix"))
    assert text.startswith("REFUSED: 1,234 findings: use --auto-fix\n")
    assert "next:" not in text


def test_an_open_run_is_told() -> None:
    assert lines(replace(TOLD, goes_on_with=3)).startswith("RESUMES: the same command resumes run 3\n")


def test_a_trigger_of_the_sites_own_is_named_below_the_verdict() -> None:
    first, second, *_ = lines(replace(TOLD, warnings=("trigger bad is not this project's",))).splitlines()[1:]
    assert first.startswith("Plan: ")
    assert second == "Warning: trigger bad is not this project's; --rehearse shows what it does"


BACK = RollbackForecast(Totals(selected=3, rolled_back=2, skipped=1, mana=20), [(41, 1230, 30)], 9, 0.1)


def test_a_rollback_is_forecast_with_shortfalls_by_record() -> None:
    found = rollback.forecast_json(BACK)
    assert found["shortfalls"] == [{"record": 41, "credited": 1230, "lacking": 30}]
    assert (found["stops_run"], found["kind"], found["dry_run"]) == (9, "rollback", True)
    assert "record 41: 1,230 mana credited, 30 of it already spent" in "\n".join(rollback.forecast_lines(BACK))


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ({}, "STARTS: nothing blocks the rollback"),
        ({"stops_run": 9}, "STARTS: the open migration run 9 would be stopped first"),
        ({"goes_on_with": 4}, "RESUMES: the same command resumes run 4"),
        ({"blocked": "run 4 is open with other options"}, "REFUSED: run 4 is open with other options"),
        (
            {"blocked": "nothing to roll back: no user is migrated", "nothing_to_do": True},
            "NOTHING TO DO: nothing to roll back: no user is migrated; the same command would change nothing",
        ),
    ],
)
def test_the_verdict_on_a_rollback_comes_first(values: dict[str, Any], verdict: str) -> None:
    found = list(rollback.forecast_lines(replace(BACK, **{"stops_run": None, **values})))
    assert found[:2] == [verdict, "dry run: nothing was written"]


def test_before_a_question_the_headline_takes_the_place_of_the_verdict() -> None:
    found = list(rollback.forecast_lines(BACK, headline="this would happen:"))
    assert found[0] == "this would happen:"
    assert "  the open migration run 9 would be stopped first" in found


@pytest.mark.parametrize(
    ("values", "last"),
    [
        ({}, "a run would start"),
        ({"blocked": "another run is open"}, "a run would be refused: another run is open"),
        ({"goes_on_with": 3}, "run 3 is open and would be resumed"),
        ({"totals": Totals()}, "no run would be opened: no user is left to be migrated"),
        (
            {"totals": Totals(), "options": MigrationOptions(retry_failed=True)},
            f"no run would be opened: {NONE_FAILED}",
        ),
    ],
)
def test_what_is_only_validated_ends_with_what_a_run_would_do(values: dict[str, Any], last: str) -> None:
    assert list(forecast.findings_lines(replace(TOLD, **values)))[-1] == last
