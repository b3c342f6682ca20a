"""XLSX, one row at a time.

# Note [Why openpyxl does not read the rows]
Memory stays flat.  openpyxl's read-only API keeps all texts of a workbook and an element for each row, as
docs/performance.md shows.  So the two large parts are streamed here; what number formats mean is openpyxl's.
"""

from __future__ import annotations

import posixpath
import zipfile
import zlib
from collections.abc import Iterator
from functools import partial
from typing import IO, Final

from openpyxl.styles.numbers import BUILTIN_FORMATS, is_date_format, is_timedelta_format

from mana_migration.engine.sources.base import SourceOptions
from mana_migration.engine.sources.input import Input
from mana_migration.engine.sources.sheets import Row, Sheet, SheetSource
from mana_migration.engine.sources.xlsx_parts import SharedTexts, elements, rows_of_sheet
from mana_migration.errors import SourceError

#: Bytes that the parts which are read may unpack to, and that the small ones among them may.
LARGEST_WORKBOOK: Final = 2 << 30
LARGEST_SMALL_PART: Final = 32 << 20
#: A part above this size must not be packed more tightly than this: balances never are, bombs are.
SUSPICIOUS_SIZE: Final = 64 << 20
TIGHTEST: Final = 250
#: Rows that a sheet can have.
MOST_ROWS: Final = 1_048_576

_BROKEN: Final = (zipfile.BadZipFile, zlib.error, EOFError, KeyError, ValueError, TypeError, IndexError)


class XlsxSource(SheetSource):
    """A workbook of Excel 2007 or later, ordinary or strict."""

    kind = "xlsx"

    def __init__(self, file: Input, options: SourceOptions) -> None:
        super().__init__(file, options)
        self._texts: SharedTexts | None = None
        self._unpacked = 0
        if not file.stream.seekable():
            raise SourceError(f"{file.name}: a workbook cannot be read from a pipe; save it as a file")
        with file.reading():
            file.stream.peek(1)
        try:
            self._archive = zipfile.ZipFile(file.stream)
        except (zipfile.BadZipFile, OSError, ValueError):
            raise SourceError(
                f"{file.name} is not an XLSX workbook (or is protected by a password); save it as one"
            ) from None
        try:
            with file.reading():
                sheets = self._sheets()
        except _BROKEN as error:
            self.close()
            raise SourceError(f"{file.name} is not an XLSX workbook that can be read; save it again") from error
        except BaseException:
            self.close()
            raise
        self.choose(sheets)

    def _sheets(self) -> list[Sheet]:
        book = self._related("", "officeDocument")[0][1]
        targets = dict(self._related(book, "worksheet"))
        formats = self._formats(book)
        texts = [part for _, part in self._related(book, "sharedStrings")] or self._declared("sharedStrings+xml")
        if texts:
            self._check(texts[0], large=True)
            self._texts = SharedTexts(self._archive, texts[0])
        return [
            Sheet(
                attributes["name"],
                attributes.get("state", "visible") == "visible",
                partial(self._rows_of, targets[attributes["id"]], formats),
            )
            for _, tag, attributes in elements(self._open(book))
            if tag == "sheet" and attributes.get("id") in targets
        ]

    def _related(self, part: str, kind: str) -> list[tuple[str, str]]:
        """Return (id, part) of the parts of a kind that a part refers to."""
        folder, name = posixpath.split(part)
        relations = posixpath.join(folder, "_rels", f"{name}.rels")
        return [
            (attributes["Id"], posixpath.normpath(posixpath.join("/", folder, attributes["Target"])).lstrip("/"))
            for _, tag, attributes in elements(self._open(relations))
            if tag == "Relationship" and attributes["Type"].endswith(f"/{kind}")
        ]

    def _declared(self, kind: str) -> list[str]:
        """Return the parts that the table of contents declares to be of a kind."""
        return [
            attributes["PartName"].lstrip("/")
            for _, tag, attributes in elements(self._open("[Content_Types].xml"))
            if tag == "Override" and attributes["ContentType"].endswith(kind)
        ]

    def _formats(self, book: str) -> list[str | None]:
        """Return the number format of each style, None for dates and times."""
        codes = dict(BUILTIN_FORMATS)
        styles: list[str | None] = []
        for part in self._related(book, "styles"):
            for parent, tag, attributes in elements(self._open(part[1])):
                if tag == "numFmt":
                    codes[int(attributes["numFmtId"])] = attributes["formatCode"]
                elif tag == "xf" and parent == "cellXfs":
                    code = codes.get(int(attributes.get("numFmtId", 0)), "General")
                    styles.append(None if is_date_format(code) or is_timedelta_format(code) else code)
        return styles

    def _open(self, part: str) -> IO[bytes]:
        self._check(part, large=False)
        return self._archive.open(part)

    def _check(self, part: str, *, large: bool) -> None:
        """Refuse a part that unpacks to more than an export of balances has."""
        found = self._archive.getinfo(part)
        if found.flag_bits & 1:
            raise SourceError(f"{self._file.name} is encrypted; save it without a password")
        self._unpacked += found.file_size
        tight = found.file_size > SUSPICIOUS_SIZE and found.file_size > found.compress_size * TIGHTEST
        if tight or self._unpacked > LARGEST_WORKBOOK or (not large and found.file_size > LARGEST_SMALL_PART):
            raise SourceError(
                f"{self._file.name} unpacks to more than any export of balances would; "
                "if it is a real one, export it as CSV instead"
            )

    def _rows_of(self, part: str, formats: list[str | None]) -> Iterator[Row]:
        """Yield the rows of a sheet that have content."""
        try:
            self._check(part, large=True)
            with self._file.reading(), self._archive.open(part) as stream:
                for row in rows_of_sheet(stream, self._texts, formats):
                    if row[0] > MOST_ROWS:
                        raise SourceError(f"{self._file.name}: row {row[0]:,} is beyond the rows that a sheet can have")
                    yield row
        except _BROKEN as error:
            raise SourceError(f"{self._file.name} is damaged, or not an XLSX workbook; save it again") from error

    def close(self) -> None:
        """Close the workbook and drop the temporary file."""
        if self._texts is not None:
            self._texts.close()
        if hasattr(self, "_archive"):
            self._archive.close()
        self._file.close()
