"""What is said of batches that were halved to set single users apart: the same words wherever it is told."""

from __future__ import annotations

from typing import Final

from mana_migration.domain.results import Halving
from mana_migration.reports.formatting import number

#: What to do while the run is open, and about the next one, where halving is dear.
NOW: Final = (
    "most batches come from halving: cure what the users fail for, "
    "or make smaller batches with migrate_users --set batch_size=10"
)
NEXT_TIME: Final = "most batches came from halving: with a smaller --batch-size there is less of it"


def halved_words(halving: Halving) -> str:
    """Say how often a batch was halved, and why."""
    times = "once a batch was" if halving.halved == 1 else f"{number(halving.halved)} times a batch was"
    return f"{times} halved to set single users apart"
