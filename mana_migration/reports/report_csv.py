"""A report as CSV: the users in one file, all other tables in a second, in UTF-8 and with plain line feeds."""

from __future__ import annotations

import csv
import io
from typing import BinaryIO

from mana_migration.domain.report import ReportToCome, RunReport
from mana_migration.reports.cells import csv_cell, safe_text
from mana_migration.reports.sections import USER_COLUMNS, sections

SUMMARY_COLUMNS = ("section", "item", "figure", "value")


def write_users(report: RunReport | ReportToCome, stream: BinaryIO) -> None:
    """Write one line per user; the database does it itself where it can, in no particular order."""
    stream.write(f"{','.join(USER_COLUMNS)}\n".encode())
    if report.details.copy_csv(stream):
        return
    text = io.TextIOWrapper(stream, encoding="utf-8", newline="", write_through=False)
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows(line._replace(error=safe_text(line.error)) if line.error else line for line in report.details)
    text.flush()
    text.detach()


def write_summary(report: RunReport, stream: BinaryIO) -> None:
    """Write all other tables, one figure a line: section, item (its row), figure (its column), value."""
    text = io.TextIOWrapper(stream, encoding="utf-8", newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(SUMMARY_COLUMNS)
    for section in sections(report):
        for row in section.rows:
            for column, value in zip(section.columns[1:], row[1:], strict=True):
                writer.writerow((section.key, csv_cell(row[0]), column, csv_cell(value)))
    text.flush()
    text.detach()
