"""When a run has failed too many users to continue."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from mana_migration.domain.results import Totals

#: Users that must have been attempted before a rate means anything.
MINIMUM_ATTEMPTED: Final = 50

#: The window, in attempted users, that lets the breaker trip late in a long run too.
WINDOW: Final = 1_000


@dataclass(frozen=True, slots=True)
class BreakerVerdict:
    """Whether the breaker trips, and the figures that it was judged by."""

    tripped: bool
    failed: int = 0
    attempted: int = 0
    scope: str = ""

    @property
    def reason(self) -> str:
        """Say why, in one line; empty where it holds."""
        if not self.tripped:
            return ""
        return f"{self.failed} of {self.attempted} users attempted ({self.scope}) failed"


def exceeds(failed: int, attempted: int, threshold: Decimal) -> bool:
    """Say whether more than ``threshold`` percent of the attempted users failed, in whole numbers."""
    numerator, denominator = threshold.as_integer_ratio()
    return 100 * failed * denominator > numerator * attempted


def judge(whole: Totals, window: Totals, threshold: Decimal, *, final: bool = False) -> BreakerVerdict:
    """Judge a run by all it attempted and by its latest ``WINDOW`` users.

    Args:
        whole: totals of the whole run; users skipped on purpose do not count.
        window: totals of its latest batches.
        threshold: percent of failures that is still accepted; 100 never trips.
        final: the run is at its end, where the minimum number of users no longer applies.
    """
    for totals, scope in ((whole, "whole run"), (window, f"latest {WINDOW:,}")):
        enough = totals.attempted >= MINIMUM_ATTEMPTED or (final and totals is whole)
        if enough and exceeds(totals.failed, totals.attempted, threshold):
            return BreakerVerdict(True, totals.failed, totals.attempted, scope)
    return BreakerVerdict(False)
