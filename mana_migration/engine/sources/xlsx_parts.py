"""The parts of a workbook, streamed with expat; names are read without their namespace, which strict files change."""

from __future__ import annotations

import os
import re
import struct
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, Any, Final
from xml.parsers import expat

from mana_migration.domain.legacy import Marker
from mana_migration.engine.sources.sheets import TRUTHS, Arrays, Row, as_shown
from mana_migration.errors import SourceError

_CHUNK: Final = 1 << 16
#: Characters of a cell that are kept; Excel's own limit is 32,767, and ours is far below for an id.
_LONGEST_TEXT: Final = 32_767
_OFFSET: Final = struct.Struct("<Q")
_NUMBER: Final = re.compile(r"\s*[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?\s*", re.ASCII).fullmatch
#: An underscore that is escaped, because it would begin the escape of another character.
_UNDERSCORE: Final = re.compile(r"_x005[fF]_(?=x[0-9a-fA-F]{4}_)")
_RANGE: Final = re.compile(r"([A-Z]+)([0-9]+):([A-Z]+)([0-9]+)").fullmatch

Handler = Callable[..., None]


def parse_xml(part: IO[bytes], *, start: Handler, end: Handler, text: Handler | None = None) -> Iterator[None]:
    """Feed a part to the handlers, yielding after each chunk.

    Raises:
        ValueError: it is not XML.
        SourceError: it declares a document type.
    """

    def refuse(*_: object) -> None:
        raise SourceError("the workbook declares a document type, which no spreadsheet does; save it again")

    parser = expat.ParserCreate(namespace_separator=" ")
    parser.buffer_text = True
    parser.StartElementHandler, parser.EndElementHandler = start, end
    if text is not None:
        parser.CharacterDataHandler = text
    parser.StartDoctypeDeclHandler = refuse
    try:
        while chunk := part.read(_CHUNK):
            parser.Parse(chunk, False)
            yield
        parser.Parse(b"", True)
    except expat.ExpatError as error:
        raise ValueError("no XML") from error
    yield


def elements(part: IO[bytes]) -> Iterator[tuple[str, str, dict[str, str]]]:
    """Yield (parent, element, attributes) of a small part, by local names."""
    path = [""]
    found: list[tuple[str, str, dict[str, str]]] = []

    def start(tag: str, attributes: Mapping[str, str]) -> None:
        name = tag.rpartition(" ")[2]
        found.append((path[-1], name, {key.rpartition(" ")[2]: value for key, value in attributes.items()}))
        path.append(name)

    def end(tag: str) -> None:
        path.pop()

    with part:
        for _ in parse_xml(part, start=start, end=end):
            yield from found
            found.clear()


class SharedTexts:
    """The texts that cells refer to by number, kept in an unnamed temporary file."""

    def __init__(self, archive: zipfile.ZipFile, part: str) -> None:
        self._data: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  closed by close()
        self._index: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        self._count = 0
        self._length = 0
        try:
            with archive.open(part) as source:
                self._read(source)
        except BaseException:
            self.close()
            raise

    def _read(self, source: IO[bytes]) -> None:
        pieces: list[str] = []
        size = 0
        inside = phonetic = False

        def start(tag: str, attributes: Mapping[str, str]) -> None:
            nonlocal inside, phonetic, size
            name = tag.rpartition(" ")[2]
            if name == "si":
                pieces.clear()
                size = 0
            elif name == "t":
                inside = not phonetic
            elif name == "rPh":
                phonetic = True

        def end(tag: str) -> None:
            nonlocal inside, phonetic
            name = tag.rpartition(" ")[2]
            if name == "t":
                inside = False
            elif name == "rPh":
                phonetic = False
            elif name == "si":
                self._add("".join(pieces))

        def text(data: str) -> None:
            nonlocal size
            if inside and size <= _LONGEST_TEXT:
                pieces.append(data)
                size += len(data)

        for _ in parse_xml(source, start=start, end=end, text=text):
            pass
        self._index.write(_OFFSET.pack(self._length))
        self._data.flush()
        self._index.flush()

    def _add(self, text: str) -> None:
        data = unescaped(text).encode("utf-8", "surrogatepass")
        self._data.write(data)
        self._index.write(_OFFSET.pack(self._length))
        self._length += len(data)
        self._count += 1

    def __getitem__(self, number: int) -> str:
        """Return a text by its number; IndexError where there is none."""
        if not 0 <= number < self._count:
            raise IndexError(number)
        begin, stop = struct.unpack("<QQ", os.pread(self._index.fileno(), 16, number * 8))
        return os.pread(self._data.fileno(), stop - begin, begin).decode("utf-8", "surrogatepass")

    def close(self) -> None:
        """Drop the file."""
        self._data.close()
        self._index.close()


def unescaped(text: str) -> str:
    """Return a text without escaped underscores; other escapes stay, which no id may hold."""
    return _UNDERSCORE.sub("_", text) if "_x005" in text else text


def rows_of_sheet(part: IO[bytes], texts: SharedTexts | None, formats: Sequence[str | None]) -> Iterator[Row]:
    """Yield each row that has any content.

    ``formats``: the number format of each style, None for those that show a number as a date.

    Raises:
        ValueError, IndexError: the sheet is damaged.
    """
    reader = _SheetReader(texts, formats)
    for _ in parse_xml(part, start=reader.start, end=reader.end, text=reader.text):
        yield from reader.ready
        reader.ready.clear()


class _SheetReader:
    """Collect the rows of a sheet from the events of the parser."""

    def __init__(self, texts: SharedTexts | None, formats: Sequence[str | None]) -> None:
        self.ready: list[Row] = []
        self._texts, self._formats = texts, formats
        self._arrays = Arrays()
        self._cells: dict[int, Any] = {}
        self._pieces: list[str] = []
        self._line = self._column = self._style = self._size = 0
        self._kind = "n"
        self._inside = self._phonetic = self._formula = self._hidden = self._filled = False
        self._formula_text = ""

    def start(self, tag: str, attributes: Mapping[str, str]) -> None:
        """Take the start of an element."""
        name = tag.rpartition(" ")[2]
        if name == "c":
            place = attributes.get("r")
            self._column = _column(place) if place else self._column + 1
            self._kind = attributes.get("t", "n")
            self._style = int(attributes.get("s") or 0)
            self._formula = self._filled = False
            self._size = 0
            self._pieces.clear()
        elif name in ("v", "t"):
            if self._filled:
                raise ValueError("a cell with two values")
            self._filled = name == "v"
            self._inside = not self._phonetic
        elif name == "row":
            self._start_row(attributes)
        elif name == "f":
            self._formula = self._inside = True
            if found := _RANGE(attributes.get("ref", "")):
                left, top, right, bottom = found.groups()
                self._arrays.add(range(_column(left), _column(right) + 1), range(int(top), int(bottom) + 1))
        elif name == "rPh":
            self._phonetic = True

    def _start_row(self, attributes: Mapping[str, str]) -> None:
        number, above = attributes.get("r"), self._line
        self._line = int(number) if number else above + 1
        if self._line <= above:
            raise ValueError("rows out of their order")
        self._hidden = attributes.get("hidden") in ("1", "true")
        self._column, self._cells = -1, {}

    def end(self, tag: str) -> None:
        """Take the end of an element."""
        name = tag.rpartition(" ")[2]
        if name in ("v", "t"):
            self._inside = False
        elif name == "f":
            self._inside = False
            self._formula_text = "".join(self._pieces)
            self._pieces.clear()
            self._size = 0
        elif name == "c":
            self._end_cell()
        elif name == "row":
            if self._cells:
                self.ready.append((self._line, self._cells, self._hidden))
        elif name == "rPh":
            self._phonetic = False

    def _end_cell(self) -> None:
        if self._column in self._cells:
            raise ValueError("a cell twice")
        if self._arrays.have(self._column, self._line):
            self._cells[self._column] = Marker.FORMULA
            return
        if self._formula:
            self._cells[self._column] = TRUTHS.get(self._formula_text, Marker.FORMULA)
            return
        code = self._formats[self._style] if self._formats else "General"
        value = _value(self._kind, "".join(self._pieces), self._texts, code)
        if value is not None:
            self._cells[self._column] = value

    def text(self, data: str) -> None:
        """Take text, of values and formulas alone."""
        if self._inside and self._size <= _LONGEST_TEXT:
            self._pieces.append(data)
            self._size += len(data)


def _column(place: str) -> int:
    """Return the column, from 0, of a place such as AB12."""
    number = 0
    for character in place:
        if not "A" <= character <= "Z":
            break
        number = number * 26 + ord(character) - 64
    if not 1 <= number <= 16_384:
        raise ValueError("no column")
    return number - 1


def _value(kind: str, text: str, texts: SharedTexts | None, code: str | None) -> Any:
    """Return a cell's value: text, whole number, float, truth value, None, or a marker."""
    if text == "":
        return None
    if kind in ("n", "s") and not _NUMBER(text):
        raise ValueError("no number")
    if kind == "n":
        return Marker.DATE if code is None else as_shown(float(text), code)
    if kind == "s":
        if texts is None:
            raise IndexError(text)
        return texts[int(text)] or None
    if kind == "b":
        return text.strip() in ("1", "true")
    return (
        unescaped(text)
        if kind in ("str", "inlineStr")
        else {"e": Marker.ERROR_CELL, "d": Marker.DATE}.get(kind, Marker.TEXT)
    )
