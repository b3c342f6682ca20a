"""The charts of a run, each with the table of the same numbers: for the live page and the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from django.utils.safestring import SafeString

from mana_migration.domain.snapshot import RunSnapshot
from mana_migration.reports import charts
from mana_migration.reports.charts import Axis, Bar, Line
from mana_migration.reports.formatting import duration, number, one_line

#: Rows of the table behind the progress chart; the chart itself has up to a few hundred points.
PROGRESS_ROWS: Final = 10

#: Error classes and skip reasons drawn; the table has all of them.
REASONS_DRAWN: Final = 8

_SUM: Final = "Sum"


@dataclass(frozen=True, slots=True)
class Chart:
    """A drawing and the table behind it; the columns after the first are numbers."""

    id: str
    title: str
    svg: SafeString
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


def run_charts(seen: RunSnapshot) -> list[Chart]:
    """Return the charts that a run has something to show in."""
    found = [progress_chart(seen), colours_chart(seen), durations_chart(seen), reasons_chart(seen)]
    return [chart for chart in found if chart is not None]


def progress_chart(seen: RunSnapshot) -> Chart | None:
    """Draw the users handled over time."""
    if not seen.series:
        return None
    points = [((at - seen.started_at).total_seconds(), users) for at, users in seen.series]
    points = [(0.0, 0), *((max(0.0, seconds), users) for seconds, users in points)]
    end = max(points[-1][0], 0.001)
    ticks = [(end * part / 4, duration(end * part / 4)) for part in range(5)]
    title = "Users handled over time"
    step = max(1, -(-len(points) // PROGRESS_ROWS))
    shown = points[::-1][::step][::-1]
    return Chart(
        "progress",
        title,
        charts.lines(
            "chart-progress",
            title,
            f"A line that reaches {number(points[-1][1])} users after {duration(end)}.",
            [Line("users", points, area=True)],
            across=Axis(end, ticks),
        ),
        ("After", "Users handled"),
        [(duration(seconds), number(users)) for seconds, users in shown],
    )


def colours_chart(seen: RunSnapshot) -> Chart | None:
    """Draw the mana that each colour's wishes became."""
    mana = seen.mana_by_colour
    if not any(mana.values()):
        return None
    title = "Mana restored to wishes, by colour" if seen.is_rollback else "Mana by colour of wish"
    bars = [Bar(colour.capitalize(), float(value), number(value), colour) for colour, value in mana.items()]
    rows = [
        (
            colour.capitalize(),
            number(getattr(seen.totals, colour)),
            number(seen.rates[colour]),
            number(value),
        )
        for colour, value in mana.items()
    ]
    return Chart(
        "colours",
        title,
        charts.bars("chart-colours", title, "; ".join(f"{bar.label} {bar.text}" for bar in bars), bars),
        ("Colour", "Wishes", "Rate", "Mana"),
        [*rows, (_SUM, "", "", number(sum(mana.values())))],
    )


def durations_chart(seen: RunSnapshot) -> Chart | None:
    """Draw how long batches took."""
    if not seen.durations:
        return None
    title = "Batch durations"
    rows = [(_bucket(bound), number(count)) for bound, count in seen.durations]
    bars = [Bar(label, float(text.replace(",", "")), text, "plain") for label, text in rows]
    return Chart(
        "durations",
        title,
        charts.columns("chart-durations", title, "; ".join(f"{label}: {text}" for label, text in rows), bars),
        ("Up to", "Batches"),
        rows,
    )


def reasons_chart(seen: RunSnapshot) -> Chart | None:
    """Draw the users that were not handled, by error class and by reason."""
    reasons = [(name, count, "failed", "bad") for name, count in seen.totals.errors.items()]
    reasons += [(name, count, "skipped", "plain") for name, count in seen.totals.skips.items()]
    if not reasons:
        return None
    reasons.sort(key=lambda reason: (-reason[1], reason[0]))
    title = "Users failed and skipped, by reason"
    bars = [Bar(one_line(name, 60), float(count), number(count), tone) for name, count, _, tone in reasons]
    rows = [(f"{one_line(name, 60)} ({outcome})", number(count)) for name, count, outcome, _ in reasons]
    return Chart(
        "reasons",
        title,
        charts.bars(
            "chart-reasons", title, "; ".join(f"{label}: {text}" for label, text in rows), bars[:REASONS_DRAWN]
        ),
        ("Reason", "Users"),
        rows,
    )


def _bucket(bound: str) -> str:
    return "longer" if bound == "+Inf" else duration(float(bound))
