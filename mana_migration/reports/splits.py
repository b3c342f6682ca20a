"""What is said of batches that were split to isolate single users, the same words everywhere."""

from __future__ import annotations

from typing import Final

from mana_migration.domain.results import Splits
from mana_migration.domain.words import counted

#: What to do while the run is open, and after it, where splitting is costly.  Smaller batches do not help: they are
#: split less often, and take about as long in all.
NOW: Final = (
    "most batches come from splits, several for each user whom the database refuses: "
    "pause the run, remove the cause and resume it"
)
NEXT_TIME: Final = (
    "most batches came from splits, several for each user whom the database refused: "
    "with the cause removed the next run is as fast as others"
)


def split_words(splits: Splits) -> str:
    """Say how often batches were split, and why."""
    return f"{counted(splits.count, 'split')} of batches, to isolate single users"
