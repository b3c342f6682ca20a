"""What a measurement found, and how it is shown."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a benchmark.

    Args:
        what: what was measured, in words.
        users: how many users it was measured with.
        ratio: ours against the other, from one interleaved run; None where nothing is compared.
        least: the smallest ratio that is good enough.
        most: the greatest ratio, or the greatest peak memory in MiB, that is good enough.
        figures: everything else that was found, by its name with its unit.
    """

    what: str
    users: int
    ratio: float | None = None
    least: float | None = None
    most: float | None = None
    figures: dict[str, Any] = field(default_factory=dict)

    @property
    def missed(self) -> bool:
        """Say whether there is a target that was missed."""
        if self.ratio is None:
            return False
        return (self.least is not None and self.ratio < self.least) or (
            self.most is not None and self.ratio > self.most
        )

    def line(self) -> str:
        """Return the row as a line of text."""
        parts = [f"  {self.what} ({self.users:,} users):"]
        if self.ratio is not None:
            parts.append(f"{self.ratio:.2f}")
        if self.least is not None:
            parts.append(f"(target: at least {self.least})")
        if self.most is not None:
            parts.append(f"(target: at most {self.most})")
        if self.missed:
            parts.append("MISSED")
        figures = ", ".join(f"{name} {_shown(value)}" for name, value in self.figures.items())
        return " ".join(parts) + (f"\n      {figures}" if figures else "")

    def as_dict(self) -> dict[str, Any]:
        """Return the row for JSON."""
        return {**asdict(self), "missed": self.missed}


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Args:
        users: users per measurement.
        largest: users at the end of a series that grows.
        seconds: length of a phase with the site's traffic.
        rounds: turns of a comparison that takes its contestants whole and not slice by slice.
        runs: runs of a long history.
    """

    users: int = 100_000
    largest: int = 100_000
    seconds: float = 15.0
    rounds: int = 3
    runs: int = 98


def _shown(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)
