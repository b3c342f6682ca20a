"""When a run did not progress, and why: from its events and from the users handled over time."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Final

from mana_migration.domain.snapshot import EventLine, Span

#: Seconds without progress that are worth showing where no event explains them.
LEAST_GAP: Final = 10.0

#: What begins a time without progress, and which events end it; progress ends all but a pause.
_ENDS: Final = {
    "paused": ("resumed", "stopped"),
    "interrupted": ("joined", "stopped"),
    "window_over": ("joined", "stopped"),
    "database_lost": ("joined", "stopped"),
    "throttled": ("throttled", "stopped"),
}

#: Without progress and without an event that says why: most likely no process was working.
IDLE: Final = "idle"


def spans(events: Sequence[EventLine], points: Sequence[tuple[datetime, int]], end: datetime) -> list[Span]:
    """Return the times without progress in order; ``events`` and ``points`` are in order of time."""
    known = [span for place in range(len(events)) for span in _begun_by(events, place, points, end)]
    return sorted([*known, *_unexplained(points, known, end)], key=lambda span: span.start)


def _begun_by(
    events: Sequence[EventLine], place: int, points: Sequence[tuple[datetime, int]], end: datetime
) -> Iterator[Span]:
    event = events[place]
    slowed = event.kind == "throttled" and event.details.get("wait") not in ("hard", "wallets")
    if event.kind not in _ENDS or slowed:
        return
    stops = [later.at for later in events[place + 1 :] if later.kind in _ENDS[event.kind]][:1]
    if event.kind != "paused":
        stops += [before for before, _ in _progress(points) if before >= event.at][:1]
    until = min([*stops, end])
    if until > event.at:
        yield Span(event.at, until, event.kind, event.message)


def _progress(points: Sequence[tuple[datetime, int]]) -> Iterator[tuple[datetime, datetime]]:
    """Yield (start, end) of each slice in which users were handled."""
    for (before, was), (at, handled) in itertools.pairwise(points):
        if handled > was:
            yield before, at


def _unexplained(points: Sequence[tuple[datetime, int]], known: Sequence[Span], end: datetime) -> Iterator[Span]:
    busy = [*_progress(points), *((span.start, span.end) for span in known)]
    free = points[0][0] if points else end
    for start, stop in [*sorted(busy), (end, end)]:
        if (start - free).total_seconds() >= LEAST_GAP:
            yield Span(free, start, IDLE)
        free = max(free, stop)
