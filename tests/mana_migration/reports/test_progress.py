"""Progress: plain lines now and then, or a bar on a terminal."""

from __future__ import annotations

import io

import pytest

from mana_migration.domain.results import BatchResult, Totals
from mana_migration.reports import progress
from mana_migration.reports.progress import ProgressDisplay, duration


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
