"""What a dry run promises."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any, Final

from mana_migration.domain.options import MigrationOptions
from mana_migration.domain.results import Totals
from mana_migration.domain.validation import FixReport
from mana_migration.domain.words import gettext_noop

#: What is said where only those who failed earlier were asked for.
NONE_FAILED: Final = gettext_noop("no user who failed in an earlier run is left to migrate")

#: Users per second assumed where this database has no run to go by: a cautious figure for a small server.
ASSUMED_RATE: Final = {"postgresql": 5_000, "sqlite": 8_000}


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found before the run: its id, severity and number of hits."""

    id: str
    severity: str
    count: int


@dataclass(frozen=True, slots=True)
class UserForecast:
    """What would become of one user: the primary key, the wishes, their mana, and why not, empty where they convert."""

    user: str
    green: int
    blue: int
    red: int
    mana: int
    problem: str


@dataclass(frozen=True, slots=True)
class LargeConversion:
    """One of the conversions worth most: the user's primary key, the wishes and their mana."""

    user: str
    green: int
    blue: int
    red: int
    mana: int


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a migration with these options would do now.

    ``blocked``: why the run would be refused as things stand, empty where it would start.
    ``expected_seconds``: how long it would take at ``rate`` users per second, which ``rate_source``
    explains; ``seconds``: what the forecast itself took.  ``goes_on_with``: the open run that the same
    command would resume; ``takes_back``: the run that it rolls back, whose breaker tripped: then no user
    is converted, and the figures are 0.  ``fixes``: what auto-fix
    would do, None where it was not asked for.
    """

    options: MigrationOptions
    rates: dict[str, int]
    totals: Totals
    findings: tuple[Finding, ...]
    largest: tuple[LargeConversion, ...]
    blocked: str
    expected_seconds: float
    rate: float
    rate_source: str
    seconds: float
    goes_on_with: int | None = None
    takes_back: int | None = None
    warnings: tuple[str, ...] = ()
    fixes: FixReport | None = None

    def promise(self) -> dict[str, Any]:
        """Return what is binding: options, rates, findings, users and sums."""
        return {
            "options": self.options.as_dict(),
            "controls": self.options.controls.as_dict(),
            "rates": self.rates,
            "findings": {finding.id: finding.count for finding in self.findings if finding.severity == "error"},
            "users": {
                "selected": self.totals.selected,
                "migrated": self.totals.migrated,
                "skipped": self.totals.skipped,
                "failed": self.totals.failed,
            },
            "wishes": {"green": self.totals.green, "blue": self.totals.blue, "red": self.totals.red},
            "mana": self.totals.mana,
        }


def digest(promise: dict[str, Any]) -> str:
    """Return the SHA-256, in hex, of a promise in its canonical JSON."""
    return hashlib.sha256(json.dumps(promise, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
