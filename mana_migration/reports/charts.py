"""Charts as inline SVG: pure functions from numbers to markup, without scripts, inline styles or fixed colours.

Colours come from ``static/mana_migration/charts.css`` by class, so that the same markup works on
light and dark pages, on paper and under a strict content security policy.  Every chart has a title
and a description for screen readers; pages put the same numbers into a table behind it.  Everything
given as text is escaped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from mana_migration.reports.formatting import short_number

#: All charts are drawn on this width and scale with the page.
WIDTH: Final = 560

_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 14, 16, 30
_BAR_LEFT, _BAR_RIGHT, _BAR_STEP = 140, 130, 34


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar: its label, its length, the exact value as written beside it, and its colour class.

    Known colours are ``green``, ``blue``, ``red``, ``mana``, ``good``, ``bad`` and ``plain``.
    """

    label: str
    value: float
    text: str
    colour: str = "mana"


@dataclass(frozen=True, slots=True)
class Line:
    """One line: points (x, y) in order of x, its name and its colour class; ``area`` fills what is below."""

    name: str
    points: Sequence[tuple[float, float]]
    colour: str = "mana"
    area: bool = False
    dashed: bool = False


@dataclass(frozen=True, slots=True)
class Axis:
    """Where an axis ends and what is written along it: (position, label)."""

    end: float
    ticks: Sequence[tuple[float, str]]


def bars(chart_id: str, title: str, description: str, values: Sequence[Bar]) -> SafeString:
    """Draw horizontal bars, one below the other, each with its label and exact value."""
    height = max(1, len(values)) * _BAR_STEP + 8
    room = WIDTH - _BAR_LEFT - _BAR_RIGHT
    top = max((bar.value for bar in values), default=0)
    rows = format_html_join(
        "",
        '<g><text class="chart-label" x="{}" y="{}" text-anchor="end">{}</text>'
        '<rect class="chart-{}" x="{}" y="{}" width="{}" height="20" rx="3"></rect>'
        '<text class="chart-value" x="{}" y="{}">{}</text></g>',
        (
            (
                _BAR_LEFT - 10,
                number * _BAR_STEP + 22,
                _cut(bar.label, 22),
                bar.colour,
                _BAR_LEFT,
                number * _BAR_STEP + 7,
                _length(bar.value, top, room),
                _BAR_LEFT + _length(bar.value, top, room) + 8,
                number * _BAR_STEP + 22,
                bar.text,
            )
            for number, bar in enumerate(values)
        ),
    )
    return _frame(chart_id, title, description, height, rows)


def columns(chart_id: str, title: str, description: str, values: Sequence[Bar], *, height: int = 220) -> SafeString:
    """Draw upright columns side by side, for a distribution; values are written on top."""
    room, floor = height - _TOP - _BOTTOM - 14, height - _BOTTOM
    top = max((bar.value for bar in values), default=0)
    step = (WIDTH - 2 * _RIGHT) / max(1, len(values))
    width = min(step * 0.72, 56)
    parts = format_html_join(
        "",
        '<g><rect class="chart-{}" x="{}" y="{}" width="{}" height="{}" rx="3"></rect>'
        '<text class="chart-value" x="{}" y="{}" text-anchor="middle">{}</text>'
        '<text class="chart-tick" x="{}" y="{}" text-anchor="middle">{}</text></g>',
        (
            (
                bar.colour,
                _round(middle - width / 2),
                _round(floor - _length(bar.value, top, room)),
                _round(width),
                _round(_length(bar.value, top, room)),
                _round(middle),
                _round(floor - _length(bar.value, top, room) - 5),
                bar.text,
                _round(middle),
                floor + 18,
                _cut(bar.label, 12),
            )
            for middle, bar in ((_RIGHT + step * (number + 0.5), bar) for number, bar in enumerate(values))
        ),
    )
    line = format_html(
        '<line class="chart-axis" x1="{}" y1="{}" x2="{}" y2="{}"></line>', _RIGHT, floor, WIDTH - _RIGHT, floor
    )
    return _frame(chart_id, title, description, height, parts + line)


def lines(
    chart_id: str, title: str, description: str, values: Sequence[Line], *, across: Axis, height: int = 240
) -> SafeString:
    """Draw lines over a common horizontal axis; the vertical axis starts at 0 and ends above the highest point."""
    ticks = nice_ticks(max((y for line in values for _, y in line.points), default=0))
    top, floor = max(ticks[-1], 1e-9), height - _BOTTOM
    room, wide = floor - _TOP, WIDTH - _LEFT - _RIGHT

    def place(x: float, y: float) -> tuple[float, float]:
        share = x / across.end if across.end > 0 else 0.0
        return _round(_LEFT + wide * share), _round(floor - room * (y / top))

    grid = format_html_join(
        "",
        '<line class="chart-grid" x1="{}" y1="{}" x2="{}" y2="{}"></line>'
        '<text class="chart-tick" x="{}" y="{}" text-anchor="end">{}</text>',
        (
            (_LEFT, place(0, tick)[1], WIDTH - _RIGHT, place(0, tick)[1], _LEFT - 8, place(0, tick)[1] + 4, text)
            for tick, text in ((tick, short_number(tick)) for tick in ticks)
        ),
    )
    below = format_html_join(
        "",
        '<text class="chart-tick" x="{}" y="{}" text-anchor="{}">{}</text>',
        (
            (place(x, 0)[0], floor + 18, "end" if across.end and x / across.end > 0.95 else "middle", label)
            for x, label in across.ticks
        ),
    )
    drawn = format_html_join(
        "", "{}", ((_line(line, [place(x, y) for x, y in line.points], floor),) for line in values)
    )
    return _frame(chart_id, title, description, height, grid + below + drawn)


def progress_bar(chart_id: str, title: str, share: float) -> SafeString:
    """Draw a bar that is filled to ``share`` (0 to 1)."""
    width = _round(max(0.0, min(1.0, share)) * WIDTH)
    body = format_html(
        '<rect class="chart-track" x="0" y="0" width="{}" height="18" rx="9"></rect>'
        '<rect class="chart-mana" x="0" y="0" width="{}" height="18" rx="9"></rect>',
        WIDTH,
        width,
    )
    return _frame(chart_id, title, title, 18, body)


def nice_ticks(highest: float, parts: int = 4) -> list[float]:
    """Return round numbers from 0 to at least ``highest``, about ``parts`` steps of 1, 2, 2.5 or 5 times 10^n."""
    if highest <= 0:
        return [0.0, 1.0]
    rough = highest / parts
    power = 10.0 ** (len(str(int(rough))) - 1) if rough >= 1 else 10.0**-3
    while power * 10 <= rough:
        power *= 10
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough)
    if highest >= parts:
        step = float(round(step)) or 1.0  # what is counted has no halves
    count = 1
    while count * step < highest:
        count += 1
    return [number * step for number in range(count + 1)]


def _line(line: Line, places: Sequence[tuple[float, float]], floor: float) -> SafeString:
    if not places:
        return SafeString("")
    path = " ".join(f"{x},{y}" for x, y in places)
    area = SafeString("")
    if line.area:
        corners = f"{places[0][0]},{floor} {path} {places[-1][0]},{floor}"
        area = format_html('<polygon class="chart-area chart-{}" points="{}"></polygon>', line.colour, corners)
    dot = SafeString("")
    if len(places) == 1:
        dot = format_html('<circle class="chart-{}" cx="{}" cy="{}" r="4"></circle>', line.colour, *places[0])
    stroke = format_html(
        '<polyline class="chart-line chart-line-{}{}" points="{}"></polyline>',
        line.colour,
        " chart-dashed" if line.dashed else "",
        path,
    )
    return area + stroke + dot


def _frame(chart_id: str, title: str, description: str, height: int, body: SafeString) -> SafeString:
    return format_html(
        '<svg class="chart" viewBox="0 0 {} {}" role="img" aria-labelledby="{}-title {}-desc" '
        'xmlns="http://www.w3.org/2000/svg" focusable="false">'
        '<title id="{}-title">{}</title><desc id="{}-desc">{}</desc>{}</svg>',
        WIDTH,
        height,
        chart_id,
        chart_id,
        chart_id,
        title,
        chart_id,
        description,
        body,
    )


def _length(value: float, top: float, room: float) -> float:
    """Return how long a bar is; what is there at all can be seen."""
    if value <= 0 or top <= 0:
        return 0.0
    return max(2.0, _round(value / top * room))


def _round(value: float) -> float:
    return round(value, 1)


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
