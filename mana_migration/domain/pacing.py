"""How large the next batches are: a fixed number, or what keeps a transaction to its time target."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

#: Seconds that a transaction of an automatic batch should take.
TARGET_SECONDS: Final = 0.25

#: The automatic size never grows by more than this factor a step.
GROWTH: Final = 1.2

#: Users in the first automatic batch, and the bounds of all later ones.
START, SMALLEST, LARGEST = 50, 10, 10_000

#: Users planned ahead at a time, and batches at least and at most.
AHEAD_USERS, AHEAD_LEAST, AHEAD_MOST = 60_000, 4, 200

#: Seconds of one worker's time that is planned ahead at most: a size that is set anew counts from the next planning on.
AHEAD_SECONDS: Final = 4.0

AUTO: Final = "auto"


@dataclass(slots=True)
class BatchSize:
    """Follow the clock when automatic; stay put when a number was asked for.

    ``growing``: larger batches would still keep to the time target, so that few are planned ahead
    at this size: the next size counts from the next planning on.  ``seconds``: what the latest batch
    with users in it took, 0 before there was one.
    """

    asked: int | str
    current: int = START
    growing: bool = False
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self.growing = self.asked == AUTO
        if self.asked != AUTO:
            self.current = int(self.asked)

    def observe(self, users: int, seconds: float) -> None:
        """Take the time of one batch into account: shrink at once on overshoot, grow slowly."""
        if users == 0 or seconds <= 0:
            return
        self.seconds = seconds
        if self.asked != AUTO:
            return
        ideal = users * TARGET_SECONDS / seconds
        if users < self.current * 0.9 and ideal > self.current:
            return  # a small remainder says nothing about larger batches
        before, self.current = self.current, round(max(SMALLEST, min(LARGEST, ideal, self.current * GROWTH)))
        self.growing = ideal >= before * GROWTH and self.current > before

    @property
    def batches_ahead(self) -> int:
        """Return how many batches to plan at a time."""
        if self.growing:
            return AHEAD_LEAST
        in_time = int(AHEAD_SECONDS / self.seconds) if self.seconds > 0 else AHEAD_MOST
        return max(AHEAD_LEAST, min(AHEAD_MOST, AHEAD_USERS // self.current, in_time))
