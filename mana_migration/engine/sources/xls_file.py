"""XLS, the format of Excel up to 2003, through xlrd; see Note [Why tablib does not read ODS, XLS and YAML].

A formula comes as the value that was saved with it: xlrd does not distinguish the two.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from functools import partial
from typing import Any, Final

import xlrd
from xlrd.compdoc import CompDocError

from mana_migration.domain.legacy import Marker
from mana_migration.engine.sources.base import SourceOptions
from mana_migration.engine.sources.input import Input
from mana_migration.engine.sources.sheets import Row, Sheet, SheetSource, as_shown
from mana_migration.errors import SourceError

#: Bytes of a workbook, which xlrd reads as a whole; its 65,536 rows take a tenth.
LARGEST_WORKBOOK: Final = 64 << 20

_BROKEN: Final = (
    xlrd.XLRDError, CompDocError, struct.error, AssertionError, IndexError, KeyError, ValueError, TypeError,
    AttributeError, MemoryError,
)  # fmt: skip


class XlsSource(SheetSource):
    """A workbook of Excel 97 to 2003."""

    kind = "xls"

    def __init__(self, file: Input, options: SourceOptions) -> None:
        super().__init__(file, options)
        with file.reading():
            content = file.stream.read(LARGEST_WORKBOOK + 1)
        if len(content) > LARGEST_WORKBOOK:
            raise SourceError(f"{file.name} is larger than an XLS workbook of balances can be; export it as CSV")
        try:
            # xlrd prints its warnings otherwise
            self._book = xlrd.open_workbook(file_contents=content, formatting_info=True, logfile=io.StringIO())
        except _BROKEN as error:
            raise SourceError(
                f"{file.name} is not an XLS workbook (or is protected by a password); save it as XLSX or CSV"
            ) from error
        self.choose([Sheet(one.name, one.visibility == 0, partial(self._rows_of, one)) for one in self._book.sheets()])

    def _rows_of(self, sheet: Any) -> Iterator[Row]:
        for place in range(sheet.nrows):
            values = {column: self._value(cell) for column, cell in enumerate(sheet.row(place))}
            cells = {column: value for column, value in values.items() if value is not None}
            if cells:
                row = sheet.rowinfo_map.get(place)
                yield place + 1, cells, row is not None and bool(row.hidden)

    def _value(self, cell: Any) -> Any:
        """Return a cell's value: text, number, truth value, None, or a marker."""
        if cell.ctype == xlrd.XL_CELL_NUMBER:
            code = self._book.format_map[self._book.xf_list[cell.xf_index].format_key].format_str
            return as_shown(cell.value, code)
        if cell.ctype == xlrd.XL_CELL_TEXT:
            return cell.value or None
        if cell.ctype == xlrd.XL_CELL_BOOLEAN:
            return bool(cell.value)
        return {xlrd.XL_CELL_DATE: Marker.DATE, xlrd.XL_CELL_ERROR: Marker.ERROR_CELL}.get(cell.ctype)

    def close(self) -> None:
        """Release the workbook."""
        if hasattr(self, "_book"):
            self._book.release_resources()
        self._file.close()
