"""What is said of batches that were halved to set single users apart: the same words wherever it is told."""

from __future__ import annotations

from typing import Final

from mana_migration.domain.results import Halving
from mana_migration.reports.formatting import number

#: What to do while the run is open, and after it, where halving is dear.  Smaller batches are no cure: they are halved
#: less often, and take about as long in all.
NOW: Final = (
    "most batches come from halving, several for each user whom the database refuses: "
    "pause the run, cure what they fail for, and let it go on"
)
NEXT_TIME: Final = (
    "most batches came from halving, several for each user whom the database refused: "
    "with the cause cured the next run is as fast as others"
)


def halved_words(halving: Halving) -> str:
    """Say how often a batch was halved, and why."""
    times = "once a batch was" if halving.halved == 1 else f"{number(halving.halved)} times a batch was"
    return f"{times} halved to set single users apart"
