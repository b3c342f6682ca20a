"""Where one of several workers begins among the batches that wait, so that they seldom meet."""

from __future__ import annotations

import random
from collections.abc import Sequence


def spread(numbers: Sequence[int], *, least: int) -> list[int]:
    """Return the places of those waiting batches, in their order, in which the others are least likely to be.

    All workers take them in order, so that the others are at the beginning of the stretches without
    a gap.  A place in the middle half of one of these, to its end, is free for the longest time;
    where no stretch is that long, the places from any one on, and those before it.

    Args:
        numbers: of the batches, at least one, in the order in which they are taken.
        least: batches of a stretch that is worth it.
    """
    gaps = [place for place in range(1, len(numbers)) if numbers[place] != numbers[place - 1] + 1]
    stretches = list(zip([0, *gaps], [*gaps, len(numbers)], strict=True))
    lengths = [end - begin for begin, end in stretches]
    if max(lengths) < least:
        place = random.randrange(len(numbers))  # noqa: S311 (no secret)
        return [*range(place, len(numbers)), *range(place)]
    ((begin, end),) = random.choices(stretches, lengths)  # noqa: S311 (no secret)
    quarter = (end - begin) // 4
    return list(range(begin + quarter + random.randrange(2 * quarter + 1), end))  # noqa: S311 (no secret)
