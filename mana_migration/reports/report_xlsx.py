"""A report as an Excel workbook: a sheet for each table, and the users on as many sheets as they need.

# Note [Rows fed into a sheet]
tablib makes the workbook, the users' sheets with their head included.  Their rows are then written into the sheets'
XML as they come: a library that makes an object of each of 15 million cells takes minutes and this takes seconds,
with memory that does not grow.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import islice
from typing import Any, BinaryIO, Final
from xml.sax.saxutils import escape

import tablib

from mana_migration.domain.report import AnyReport, UserDetail
from mana_migration.reports.cells import safe_text, spreadsheet_cell
from mana_migration.reports.databook import databook
from mana_migration.reports.sections import SPREADSHEET_MAX, USER_COLUMNS, contents, sections, spreadsheet_note

#: Rows that one sheet can hold, its head included.
SHEET_ROWS: Final = 1_048_576

#: Rows of XML written at a time.
CHUNK: Final = 2_000

#: What of text XML cannot hold; control characters are gone by then.
_NO_XML: Final = re.compile("[\ud800-\udfff\ufffe\uffff]")


def write(report: AnyReport, stream: BinaryIO, *, sheet_rows: int = SHEET_ROWS) -> None:
    """Write the workbook; see Note [Rows fed into a sheet]."""
    tables = sections(report)
    book = databook([contents(report, tables), *tables], lambda _, cell: spreadsheet_cell(cell))
    first, note = book.size + 1, spreadsheet_note(report)
    lines = iter(report.details)
    for number in range(max(1, -(-report.users_listed // (sheet_rows - 1)))):
        title = "Users" if number == 0 else f"Users {number + 1}"
        book.add_sheet(tablib.Dataset(headers=(*USER_COLUMNS, note) if note else USER_COLUMNS, title=title))
    made = zipfile.ZipFile(io.BytesIO(book.export("xlsx", column_width="adaptive")))
    users = {f"xl/worksheets/sheet{number}.xml" for number in range(first, book.size + 1)}
    with made, zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as whole:
        for part in made.infolist():
            if part.filename in users:
                _feed(whole, part.filename, made.read(part).decode(), islice(lines, sheet_rows - 1))
            else:
                whole.writestr(part.filename, made.read(part))


def _feed(whole: zipfile.ZipFile, name: str, sheet: str, lines: Iterable[UserDetail]) -> None:
    """Write a sheet with these lines below its head."""
    head, tail = sheet.split("</sheetData>")
    head = re.sub("<dimension [^>]*/>", "", head)  # it would say that there is the head alone
    with whole.open(name, "w", force_zip64=True) as part:
        part.write(head.encode())
        rows = _rows(lines)
        while text := "".join(islice(rows, CHUNK)):
            part.write(text.encode())
        part.write(f"</sheetData>{tail}".encode())


def _rows(lines: Iterable[UserDetail]) -> Iterator[str]:
    for number, line in enumerate(lines, 2):
        yield f'<row r="{number}">{"".join(map(_cell, line))}</row>'


def _cell(value: Any) -> str:
    if value is None:
        return "<c/>"
    if isinstance(value, int) and -SPREADSHEET_MAX <= value <= SPREADSHEET_MAX:
        return f"<c><v>{value}</v></c>"
    return _text(value)


@lru_cache(maxsize=4_096)
def _text(value: str | int) -> str:
    text = _NO_XML.sub("\ufffd", safe_text(str(value)) if isinstance(value, str) else str(value))
    return f'<c t="inlineStr"><is><t xml:space="preserve">{escape(text)}</t></is></c>'
