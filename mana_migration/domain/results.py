"""Plain values that travel between the layers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Protocol

#: The whole numbers of ``Totals``; columns of a batch have the same names.
FIGURES: Final = (
    "selected",
    "migrated",
    "rolled_back",
    "skipped",
    "failed",
    "green",
    "blue",
    "red",
    "mana",
    "shortfall",
)


@dataclass(slots=True)
class Totals:
    """Users by outcome and money of a batch, a run or a dry run; whole numbers of any size."""

    selected: int = 0
    migrated: int = 0
    rolled_back: int = 0
    skipped: int = 0
    failed: int = 0
    green: int = 0
    blue: int = 0
    red: int = 0
    mana: int = 0
    shortfall: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    skips: Counter[str] = field(default_factory=Counter)

    @property
    def attempted(self) -> int:
        """Users that count for the error rate: those left out on purpose do not."""
        return self.migrated + self.rolled_back + self.failed

    def add(self, other: Totals) -> None:
        """Add another total to this one."""
        for name in FIGURES:
            if more := getattr(other, name):
                setattr(self, name, getattr(self, name) + more)
        if other.errors:
            self.errors.update(other.errors)
        if other.skips:
            self.skips.update(other.skips)

    def since(self, before: Totals) -> Totals:
        """Return what was added to an earlier total."""
        added = Totals(**{name: getattr(self, name) - getattr(before, name) for name in FIGURES})
        added.errors, added.skips = self.errors - before.errors, self.skips - before.skips
        return added

    def as_dict(self) -> dict[str, Any]:
        """Return the figures for JSON; integers stay exact."""
        figures: dict[str, Any] = {name: getattr(self, name) for name in FIGURES}
        return figures | {"errors": dict(self.errors), "skips": dict(self.skips)}

    @classmethod
    def of_one(cls, *, failed: str = "", skipped: str = "") -> Totals:
        """Return the totals of one user who failed, or was skipped, for this reason."""
        result = cls(selected=1, failed=int(bool(failed)), skipped=int(bool(skipped)))
        if failed:
            result.errors[failed] = 1
        if skipped:
            result.skips[skipped] = 1
        return result

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Totals:
        """Build totals from what ``as_dict`` returned; absent figures are 0."""
        totals = cls()
        for name in FIGURES:
            setattr(totals, name, int(values.get(name, 0)))
        totals.errors.update(values.get("errors", {}))
        totals.skips.update(values.get("skips", {}))
        return totals


@dataclass(frozen=True, slots=True)
class Splits:
    """How often batches of a run were split to isolate single users, and its batches in all; 0 where not counted."""

    count: int = 0
    batches: int = 0

    @property
    def is_dear(self) -> bool:
        """Say whether splitting costs more than the work itself: most batches, and not just a few, come from it."""
        return self.count >= 20 and self.count * 2 >= self.batches


@dataclass(frozen=True, slots=True)
class BatchResult:
    """What one batch did, as passed to a progress callback after its commit.

    ``waits_for``: the sentence that says what the run waits for from now until its next batch; such a
    result is of batch 0 and of no users.
    """

    run: int
    batch: int
    totals: Totals
    seconds: float
    waits_for: str = ""


class ProgressCallback(Protocol):
    """Called with each committed batch, and with what the run waits for."""

    def __call__(self, result: BatchResult, /) -> None:
        """Take the result of a batch, after its commit, in the process that did it; or what the run waits for."""


@dataclass(frozen=True, slots=True)
class RunSummary:
    """What a run did, or what a dry run says it would do."""

    run: int | None
    kind: str
    dry_run: bool
    status: str
    totals: Totals
    seconds: float
    cause: str = ""
    reason: str = ""
    started_at: datetime | None = None
    handled: int | None = None
    splits: Splits = field(default_factory=Splits)
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def users_per_minute(self) -> int | None:
        """Users handled per minute of this command, which may be one of several on the run.

        None of a dry run, which handles no user.
        """
        if self.dry_run:
            return None
        handled = self.totals.selected if self.handled is None else self.handled
        return round(handled * 60 / self.seconds) if self.seconds > 0 else 0


@dataclass(frozen=True, slots=True)
class RollbackForecast:
    """What a rollback would do now.

    ``shortfalls``: the largest, as (record id, mana credited, mana lacking); ``stops_run``: the open
    migration that would be stopped first; ``seconds``: what the forecast took.  ``blocked``: why the
    rollback would be refused now, or with ``nothing_to_do`` why it would open no run; ``goes_on_with``:
    the open rollback that the same command would resume.
    """

    totals: Totals
    shortfalls: list[tuple[int, int, int]]
    stops_run: int | None
    seconds: float
    blocked: str = ""
    goes_on_with: int | None = None
    warnings: tuple[str, ...] = ()
    nothing_to_do: bool = False
