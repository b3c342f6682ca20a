"""JSON: an array of objects, as tablib and most tools write it, or one object a line.

The standard library parses one value at a time here, so that the file never is in memory as a whole.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Final

from mana_migration.domain.legacy import COLUMNS, Marker, Typing
from mana_migration.engine.sources.base import LegacySource, SourceRow, positions, reading
from mana_migration.errors import SourceError

_CHUNK: Final = 1 << 16
#: Characters of one entry: far beyond any row, far below the memory of a machine.
_LARGEST_ENTRY: Final = 1 << 20
_BLANKS: Final = " \t\r\n"


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any] | Marker:
    found = dict(pairs)
    return found if len(found) == len(pairs) else Marker.REPEATED_KEY


def _integer(text: str) -> int | Marker:
    return int(text) if len(text) <= 40 else Marker.HUGE


_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=_pairs,
    parse_int=_integer,
    parse_float=lambda text: Marker.FRACTION,
    parse_constant=lambda text: Marker.NOT_FINITE,
)


class JsonSource(LegacySource):
    """A JSON array of objects, or objects one after the other (JSON lines)."""

    kind = "json"
    typing = Typing.EXACT

    def __init__(self, path: Path, *, table: str | None, columns: Mapping[str, str]) -> None:
        self._path, self._columns = path, columns
        if table is not None:
            raise SourceError(f"{path.name}: a JSON file has no tables; leave out --table")
        with reading(path):
            self._file: IO[str] = path.open(encoding="utf-8-sig")
        try:
            self._entries = _Entries(self._file, path)
            with reading(path):
                self._first = self._entries.next()
                if isinstance(self._first, dict):
                    positions(list(self._first), columns, where=f"{path}, first entry")
                elif self._first is not _END:
                    raise SourceError(f"{path}: its first entry is no object; give an array of objects")
        except BaseException:
            self.close()
            raise

    def rows(self) -> Iterator[SourceRow]:
        """Yield (None, values); a key that an object lacks is marked, not taken as null."""
        names = [self._columns[name] for name in COLUMNS]
        absent = Marker.ABSENT
        entry = self._first
        with reading(self._path):
            while entry is not _END:
                if isinstance(entry, dict):
                    yield None, [entry.get(name, absent) for name in names]
                elif isinstance(entry, Marker):
                    yield None, Marker.REPEATED_KEY if entry is Marker.REPEATED_KEY else Marker.NOT_AN_OBJECT
                else:
                    yield None, Marker.NOT_AN_OBJECT
                entry = self._entries.next()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


_END: Final = object()


class _Entries:
    """Cut a file into the entries of its array, or into its lines' objects."""

    def __init__(self, file: IO[str], path: Path) -> None:
        self._file, self._path = file, path
        self._buffer, self._at, self._ended = "", 0, False
        self._count = 0
        self._array: bool | None = None

    def next(self) -> Any:
        """Return the next entry, ``_END`` behind the last.

        Raises:
            SourceError: the text is no JSON, or breaks off.
        """
        if self._array is None and self._begin() is _END:
            return _END
        if not self._separator():
            return _END
        try:
            entry = self._decode()
        except RecursionError:
            raise SourceError(f"{self._path}, entry {self._count + 1:,}: nested too deeply for a row") from None
        self._count += 1
        return entry

    def _begin(self) -> object:
        character = self._peek()
        if character == "":
            raise SourceError(f"{self._path} is empty; export it again")
        if "\0" in self._buffer[:4096]:
            raise SourceError(f"{self._path} is a binary file, not text; give it the ending of what it is")
        self._array = character == "["
        if not self._array:
            if character != "{":
                raise SourceError(f"{self._path} is no JSON array of objects; export it as one")
            return None
        self._at += 1
        if self._peek() != "]":
            return None
        self._at += 1
        self._finish()
        return _END

    def _separator(self) -> bool:
        """Step over what stands between two entries; return whether another one follows."""
        character = self._peek()
        if not self._array:
            return character != ""
        if self._count == 0:
            return True
        self._at += 1
        if character == ",":
            return True
        if character == "]":
            self._finish()
            return False
        raise self._broken()

    def _finish(self) -> None:
        if self._peek() != "":
            raise SourceError(f"{self._path}: text stands behind the end of the array; export it again")

    def _decode(self) -> Any:
        self._peek()
        while True:
            try:
                entry, end = _DECODER.raw_decode(self._buffer, self._at)
            except json.JSONDecodeError:
                entry, end = None, len(self._buffer)
                complete = False
            else:
                # a number at the end of the buffer may go on in the next chunk
                complete = end < len(self._buffer) or isinstance(entry, dict) or self._ended
            if complete:
                self._at = end
                return entry
            if self._ended or len(self._buffer) - self._at > _LARGEST_ENTRY:
                raise self._broken()
            self._more()

    def _broken(self) -> SourceError:
        return SourceError(f"{self._path}, entry {self._count + 1:,}: not JSON, or broken off; export it again")

    def _peek(self) -> str:
        """Return the next character that is no blank, empty text at the end of the file."""
        while True:
            while self._at < len(self._buffer):
                if self._buffer[self._at] not in _BLANKS:
                    return self._buffer[self._at]
                self._at += 1
            if self._ended:
                return ""
            self._more()

    def _more(self) -> None:
        chunk = self._file.read(_CHUNK)
        self._ended = chunk == ""
        self._buffer, self._at = self._buffer[self._at :] + chunk, 0
