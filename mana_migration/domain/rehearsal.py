"""What a rehearsal found: who would fail, what a rule says about each user, and how long the real run would take."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from mana_migration.domain.repairs import UserState

#: Users whose keys are kept as examples, for each class of error.
EXAMPLES: Final = 5

#: Bytes by which the tables grow for each migrated user, and as much again for a rollback (docs/performance.md).
GROWTH_PER_USER: Final = 550

#: Users that must be rehearsed, where there are as many, before a time for all users is estimated.
LEAST_MEASURED: Final = 50

#: The least share by which an estimate may be wrong, however even the batches were.
LEAST_ERROR: Final = 0.1


@dataclass(frozen=True, slots=True)
class Estimate:
    """How long an operation on all users takes, in seconds: the likely range."""

    low: float
    high: float

    def as_dict(self) -> dict[str, float]:
        """Return it for JSON."""
        return {"low": round(self.low, 1), "high": round(self.high, 1)}


@dataclass(slots=True)
class Timing:
    """Seconds per user of an operation, batch by batch."""

    per_user: list[float] = field(default_factory=list)

    def add(self, users: int, seconds: float) -> None:
        """Take a batch into account; one without users says nothing."""
        if users:
            self.per_user.append(seconds / users)

    def estimate(self, users: int) -> Estimate | None:
        """Return the likely range for so many users: two standard errors, at least 10 %; None without a batch."""
        if not self.per_user:
            return None
        mean = statistics.fmean(self.per_user)
        spread = statistics.stdev(self.per_user) / math.sqrt(len(self.per_user)) if len(self.per_user) > 1 else mean / 2
        error = max(2 * spread, LEAST_ERROR * mean)
        return Estimate(max(0.0, mean - error) * users, (mean + error) * users)


@dataclass(slots=True)
class Rehearsal:
    """The result of a rehearsal; ``all_users`` is how many users the real run would handle."""

    all_users: int
    rehearsed: int = 0
    converted: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    messages: dict[str, str] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)
    converting: Timing = field(default_factory=Timing)
    reversing: Timing = field(default_factory=Timing)
    interrupted: bool = False

    @property
    def failed(self) -> int:
        """Return how many of the rehearsed users would fail."""
        return self.errors.total()

    @property
    def growth(self) -> int:
        """Return the bytes by which the tables would grow."""
        return self.all_users * GROWTH_PER_USER

    def estimates(self) -> tuple[Estimate | None, Estimate | None]:
        """Return how long migrating all users, and rolling them back, takes; None where too few were rehearsed."""
        if self.rehearsed < min(LEAST_MEASURED, self.all_users):
            return None, None
        return self.converting.estimate(self.all_users), self.reversing.estimate(self.all_users)

    def add_failure(self, error_class: str, message: str, user: str, users: int = 1) -> None:
        """Count users who would fail for a reason, with one of them as an example."""
        self.errors[error_class] += users
        self.messages.setdefault(error_class, message)
        examples = self.examples.setdefault(error_class, [])
        if len(examples) < EXAMPLES:
            examples.append(user)

    def as_dict(self) -> dict[str, Any]:
        """Return the result for JSON."""
        migrate, roll_back = self.estimates()
        return {
            "users": {"all": self.all_users, "rehearsed": self.rehearsed, "converted": self.converted},
            "failed": self.failed,
            "errors": dict(self.errors),
            "messages": dict(self.messages),
            "examples": {name: list(keys) for name, keys in self.examples.items()},
            "seconds": {
                "migrate": migrate.as_dict() if migrate else None,
                "roll_back": roll_back.as_dict() if roll_back else None,
            },
            "growth_bytes": self.growth,
            "interrupted": self.interrupted,
        }


def broken_rule(before: UserState, after: UserState, rates: Mapping[str, int]) -> str:
    """Return which rule does not hold for a user who was converted, as a sentence; empty where all hold.

    Args:
        before: the user before the conversion.
        after: the user after it.
        rates: mana per wish, in the order green, blue, red.
    """
    if before.wallet is None or after.wallet is None:
        return "the wallet is missing after the conversion"
    worth = sum(count * rate for count, rate in zip(before.wallet.wishes, rates.values(), strict=True))
    live = after.live
    checks: Mapping[str, bool] = {
        "the wishes were not taken": after.wallet.wishes == (0, 0, 0),
        "the wallet is not flagged as migrated": after.migrated,
        "the wallet's mana is not what it held and what its wishes are worth": after.wallet.mana
        == before.wallet.mana + worth,
        "the ledger's sum did not grow by what the wishes are worth": after.ledger.total == before.ledger.total + worth,
        "the balance after the newest entry is not the ledger's sum": after.ledger.agrees or not before.ledger.agrees,
        "there is not exactly one live record": len(live) == len(before.live) + 1,
        "the record does not hold what was credited": bool(live) and live[-1].credited == worth,
    }
    return next((sentence for sentence, holds in checks.items() if not holds), "")
