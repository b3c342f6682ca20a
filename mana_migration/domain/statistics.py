"""Figures of the whole site: of all users, whatever run handled them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any


@dataclass(frozen=True, slots=True)
class UserCounts:
    """All users with a wallet, each in one place; ``pending`` are all who are not migrated, for whatever reason.

    Of the pending, ``failed``, ``skipped`` and ``rolled_back`` say what last became of them; the others were never
    handled.
    """

    total: int
    migrated: int
    failed: int
    skipped: int
    rolled_back: int

    @property
    def pending(self) -> int:
        """Return how many are not migrated."""
        return self.total - self.migrated

    @property
    def progress(self) -> float:
        """Return the share of migrated users, from 0 to 1; 1 where there is no user."""
        return self.migrated / self.total if self.total else 1.0

    def as_dict(self) -> dict[str, Any]:
        """Return the figures for JSON."""
        return {**asdict(self), "pending": self.pending, "progress": round(self.progress, 6)}


@dataclass(frozen=True, slots=True)
class LatestConversion:
    """One of the latest conversions, by record id: when, by which run, and the mana that it credited."""

    record: int
    run: int
    at: datetime
    mana: int


@dataclass(frozen=True, slots=True)
class Statistics:
    """The site as of now; amounts are exact integers over all wallets.

    ``green``, ``blue`` and ``red`` are the wishes left, ``mana`` is all mana in the system.  ``average_mana``,
    ``largest_mana`` and ``smallest_mana`` are of what migrated users hold; 0 where there is none.
    ``negative_balances`` counts wallets with a balance below 0.  ``latest`` are the newest conversions, newest first.
    """

    users: UserCounts
    green: int
    blue: int
    red: int
    mana: int
    average_mana: float
    largest_mana: int
    smallest_mana: int
    negative_balances: int
    latest: Sequence[LatestConversion]

    def as_dict(self) -> dict[str, Any]:
        """Return the figures for JSON."""
        return {
            "users": self.users.as_dict(),
            "wishes": {"green": self.green, "blue": self.blue, "red": self.red},
            "mana": self.mana,
            "average_mana": round(self.average_mana, 2),
            "largest_mana": self.largest_mana,
            "smallest_mana": self.smallest_mana,
            "negative_balances": self.negative_balances,
            "latest": [
                {"record": one.record, "run": one.run, "at": one.at.isoformat(), "mana": one.mana}
                for one in self.latest
            ],
        }
