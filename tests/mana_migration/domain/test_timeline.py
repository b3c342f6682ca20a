"""Times without progress, and why."""

from datetime import UTC, datetime, timedelta
from typing import Any

from mana_migration.domain.snapshot import EventLine, Span
from mana_migration.domain.timeline import IDLE, spans

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


def after(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def event(kind: str, seconds: float, message: str = "", **details: Any) -> EventLine:
    return EventLine(after(seconds), kind, kind, "olga", message, details)


def points(*busy: tuple[int, int], until: int = 200) -> list[tuple[datetime, int]]:
    """Return a point a second, with one more user for each second that is busy."""
    handled, found = 0, [(NOON, 0)]
    for second in range(until):
        handled += any(start <= second < end for start, end in busy)
        found.append((after(second + 1), handled))
    return found


def test_a_busy_run_has_none() -> None:
    assert spans([event("started", 0)], points((0, 200)), after(200)) == []


def test_a_pause_lasts_from_its_event_to_the_next_even_while_the_last_batch_ends() -> None:
    events = [event("paused", 50, "the backup"), event("resumed", 110)]
    assert spans(events, points((0, 52), (110, 200)), after(200)) == [
        Span(after(50), after(110), "paused", "the backup")
    ]


def test_a_pause_that_was_not_lifted_lasts_until_now() -> None:
    assert spans([event("paused", 50)], points((0, 50)), after(300)) == [Span(after(50), after(300), "paused")]


def test_a_worker_that_died_leaves_a_time_without_progress_and_without_a_reason() -> None:
    assert spans([event("joined", 80)], points((0, 40), (80, 200)), after(200)) == [Span(after(40), after(80), IDLE)]


def test_what_a_pause_does_not_explain_is_shown_beside_it() -> None:
    events = [event("paused", 50), event("resumed", 70)]
    assert spans(events, points((0, 50), (100, 200)), after(200)) == [
        Span(after(50), after(70), "paused"),
        Span(after(70), after(100), IDLE),
    ]


def test_an_outage_and_a_wait_end_with_progress() -> None:
    events = [
        event("database_lost", 20),
        event("throttled", 100, "lag", wait="hard"),
        event("throttled", 150, wait="none"),
    ]
    assert spans(events, points((0, 20), (45, 100), (130, 200)), after(200)) == [
        Span(after(20), after(45), "database_lost"),
        Span(after(100), after(130), "throttled", "lag"),
    ]


def test_slowing_down_is_no_standstill() -> None:
    assert spans([event("throttled", 20, wait="soft")], points((0, 200)), after(200)) == []


def test_a_short_break_is_not_worth_showing() -> None:
    assert spans([], points((0, 20), (25, 200)), after(200)) == []
    assert spans([], [], after(200)) == []
