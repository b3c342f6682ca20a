"""The charts of a run and the tables behind them."""

from dataclasses import replace

import pytest

from mana_migration.domain.snapshot import RunSnapshot, Span
from mana_migration.reports.run_charts import REASONS_DRAWN, TIME_ROWS, run_charts
from mana_migration.selectors.runs import run_snapshot
from tests.mana_migration.history import NOON, after, make_history, make_run


@pytest.fixture
def seen(db: None) -> RunSnapshot:
    """Return the snapshot of a finished run."""
    make_history(40)
    found = run_snapshot("default", now=after(90))
    assert found is not None
    return found


def by_id(seen: RunSnapshot) -> dict[str, list[tuple[str, ...]]]:
    """Return the tables by chart."""
    return {chart.id: list(chart.rows) for chart in run_charts(seen)}


def test_a_run_that_has_not_begun_has_nothing_to_draw(db: None) -> None:
    make_run()
    found = run_snapshot("default", now=after(1))
    assert found is not None
    assert run_charts(found) == []


def test_the_tables_have_the_numbers_of_the_snapshot(seen: RunSnapshot) -> None:
    tables = by_id(seen)
    assert tables["progress"][-1][1] == f"{seen.totals.selected:,}"
    mana = {row[0]: row[-1] for row in tables["colours"]}
    assert mana["Total"] == f"{seen.totals.mana:,}"
    assert mana["Red"] == f"{seen.totals.red * 1000:,}"
    assert sum(int(count.replace(",", "")) for _, count in tables["durations"]) == seen.batches
    assert ("negative_balance (failed)", f"{seen.totals.errors['negative_balance']:,}") in tables["reasons"]
    assert ("locked (skipped)", f"{seen.totals.skips['locked']:,}") in tables["reasons"]


def test_a_long_series_is_shortened_in_the_table_and_keeps_its_end(seen: RunSnapshot) -> None:
    long = replace(seen, series=[(after(number), number * 10) for number in range(240)], finished_at=after(239))
    rows = by_id(long)["progress"]
    assert len(rows) <= TIME_ROWS
    assert rows[-1] == ("2026-11-23 12:03:59", "2,390")
    assert by_id(long)["speed"][-1] == ("2026-11-23 12:03:59", "600")


def test_the_axis_of_an_open_run_ends_now_and_times_without_progress_are_shaded(seen: RunSnapshot) -> None:
    paused = Span(after(40), after(100), "paused", "the backup")
    still = replace(seen, is_open=True, finished_at=None, taken_at=after(600), series=[(NOON, 0), (after(30), 40)],
                    spans=[paused])  # fmt: skip
    chart = next(chart for chart in run_charts(still) if chart.id == "progress")
    assert chart.rows[-1] == ("2026-11-23 12:10:00", "40")
    assert "paused from 12:00:40 to 12:01:40 (1 min 00 s): the backup" in chart.drawing
    assert 'class="chart-shade chart-shade-paused" x="6.67%"' in chart.drawing
    assert chart.note == "Shaded: paused 1 min 00 s."


def test_only_the_largest_reasons_are_drawn_and_all_are_listed(seen: RunSnapshot) -> None:
    totals = replace(seen.totals)
    totals.errors.update({f"error_{number:02}": 100 + number for number in range(20)})
    many = replace(seen, totals=totals)
    chart = next(chart for chart in run_charts(many) if chart.id == "reasons")
    assert len(chart.rows) == 22
    assert chart.drawing.count("<li>") == REASONS_DRAWN
    assert chart.note == "14 more reasons in the table."
    assert chart.rows[0] == ("error_19 (failed)", "119")


def test_every_row_has_all_its_columns(seen: RunSnapshot) -> None:
    for chart in run_charts(seen):
        assert all(len(row) == len(chart.columns) for row in chart.rows)


def test_an_amount_is_written_whole_however_large(seen: RunSnapshot) -> None:
    totals = replace(seen.totals, red=431_644_284_676)
    chart = next(chart for chart in run_charts(replace(seen, totals=totals)) if chart.id == "colours")
    assert '<span class="chart-value">431,644,284,676,000</span>' in chart.drawing


def test_a_hostile_error_class_is_text(seen: RunSnapshot) -> None:
    totals = replace(seen.totals)
    totals.errors.update({"<script>alert(1)</script>": 5})
    for chart in run_charts(replace(seen, totals=totals)):
        assert "<script" not in chart.drawing
