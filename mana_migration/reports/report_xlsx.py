"""A report as an Excel workbook, written row by row: one sheet of tables, and the users on as many as they need."""

from __future__ import annotations

from typing import Any, BinaryIO, Final

from openpyxl import Workbook
from openpyxl.cell import WriteOnlyCell
from openpyxl.styles import Font

from mana_migration.domain.report import RunReport
from mana_migration.reports.cells import spreadsheet_cell
from mana_migration.reports.report_text import verdict
from mana_migration.reports.sections import USER_COLUMNS, sections

#: Rows that one sheet can hold, its head included.
SHEET_ROWS: Final = 1_048_576

_BOLD: Final = Font(bold=True)


def write(report: RunReport, stream: BinaryIO, *, sheet_rows: int = SHEET_ROWS) -> None:
    """Write the workbook; memory does not grow with the users (their rows wait in a temporary file)."""
    book = Workbook(write_only=True)
    summary: Any = book.create_sheet("Summary")
    summary.column_dimensions["A"].width = 32
    for letter in "BCDEFGH":
        summary.column_dimensions[letter].width = 20
    for section in sections(report):
        summary.append([_bold(summary, section.title + verdict(section))])
        if section.note:
            summary.append([spreadsheet_cell(section.note)])
        if section.rows:
            summary.append([_bold(summary, column) for column in section.columns])
        for row in section.rows:
            summary.append([spreadsheet_cell(cell) for cell in row])
        summary.append([])
    sheet, used = _users_sheet(book, 1), 1
    for line in report.details:
        if used == sheet_rows:
            sheet, used = _users_sheet(book, len(book.worksheets)), 1
        sheet.append([spreadsheet_cell(cell) for cell in line])
        used += 1
    book.save(stream)


def _users_sheet(book: Workbook, number: int) -> Any:
    sheet: Any = book.create_sheet("Users" if number == 1 else f"Users {number}")
    sheet.freeze_panes = "A2"
    sheet.append([_bold(sheet, column) for column in USER_COLUMNS])
    return sheet


def _bold(sheet: Any, text: str) -> Any:
    cell = WriteOnlyCell(sheet, spreadsheet_cell(text))
    cell.font = _BOLD
    return cell
