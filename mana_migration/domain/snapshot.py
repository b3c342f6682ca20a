"""Everything there is to see of a run at one moment, as plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from mana_migration.domain.chain import Head
from mana_migration.domain.progress import Progress
from mana_migration.domain.results import Splits, Totals


@dataclass(frozen=True, slots=True)
class EventLine:
    """One thing that happened to a run: when, which kind (and its words), by whom, and why."""

    at: datetime
    kind: str
    label: str
    actor: str
    message: str
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Span:
    """A time without progress; ``kind`` is that of the event that began it, or ``idle``."""

    start: datetime
    end: datetime
    kind: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class CheckOutcome:
    """What the latest check of the rules found; ``ok`` is None where the event did not say."""

    at: datetime
    ok: bool | None
    message: str
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BatchCheck:
    """What the rows of a run's batches prove before the run itself is checked.

    ``conserved`` is None where the rates of what is reversed differ; ``first_wrong`` is the first batch that moved
    more or less mana than its wishes are worth, None where the sums of the run differ from all its batches.
    """

    verified: int
    conserved: bool | None
    first_wrong: int | None = None


@dataclass(frozen=True, slots=True)
class ErrorRate:
    """Failed users as a share (0 to 1) of those attempted, and the share at which the breaker trips.

    ``limit`` is None where the run has no breaker: it was started for named users.
    """

    failed: int
    attempted: int
    limit: float | None

    @property
    def share(self) -> float | None:
        """Return the share of failed users; None where no user was attempted yet."""
        return self.failed / self.attempted if self.attempted else None


@dataclass(frozen=True, slots=True)
class RunSnapshot:
    """One run as of ``taken_at``; money and users are exact integers, times are seconds.

    ``elapsed`` counts from the start to the end or now; ``worked`` leaves out the time that it was paused,
    or that no process worked on it after its window or its process ended.
    ``durations`` is the histogram of batch durations: (upper bound in seconds as text, batches).
    ``series`` is (time, users handled so far) in equal slices, at most a few hundred points; ``spans``
    are the times without progress, ``marks`` the events to show beside them.  ``standstill`` says why
    an open run makes no progress, ``waiting`` why it goes slowly on purpose; empty where it does not.
    ``waiting_for`` is that as one of the fixed words of ``pressure.Sign``, or ``database_lost``.
    ``imported`` is the number of users that an import added, None for other runs.
    ``chain`` is the head of its digests as far as they are linked, None before the first.
    """

    taken_at: datetime
    run: int
    kind: str
    kind_label: str
    status: str
    status_label: str
    is_open: bool
    started_at: datetime
    finished_at: datetime | None
    actor: str
    host: str
    reason: str
    stop_reason: str
    target_run: int | None
    rates: Mapping[str, int]
    options: Mapping[str, Any]
    controls: Mapping[str, Any]
    totals: Totals
    imported: int | None
    progress: Progress
    elapsed: float
    worked: float
    batches: int
    batch_seconds: float
    durations: Sequence[tuple[str, int]]
    series: Sequence[tuple[datetime, int]]
    last_progress: datetime | None
    error_rate: ErrorRate
    check: CheckOutcome | None
    batch_check: BatchCheck | None
    standstill: str
    waiting: str
    waiting_for: str
    events: Sequence[EventLine]
    marks: Sequence[EventLine] = ()
    spans: Sequence[Span] = ()
    chain: Head | None = None
    splits: Splits = field(default_factory=Splits)

    @property
    def window_is_over(self) -> bool:
        """Say whether the run is open and has a window that has ended."""
        until = str(self.controls.get("until", "")) if self.is_open else ""
        return bool(until) and datetime.fromisoformat(until) <= self.taken_at

    @property
    def mana_by_colour(self) -> dict[str, int]:
        """Return what each colour's wishes are worth at the run's rates, in mana; empty for a rollback."""
        return {colour: getattr(self.totals, colour) * rate for colour, rate in self.rates.items()}

    @property
    def is_rollback(self) -> bool:
        """Say whether this run reverses conversions."""
        return self.kind == "rollback"

    @property
    def selected_users(self) -> int:
        """Return how many users it was started for by name; 0: for all that its options select."""
        return len(self.options.get("users") or ())


@dataclass(frozen=True, slots=True)
class RunLine:
    """One run in a list of runs."""

    run: int
    kind_label: str
    status: str
    status_label: str
    started_at: datetime
    finished_at: datetime | None
    actor: str
    reason: str
    totals: Totals
