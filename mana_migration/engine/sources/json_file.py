"""JSON: an array of objects, an object that holds one, or one object a line."""

from __future__ import annotations

import contextlib
import json
import re
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from decimal import Decimal
from itertools import chain, islice
from typing import Any, Final

import ijson

from mana_migration.domain.legacy import Marker, Typing
from mana_migration.engine.sources.base import LegacySource, SourceOptions, SourceRow, original_of, positions
from mana_migration.engine.sources.input import Input, Utf8
from mana_migration.engine.sources.text_lines import LONGEST_ROW, TextLines, is_damaged
from mana_migration.errors import SourceError

#: Entries in front of the first one that can be read.
MOST_DAMAGED: Final = 20
#: Bytes of one entry: far beyond any row, far below the memory of a machine.
LARGEST_ENTRY: Final = 1 << 20

_BOM: Final = b"\xef\xbb\xbf"
_DEFAULT_KEY: Final = "users"
_CHUNK: Final = 8 << 10
_OVERLAP: Final = 4_096
_DEEPEST: Final = 1_000
_ENDLESS_NUMBER: Final = re.compile(rb"[0-9]{4000}").search
#: An escape that is whole: the last of a window may not be.
_ESCAPE: Final = re.compile(rb"\\(?:u([0-9a-fA-F]{4})|[^u])", re.DOTALL)
#: Bytes of an escape such as \\ud83d.
_ESCAPE_LENGTH: Final = 6
_SURROGATE: Final = re.compile(rb"\\u[dD][89a-fA-F]").search
_NOT_JSON: Final = re.compile(rb"\b(?:NaN|-?Infinity)\b").search


class _Object(dict[str, Any]):
    """A JSON object that remembers whether a key came twice; ``damaged``: bytes of it are not UTF-8."""

    repeated = False
    damaged = False

    def __setitem__(self, key: str, value: Any) -> None:
        if key in self:
            self.repeated = True
        super().__setitem__(key, value)


class _Entries(LegacySource):
    """Entries that are JSON values, one after the other."""

    kind = "json"
    typing = Typing.EXACT

    def __init__(self, file: Input, options: SourceOptions) -> None:
        super().__init__()
        if options.sheet is not None:
            raise SourceError(f"{file.name}: a JSON file has no sheets; leave out --sheet")
        self._file, self._columns = file, options.columns
        self._latest: Any = None
        self._header: list[str] = []
        self._first: list[tuple[int | None, Any]] = []
        file.refuse_binary()

    def _begin(self) -> None:
        """Read the first entry and find its columns."""
        self._entries = self._numbered()
        entry: Any = Marker.ABSENT
        for found in islice(self._entries, MOST_DAMAGED):
            self._first.append(found)
            entry = found[1]
            if not isinstance(entry, Marker):
                break
        if self._first:
            if not isinstance(entry, dict):
                raise SourceError(f"{self._file.name}: its first entry is not an object; give an array of objects")
            positions(list(entry), self._columns, where=f"{self._file.name}, first entry")
            self._header = list(entry)

    @property
    def header(self) -> Sequence[str]:
        """Return the keys of the first entry."""
        return self._header

    @abstractmethod
    def _numbered(self) -> Iterator[tuple[int | None, Any]]:
        """Yield the line and the value of each entry."""

    def rows(self) -> Iterator[SourceRow]:
        """Yield (line, values); a key that an object lacks is marked, not taken as null."""
        names = list(self._columns.values())
        absent = Marker.ABSENT
        for line, entry in chain(self._first, self._entries):
            self._latest = entry
            if isinstance(entry, _Object) and entry.damaged:
                yield line, Marker.NOT_UTF8
            elif isinstance(entry, _Object) and not entry.repeated:
                yield line, [entry.get(name, absent) for name in names]
            elif isinstance(entry, Marker):
                yield line, entry
            else:
                yield line, Marker.REPEATED_KEY if isinstance(entry, _Object) else Marker.NOT_AN_OBJECT
        self._file.check_unchanged()

    def original(self) -> list[list[str]]:
        """Return the latest entry's values in the order of the first entry's keys."""
        return original_of(self._latest, self._header)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class JsonSource(_Entries):
    """An array of objects, at the top or under a key, or objects one after the other; streamed by ijson."""

    def __init__(self, file: Input, options: SourceOptions) -> None:
        super().__init__(file, options)
        self.count = 0
        with file.reading():
            start = file.stream.peek(LARGEST_ENTRY)
            if start.startswith(_BOM):
                file.stream.read(len(_BOM))
                start = start[len(_BOM) :]
        self._choose(start.lstrip(), options)
        self._begin()
        if not self._first and self.part is not None and self._keys.get(self.part) != "start_array":
            raise self.no_array()

    def _choose(self, start: bytes, options: SourceOptions) -> None:
        """Find out where the entries are from the beginning of the file."""
        self._keys: dict[str, str] = {}
        self._prefix, self._several = "item", False
        if start[:1] == b"{":
            self._keys = _keys(start)
            if options.table is None and next(iter(options.columns.values())) in self._keys:
                self._prefix, self._several = "", True
            else:
                self.part = options.table or _DEFAULT_KEY
                self._prefix = f"{self.part}.item"
        elif start == b"":
            raise SourceError(f"{self._file.name} is empty; export it again")
        elif start[:1] != b"[":
            raise SourceError(f"{self._file.name} is not a JSON array of objects; export it as one")
        elif options.table is not None:
            raise SourceError(f"{self._file.name} holds an array, without keys; leave out --table")

    def no_array(self, where: str = "") -> SourceError:
        """Return the error for an object without an array of rows."""
        found = ", ".join(name for name in list(self._keys)[:10] if re.fullmatch(r"[\w.-]{1,40}", name))
        return SourceError(
            f"{self._file.name} holds an object without the column {next(iter(self._columns.values()))!r} "
            f"and without an array of objects under the key {self.part!r}{where}"
            + (f"; its keys begin with {found}" if found else "")
            + ". "
            "Name the key of the array with --table, or a column with --column"
        )

    def _numbered(self) -> Iterator[tuple[int | None, Any]]:
        guarded = _Guarded(self._file, self)
        entries = ijson.items(guarded, self._prefix, map_type=_Object, multiple_values=self._several)
        while True:
            try:
                with self._file.reading():
                    entry = next(entries, _END)
            except (ijson.JSONError, UnicodeError, RecursionError, ValueError):
                raise SourceError(self._broken(guarded)) from None
            if entry is _END:
                return
            self.count += 1
            guarded.since = 0
            if isinstance(entry, _Object):
                entry.damaged = guarded.bytes.spoils(entry)
            yield None, entry

    def _broken(self, guarded: _Guarded) -> str:
        cause = (
            "NaN and Infinity are not JSON; write null"
            if _NOT_JSON(guarded.latest)
            else "not JSON in UTF-8, or broken off; export it again"
        )
        return f"{self._file.name}, entry {self.count + 1:,}: {cause}"

    def refused(self, cause: str) -> SourceError:
        """Return the error for an entry that no row can be."""
        return SourceError(f"{self._file.name}, in or after entry {self.count + 1:,}: {cause}")


class _Guarded:
    """Hand out the bytes of a file to ijson, except those that it reads wrongly or cannot bear.

    # Note [What ijson is kept from]
    An entry has no end where a bracket is missing; its C library ends the process at a number of 4,300 digits, needs
    memory by the square of the depth, and turns half a surrogate pair into a question mark.  No row has any of these.
    """

    def __init__(self, file: Input, source: JsonSource) -> None:
        self._file, self._source = file, source
        self._depth = 0
        self._tail = b""
        self.since = 0
        self.latest = b""
        self.bytes = Utf8(file.stream)
        self._array = source.part and re.compile(rb'"%s"\s*:\s*\[' % re.escape(source.part).encode()).finditer
        self._arrays = 0

    def _refuse_second_array(self, window: bytes) -> None:
        """Refuse the key of the array where it comes again, because which of the arrays is meant is not known."""
        if self._array:
            self._arrays += sum(found.end() > len(self._tail) for found in self._array(window))
            if self._arrays > 1:
                raise self._source.refused(f"a second array under a key {self._source.part!r}; keep one of them")

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes.

        Raises:
            SourceError: they hold what no row does.
        """
        if size == 0:
            return b""  # ijson asks for the type
        self.latest = chunk = self.bytes.read(_CHUNK)
        window = self._tail + chunk
        self._refuse_second_array(window)
        self._tail = window[-_OVERLAP:]
        self.since += len(chunk)
        self._depth += chunk.count(b"[") + chunk.count(b"{") - chunk.count(b"]") - chunk.count(b"}")
        if self.since > LARGEST_ENTRY:
            if self._source.part is not None and not self._source.count:
                raise self._source.no_array(f" in its first {LARGEST_ENTRY >> 20} MiB")
            raise self._source.refused(
                f"an entry of more than {LARGEST_ENTRY >> 20} MiB, which no row is; give one object for each user"
            )
        if self._depth > _DEEPEST:
            raise self._source.refused("values nested too deeply for a row; give one object for each user")
        if _ENDLESS_NUMBER(window):
            raise self._source.refused("a number of thousands of digits; correct it")
        if _SURROGATE(window) and _has_half_pair(window, at_end=not chunk):
            raise self._source.refused("half a surrogate pair in a text; write the character as UTF-8")
        return chunk


class JsonLinesSource(_Entries):
    """One object a line: a line that is not JSON is a bad row, and the others are read."""

    def __init__(self, file: Input, options: SourceOptions) -> None:
        super().__init__(file, options)
        if options.table is not None:
            raise SourceError(f"{file.name}: lines of JSON have no keys to choose from; leave out --table")
        self._lines = TextLines(file)
        self._begin()
        if not self._first:
            raise SourceError(f"{file.name} is empty; export it again")

    def _numbered(self) -> Iterator[tuple[int | None, Any]]:
        with self._file.reading():
            while (line := self._lines.next()) is not None:
                if line.strip():
                    yield self._lines.number, _decoded(line)

    def close(self) -> None:
        """Close the file."""
        if hasattr(self, "_lines"):
            self._lines.detach()
        super().close()


_END: Final = object()


def _pairs(pairs: list[tuple[str, Any]]) -> _Object:
    found = _Object(pairs)
    found.repeated = len(found) != len(pairs)
    return found


_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=_pairs,
    parse_int=lambda text: int(text) if len(text) <= 40 else Marker.HUGE,
    parse_float=Decimal,
    parse_constant=lambda text: Marker.NOT_FINITE,
)


def _decoded(line: str) -> Any:
    if len(line) > LONGEST_ROW:
        return Marker.ROW_TOO_LONG
    if is_damaged(line):
        return Marker.NOT_UTF8
    try:
        return _DECODER.decode(line)
    except (ValueError, RecursionError):
        return Marker.NOT_AN_OBJECT


def _keys(start: bytes) -> dict[str, str]:
    """Return the keys of the object that a file begins with, and what begins behind each, as far as the start goes."""
    keys: dict[str, str] = {}
    key: str | None = None
    depth = 0
    events = ijson.sendable_list()
    if not _ENDLESS_NUMBER(start):
        # what is wrong with the text is said when it is read
        with contextlib.suppress(ijson.JSONError, UnicodeError, StopIteration):
            ijson.basic_parse_coro(events).send(start)
    for event, value in events:
        if key is not None:
            keys[key] = event
        key = value if event == "map_key" and depth == 1 else None
        depth += event in ("start_map", "start_array")
        depth -= event in ("end_map", "end_array")
        if depth == 0:
            break
    return keys


def _has_half_pair(window: bytes, *, at_end: bool) -> bool:
    """Say whether an escape is half a surrogate pair, as far as both its neighbours are in the window."""
    window = window.lstrip(b"\\")  # of an escape that is cut, and was seen whole in the window before
    high = -1
    for found in _ESCAPE.finditer(window):
        code = int(found[1] or b"0", 16)
        if 0xDC00 <= code <= 0xDFFF:
            # at the very beginning of a window the other half may be in front of it, where it was seen already
            if high != found.start() and found.start() >= _ESCAPE_LENGTH:
                return True
            high = -1
        elif high >= 0:
            return True
        elif 0xD800 <= code <= 0xDBFF:
            high = found.end()
    return high >= 0 and (at_end or high + _ESCAPE_LENGTH <= len(window))
