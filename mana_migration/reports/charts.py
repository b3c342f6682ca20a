"""Charts as HTML and inline SVG: pure functions from numbers to markup, without scripts, inline styles or colours.

Colours come from ``static/mana_migration/charts.css`` by class, so that the same markup works on light and dark
pages, on paper and under a strict content security policy.  Text is never part of what is scaled: it has the size
of the page's text at every width, and no figure is cut.  Pages put the same numbers into a table behind each chart.
Everything given as text is escaped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from django.utils.formats import date_format
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from mana_migration.reports.formatting import short_number

#: Height of a chart of lines in pixels; its width is the page's.
HEIGHT: Final = 200

_GUTTER, _TOP, _BOTTOM = 46, 12, 26
_FLOOR: Final = HEIGHT - _BOTTOM

#: The plot is drawn in so many units from left to right.
_ACROSS: Final = 1000

_DAY: Final = 86_400

#: Steps of a time axis, in seconds.
_STEPS: Final = (
    *(0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30),
    *(60 * minutes for minutes in (1, 2, 5, 10, 15, 30, 60, 120, 180, 360, 720)),
    *(_DAY * days for days in (1, 2, 5, 10, 20, 50, 100)),
)
_MOST_STEPS: Final = 4

#: Seconds below which a time axis counts from its start, since a clock has no fractions.
_SHORT: Final = 10


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar: its label, its length, the exact value as written beside it, and its colour class.

    Known colours are ``green``, ``blue``, ``red``, ``mana``, ``bad``, ``warn`` and ``plain``.
    """

    label: str
    value: float
    text: str
    colour: str = "mana"


@dataclass(frozen=True, slots=True)
class Line:
    """One line: points (time, value) in order of time, and its colour class; ``area`` fills what is below."""

    points: Sequence[tuple[datetime, float]]
    colour: str = "mana"
    area: bool = False
    dashed: bool = False


@dataclass(frozen=True, slots=True)
class Shade:
    """A time that is shaded over the whole height, and what it says when it is pointed at."""

    start: datetime
    end: datetime
    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Mark:
    """Something that happened, drawn as a thin line, and what it says when it is pointed at."""

    at: datetime
    text: str


def bars(values: Sequence[Bar]) -> SafeString:
    """Draw horizontal bars, one below the other, each with its label and exact value as text."""
    top = max((bar.value for bar in values), default=0)
    return format_html(
        '<ul class="chart-bars">{}</ul>',
        format_html_join(
            "",
            '<li><span class="chart-label">{}</span><svg class="chart-bar" height="14" aria-hidden="true">'
            '<rect class="chart-track" width="100%" height="14" rx="3"></rect>'
            '<rect class="chart-{}" width="{}%" height="14" rx="3"></rect></svg>'
            '<span class="chart-value">{}</span></li>',
            ((bar.label, bar.colour, _percent(bar.value, top), bar.text) for bar in values),
        ),
    )


def lines(
    description: str,
    values: Sequence[Line],
    *,
    start: datetime,
    end: datetime,
    shades: Sequence[Shade] = (),
    marks: Sequence[Mark] = (),
    hints: Sequence[Mark] = (),
) -> SafeString:
    """Draw lines over the time from ``start`` to ``end``, on a vertical axis from 0 to above the highest point.

    ``hints`` say the values: each where the time from the hint before it to its own is pointed at.
    """
    span = max((end - start).total_seconds(), 0.001)
    ticks = nice_ticks(max((y for line in values for _, y in line.points), default=0))

    def across(at: datetime) -> float:
        return round(min(max((at - start).total_seconds() / span, 0.0), 1.0) * 100, 2)

    def height(value: float) -> float:
        return round(_FLOOR - (_FLOOR - _TOP) * (value / ticks[-1]), 1)

    labels = format_html_join(
        "",
        '<text class="chart-tick" x="{}" y="{}" text-anchor="end">{}</text>',
        ((_GUTTER - 8, height(tick) + 4, short_number(tick)) for tick in ticks),
    )
    grid = format_html_join(
        "", '<line class="chart-grid" x1="0" y1="{0}" x2="100%" y2="{0}"></line>', ((height(tick),) for tick in ticks)
    )
    times = format_html_join(
        "",
        '<text class="chart-tick" x="{}%" y="{}" text-anchor="{}">{}</text>',
        ((x, HEIGHT - 8, "start" if x < 4 else "end" if x > 93 else "middle", label) for x, label in
         ((across(at), label) for at, label in time_ticks(start, end))),
    )  # fmt: skip
    shaded = _areas([(across(s.start), across(s.end), f"chart-shade chart-shade-{s.kind}", s.text) for s in shades])
    drawn = format_html_join(
        "", "{}", ((_line(line, [(across(x) * _ACROSS / 100, height(y)) for x, y in line.points]),) for line in values)
    )
    marked = format_html_join(
        "",
        '<line class="chart-mark" x1="{0}%" y1="{1}" x2="{0}%" y2="{2}"><title>{3}</title></line>',
        ((across(mark.at), _TOP, _FLOOR + 5, mark.text) for mark in marks),
    )
    before = [start, *(hint.at for hint in hints)]
    pointed = _areas(
        [(across(since), across(hint.at), "chart-hint", hint.text)
         for since, hint in zip(before, hints, strict=False) if not _is_shaded(since, hint.at, shades)]
    )  # fmt: skip
    return format_html(
        '<div class="chart" role="img" aria-label="{}"><svg class="chart-gutter" width="{}" height="{}">{}</svg>'
        '<svg class="chart-plot" height="{}">{}{}<svg width="100%" height="{}" viewBox="0 0 {} {}" '
        'preserveAspectRatio="none">{}</svg>{}{}{}</svg></div>',
        *(description, _GUTTER, HEIGHT, labels, HEIGHT, grid, shaded, HEIGHT, _ACROSS, HEIGHT),
        *(drawn, pointed, marked, times),
    )


def nice_ticks(highest: float, parts: int = 4) -> list[int]:
    """Return whole numbers from 0 to at least ``highest`` in at most ``parts`` steps of 1, 2 or 5 times 10^n."""
    power = 1
    while True:
        for factor in (1, 2, 5):
            step = factor * power
            if step * parts >= highest:
                return [number * step for number in range(max(1, -int(-highest // step)) + 1)]
        power *= 10


def time_ticks(start: datetime, end: datetime) -> list[tuple[datetime, str]]:
    """Return round times of the clock between two moments, with what is written below them."""
    span = (end - start).total_seconds()
    step = next((step for step in _STEPS if span <= step * _MOST_STEPS), _STEPS[-1])
    if span < _SHORT:
        return [(start + timedelta(seconds=n * step), f"{n * step:g} s") for n in range(int(span / step) + 1)]
    midnight = start.replace(hour=0, minute=0, second=0, microsecond=0)
    base = midnight if step <= _DAY else midnight + timedelta(days=1)
    first = -int(-(start - base).total_seconds() // step)
    moments = [base + timedelta(seconds=n * step) for n in range(first, first + int(span / step) + 2)]
    return [(at, _clock(at, step)) for at in moments if start <= at <= end]


def _clock(at: datetime, step: float) -> str:
    if step >= _DAY or (step >= 3600 and at.hour == at.minute == 0):
        return date_format(at, "j M")
    return f"{at:%H:%M}" if step >= 60 else f"{at:%H:%M:%S}"


def _is_shaded(start: datetime, end: datetime, shades: Sequence[Shade]) -> bool:
    return any(shade.start <= start and end <= shade.end for shade in shades)


def _areas(areas: Sequence[tuple[float, float, str, str]]) -> SafeString:
    """Draw areas over the whole height: (from, to) in percent, class, and what each says when it is pointed at."""
    return format_html_join(
        "",
        '<rect class="{}" x="{}%" y="{}" width="{}%" height="{}"><title>{}</title></rect>',
        ((name, low, _TOP, round(max(high - low, 0.2), 2), _FLOOR - _TOP, text) for low, high, name, text in areas),
    )


def _line(line: Line, places: Sequence[tuple[float, float]]) -> SafeString:
    if not places:
        return SafeString("")
    path = " ".join(f"{x:g},{y:g}" for x, y in places)
    area = SafeString("")
    if line.area:
        corners = f"{places[0][0]:g},{_FLOOR} {path} {places[-1][0]:g},{_FLOOR}"
        area = format_html('<polygon class="chart-area chart-{}" points="{}"></polygon>', line.colour, corners)
    return area + format_html(
        '<polyline class="chart-line chart-line-{}{}" points="{}"></polyline>',
        *(line.colour, " chart-dashed" if line.dashed else "", path),
    )


def _percent(value: float, top: float) -> float:
    """Return how long a bar is; what is there at all can be seen."""
    return 0.0 if value <= 0 or top <= 0 else max(0.5, round(value / top * 100, 2))
