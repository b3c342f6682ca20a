"""Tables of a report that are more than a copy of what they are made of."""

from __future__ import annotations

from datetime import timedelta

import pytest

from mana_migration.engine import totals as figures
from mana_migration.models import MigrationRun
from mana_migration.reports.sections import SPEED_ROWS, Section, sections
from mana_migration.services.reporting import run_report
from tests.mana_migration.history import NOON, done, make_batch, make_run

pytestmark = pytest.mark.django_db


def run_of(batches: int, seconds: float) -> MigrationRun:
    """Make a run whose batches of 10 users ended at equal distances."""
    run = make_run(expected=batches * 10, finished_at=NOON + timedelta(seconds=seconds))
    each = seconds / batches
    for place in range(batches):
        make_batch(run, done(10), start=place * each, seconds=each)
    figures.fold(run, "default")
    run.save(update_fields=["folded"])
    return run


def over_time(run: MigrationRun) -> Section | None:
    with run_report("default", run.pk, validate=False) as report:
        return next((section for section in sections(report) if section.key == "speed"), None)


def test_users_over_time_have_a_line_a_second_at_most_in_a_short_run() -> None:
    section = over_time(run_of(100, 5))
    assert section is not None
    told = [(round((at - NOON).total_seconds(), 3), users) for at, users, _ in section.rows]  # type: ignore[operator]
    assert told == [(second, second * 200) for second in range(1, 6)]
    assert [round(float(str(row[2]))) for row in section.rows] == [12_000] * 5


def test_users_over_time_have_no_more_lines_than_the_run_had_batches() -> None:
    section = over_time(run_of(3, 300))
    assert section is not None
    assert [row[1] for row in section.rows] == [10, 20, 30]


def test_users_over_time_of_a_long_run_fill_one_screen() -> None:
    section = over_time(run_of(120, 7200))
    assert section is not None
    assert len(section.rows) == SPEED_ROWS
    assert section.rows[-1][:2] == (NOON + timedelta(seconds=7200), 1200)


def test_a_run_of_less_than_two_seconds_has_no_course_to_tell() -> None:
    assert over_time(run_of(40, 0.8)) is None
