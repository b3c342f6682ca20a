"""What the readers of workbooks share: which sheets are read, and where their header is."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple

from mana_migration.domain.legacy import Marker, Typing
from mana_migration.domain.words import counted
from mana_migration.engine.sources.base import (
    MOST_TITLES,
    LegacySource,
    SourceOptions,
    SourceRow,
    as_text,
    has_columns,
    heading,
    positions,
)
from mana_migration.engine.sources.input import Input
from mana_migration.errors import SourceError

#: From here on a spreadsheet no longer keeps every digit of a number.
INEXACT_FROM: Final = 10**15

ALL_SHEETS: Final = "all"

#: Formulas that are truth values, as LibreOffice writes those that it has read from other formats.
TRUTHS: Final = {"TRUE()": True, "FALSE()": False}

#: Its number in the sheet, its values by column from 0, and whether it is hidden.
Row = tuple[int, dict[int, Any], bool]


class Sheet(NamedTuple):
    """A sheet of a workbook: its name, whether users see it, and a function that yields its rows with content."""

    name: str
    visible: bool
    rows: Callable[[], Iterator[Row]]


class _Table(NamedTuple):
    """A sheet with the header: its rows after the header, and the places of the columns."""

    sheet: Sheet
    line: int
    header: list[str]
    places: tuple[int, ...]


class SheetSource(LegacySource):
    """A workbook of any format: the visible sheet with the header, or those that --sheet names."""

    typing = Typing.FLOATS

    def __init__(self, file: Input, options: SourceOptions) -> None:
        super().__init__()
        if options.table is not None and options.sheet is not None:
            raise SourceError(f"{file.name}: --table means the sheet of a workbook; leave it out beside --sheet")
        self._file, self._options = file, options
        self._latest: dict[int, Any] = {}
        self._header: list[str] = []
        self._tables: list[_Table] = []

    def choose(self, sheets: Sequence[Sheet]) -> None:
        """Find the sheets to read, or close the workbook.

        Raises:
            SourceError: none fits, or several do and none was named.
        """
        try:
            self._choose(sheets)
        except BaseException:
            self.close()
            raise

    def _choose(self, sheets: Sequence[Sheet]) -> None:
        name, asked = self._file.name, self._options.sheet or self._options.table
        if not sheets:
            raise SourceError(f"{name} has no sheet with cells")
        if asked is not None and asked != ALL_SHEETS:
            everything, sheets = sheets, [sheet for sheet in sheets if sheet.name == asked]
            if not sheets:
                names = ", ".join(repr(sheet.name) for sheet in everything[:10])
                raise SourceError(f"{name} has no sheet {asked!r}; give --sheet with one of {names}")
        else:
            sheets = [sheet for sheet in sheets if sheet.visible]
        found = [(sheet, self._header_of(sheet)) for sheet in sheets]
        self._tables = [
            _Table(sheet, line, names, positions(names, self._options.columns, where=f"{name}, sheet {sheet.name!r}"))
            for sheet, (line, names) in found
            if has_columns(names, self._options.columns)
        ]
        if not self._tables:
            self._refuse_all(found)
        if len(self._tables) > 1 and asked is None:
            names = ", ".join(repr(table.sheet.name) for table in self._tables)
            raise SourceError(
                f"{name}: {len(self._tables)} visible sheets have the header ({names}); "
                "name one with --sheet, or read them all with --sheet all"
            )
        self.part = ", ".join(table.sheet.name for table in self._tables)

    def _header_of(self, sheet: Sheet) -> tuple[int, list[str]]:
        """Return the line and the names of the header, which titles may be above; of the first row if there is none."""
        first: tuple[int, list[str]] = (0, [])
        widest = 0
        for above, (line, cells, _) in enumerate(sheet.rows()):
            if above == MOST_TITLES:
                break
            names = [heading(cells.get(place)) for place in range(max(cells) + 1)]
            if has_columns(names, self._options.columns):
                if above and widest * 2 > len([one for one in names if one]):
                    raise SourceError(
                        f"{self._file.name}, sheet {sheet.name!r}: row {line:,} is a header, but the rows above it "
                        "look like data; begin the sheet with the header"
                    )
                if above:
                    self.notes["titles_skipped"] = f"the header is row {line:,}; the rows above it were not read"
                return line, names
            first = first if first[1] else (line, names)
            widest = max(widest, len(cells))
        return first

    def _refuse_all(self, found: Sequence[tuple[Sheet, tuple[int, list[str]]]]) -> None:
        """Raise the error that helps most: about the only sheet with cells, or about all of them."""
        filled = [(sheet, line, names) for sheet, (line, names) in found if names]
        if not filled:
            raise SourceError(f"{self._file.name}: its visible sheets are empty; export it again, with a header")
        if len(filled) > 1:
            raise SourceError(
                f"{self._file.name}: none of its {len(filled)} visible sheets with cells has the header; "
                "name one with --sheet to learn which columns it lacks"
            )
        sheet, line, names = filled[0]
        positions(names, self._options.columns, where=f"{self._file.name}, sheet {sheet.name!r}, row {line:,}")

    @property
    def header(self) -> Sequence[str]:
        """Return the names of the columns of the first sheet."""
        return self._tables[0].header

    def rows(self) -> Iterator[SourceRow]:
        """Yield (row of the sheet, values); rows without any content are no rows."""
        count = hidden_rows = 0
        for table in self._tables:
            self._header = table.header
            self.starts.append((count + 1, table.sheet.name))
            key, *others = table.places
            for line, cells, hidden in table.sheet.rows():
                if line <= table.line:
                    continue
                hidden_rows += hidden
                if isinstance(cells.get(key), Formatted):
                    cells[key] = Marker.FORMATTED
                self._latest = cells
                count += 1
                values = [cells.get(key), *(_plain(cells.get(place)) for place in others)]
                if values[0] == table.header[key] and all(
                    heading(cells.get(place)) == name for place, name in enumerate(table.header)
                ):
                    yield line, Marker.REPEATED_HEADER
                else:
                    yield line, values
        self._file.check_unchanged()
        if hidden_rows:
            self.notes["hidden_rows"] = (
                f"{counted(hidden_rows, 'row that is', 'rows that are')} hidden, by hand or by a filter, "
                f"{'was' if hidden_rows == 1 else 'were'} read as well"
            )

    def original(self) -> list[list[str]]:
        """Return the latest row as text."""
        return [[as_text(_plain(self._latest.get(place))) for place in range(len(self._header))]]


class Arrays:
    """The cells that a formula with several results fills; only its first cell has the formula."""

    def __init__(self) -> None:
        self._areas: list[tuple[range, range]] = []

    def add(self, columns: range, lines: range) -> None:
        """Add the area of a formula."""
        if len(columns) * len(lines) > 1:
            self._areas.append((columns, lines))

    def have(self, column: int, line: int) -> bool:
        """Say whether a cell is in an area; areas above it are forgotten."""
        if not self._areas:
            return False
        self._areas = [area for area in self._areas if line < area[1].stop]
        return any(column in columns and line in lines for columns, lines in self._areas)


class Formatted(NamedTuple):
    """A number that its cell shows as other text, such as 00123."""

    value: Any


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, Formatted) else value


def number(value: float) -> int | float | Marker:
    """Return a cell's number: whole where it is, a marker where the spreadsheet may have rounded it."""
    if abs(value) >= INEXACT_FROM:
        return Marker.INEXACT
    return int(value) if value == int(value) else float(value)


def as_shown(value: float, code: str) -> int | float | Marker | Formatted:
    """Return a cell's number, or what is known of it where the number format ``code`` shows another number or text."""
    found = number(value)
    if code == "General" or isinstance(found, Marker):
        return found
    plain = _LITERAL.sub("", code.partition(";")[0])
    if "%" in plain:
        return Marker.PERCENT
    if _SCALED(plain):
        return Marker.FORMATTED
    return Formatted(found) if isinstance(found, int) and shows_other_text(code, len(str(abs(found)))) else found


#: Commas behind the digits divide by a thousand each.
_SCALED: Final = re.compile(r"[0#?],+(?![0#?,])").search
#: Characters that a number format shows as they are.
_SIGNS: Final = re.compile(r"[-+()/:!^&'~{}<>=$]").search
_LITERAL: Final = re.compile(r'"([^"]*)"|\\(.)|\[\$([^\]-]*)[^\]]*\]|\[[^\]]*\]|[_*].')


def shows_other_text(code: str, digits: int) -> bool:
    """Say whether a number format shows a whole number of so many digits as other text than its digits.

    Leading zeros, signs, prefixes and exponents count; separators of thousands and decimals do not.
    """
    section = code.partition(";")[0]
    literal = "".join("".join(part for part in found if part) for found in _LITERAL.findall(section))
    plain = _LITERAL.sub("", section)
    if literal.strip() or _SIGNS(plain) or "E" in plain.upper().replace("GENERAL", ""):
        return True
    return plain.partition(".")[0].count("0") > digits
