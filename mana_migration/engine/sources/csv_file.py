"""CSV as spreadsheets and databases write it: comma, semicolon or tab, UTF-8, quotes as in RFC 4180.

tablib would read the whole file into memory; the standard library streams it.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from operator import itemgetter
from pathlib import Path
from typing import Final

from mana_migration.domain.legacy import Marker, Typing
from mana_migration.engine.sources.base import LegacySource, SourceRow, positions, reading
from mana_migration.errors import SourceError

DELIMITERS: Final = ",;\t"
_WIDE: Final = (b"\xff\xfe", b"\xfe\xff")


class CsvSource(LegacySource):
    """A CSV file with a header."""

    kind = "csv"
    typing = Typing.TEXT
    shows_lines = True

    def __init__(self, path: Path, *, table: str | None, columns: Mapping[str, str]) -> None:
        self._path = path
        if table is not None:
            raise SourceError(f"{path.name}: a CSV file has no tables; leave out --table")
        with reading(path):
            _refuse_binary(path)
            self._file = path.open(encoding="utf-8-sig", newline="")
        try:
            self._header(columns)
        except BaseException:
            self.close()
            raise

    def _header(self, columns: Mapping[str, str]) -> None:
        with reading(self._path):
            lines = (line for line in self._file if line.strip())
            first = next(lines, "")
        if not first:
            raise SourceError(f"{self._path} is empty; export it again, with a header")
        delimiter = max(DELIMITERS, key=first.count)
        # strict: a stray quote must not swallow the rows behind it
        with reading(self._path):
            self._file.seek(0)
        self._reader = csv.reader(self._file, delimiter=delimiter, strict=True)
        try:
            with reading(self._path):
                found = [name.strip() for name in next(row for row in self._reader if row)]
        except (csv.Error, StopIteration):
            raise SourceError(f"{self._path}: its first row cannot be read as CSV; check the quotes") from None
        self._width = len(found)
        self._pick = itemgetter(*positions(found, columns, where=str(self._path)))

    def rows(self) -> Iterator[SourceRow]:
        """Yield (line, values); empty lines are no rows."""
        reader, pick, width = self._reader, self._pick, self._width
        line = reader.line_num + 1
        try:
            with reading(self._path):
                for record in reader:
                    if len(record) == width:
                        yield line, pick(record)
                    elif record:
                        yield line, Marker.WRONG_FIELD_COUNT
                    line = reader.line_num + 1
        except csv.Error as error:
            raise SourceError(
                f"{self._path}, line {line:,}: not CSV ({error}); check the quotes from this line on"
            ) from None

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _refuse_binary(path: Path) -> None:
    with path.open("rb") as file:
        start = file.read(4096)
    if start.startswith(_WIDE):
        raise SourceError(f"{path} is UTF-16 text; save it as UTF-8 (in a spreadsheet: CSV UTF-8)")
    if b"\0" in start:
        raise SourceError(f"{path} is a binary file, not text; give it the ending of what it is")
