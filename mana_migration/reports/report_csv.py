"""A report as CSV: the users in one file, all other tables in a second, in UTF-8 and with plain line feeds.

# Note [One tidy table]
Each line of the second file is one cell: the one in column ``figure`` of row ``row`` of table ``section``.  No two
lines have the same three keys, so that a pivot over them gives each table back.  ``item`` is the row's first cell.
"""

from __future__ import annotations

from typing import BinaryIO, Final

import tablib

from mana_migration.domain.report import AnyReport, ReportToCome
from mana_migration.reports.cells import csv_cell, text_amount
from mana_migration.reports.databook import databook, user_sets
from mana_migration.reports.sections import USER_COLUMNS, sections

SUMMARY_COLUMNS: Final = ("section", "row", "item", "figure", "value")


def write(report: AnyReport | ReportToCome, stream: BinaryIO, *, text_amounts: bool = False) -> None:
    """Write one line per user; the database does it itself where it can.

    ``text_amounts``: numbers of more than 15 digits become text, which a spreadsheet does not round.
    """
    stream.write(f"{','.join(USER_COLUMNS)}\n".encode())
    if not text_amounts and report.details.copy_csv(stream):
        return
    for users in user_sets(report.details):
        users.add_formatter(None, text_amount if text_amounts else csv_cell)
        users.headers = None  # written once
        stream.write(_csv(users))


def write_summary(report: AnyReport, stream: BinaryIO) -> None:
    """Write all other tables as one; see Note [One tidy table]."""
    found, tidy = sections(report), tablib.Dataset(headers=SUMMARY_COLUMNS)
    for section, sheet in zip(found, databook(found, lambda _, cell: csv_cell(cell)).sheets(), strict=True):
        for number, row in enumerate(sheet.dict, 1):
            (_, item), *cells = row.items()
            tidy.extend((section.key, number, item, figure, value) for figure, value in cells)
    stream.write(_csv(tidy))


def _csv(table: tablib.Dataset) -> bytes:
    text: str = table.export("csv", lineterminator="\n")
    return text.encode()
