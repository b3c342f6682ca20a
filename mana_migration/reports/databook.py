"""A report as a tablib Databook, a sheet for each table, and its users as data sets: what every format is made from.

The users are no sheet of the book, since there may be a hundred million: they come as small data sets, one after
another, so that memory does not grow with their number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any, Final

import tablib

from mana_migration.reports.sections import USER_COLUMNS, Cell, Section

#: Users in one data set.
CHUNK: Final = 5_000


def databook(sections: Iterable[Section], cell: Callable[[str, Cell], Any]) -> tablib.Databook:
    """Return the tables of a report as one book; ``cell`` writes each cell, of a column, for the format."""
    book = tablib.Databook()
    for section in sections:
        sheet = tablib.Dataset(*section.rows, headers=section.columns, title=section.title)
        for column in section.columns:
            sheet.add_formatter(column, partial(cell, column))
        book.add_sheet(sheet)
    return book


def user_sets(details: Iterable[Sequence[Any]]) -> Iterator[tablib.Dataset]:
    """Yield the users of a report as data sets of ``CHUNK`` rows."""
    lines = iter(details)
    while rows := list(islice(lines, CHUNK)):
        yield tablib.Dataset(*rows, headers=USER_COLUMNS)
