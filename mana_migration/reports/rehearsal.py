"""The result of a rehearsal, for a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from mana_migration.domain import words
from mana_migration.domain.rehearsal import Estimate, Rehearsal
from mana_migration.reports import formatting


def as_lines(found: Rehearsal) -> Iterator[str]:
    """Write the result, its verdict first."""
    interrupted = ", interrupted" if found.interrupted else ""
    if not found.rehearsed:
        yield f"Rehearsal{interrupted}: no user is left to be migrated"
        return
    verdict = f"{found.failed:,} of them would fail" if found.failed else "none would fail"
    users = words.counted(found.rehearsed, "user")
    yield f"Rehearsal of {users}{interrupted}: {verdict}; every transaction was rolled back"
    yield f"  converted   {found.converted:,}, each verified before and after the reversal"
    for name, count in found.errors.most_common():
        yield f"  {name:<11} {count:,}: {found.messages[name]} (users {', '.join(found.examples[name])})"
    yield from _forecast(found)


def _forecast(found: Rehearsal) -> Iterator[str]:
    migrate, roll_back = found.estimates()
    if migrate is None:
        return
    growth = words.size(found.growth)
    yield f"All {found.all_users:,} users: about {_range(migrate)}, {growth} of growth"
    if roll_back is not None:
        yield f"Rolling all of them back: about {_range(roll_back)}, {growth} more"


def _range(estimate: Estimate) -> str:
    return formatting.span(estimate.low, estimate.high)
