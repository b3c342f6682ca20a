"""Progress: plain lines now and then, or a bar on a terminal."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest

from mana_migration.domain.results import BatchResult, Totals
from mana_migration.reports import progress
from mana_migration.reports.progress import RECORD, JointDisplay, ProgressDisplay, ProgressRecords, duration


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(progress, "time", made)
    return made


def batch(users: int, failed: int = 0) -> BatchResult:
    return BatchResult(1, 1, Totals(selected=users, migrated=users - failed, failed=failed), 0.1)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_elsewhere_a_line_is_written_every_ten_seconds(clock: Clock) -> None:
    stream = io.StringIO()
    with ProgressDisplay(stream, verb="migrated", expected=1_000) as display:
        for _ in range(25):
            clock.now += 1
            display(batch(10))
    assert stream.getvalue().splitlines() == [
        "migrated 100 of 1,000: 600 users/min, 2 min left before the check",
        "migrated 200 of 1,000: 600 users/min, 80 s left before the check",
    ]


def test_a_fast_run_writes_nothing(clock: Clock) -> None:
    stream = io.StringIO()
    with ProgressDisplay(stream, verb="migrated") as display:
        display(batch(10))
    assert stream.getvalue() == ""


def test_failures_are_told_and_an_unknown_number_gives_no_remaining_time(clock: Clock) -> None:
    stream = io.StringIO()
    with ProgressDisplay(stream, verb="migrated") as display:
        clock.now += 10
        display(batch(100, failed=7))
    assert stream.getvalue() == "migrated 100: 600 users/min, 7 failed\n"


def test_what_is_expected_may_be_known_later(clock: Clock) -> None:
    stream = io.StringIO()
    with ProgressDisplay(stream, verb="rolled back") as display:
        display.expect(200)
        clock.now += 10
        display(batch(100))
    assert stream.getvalue() == "rolled back 100 of 200: 600 users/min, 10 s left before the check\n"


def test_the_rate_is_that_of_the_last_half_minute(clock: Clock) -> None:
    stream = io.StringIO()
    with ProgressDisplay(stream, verb="migrated") as display:
        for users in (6_000, 0, 0, 0, 100, 100, 100):
            clock.now += 10
            display(batch(users))
    assert stream.getvalue().splitlines()[0].endswith("36,000 users/min")
    assert stream.getvalue().splitlines()[-1] == "migrated 6,300: 600 users/min"


def test_a_terminal_shows_a_bar_that_is_gone_at_the_end(clock: Clock) -> None:
    stream = Terminal()
    with ProgressDisplay(stream, verb="migrated", expected=100) as display:
        display(batch(50, failed=1))
        assert display.totals.selected == 50
    shown = stream.getvalue()
    assert "migrated" in shown
    assert "\x1b[?25h" in shown  # the cursor is back


def test_what_is_waited_for_stands_in_place_of_a_remaining_time_until_the_next_batch(clock: Clock) -> None:
    stream = Terminal()
    with ProgressDisplay(stream, verb="migrated", expected=100) as display:
        clock.now += 1
        display(batch(50))
        display(BatchResult(1, 0, Totals(), 0.0, waits_for="waiting for a wallet"))
        assert display._figures(clock.now) == "waiting for a wallet"
        display(batch(1))
        assert display._figures(clock.now) == "3,060 users/min, 1 s left before the check"


def test_elsewhere_a_wait_has_a_line_of_its_own_already(clock: Clock) -> None:
    stream = io.StringIO()
    with ProgressDisplay(stream, verb="migrated", expected=100) as display:
        clock.now += 20
        display(BatchResult(1, 0, Totals(), 0.0, waits_for="waiting for a wallet"))
    assert stream.getvalue() == ""


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (89.4, "89 s"), (90, "2 min"), (5399, "90 min"), (5400, "1.5 h"), (360_000, "100.0 h")],
)
def test_durations_are_short(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_what_is_written_meanwhile_has_lines_of_its_own(clock: Clock) -> None:
    stream = Terminal()
    with ProgressDisplay(stream, verb="migrated", expected=100) as display:
        display(batch(50))
        before = len(stream.getvalue())
        with display.aside():
            assert stream.getvalue()[before:].endswith("\x1b[2K")  # the bar's line is empty, the cursor at its start
            stream.write("run 2 is open\n")
        display(batch(50))
    assert stream.getvalue()[before:].count("migrated") > 0  # the bar is back


# --- Several databases ------------------------------------------------------------------------------------------------


def records(stream: io.StringIO) -> list[dict[str, Any]]:
    """Return the records that were written, and nothing else was."""
    lines = stream.getvalue().rstrip("\n").split("\n")
    assert all(line.startswith(RECORD) for line in lines)
    return [json.loads(line.removeprefix(RECORD)) for line in lines]


def test_records_are_written_twice_a_second_and_at_once_where_a_wait_begins_or_ends(clock: Clock) -> None:
    stream = io.StringIO()
    with ProgressRecords(stream, verb="migrated") as display:
        display.expect(100)
        for _ in range(10):
            clock.now += 0.125
            display(batch(4, failed=1))
        display(BatchResult(1, 0, Totals(), 0.0, waits_for="the database is lost"))
        display(BatchResult(1, 0, Totals(), 0.0, waits_for="the database is lost"))
        display(batch(4))
    found = records(stream)
    assert [(each["users"], each["waits_for"]) for each in found] == [
        (0, ""), (16, ""), (32, ""), (40, "the database is lost"), (44, ""), (44, ""),
    ]  # fmt: skip
    assert (found[-1]["failed"], found[-1]["expected"], found[-1]["verb"]) == (10, 100, "migrated")


def record(users: int, expected: int | None = 100, waits_for: str = "") -> dict[str, Any]:
    return {"verb": "migrated", "users": users, "failed": 0, "expected": expected, "waits_for": waits_for}


def test_several_databases_have_one_line_with_the_sum_and_the_state_of_each(clock: Clock) -> None:
    stream = io.StringIO()
    with JointDisplay(stream, verb="migrated", aliases=["eu", "us", "asia"]) as display:
        for alias in ("eu", "us", "asia"):
            display.take(alias, record(0))
        clock.now += 10
        display.take("us", record(100), state="ended")
        display.take("asia", record(20, waits_for="the database is lost"))
        clock.now += 10
        display.take("eu", record(50))
    assert stream.getvalue().splitlines() == [
        "all databases: migrated 100 of 300: 600 users/min, 20 s left before the check (eu: 0 %; us: ended; asia: 0 %)",
        "all databases: migrated 170 of 300: 510 users/min, 15 s left before the check "
        "(eu: 50 %; us: ended; asia: the database is lost)",
    ]


def test_what_was_done_before_several_are_shown_says_nothing_about_the_rate(clock: Clock) -> None:
    stream = io.StringIO()
    with JointDisplay(stream, verb="handled", aliases=["eu", "us"]) as display:
        display.take("eu", record(5_000, expected=10_000))
        clock.now += 10
        display.take("eu", record(5_010, expected=10_000))
    assert stream.getvalue() == "all databases: handled 5,010: 60 users/min (eu: 50 %; us: starting)\n"


def test_a_terminal_has_a_bar_for_each_database() -> None:
    stream = Terminal()
    with JointDisplay(stream, verb="migrated", aliases=["eu", "us"]) as display:
        display.take("eu", record(50))
        display.take("us", record(25))
    shown = stream.getvalue()
    assert all(name in shown for name in ("all databases: migrated", "eu", "us", "75/200", "25/100"))
