"""The charts of a report: those of the run and those that only a report can draw, since they read every record."""

from __future__ import annotations

from dataclasses import replace

from mana_migration.domain.report import RunReport
from mana_migration.reports import charts
from mana_migration.reports.charts import Axis, Bar, Line
from mana_migration.reports.formatting import duration, number, short_number
from mana_migration.reports.run_charts import Chart, colours_chart, durations_chart, progress_chart, reasons_chart
from mana_migration.reports.sections import size_words

#: Rows of the table behind the chart of the speed.
SPEED_ROWS = 12


def report_charts(report: RunReport) -> list[Chart]:
    """Return the charts that a report has something to show in."""
    seen = report.snapshot
    found = [
        progress_chart(replace(seen, series=report.performance.progress)),
        colours_chart(seen),
        sizes_chart(report),
        durations_chart(seen),
        speed_chart(report),
        reasons_chart(seen),
    ]
    return [chart for chart in found if chart is not None]


def sizes_chart(report: RunReport) -> Chart | None:
    """Draw how many users were converted for how much mana."""
    if not report.sizes:
        return None
    title = "Conversions by size"
    rows = [(size_words(size), number(size.users), number(size.mana)) for size in report.sizes]
    bars = [
        Bar("0" if size.high == 0 else f"{short_number(size.low)}+", size.users, short_number(size.users))
        for size in report.sizes
    ]
    words = "; ".join(f"{name} mana: {users} users" for name, users, _ in rows)
    return Chart(
        "sizes",
        title,
        charts.columns("chart-sizes", title, words, bars),
        ("Mana of one user", "Users", "Mana together"),
        rows,
    )


def speed_chart(report: RunReport) -> Chart | None:
    """Draw users per minute over time, against the average."""
    rates, seen = report.performance.users_per_minute, report.snapshot
    if len(rates) < 2:
        return None
    title = "Users per minute over time"
    points = [(max(0.0, (at - seen.started_at).total_seconds()), rate) for at, rate in rates]
    end = max(points[-1][0], 0.001)
    lines = [Line("users per minute", points, "blue")]
    average = seen.progress.rate_average
    words = f"A line over {duration(end)}, from {number(points[0][1])} to {number(points[-1][1])} users per minute"
    if average is not None:
        lines.append(Line("average", [(0.0, average), (end, average)], "plain", dashed=True))
        words += f"; the dashed line is the average of {number(average)}"
    step = max(1, -(-len(points) // SPEED_ROWS))
    ticks = [(end * part / 4, duration(end * part / 4)) for part in range(5)]
    return Chart(
        "speed",
        title,
        charts.lines("chart-speed", title, f"{words}.", lines, across=Axis(end, ticks)),
        ("After", "Users per minute"),
        [(duration(at), number(rate)) for at, rate in points[::-1][::step][::-1]],
    )
