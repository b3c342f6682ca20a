"""ODS, one row at a time.

# Note [Why tablib does not read ODS, XLS and YAML]
A value must be what the file means.  tablib reads equal neighbours, which LibreOffice writes as one repeated cell, as
one cell, so that columns shift; takes hidden sheets; loses truth values of XLS; leaves the backslashes doubled that
PostgreSQL writes into TSV; and lets YAML turn 0123 into 83.
"""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, Final

from mana_migration.domain.legacy import Marker
from mana_migration.engine.sources.base import SourceOptions
from mana_migration.engine.sources.input import Input
from mana_migration.engine.sources.sheets import TRUTHS, Arrays, Formatted, Row, Sheet, SheetSource, number
from mana_migration.engine.sources.xlsx_parts import parse_xml
from mana_migration.errors import SourceError

_CONTENT: Final = "content.xml"
LARGEST_CONTENT: Final = 2 << 30
#: Content above this size must not be packed more tightly than this.
SUSPICIOUS_SIZE: Final = 64 << 20
TIGHTEST: Final = 500
#: Rows and columns that a sheet can have.
MOST_ROWS: Final = 1_048_576
MOST_COLUMNS: Final = 16_384
_WHOLE: Final = re.compile(r"-?[0-9]{1,18}", re.ASCII).fullmatch
_LONGEST_TEXT: Final = 32_767

_BROKEN: Final = (zipfile.BadZipFile, zlib.error, EOFError, KeyError, ValueError, NotImplementedError)


class OdsSource(SheetSource):
    """A spreadsheet of LibreOffice and other programs."""

    kind = "ods"

    def __init__(self, file: Input, options: SourceOptions) -> None:
        super().__init__(file, options)
        if not file.stream.seekable():
            raise SourceError(f"{file.name}: a workbook cannot be read from a pipe; save it as a file")
        try:
            with file.reading():
                file.stream.peek(1)
                self._archive = zipfile.ZipFile(file.stream)
                content = self._archive.getinfo(_CONTENT)
                tight = content.file_size > SUSPICIOUS_SIZE and content.file_size > content.compress_size * TIGHTEST
                if content.file_size > LARGEST_CONTENT or tight:
                    raise SourceError(
                        f"{file.name} unpacks to more than any export of balances would; export it as CSV"
                    )
                sheets = [Sheet(name, visible, partial(self._rows_of, place)) for place, name, visible in self._names()]
        except _BROKEN as error:
            raise SourceError(f"{file.name} is not an ODS spreadsheet that can be read; save it again") from error
        except BaseException:
            self.close()
            raise
        self.choose(sheets)

    def _names(self) -> Iterator[tuple[int, str, bool]]:
        """Yield the place, the name and the visibility of each sheet."""
        hidden: set[str] = set()
        found: list[tuple[str, str]] = []
        style = ""

        def start(tag: str, attributes: Mapping[str, str]) -> None:
            nonlocal style
            name, values = tag.rpartition(" ")[2], _local(attributes)
            if name == "style":
                style = values.get("name", "")
            elif name == "table-properties" and values.get("display") == "false":
                hidden.add(style)
            elif name == "table":
                found.append((values.get("name", ""), values.get("style-name", "")))

        with self._archive.open(_CONTENT) as part:
            for _ in parse_xml(part, start=start, end=lambda tag: None):
                pass
        for place, (name, of) in enumerate(found):
            yield place, name, of not in hidden

    def _rows_of(self, place: int) -> Iterator[Row]:
        """Yield the rows of a sheet that have content; a row that is repeated comes as often as it is."""
        try:
            with self._file.reading(), self._archive.open(_CONTENT) as part:
                reader = _TableReader(place)
                for _ in parse_xml(part, start=reader.start, end=reader.end, text=reader.text):
                    for line, repeated, cells, hidden in reader.ready:
                        if line + repeated > MOST_ROWS + 1:
                            raise SourceError(f"{self._file.name}: a sheet cannot have so many rows; export it as CSV")
                        for further in range(repeated):
                            yield line + further, cells, hidden
                    reader.ready.clear()
        except _BROKEN as error:
            raise SourceError(f"{self._file.name} is damaged; save it again") from error

    def close(self) -> None:
        """Close the spreadsheet."""
        if hasattr(self, "_archive"):
            self._archive.close()
        self._file.close()


class _TableReader:
    """Collect the rows of one table from the events of the parser."""

    def __init__(self, place: int) -> None:
        self.ready: list[tuple[int, int, dict[int, Any], bool]] = []
        self._hidden = False
        self._arrays = Arrays()
        self._left, self._inside = place, False
        self._line, self._column = 1, 0
        self._rows = self._repeated = 1
        self._cells: dict[int, Any] = {}
        self._attributes: dict[str, str] = {}
        self._pieces: list[str] = []
        self._paragraphs = self._note = self._size = 0

    def start(self, tag: str, attributes: Mapping[str, str]) -> None:
        """Take the start of an element."""
        name = tag.rpartition(" ")[2]
        if name == "table":
            self._inside = self._left == 0
            self._left -= 1
        if not self._inside:
            return
        if name == "table-row":
            values = _local(attributes)
            self._rows = int(values.get("number-rows-repeated", 1))
            self._hidden = values.get("visibility") in ("collapse", "filter")
            self._column, self._cells = 0, {}
        elif name in ("table-cell", "covered-table-cell"):
            self._attributes = _local(attributes)
            self._repeated = int(self._attributes.get("number-columns-repeated", 1))
            self._pieces, self._paragraphs, self._size = [], 0, 0
        elif name == "annotation":
            self._note += 1
        elif not self._note and name == "p":
            self._pieces.append("\n" if self._paragraphs else "")
            self._paragraphs += 1
        elif not self._note and name in ("s", "tab", "line-break"):
            count = int(_local(attributes).get("c", 1))
            self._pieces.append({"s": " " * min(count, _LONGEST_TEXT), "tab": "\t"}.get(name, "\n"))

    def end(self, tag: str) -> None:
        """Take the end of an element."""
        name = tag.rpartition(" ")[2]
        if name == "table":
            self._inside = False
        if not self._inside:
            return
        if name == "annotation":
            self._note -= 1
        elif name in ("table-cell", "covered-table-cell"):
            value = _value(self._attributes, "".join(self._pieces)) if name == "table-cell" else None
            if "number-matrix-rows-spanned" in self._attributes:
                wide, high = (int(self._attributes[f"number-matrix-{one}-spanned"]) for one in ("columns", "rows"))
                self._arrays.add(range(self._column, self._column + wide), range(self._line, self._line + high))
            if self._arrays.have(self._column, self._line):
                value = Marker.FORMULA
            if value is not None:
                if self._column + self._repeated > MOST_COLUMNS:
                    raise ValueError("no column")
                self._cells.update(dict.fromkeys(range(self._column, self._column + self._repeated), value))
            self._column += self._repeated
        elif name == "table-row":
            if self._cells:
                self.ready.append((self._line, self._rows, self._cells, self._hidden))
            self._line += self._rows

    def text(self, data: str) -> None:
        """Take text, of paragraphs alone."""
        if self._inside and self._paragraphs and not self._note and self._size < _LONGEST_TEXT:
            self._pieces.append(data)
            self._size += len(data)


def _local(attributes: Mapping[str, str]) -> dict[str, str]:
    # calcext:value-type repeats office:value-type, except for errors
    found: dict[str, str] = {}
    for key, value in attributes.items():
        namespace, _, name = key.rpartition(" ")
        found["error" if name == "value-type" and value == "error" else name] = value
        if namespace.endswith("calcext") and name == "value-type":
            found.setdefault("value-type", value)
    return found


def _value(attributes: Mapping[str, str], shown: str) -> Any:
    """Return a cell's value: text, number, truth value, None, or a marker."""
    kind = attributes.get("value-type")
    if "formula" in attributes:
        return TRUTHS.get(attributes["formula"].removeprefix("of:="), Marker.FORMULA)
    if "error" in attributes:
        return Marker.ERROR_CELL
    if kind in ("float", "currency"):
        return _number(attributes["value"], shown, is_currency=kind == "currency")
    if kind == "boolean":
        return attributes["boolean-value"] == "true"
    if kind == "string" or kind is None:
        return attributes.get("string-value", shown) or None
    return {"date": Marker.DATE, "time": Marker.DATE}.get(kind, Marker.PERCENT if kind == "percentage" else None)


def _number(text: str, shown: str, *, is_currency: bool) -> Any:
    found = number(float(text))
    plain = shown.replace(",", "").replace("\xa0", "").replace("\u202f", "").strip()
    if isinstance(found, int) and _WHOLE(shown) and int(shown) != found:
        return Marker.FORMATTED  # another number, such as one of thousands
    if isinstance(found, int) and shown and not is_currency and plain.partition(".")[0] != str(found):
        return Formatted(found)
    return found
