"""The charts of a run, each with the table of the same numbers: for the live page and the report."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from django.utils import timezone
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from mana_migration.domain.snapshot import RunSnapshot, Span
from mana_migration.reports import charts
from mana_migration.reports.charts import Bar, Line, Mark, Shade
from mana_migration.reports.formatting import duration, number, one_line

#: Rows of the tables behind the charts over time, and values shown when such a chart is pointed at.
TIME_ROWS, TIME_HINTS = 12, 60

#: Error classes and skip reasons drawn; the table has all of them.
REASONS_DRAWN: Final = 8

#: Events drawn on the charts over time, the latest.
MARKS_DRAWN: Final = 40

#: What a time without progress is called.
_SPANS: Final = {
    "paused": gettext_lazy("paused"),
    "interrupted": gettext_lazy("process ended"),
    "window_over": gettext_lazy("window over"),
    "database_lost": gettext_lazy("database away"),
    "throttled": gettext_lazy("waiting for the database"),
    "idle": gettext_lazy("no progress"),
}


@dataclass(frozen=True, slots=True)
class Chart:
    """A drawing and the table behind it; the columns after the first are numbers."""

    id: str
    title: str
    drawing: SafeString
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    note: str = ""


def run_charts(seen: RunSnapshot) -> list[Chart]:
    """Return the charts that a run has something to show in."""
    found = [progress_chart(seen), speed_chart(seen), colours_chart(seen), durations_chart(seen), reasons_chart(seen)]
    return [chart for chart in found if chart is not None]


def progress_chart(seen: RunSnapshot) -> Chart | None:
    """Draw the users handled over time, up to now or to the end."""
    if not seen.series:
        return None
    points = _over_time(seen)
    title = _("Users handled over time")
    words = _("{users} users after {duration}").format(
        users=number(int(points[-1][1])), duration=duration((points[-1][0] - points[0][0]).total_seconds())
    )
    return Chart(
        "progress",
        title,
        _lines(seen, f"{title}: {words}", [Line(points, area=True)], _hints(points, _("{users} users"))),
        (_("Time"), _("Users handled")),
        [(_moment(at), number(int(users))) for at, users in _thinned(points)],
        note=_spans_note(seen.spans),
    )


def speed_chart(seen: RunSnapshot) -> Chart | None:
    """Draw users per minute over time, against the average."""
    points = _over_time(seen)
    if len(points) < 3:
        return None
    points = [points[0], *(point for point in _thinned(points, TIME_HINTS) if point[0] > points[0][0])]
    rates = [
        (at, (users - before) * 60 / (at - since).total_seconds())
        for (since, before), (at, users) in itertools.pairwise(points)
        if at > since
    ]
    title = _("Users per minute over time")
    steps = [corner for (since, _before), (at, rate) in zip(points, rates, strict=False)
             for corner in ((since, rate), (at, rate))]  # fmt: skip
    drawn = [Line(steps, "blue")]
    average = seen.progress.rate_average
    words = _("at most {rate} users a minute").format(rate=number(max(rate for _at, rate in rates)))
    note = ""
    if average is not None:
        drawn.append(Line([(points[0][0], average), (points[-1][0], average)], "plain", dashed=True))
        note = _("Dashed: the average of {rate} users a minute, pauses left out.").format(rate=number(average))
    return Chart(
        "speed",
        title,
        _lines(seen, f"{title}: {words}", drawn, _hints(rates, _("{users} users a minute"))),
        (_("Time"), _("Users per minute")),
        [(_moment(at), number(rate)) for at, rate in _averaged(points)],
        note=note,
    )


def colours_chart(seen: RunSnapshot) -> Chart | None:
    """Draw the mana that each colour's wishes became."""
    mana = seen.mana_by_colour
    if not any(mana.values()):
        return None
    names = {"green": _("Green"), "blue": _("Blue"), "red": _("Red")}
    rows = [
        (names[colour], number(getattr(seen.totals, colour)), number(seen.rates[colour]), number(value))
        for colour, value in mana.items()
    ]
    return Chart(
        "colours",
        _("Mana restored to wishes, by colour") if seen.is_rollback else _("Mana by colour of wish"),
        charts.bars([Bar(names[colour], float(value), number(value), colour) for colour, value in mana.items()]),
        (_("Colour"), _("Wishes"), _("Rate"), _("Mana")),
        [*rows, (_("Total"), "", "", number(sum(mana.values())))],
    )


def durations_chart(seen: RunSnapshot) -> Chart | None:
    """Draw how long batches took."""
    if not seen.durations:
        return None
    counts = [(_bucket(bound, seen), count) for bound, count in seen.durations]
    return Chart(
        "durations",
        _("Batch durations"),
        charts.bars([Bar(label, float(count), number(count), "plain") for label, count in counts]),
        (_("Duration"), _("Batches")),
        [(label, number(count)) for label, count in counts],
    )


def reasons_chart(seen: RunSnapshot) -> Chart | None:
    """Draw the users that were not handled, by error class and by reason."""
    reasons = [(name, count, _("failed"), "bad") for name, count in seen.totals.errors.items()]
    reasons += [(name, count, _("skipped"), "warn") for name, count in seen.totals.skips.items()]
    if not reasons:
        return None
    reasons.sort(key=lambda reason: (-reason[1], reason[0]))
    rows = [(f"{one_line(name, 60)} ({outcome})", number(count)) for name, count, outcome, _tone in reasons]
    drawn = [
        Bar(row[0], float(count), row[1], tone) for row, (_name, count, _o, tone) in zip(rows, reasons, strict=True)
    ]
    left = len(drawn) - REASONS_DRAWN
    return Chart(
        "reasons",
        _("Users failed and skipped, by reason"),
        charts.bars(drawn[:REASONS_DRAWN]),
        (_("Reason"), _("Users")),
        rows,
        note="" if left <= 0 else ngettext("{count} more reason in the table.", "{count} more reasons in the table.",
                                           left).format(count=left),
    )  # fmt: skip


def _lines(seen: RunSnapshot, words: str, drawn: Sequence[Line], hints: Sequence[Mark]) -> SafeString:
    points = _over_time(seen)
    shades = [Shade(span.start, span.end, span.kind, _span_words(span)) for span in seen.spans]
    marks = [
        Mark(
            event.at, f"{_moment(event.at)} {event.label}{f': {one_line(event.message, 80)}' if event.message else ''}"
        )
        for event in seen.marks[-MARKS_DRAWN:]
    ]
    start, end = timezone.localtime(points[0][0]), timezone.localtime(points[-1][0])
    return charts.lines(f"{words}.", drawn, start=start, end=end, shades=shades, marks=marks, hints=hints)


def _over_time(seen: RunSnapshot) -> list[tuple[datetime, float]]:
    """Return the users handled over time from the start of the run to now, or to its end."""
    if not seen.series:
        return []
    end = seen.taken_at if seen.is_open else (seen.finished_at or seen.taken_at)
    points: list[tuple[datetime, float]] = [(at, users) for at, users in seen.series if at < end]
    if not points or points[0][0] > seen.started_at:
        points.insert(0, (seen.started_at, 0))
    return [*points, (end, seen.series[-1][1])]


def _hints(points: Sequence[tuple[datetime, float]], words: str) -> list[Mark]:
    return [
        Mark(at, f"{_moment(at)}: {words.format(users=number(round(value)))}")
        for at, value in _thinned(points, TIME_HINTS)
    ]


def _averaged(points: Sequence[tuple[datetime, float]]) -> list[tuple[datetime, float]]:
    """Return users per minute between few of the points."""
    few = [points[0], *(point for point in _thinned(points) if point[0] > points[0][0])]
    return [
        (at, (users - before) * 60 / (at - since).total_seconds())
        for (since, before), (at, users) in itertools.pairwise(few)
    ]


def _thinned(points: Sequence[tuple[datetime, float]], rows: int = TIME_ROWS) -> list[tuple[datetime, float]]:
    """Return every so many points up to the last, which is in."""
    step = max(1, -(-len(points) // rows))
    return [*points[::-1][::step][::-1]]


def _moment(at: datetime) -> str:
    return f"{timezone.localtime(at):%Y-%m-%d %H:%M:%S}"


def _span_words(span: Span) -> str:
    start, end = timezone.localtime(span.start), timezone.localtime(span.end)
    words = _("{what} from {start} to {end} ({duration})").format(
        what=_SPANS[span.kind],
        start=f"{start:%H:%M:%S}",
        end=f"{end:%H:%M:%S}",
        duration=duration((end - start).total_seconds()),
    )
    return f"{words}: {one_line(span.reason, 80)}" if span.reason else words


def _spans_note(spans: Sequence[Span]) -> str:
    """Say what the shaded times are: paused 1 min 00 s, no progress 45 s."""
    sums: dict[str, float] = {}
    for span in spans:
        sums[span.kind] = sums.get(span.kind, 0.0) + (span.end - span.start).total_seconds()
    listed = ", ".join(f"{_SPANS[kind]} {duration(seconds)}" for kind, seconds in sums.items())
    return _("Shaded: {times}.").format(times=listed) if listed else ""


def _bucket(bound: str, seen: RunSnapshot) -> str:
    if bound != "+Inf":
        return f"≤ {duration(float(bound))}"
    finite = [float(name) for name, _count in seen.durations if name != "+Inf"]
    return f"> {duration(finite[-1])}" if finite else _("longer")
