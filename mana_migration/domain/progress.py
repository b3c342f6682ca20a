"""How fast a run goes, how long it still takes and whether it is stalled: from counts and times given."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

#: Seconds without a finished batch after which an open run counts as stalled.
STALLED_AFTER: Final = 60.0

#: Users whose integrity a run checks in a second at the very least, on a small and busy server, and at the very most.
CHECKED_PER_SECOND: Final = 20_000
CHECKED_AT_MOST: Final = 200_000

#: Seconds of the latest batches that "now" means.
RECENT_SECONDS: Final = 60.0

#: Share of the users that must be handled before a remaining time is estimated.
FIRST_ESTIMATE: Final = 0.01

#: The range of the remaining time is never narrower than this around the rates it comes from.
OPTIMISM, CAUTION = 0.9, 1.15

#: The same around the time that the latest check of a run took for as many users.
CHECK_OPTIMISM, CHECK_CAUTION = 0.7, 1.5

#: Seconds that it takes at most to begin the check of a run and to close it, however few its users are.
CLOSING: Final = 1.0


@dataclass(frozen=True, slots=True)
class Finished:
    """One finished batch, as far as speed goes: when it was done, its users, and how long it took (seconds)."""

    at: datetime
    users: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Remaining:
    """The time until the run has ended, its check included, in seconds, from the least to the most that is likely."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is and how fast it goes.

    ``expected`` is a count made at the start, of a share of the users an estimate; ``share`` is None where none was
    made, and 1 once all selected users are handled, however many they were; rates are users per minute, None where
    nothing was handled; ``remaining`` is None before 1 % is done, while the run is stalled and after
    its end; ``idle`` is the seconds since the last finished batch (or the start) of an open run.
    """

    handled: int
    expected: int | None
    share: float | None
    rate_now: float | None
    rate_average: float | None
    remaining: Remaining | None
    idle: float | None
    stalled: bool

    @property
    def differs(self) -> bool:
        """Say whether more users were handled than expected, or fewer at the end; a share of all is an estimate."""
        return self.expected is not None and self.share == 1 and self.handled != self.expected


def measure(
    *,
    handled: int,
    expected: int | None,
    worked: float,
    recent: float | None,
    idle: float | None,
    waits: bool,
    checking: bool = False,
    complete: bool = False,
    checked_per_second: float | None = None,
) -> Progress:
    """Judge the progress of a run.

    Args:
        handled: users processed so far.
        expected: users selected at the start, None where they were not counted.
        worked: seconds since the start that were not spent paused.
        recent: users per minute over the latest batches, None where there are none.
        idle: seconds since the last progress of an open run, None for a closed one.
        waits: an operator has paused it, so that standing still is no surprise.
        checking: all users are handled and integrity checks are running, which make no progress that can be seen.
        complete: all users that it selected are handled.
        checked_per_second: users by the seconds that the latest check of a run took, None where none is known.
    """
    average = handled * 60 / worked if worked > 0 and handled else None
    patience = STALLED_AFTER + (handled / CHECKED_PER_SECOND if checking else 0)
    stalled = idle is not None and not waits and idle >= patience
    now = recent if idle is not None and not waits and not stalled else None
    if stalled:
        now = 0.0
    share = None if expected is None else (1.0 if expected == 0 or complete else min(1.0, handled / expected))
    remaining = None
    if idle is not None and not stalled and not waits and expected and share is not None and share >= FIRST_ESTIMATE:
        remaining = remaining_time(0 if complete else expected - handled, [rate for rate in (now, average) if rate])
        check = check_time(max(handled, expected), checked_per_second, passed=idle if checking else 0.0)
        remaining = remaining and Remaining(remaining.low + check.low, remaining.high + check.high)
    return Progress(handled, expected, share, now, average, remaining, idle, stalled)


def remaining_time(left: int, rates: Sequence[float]) -> Remaining | None:
    """Return how long ``left`` users take at these rates (users per minute); None where no rate is known."""
    if not rates:
        return None
    left = max(left, 0)
    return Remaining(left * 60 / max(rates) * OPTIMISM, left * 60 / min(rates) * CAUTION)


def check_time(users: int, checked_per_second: float | None, *, passed: float) -> Remaining:
    """Return how long the check of a run of so many users still takes, some seconds of which have passed."""
    if checked_per_second is None:
        low, high = users / CHECKED_AT_MOST, users / CHECKED_PER_SECOND
    else:
        low, high = users / checked_per_second * CHECK_OPTIMISM, users / checked_per_second * CHECK_CAUTION
    return Remaining(max(0.0, low - passed), max(0.0, high + CLOSING - passed))


def recent_rate(batches: Iterable[Finished], now: datetime) -> float | None:
    """Return users per minute over the batches of the last minute; None where there are none.

    ``batches`` are the latest ones, in any order.  Where they do not reach back a whole minute (the
    run is young, or so fast that only its latest batches were looked at) the time they span counts.
    """
    since = now - timedelta(seconds=RECENT_SECONDS)
    latest = [batch for batch in batches if batch.at > since]
    users = sum(batch.users for batch in latest)
    if not users:
        return None
    begun = min(batch.at - timedelta(seconds=batch.seconds) for batch in latest)
    span = min(RECENT_SECONDS, (now - begun).total_seconds())
    return users * 60 / span if span > 0 else None


def paused_seconds(marks: Iterable[tuple[datetime, bool]], until: datetime) -> float:
    """Return how long a run was held, from marks in order of time: (when, it was held from then on).

    A second hold during one changes nothing; one that was never lifted lasts until ``until``.
    """
    total, held_since = 0.0, None
    for at, held in marks:
        if held and held_since is None:
            held_since = at
        elif not held and held_since is not None:
            total += (at - held_since).total_seconds()
            held_since = None
    if held_since is not None:
        total += max(0.0, (until - held_since).total_seconds())
    return total


def rates_over_time(start: datetime, series: Sequence[tuple[datetime, int]]) -> list[tuple[datetime, float]]:
    """Return users per minute between the points of a series (time, users handled so far)."""
    rates: list[tuple[datetime, float]] = []
    before, handled = start, 0
    for at, users in series:
        seconds = (at - before).total_seconds()
        if seconds > 0:
            rates.append((at, (users - handled) * 60 / seconds))
            before, handled = at, users
    return rates
