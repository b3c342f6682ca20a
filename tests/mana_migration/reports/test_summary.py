"""What a run did, as JSON and as lines."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from mana_migration.domain.results import RunSummary, Splits, Totals
from mana_migration.reports import summary
from mana_migration.states import StopCause

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


WELL = replace(DONE, totals=Totals(selected=9, migrated=9))


def lines(done: RunSummary, **how: bool) -> list[str]:
    return list(summary.as_lines(done, **how))


def next_of(done: RunSummary, **how: bool) -> list[str]:
    return [line.removeprefix("next: ") for line in lines(done, **how) if line.startswith("next: ")]


def test_splits_are_counted_with_what_to_do_where_they_are_dear() -> None:
    few, many = replace(DONE, splits=Splits(1, 100)), replace(DONE, splits=Splits(1_200, 1_500))
    assert "  splits     1 split of batches, to isolate single users" in lines(few)
    assert "  splits     1,200 splits of batches, to isolate single users" in lines(many)
    assert not any("splits" in step for step in next_of(few))
    assert next_of(many)[-1].endswith("with the cause removed the next run is as fast as others")
    assert "pause the run, remove the cause and resume it" in next_of(replace(many, status="running"))[-1]
    assert not any("splits" in line for line in lines(DONE))
    assert [summary.as_json(done)["batches_halved"] for done in (DONE, few, many)] == [0, 1, 1_200]


@pytest.mark.parametrize(
    ("splits", "dear"),
    [(Splits(), False), (Splits(19, 20), False), (Splits(20, 40), True), (Splits(20, 41), False)],
)
def test_splitting_is_dear_where_it_makes_most_of_many_batches(splits: Splits, dear: bool) -> None:
    assert splits.is_dear is dear


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
        "  time       61.2 s in this command, which handled 1,000 of them: 980 users per minute",
        "next: monitor_migration --report --run 7 shows why users failed; remove the cause, then "
        "migrate_users --retry-failed",
        "next: migrate_users handles the skipped users",
    ]


def test_a_rollback_is_told_line_by_line_with_all_figures_in_one_column() -> None:
    assert lines(BACK)[:-1] == [
        "run 8 (rollback): completed",
        "  users       10 handled",
        "  rolled back 9",
        "  skipped     1 (shortfall 1)",
        "  failed      0",
        "  wishes      1 green, 0 blue, 0 red given back",
        "  mana        90 debited",
        "  shortfall   5 mana had been spent and is written off",
        "  time        1.0 s, 600 users per minute",
    ]


def test_the_reason_of_an_early_end_is_told() -> None:
    assert lines(replace(DONE, status="rolling_back", reason="11 of 100 failed"))[0] == (
        "run 7 (migration): rolling back - 11 of 100 failed"
    )


def test_what_was_taken_back_is_told() -> None:
    back = {"run": 8, "status": "completed", "rolled_back": 9, "skipped": 1, "failed": 0, "mana": 90}
    assert "  rolled back by run 8 (completed): 9 users, 90 mana; 1 skipped, 0 failed" in lines(
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
    assert not any(line.startswith("next") for line in told)


def test_a_run_that_was_interrupted_is_not_called_running_and_the_same_command_goes_on() -> None:
    told = lines(replace(DONE, status="running"), interrupted=True)
    assert told[0] == "run 7 (migration): interrupted; what was done is kept, the run stays open"
    assert told[1] == "  users      1,234,567 handled"
    assert told[-1] == "next: the same command resumes run 7; control_migration stop 7 ends it for good"


def test_an_interruption_hides_neither_a_pause_nor_a_rollback() -> None:
    paused = lines(replace(WELL, status="paused"), interrupted=True)
    assert (paused[0], paused[-1]) == (
        "run 7 (migration): paused, interrupted; what was done is kept, the run stays open",
        "next: control_migration resume 7, then the same command continues it",
    )
    back = lines(replace(WELL, status="rolling_back", reason="7 of 50 failed"), interrupted=True)
    assert back[0].startswith("run 7 (migration): rolling back, interrupted; ")
    assert back[0].endswith(" - 7 of 50 failed")
    assert back[-1] == "next: the same command resumes the rollback"


def test_who_only_followed_a_run_was_not_what_interrupted_it() -> None:
    told = lines(replace(WELL, status="running"), interrupted=True, following=True)
    assert (told[0], told[-1]) == ("run 7 (migration): running", "next: monitor_migration --watch")


@pytest.mark.parametrize(
    ("done", "steps"),
    [
        (WELL, ["validate_migration, then monitor_migration --report --run 7"]),
        (replace(WELL, run=None), ["validate_migration"]),
        (
            replace(WELL, totals=Totals(selected=3, skipped=3, skips=Counter(overflow=3))),
            ["validate_migration --pre-migration lists what is wrong with the skipped users"],
        ),
        (replace(WELL, totals=Totals(selected=3, skipped=3, skips=Counter(already_migrated=3))), []),
        (
            replace(WELL, status="rolled_back", reason="7 of 50 failed"),
            [
                "monitor_migration --report --run 7 shows why users failed; remove the cause, then the same "
                "command starts again"
            ],
        ),
        (
            replace(WELL, status="rolled_back", cause=StopCause.MASS_ROLLBACK),
            ["monitor_migration shows the rollback; the same command opens a new run"],
        ),
        (
            replace(WELL, status="stopped", cause=StopCause.BREAKER, reason="the breaker tripped: 7 of 50 failed"),
            [
                "monitor_migration --report --run 7 shows why users failed; then rollback_migration --run 7, "
                "or remove the cause and give the same command again"
            ],
        ),
        (
            replace(WELL, status="stopped"),
            [
                "monitor_migration shows the status; the same command opens a new run for the remaining users",
            ],
        ),
        (
            replace(BACK, status="stopped"),
            ["monitor_migration shows the status; the same command rolls back the rest"],
        ),
        (
            replace(WELL, status="failed"),
            ["validate_migration shows what is wrong; do not start another run before that is clear"],
        ),
        (
            BACK,
            [
                "users who have spent part of the mana stay migrated; the same command with --on-shortfall write-off "
                "restores their wishes too and writes off the rest"
            ],
        ),
        (
            replace(BACK, totals=Totals(selected=2, failed=2)),
            [
                "monitor_migration --report --run 8 shows why users failed; remove the cause, then the same command"
            ],
        ),
    ],
)  # fmt: skip
def test_what_is_useful_next_follows_from_how_the_run_stands(done: RunSummary, steps: list[str]) -> None:
    assert next_of(done) == steps


@pytest.mark.parametrize(
    ("handled", "time"),
    [
        (None, "60.0 s, 30,000 users per minute"),
        (30_000, "60.0 s, 30,000 users per minute"),
        (1_200, "60.0 s in this command, which handled 1,200 of them: 1,200 users per minute"),
        (1, "60.0 s in this command, which handled 1 of them: 1 users per minute"),
        (0, "60.0 s in this command, which found no user left to handle"),
    ],
)
def test_a_command_that_resumed_a_run_says_what_it_did_itself(handled: int | None, time: str) -> None:
    totals = Totals(selected=30_000, migrated=30_000)
    done = replace(DONE, totals=totals, seconds=60.0, handled=handled)
    assert f"  time       {time}" in lines(done)
    assert summary.as_json(done)["handled_by_command"] == handled
