"""Tables as text: CSV as spreadsheets, databases and programs write it, and PostgreSQL's text format.

Separators are comma, semicolon, tab or bar.  With tabs, backslashes escape and quotation marks are plain characters, as
``\\copy`` and MySQL write it; otherwise quotation marks enclose fields as in RFC 4180 and backslashes are plain.

# Note [Two readings]
A record is read in one way only where the other way cannot be meant: the other reading has the wrong number of fields,
breaks off, or gives the same values.  An id that both readings accept and that differs is a bad row, until --backslash
says what backslashes mean.  So no user gets an account under a name that the old system does not know.

# Note [Stray quotation marks]
A quotation mark that opens a field by mistake swallows the rows up to the next one.  A record that spans lines is
therefore a bad row if its lines could be rows of their own.  A record that cannot be read at all costs its first line
alone: reading resumes with the next line, since no reading of the swallowed lines as one field works.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from operator import itemgetter
from typing import Any, Final, NamedTuple

from mana_migration.domain.legacy import BALANCES, Marker, Typing
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
from mana_migration.engine.sources.text_lines import LAST_LINE, LONGEST_ROW, TextLines, is_damaged
from mana_migration.errors import SourceError

DELIMITERS: Final = ",;\t|"
#: Our columns of an export or an old ledger that hold numbers.
NUMBERS: Final = (*BALANCES, "ledger_mana")

_SEPARATOR_LINE: Final = re.compile(r"sep=(.)\r?\n?", re.IGNORECASE).fullmatch
#: Lines that a record with backslash escapes may span.
_MOST_LINES: Final = 100
#: An id that a writer with backslash escapes and one without could both have written.
_PAIRS: Final = re.compile(r'(?:[^\\]|\\[\\"])*').fullmatch
#: An id as COPY writes it: backslashes are doubled, and it has no control characters that have escapes of their own.
_COPY_TEXT: Final = re.compile(r"(?:[^\\]|\\\\)*").fullmatch
#: What is in a number column, clean or not.
_NUMBER: Final = re.compile(r"[+-]?[0-9.' ]*(?:e[+-]?[0-9]+)?|null|none|nan|n/a|\\n|#.*", re.IGNORECASE).fullmatch
_LINE_END: Final = re.compile("\r\n|\r|\n").split
_ESCAPE: Final = re.compile(r"\\(.)", re.DOTALL)
_CONTROLS: Final = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "0": "\0", "Z": "\x1a"}


class _Record(NamedTuple):
    """A record: its fields, or what is wrong with it, and the lines that it was read from."""

    fields: Sequence[str | Marker | None] | Marker
    lines: Sequence[str]


class _TooLongError(Exception):
    """A record does not end."""


class CsvSource(LegacySource):
    """A table as text, with a header."""

    kind = "csv"
    typing = Typing.TEXT

    def __init__(self, file: Input, options: SourceOptions) -> None:
        super().__init__()
        if options.table is not None or options.sheet is not None:
            raise SourceError(f"{file.name}: a text file has no tables or sheets; leave out --table and --sheet")
        self._file, self._backslash = file, options.backslash
        self._latest: tuple[Sequence[Any] | Marker, Sequence[str]] = (), ()
        file.refuse_binary()
        self._lines = TextLines(file)
        with file.reading():
            self._find_header(options)

    @property
    def header(self) -> Sequence[str]:
        """Return the names of all columns."""
        return self._header

    def _find_header(self, options: SourceOptions) -> None:
        """Find the header among the first lines; only rows that look like titles may be above it."""
        first: list[str] | None = None
        opening = ""
        above = widest = 0
        delimiter: str | None = None
        while above < MOST_TITLES and (line := self._lines.next()) is not None:
            announced = _SEPARATOR_LINE(line) if first is None else None
            if announced:
                delimiter = announced[1]
                continue
            if not line.strip():
                continue
            number = self._lines.number
            self._use(delimiter or max(DELIMITERS, key=line.count), len(line))
            fields = self._quoted(line).fields
            names = [] if isinstance(fields, Marker) else [heading(name) for name in fields]
            if has_columns(names, options.columns):
                self._take_header(line, names, options, number)
                if above and widest * 2 > len(names):
                    raise SourceError(
                        f"{self._file.name}: line {number:,} is a header, but the rows above it look like data; "
                        "begin the file with the header"
                    )
                if above:
                    self.notes["titles_skipped"] = f"the header is line {number:,}; the lines above it were not read"
                return
            if first is None:
                first, opening = names, line
            widest = max(widest, sum(bool(name) for name in names))
            above += 1
        if first is None:
            raise SourceError(f"{self._file.name} is empty; export it again, with a header")
        if first[:1] and first[0].startswith(("[", "{", "<")):
            kind = "HTML or XML" if first[0].startswith("<") else "JSON"
            raise SourceError(
                f"{self._file.name} is {kind}, not a table; export it as CSV, or end its name as what it is"
            )
        self._refuse_separators(opening, options.columns)
        positions(first, options.columns, where=self._file.name)

    def _refuse_separators(self, line: str, columns: Mapping[str, str]) -> None:
        """Refuse a first line that has all columns, but not as fields."""
        names = list(columns.values())
        if not all(name in line for name in names):
            return
        begin, _, end = line.strip().partition(max(names, key=len))
        mark = (end or begin[::-1])[:1]
        if mark == "'":
            cause = "its fields are enclosed in single quotation marks; export it with double ones"
        elif line.lstrip().startswith('"'):
            cause = "each line is enclosed in quotation marks as a whole; export it again as CSV"
        else:
            cause = f"they are separated by {mark!r}; put sep={mark} above them, as a line of its own"
        raise SourceError(f"{self._file.name} has the columns, but {cause}")

    def _use(self, delimiter: str, width: int) -> None:
        self._delimiter, self._width = delimiter, width
        self._positions: tuple[int, ...] = ()
        self._plain_quotes = False
        self._numbers: list[int] = []

    def _take_header(self, line: str, names: list[str], options: SourceOptions, number: int) -> None:
        self._header, self._width = names, len(names)
        where = self._file.name if number == 1 else f"{self._file.name}, line {number:,}"
        self._positions = positions(names, options.columns, where=where)
        self._pick = itemgetter(*self._positions)
        self._numbers = [place for place, name in zip(self._positions, options.columns, strict=True) if name in NUMBERS]
        tabs = self._delimiter == "\t"
        self._escapes = self._backslash == "escape" or (self._backslash is None and tabs)
        # a header in quotation marks is not PostgreSQL's
        self._plain_quotes = tabs and self._escapes and not line.lstrip().startswith('"')
        if tabs and self._backslash is None and not self._plain_quotes:
            self._escapes = False

    def rows(self) -> Iterator[SourceRow]:
        """Yield (line, values); lines without any content are no rows."""
        lines, width, pick, delimiter = self._lines, self._width, self._pick, self._delimiter
        plain, first = self._backslash == "literal", self._header[0]
        with self._file.reading():
            while (line := lines.next()) is not None:
                number = lines.number
                if '"' not in line and (plain or "\\" not in line) and len(line) <= LONGEST_ROW:
                    fields: Sequence[Any] | Marker = line.rstrip("\r\n").split(delimiter)
                    self._latest = fields, (line,)
                else:
                    self._latest = fields, taken = self._odd_record(line)
                    self.spanning += len(taken) > 1 and not isinstance(fields, Marker)
                if isinstance(fields, Marker):
                    yield number, fields
                elif not fields[0] and not any(fields):
                    continue
                elif len(fields) != width:
                    yield number, Marker.WRONG_FIELD_COUNT
                elif is_damaged("".join(self._latest[1])):
                    yield number, self._damaged(fields)
                elif fields[0] == first and [heading(field) for field in fields] == self._header:
                    yield number, Marker.REPEATED_HEADER
                else:
                    yield number, pick(fields)
        self._file.check_unchanged()
        if lines.cut_last:
            self.notes["last_line_unterminated"] = LAST_LINE

    def original(self) -> list[list[str]]:
        """Return the latest row's fields; where its quotation marks are broken, those of each of its lines."""
        fields, lines = self._latest
        if isinstance(fields, Marker):
            return [_without_end(line).split(self._delimiter) for line in lines]
        if Marker.AMBIGUOUS in fields:
            written = [_without_end(line).split(self._delimiter) for line in lines]
            if len(written) == 1 and len(written[0]) == len(fields):
                # enclosed, because no import accepts that
                written[0] = [
                    f'"{text}"' if field is Marker.AMBIGUOUS and not text.startswith('"') else text
                    for text, field in zip(written[0], fields, strict=True)
                ]
            return written
        return [[as_text(field) for field in fields]]

    def close(self) -> None:
        """Close the file."""
        if hasattr(self, "_lines"):
            self._lines.detach()
        self._file.close()

    def _damaged(self, fields: Sequence[Any]) -> Marker | list[Any]:
        """Return the values with a marker for those that are not UTF-8; one for the row if no column read has any."""
        values = [
            Marker.NOT_UTF8 if isinstance(field, str) and is_damaged(field) else field for field in self._pick(fields)
        ]
        return values if Marker.NOT_UTF8 in values else Marker.NOT_UTF8

    # --- Records that are more than text between separators -----------------------------------------------------------

    def _odd_record(self, line: str) -> _Record:
        """Read a record with quotation marks or backslashes; see Note [Two readings]."""
        if len(line) > LONGEST_ROW:
            return _Record(Marker.ROW_TOO_LONG, (line[:LONGEST_ROW],))
        if self._escapes:
            return self._copied(line) if self._plain_quotes else self._escaped_or_copied(line)
        record = self._quoted(line)
        if self._is_clean(record):
            return self._doubted(record)
        return self._repaired(line, record) if self._backslash is None and "\\" in line else record

    def _repaired(self, line: str, record: _Record) -> _Record:
        """Read a record with backslash escapes where the usual reading failed."""
        self._lines.put_back(record.lines[1:])
        escaped = self._escaped(line)
        if self._is_clean(escaped):
            return escaped
        self._lines.put_back(escaped.lines[1:])
        return self._quoted(line)

    def _is_clean(self, record: _Record) -> bool:
        return not isinstance(record.fields, Marker) and len(record.fields) == self._width

    def _quoted(self, first: str) -> _Record:
        """Read a record whose fields may be enclosed in quotation marks."""
        taken = [first]
        reader = csv.reader(self._feed(taken), delimiter=self._delimiter, strict=True)
        try:
            fields = next(reader, [])
        except (csv.Error, _TooLongError):
            self._lines.put_back(taken[1:])
            return _Record(Marker.BROKEN_QUOTES, taken[:1])
        return _Record(Marker.SPANS_RECORDS if self._spans_records(fields, taken) else fields, taken)

    def _spans_records(self, fields: Sequence[str | None], lines: Sequence[str]) -> bool:
        """Say whether lines of one record look like rows of their own; see Note [Stray quotation marks]."""
        if len(lines) == 1 or not self._positions:
            return False
        broken = [place for place, field in enumerate(fields) if any(mark in (field or "") for mark in "\r\n")]
        # where a long field is behind all columns that are read, the first line rightly has all separators
        is_behind = bool(broken) and broken[-1] > max(self._positions)
        full = sum(line.count(self._delimiter) >= self._width - 1 for line in lines[is_behind:])
        return full > 1 or any(self._holds_rows(fields, place) for place in broken)

    def _holds_rows(self, fields: Sequence[str | None], place: int) -> bool:
        """Say whether a field of several lines holds rows: the end of one, whole ones, the beginning of one."""
        lines = _LINE_END(fields[place] or "")
        if any(self._looks_like_row(line.split(self._delimiter)) for line in lines[1:-1]):
            return True
        return any(self._are_rows(fields, place, lines, cut) for cut in range(1, min(len(lines), _MOST_LINES)))

    def _are_rows(self, fields: Sequence[str | None], place: int, lines: Sequence[str], cut: int) -> bool:
        """Say whether a row ends with the lines of a field before a cut and another begins with those behind it."""
        first = [*fields[:place], *" ".join(lines[:cut]).split(self._delimiter)]
        last = [*" ".join(lines[cut:]).split(self._delimiter), *fields[place + 1 :]]
        # a row whose columns are all outside the field is the record's own
        if place > max(self._positions):
            return self._looks_like_row(last)
        if not self._looks_like_row(first):
            return False
        inside = [number for number in self._numbers if number >= place]
        has_numbers = bool(inside) and _are_numbers(first, inside)
        return has_numbers or place < min(self._positions) or self._looks_like_row(last)

    def _looks_like_row(self, parts: Sequence[str | None]) -> bool:
        """Say whether there are numbers where a row has them; writers leave out separators after the last value."""
        if len(parts) <= max(self._positions):
            return False
        # separators in a name shift the columns after it, so that numbers are also counted from the end
        return any(
            _are_numbers(parts, [place + shift for place in self._numbers])
            for shift in (0, max(len(parts) - self._width, 0))
        )

    def _feed(self, taken: list[str]) -> Iterator[str]:
        size = len(taken[0])
        yield taken[0]
        while (line := self._lines.next()) is not None:
            taken.append(line)
            size += len(line)
            if size > LONGEST_ROW:
                raise _TooLongError
            yield line

    def _escaped(self, first: str) -> _Record:
        """Read a record whose backslashes escape, with or without enclosing quotation marks, as MySQL writes it."""
        taken = [first]
        while True:
            fields = _split_escaped(_without_end("".join(taken)), self._delimiter, quotes=not self._plain_quotes)
            if fields is not None:
                break
            line = self._lines.next() if len(taken) < _MOST_LINES else None
            if line is None:
                self._lines.put_back(taken[1:])
                return _Record(Marker.BROKEN_QUOTES, taken[:1])
            taken.append(line)
        return _Record(Marker.SPANS_RECORDS if self._spans_records(fields, taken) else fields, taken)

    def _escaped_or_copied(self, line: str) -> _Record:
        """Read a record with backslash escapes whose quotation marks enclose fields, or are plain if they cannot."""
        record = self._escaped(line)
        if self._is_clean(record) or record.fields is Marker.SPANS_RECORDS:
            return record
        fields = _split_escaped(_without_end(line), self._delimiter, quotes=False)
        if fields is None or len(fields) != self._width:
            return record
        self._lines.put_back(record.lines[1:])
        return _Record(fields, (line,))

    def _copied(self, line: str) -> _Record:
        """Read a line of PostgreSQL's text format; see Note [Two readings] for lines that may be a spreadsheet's."""
        fields: list[Any] = list(_without_end(line).split("\t"))
        sure = self._backslash == "escape"
        enclosed = not sure and any(field and field.startswith('"') for field in fields)
        if len(fields) != self._width and enclosed:
            record = self._quoted(line)
            if self._is_clean(record):
                return self._doubted(record)
            self._lines.put_back(record.lines[1:])
        if len(fields) != self._width and "\\" in line:
            return self._continued(line, fields)
        if len(fields) == self._width:
            for place in self._positions:
                fields[place] = self._copied_field(fields[place] or "", sure=sure)
        return _Record(fields, (line,))

    def _continued(self, line: str, fields: Sequence[str]) -> _Record:
        """Read a record with backslashes before tabs and line ends, as MySQL writes it; ``fields``: without them."""
        record = self._escaped(line)
        if self._is_clean(record) or record.fields is Marker.SPANS_RECORDS:
            return record
        self._lines.put_back(record.lines[1:])
        return _Record(fields, (line,))

    def _copied_field(self, text: str, *, sure: bool) -> str | Marker | None:
        if text == "\\N":
            return None
        if not sure and (text.startswith('"') or not _COPY_TEXT(text)):
            return Marker.AMBIGUOUS
        return _unescaped(text)

    def _doubted(self, record: _Record) -> _Record:
        """Mark an id whose backslashes could also be escapes."""
        if not self._positions or self._backslash is not None or isinstance(record.fields, Marker):
            return record
        place = self._positions[0]
        key = str(record.fields[place] or "")
        if "\\" not in key or key == "\\N" or not _PAIRS(key):
            return record
        fields = list(record.fields)
        fields[place] = Marker.AMBIGUOUS
        return _Record(fields, record.lines)


def _are_numbers(parts: Sequence[str | None], places: Sequence[int]) -> bool:
    """Say whether at least half of the fields at these places are numbers."""
    return sum(_NUMBER((parts[place] or "").strip(' "')) is not None for place in places) * 2 >= len(places)


def _without_end(text: str) -> str:
    """Return a line without its line end."""
    if text.endswith("\n"):
        text = text[:-1]
    return text.removesuffix("\r")


def _unescaped(text: str) -> str:
    return _ESCAPE.sub(lambda found: _CONTROLS.get(found[1], found[1]), text) if "\\" in text else text


def _split_escaped(text: str, delimiter: str, *, quotes: bool) -> list[str | None] | None:
    """Return the fields of a record with backslash escapes, None where a quotation mark or a backslash stays open.

    ``quotes``: whether quotation marks may enclose a field.
    """
    field = _field_pattern(delimiter, quotes)
    fields: list[str | None] = []
    place = 0
    while True:
        found = field(text, place)
        if found is None:
            return None
        enclosed, plain, end = found.groups()
        if enclosed is not None:
            fields.append(_unescaped(_DOUBLED.sub(lambda pair: pair[1] or '"', enclosed)))
        else:
            fields.append(None if plain == "\\N" else _unescaped(plain))
        if not end:
            return fields
        place = found.end()


#: A doubled quotation mark; an escaped character stays as it is.
_DOUBLED: Final = re.compile(r'(\\.)|""', re.DOTALL)


@cache
def _field_pattern(delimiter: str, quotes: bool) -> Callable[[str, int], re.Match[str] | None]:
    mark, quote = re.escape(delimiter), '"' if quotes else "(?!)"
    return re.compile(
        rf"""(?: {quote}((?: [^"\\] | \\. | "" )*)" | ((?!{quote}) (?: [^{mark}\\] | \\. )*) ) ({mark} | \Z)""",
        re.DOTALL | re.VERBOSE,
    ).match
