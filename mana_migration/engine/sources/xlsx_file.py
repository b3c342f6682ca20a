"""XLSX, one row at a time.

openpyxl reads the workbook's structure; the two large parts, the sheet and its table of texts, are
streamed here: openpyxl's own reader (and tablib's, which uses it) keeps every text and an object for
every row in memory.  Texts wait in an unnamed temporary file instead.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from openpyxl.reader.excel import ExcelReader
from openpyxl.styles.stylesheet import apply_stylesheet
from openpyxl.xml.constants import SHARED_STRINGS

from mana_migration.domain.legacy import Typing
from mana_migration.engine.sources.base import LegacySource, SourceRow, positions, reading
from mana_migration.engine.sources.xlsx_parts import SharedTexts, rows_of_sheet
from mana_migration.errors import SourceError

#: Bytes that a workbook may unpack to, and that its small parts may.
LARGEST_WORKBOOK: Final = 2 << 30
LARGEST_SMALL_PART: Final = 32 << 20
#: A part above this size must not be packed more tightly than this: balances never are, bombs are.
SUSPICIOUS_SIZE: Final = 64 << 20
TIGHTEST: Final = 250
#: Rows that a sheet can have.
MOST_ROWS: Final = 1_048_576

_BROKEN: Final = (zipfile.BadZipFile, zlib.error, EOFError, KeyError, ValueError, TypeError, IndexError, AttributeError)


class XlsxSource(LegacySource):
    """One sheet of a workbook: the first, or the one named."""

    kind = "xlsx"
    typing = Typing.FLOATS
    shows_lines = True

    def __init__(self, path: Path, *, table: str | None, columns: Mapping[str, str]) -> None:
        self._path = path
        self._texts: SharedTexts | None = None
        with reading(path), path.open("rb") as file:
            file.read(1)
        try:
            self._archive = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError, ValueError):
            raise SourceError(f"{path} is no XLSX workbook (or is protected by a password); save it as one") from None
        try:
            self._refuse_bombs()
            self._open(table)
            self._header(columns)
        except BaseException:
            self.close()
            raise

    def _refuse_bombs(self) -> None:
        total = 0
        for part in self._archive.infolist():
            if part.flag_bits & 1:
                raise SourceError(f"{self._path} is encrypted; save it without a password")
            total += part.file_size
            large = part.filename.startswith("xl/worksheets/") or part.filename.endswith("sharedStrings.xml")
            tight = part.file_size > SUSPICIOUS_SIZE and part.file_size > part.compress_size * TIGHTEST
            if total > LARGEST_WORKBOOK or tight or (not large and part.file_size > LARGEST_SMALL_PART):
                raise SourceError(
                    f"{self._path} unpacks to more than any export of balances would; "
                    "if it is a real one, export it as CSV instead"
                )

    def _open(self, table: str | None) -> None:
        try:
            with reading(self._path):
                book = ExcelReader(str(self._path), read_only=True)
                try:
                    book.read_manifest()
                    book.read_workbook()
                    apply_stylesheet(book.archive, book.wb)
                    sheets = {
                        sheet.name: relation.target
                        for sheet, relation in book.parser.find_sheets()
                        if "worksheet" in relation.Type
                    }
                    texts = next((part for part in book.package.Override if part.ContentType == SHARED_STRINGS), None)
                finally:
                    book.archive.close()
                if texts is not None:
                    self._texts = SharedTexts(self._archive, texts.PartName.lstrip("/"))
        except (*_BROKEN, SyntaxError) as error:  # ElementTree's ParseError is a SyntaxError
            raise SourceError(f"{self._path} is no XLSX workbook that can be read; save it anew") from error
        if not sheets:
            raise SourceError(f"{self._path} has no sheet with cells")
        if table is not None and table not in sheets:
            raise SourceError(f"{self._path} has no sheet {table!r}; name one of its {len(sheets)} sheets with --table")
        self._part = next(iter(sheets.values())) if table is None else sheets[table]
        self._dates: frozenset[int] = frozenset().union(
            *(getattr(book.wb, name) for name in ("_date_formats", "_timedelta_formats"))  # set by apply_stylesheet
        )

    def _header(self, columns: Mapping[str, str]) -> None:
        self._rows = self._guarded()
        line, cells = next(self._rows, (0, {}))
        if not cells:
            raise SourceError(f"{self._path}: its sheet is empty; export it again, with a header")
        width = max(cells) + 1
        names = [cells.get(column) for column in range(width)]
        found = [name.strip() if isinstance(name, str) else str(name or "") for name in names]
        self._columns = positions(found, columns, where=f"{self._path}, row {line}")

    def _guarded(self) -> Iterator[tuple[int, dict[int, Any]]]:
        try:
            with reading(self._path), self._archive.open(self._part) as part:
                for line, cells in rows_of_sheet(part, self._texts, self._dates):
                    if line > MOST_ROWS:
                        raise SourceError(f"{self._path}: row {line:,} is beyond the rows that a sheet can have")
                    yield line, cells
        except (*_BROKEN, SyntaxError) as error:
            raise SourceError(f"{self._path} is damaged, or no XLSX workbook; save it anew") from error

    def rows(self) -> Iterator[SourceRow]:
        """Yield (row of the sheet, values); rows without any content are no rows."""
        columns = self._columns
        for line, cells in self._rows:
            yield line, [cells.get(column) for column in columns]

    def close(self) -> None:
        """Close the workbook and drop the temporary file."""
        self._archive.close()
        if self._texts is not None:
            self._texts.close()
