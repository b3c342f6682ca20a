"""Users handled over time in a bounded number of equal slices, however long the run and however many its batches."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

#: Slices kept; where there would be more, every two become one.
SLICES: Final = 240

#: Seconds of a slice of a young run.
FIRST_WIDTH: Final = 1 / 16


@dataclass(slots=True)
class UserSeries:
    """Users by the slice of time in which they were handled; ``width`` in seconds."""

    start: datetime | None = None
    width: float = FIRST_WIDTH
    users: list[int] = field(default_factory=list)

    def add(self, at: datetime, users: int) -> None:
        """Count users who were handled at that moment; one before the start counts for the first slice."""
        self.start = self.start or at
        seconds = max(0.0, (at - self.start).total_seconds())
        while int(seconds / self.width) >= SLICES:
            self.width *= 2
            self.users = [sum(self.users[place : place + 2]) for place in range(0, len(self.users), 2)]
        place = int(seconds / self.width)
        self.users += [0] * (place + 1 - len(self.users))
        self.users[place] += users

    def points(self) -> list[tuple[datetime, int]]:
        """Return (end of the slice, users handled by then) for each slice, from a first point at the start."""
        if self.start is None:
            return []
        handled, found = 0, [(self.start, 0)]
        for place, users in enumerate(self.users, 1):
            handled += users
            found.append((self.start + timedelta(seconds=place * self.width), handled))
        return found

    def handled_between(self, start: datetime, end: datetime) -> bool:
        """Say whether users were handled in a slice that lies between these moments as a whole."""
        points = self.points()
        slices = itertools.pairwise(points)
        return any(start <= before and at <= end and handled > was for (before, was), (at, handled) in slices)

    def latest_before(self, moment: datetime) -> datetime | None:
        """Return when users were handled last before that moment, as far as slices say; None where there are none."""
        busy = [
            at
            for (before, was), (at, handled) in itertools.pairwise(self.points())
            if handled > was and before < moment
        ]
        return min(busy[-1], moment) if busy else None

    def as_json(self) -> dict[str, Any]:
        """Return the series for JSON."""
        return {"start": self.start and self.start.isoformat(), "width": self.width, "users": self.users}

    @classmethod
    def from_json(cls, value: Mapping[str, Any] | Sequence[tuple[str, int]]) -> UserSeries:
        """Build a series from what ``as_json`` returned, or from the (time, users so far) of version 0.9."""
        series = cls()
        if isinstance(value, Mapping):
            start = value["start"]
            return cls(start and datetime.fromisoformat(start), float(value["width"]), [*value["users"]])
        handled = 0
        for at, users in value:
            series.add(datetime.fromisoformat(at), users - handled)
            handled = users
        return series
