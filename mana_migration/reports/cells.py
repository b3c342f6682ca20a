"""Cells of files that spreadsheets open: numbers stay numbers, text never starts a formula."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from mana_migration.reports.sections import SPREADSHEET_MAX, Cell

#: What makes a spreadsheet take text for a formula, ASCII and full-width; selectors.details has the same in SQL.
FORMULA_STARTS: Final = ("=", "+", "-", "@", "|", "%", "\t", "\r", "\n", "\0", "＝", "＋", "－", "＠")  # noqa: RUF001


def safe_text(text: str) -> str:
    """Return text that opens as text, on one line: with an apostrophe before anything that would start a formula."""
    line = "".join(character if character >= " " else " " for character in text)
    return f"'{line}" if text.startswith(FORMULA_STARTS) else line


def csv_cell(value: Cell) -> str | int | float:
    """Return a cell for CSV; numbers are left alone, moments are ISO 8601, nothing is empty."""
    if value is None:
        return ""
    if isinstance(value, str):
        return safe_text(value)
    return value.isoformat() if isinstance(value, datetime) else value


def text_amount(value: Cell) -> str | int | float:
    """Return a cell for CSV in which whole numbers beyond 15 digits are text, as an apostrophe makes them."""
    return f"'{value}" if isinstance(value, int) and abs(value) > SPREADSHEET_MAX else csv_cell(value)


def json_cell(value: Cell) -> int | float | str | None:
    """Return a cell for JSON; moments are ISO 8601."""
    return value.isoformat() if isinstance(value, datetime) else value


def spreadsheet_cell(value: Cell) -> str | int | float | None:
    """Return a cell for XLSX, where whole numbers beyond 15 digits are kept as text, since they would be rounded."""
    if isinstance(value, int) and abs(value) > SPREADSHEET_MAX:
        return str(value)
    if isinstance(value, datetime):
        return value.isoformat()
    return safe_text(value) if isinstance(value, str) else value
