"""The parts of a workbook, streamed with expat; names are read without their namespace, which strict files change."""

from __future__ import annotations

import os
import struct
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, Any, Final
from xml.parsers import expat

from mana_migration.domain.legacy import Marker
from mana_migration.engine.sources.sheets import Formatted, number, shows_other_text
from mana_migration.errors import SourceError

_CHUNK: Final = 1 << 16
#: Characters of a cell that are kept; Excel's own limit is 32,767, and ours is far below for an id.
_LONGEST_TEXT: Final = 32_767
_OFFSET: Final = struct.Struct("<Q")

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
        data = text.encode("utf-8", "surrogatepass")
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


def rows_of_sheet(
    part: IO[bytes], texts: SharedTexts | None, formats: Sequence[str | None]
) -> Iterator[tuple[int, dict[int, Any]]]:
    """Yield (row of the sheet, values by column from 0) of each row that has any content.

    ``formats``: the number format of each style, None for those that show a number as a date.

    Raises:
        ValueError, IndexError: the sheet is damaged.
    """
    ready: list[tuple[int, dict[int, Any]]] = []
    cells: dict[int, Any] = {}
    pieces: list[str] = []
    line = column = style = size = 0
    kind = "n"
    inside = phonetic = formula = False

    def start(tag: str, attributes: Mapping[str, str]) -> None:
        nonlocal line, column, style, kind, inside, formula, phonetic, size
        name = tag.rpartition(" ")[2]
        if name == "c":
            place = attributes.get("r")
            column = _column(place) if place else column + 1
            kind = attributes.get("t", "n")
            style = int(attributes.get("s") or 0)
            formula = False
            size = 0
            pieces.clear()
        elif name in ("v", "t"):
            inside = not phonetic
        elif name == "row":
            number = attributes.get("r")
            line = int(number) if number else line + 1
            column = -1
            cells.clear()
        elif name == "f":
            formula = True
        elif name == "rPh":
            phonetic = True

    def end(tag: str) -> None:
        nonlocal inside, phonetic
        name = tag.rpartition(" ")[2]
        if name in ("v", "t"):
            inside = False
        elif name == "c":
            value = (
                Marker.FORMULA
                if formula
                else _value(kind, "".join(pieces), texts, formats[style] if formats else "General")
            )
            if value is not None:
                cells[column] = value
        elif name == "row":
            if cells:
                ready.append((line, dict(cells)))
        elif name == "rPh":
            phonetic = False

    def text(data: str) -> None:
        nonlocal size
        if inside and size <= _LONGEST_TEXT:
            pieces.append(data)
            size += len(data)

    for _ in parse_xml(part, start=start, end=end, text=text):
        yield from ready
        ready.clear()


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
    if kind == "n":
        return _number(text, code)
    if kind == "s":
        if texts is None:
            raise IndexError(text)
        return texts[int(text)] or None
    if kind == "b":
        return text.strip() in ("1", "true")
    return text if kind in ("str", "inlineStr") else {"e": Marker.ERROR_CELL, "d": Marker.DATE}.get(kind, Marker.TEXT)


def _number(text: str, code: str | None) -> Any:
    if code is None:
        return Marker.DATE
    found = number(float(text))
    if isinstance(found, int) and code != "General" and shows_other_text(code, len(str(abs(found)))):
        return Formatted(found)
    return found
