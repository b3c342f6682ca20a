"""YAML: a list of mappings, one event at a time; see Note [Why tablib does not read ODS, XLS and YAML].

A plain value is taken only if YAML 1.1 and 1.2 read it alike.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from decimal import Decimal
from itertools import chain, islice
from typing import Any, Final

import yaml
from yaml.events import (
    AliasEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)

from mana_migration.domain.legacy import Marker, Typing
from mana_migration.engine.sources.base import LegacySource, SourceOptions, SourceRow, original_of, positions
from mana_migration.engine.sources.input import Input, Utf8
from mana_migration.engine.sources.text_lines import LAST_LINE
from mana_migration.errors import SourceError

_LOADER: Final[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_QUOTED: Final = ("'", '"', "|", ">")
_STRING: Final = "tag:yaml.org,2002:str"
#: Parts of an entry: far beyond any row.
_MOST_PARTS: Final = 10_000
#: Bytes of an entry, and of one reading.
LARGEST_ENTRY: Final = 1 << 20
_CHUNK: Final = 1 << 16

_NULLS: Final = ("", "~", "null", "Null", "NULL")
_TRUTHS: Final = {word: word.lower() == "true" for word in ("true", "True", "TRUE", "false", "False", "FALSE")}
_WHOLE: Final = re.compile(r"[-+]?(?:0|[1-9][0-9]*)").fullmatch
_FRACTION: Final = re.compile(r"[-+]?[0-9]+\.[0-9]*(?:[eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+").fullmatch
_NOT_FINITE: Final = re.compile(r"[-+]?\.(?:inf|nan)", re.IGNORECASE).fullmatch
_DATE: Final = re.compile(r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}.*").fullmatch
#: Octal, hexadecimal, binary, with underscores or in base 60, in one of the versions.
_DISPUTED: Final = re.compile(
    r"[-+]?0[0-9]+|[-+]?0[obxOBX][0-9a-fA-F_]+|[-+]?[0-9][0-9_]*_[0-9_]*(?:\.[0-9_]*)?|[-+]?[0-9]+(?::[0-9]+)+(?:\.[0-9]*)?"
).fullmatch
#: Truth values of YAML 1.1 that are text in 1.2; as a flag both mean the same.
_WORDS: Final = frozenset(
    form for word in ("yes", "no", "on", "off", "y", "n") for form in (word, word.title(), word.upper())
)


class YamlSource(LegacySource):
    """A list of mappings."""

    kind = "yaml"
    typing = Typing.EXACT

    def __init__(self, file: Input, options: SourceOptions) -> None:
        super().__init__()
        if options.table is not None or options.sheet is not None:
            raise SourceError(f"{file.name}: a YAML file has no tables or sheets; leave out --table and --sheet")
        self._file, self._columns = file, options.columns
        file.refuse_binary()
        self._bounded = _Bounded(file)
        self._events: Iterator[Event] = yaml.parse(self._bounded, Loader=_LOADER)
        self._entries = self._numbered()
        self._latest: Any = None
        self._first = list(islice(self._entries, 1))
        self._header: list[str] = []
        if self._first:
            entry = self._first[0][1]
            if not isinstance(entry, dict):
                damage = "has a key twice" if entry is Marker.REPEATED_KEY else "is not a mapping"
                raise SourceError(f"{file.name}: its first entry {damage}; give a list of mappings")
            self._header = list(entry)
            positions(self._header, self._columns, where=f"{file.name}, first entry")

    @property
    def header(self) -> Sequence[str]:
        """Return the keys of the first entry."""
        return self._header

    def _next(self) -> Event | None:
        try:
            with self._file.reading():
                return next(self._events, None)
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            where = f", line {mark.line + 1:,}" if mark is not None else ""
            raise SourceError(f"{self._file.name}{where}: not YAML, or broken off; export it again") from None
        except (ValueError, RecursionError):
            raise SourceError(f"{self._file.name}: not YAML in UTF-8; export it again") from None

    def _numbered(self) -> Iterator[tuple[int, Any]]:
        """Yield the line and the value of each entry of the one list that the file must be."""
        while (event := self._next()) is not None:
            if isinstance(event, SequenceStartEvent):
                break
            if isinstance(event, (MappingStartEvent, ScalarEvent, AliasEvent)):
                raise SourceError(f"{self._file.name} is not a YAML list of mappings; export it as one")
        else:
            raise SourceError(f"{self._file.name} is empty; export it again")
        while (event := self._next()) is not None and not isinstance(event, SequenceEndEvent):
            self._bounded.since = 0
            yield getattr(event.start_mark, "line", 0) + 1, self._value(event, [0])
        while (event := self._next()) is not None:
            if isinstance(event, (MappingStartEvent, ScalarEvent, SequenceStartEvent)):
                raise SourceError(f"{self._file.name}: more than one document; give one list of mappings")

    def _value(self, event: Event | None, size: list[int]) -> Any:
        """Return what an event begins: a mapping, None in the place of other collections and aliases, or a scalar."""
        size[0] += 1
        if event is None or size[0] > _MOST_PARTS:
            raise SourceError(f"{self._file.name}: an entry is larger than any row; give a list of mappings")
        if isinstance(event, ScalarEvent):
            return _scalar(event)
        if isinstance(event, AliasEvent):
            return Marker.TEXT
        mapping: dict[str, Any] = {}
        repeated = False
        is_mapping = isinstance(event, MappingStartEvent)
        while not isinstance(part := self._next(), (MappingEndEvent, SequenceEndEvent)):
            key = self._value(part, size)
            if is_mapping:
                name = part.value if isinstance(part, ScalarEvent) else ""
                repeated = repeated or name in mapping
                mapping[name] = self._value(self._next(), size)
            del key
        if repeated:
            return Marker.REPEATED_KEY
        return mapping if is_mapping else Marker.NOT_AN_OBJECT

    def rows(self) -> Iterator[SourceRow]:
        """Yield (line, values); a key that a mapping lacks is marked, not taken as null."""
        names = list(self._columns.values())
        for line, entry in chain(self._first, self._entries):
            self._latest = entry
            if isinstance(entry, dict) and self._bounded.bytes.spoils(entry):
                yield line, Marker.NOT_UTF8
            elif isinstance(entry, dict):
                yield line, [_outside_flag(entry.get(name, Marker.ABSENT), place) for place, name in enumerate(names)]
            else:
                yield line, entry if entry is Marker.REPEATED_KEY else Marker.NOT_AN_OBJECT
        self._file.check_unchanged()
        if self._bounded.is_cut:
            self.notes["last_line_unterminated"] = LAST_LINE

    def original(self) -> list[list[str]]:
        """Return the latest entry's values in the order of the first entry's keys."""
        return original_of(self._latest, self._header)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class _Bounded:
    """Hand out the bytes of a file and refuse an entry that does not end."""

    def __init__(self, file: Input) -> None:
        self._file, self.bytes = file, Utf8(file.stream)
        self.since = 0
        self._lines, self._end = False, b""

    @property
    def is_cut(self) -> bool:
        """Say whether the last line has no line end, and nothing that closes the list, although others have one."""
        return self._lines and not self._end.endswith((b"\n", b"]"))

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes.

        Raises:
            SourceError: the entry is larger than any row.
        """
        if self.since > LARGEST_ENTRY:
            raise SourceError(f"{self._file.name}: an entry is larger than any row; give a list of mappings")
        data = self.bytes.read(min(size, _CHUNK) if size > 0 else _CHUNK)
        self.since += len(data)
        self._lines = self._lines or b"\n" in data
        self._end = data[-1:] or self._end
        return data


class _Word(str):
    """A text that YAML 1.1 takes for a truth value."""


def _outside_flag(value: Any, place: int) -> Any:
    """Return a value of a column; a word that versions read differently is one only as the flag, the last column."""
    return Marker.DISPUTED if isinstance(value, _Word) and place != 5 else value


def _scalar(event: ScalarEvent) -> Any:
    text = event.value
    if event.style in _QUOTED or event.tag == _STRING:
        return text
    if event.tag is not None:
        return Marker.TEXT
    return _plain(text)


def _plain(text: str) -> Any:
    if text in _NULLS:
        return None
    if text in _TRUTHS:
        return _TRUTHS[text]
    if _WHOLE(text):
        return int(text) if len(text) <= 40 else Marker.HUGE
    for fits, value in ((_DISPUTED, Marker.DISPUTED), (_NOT_FINITE, Marker.NOT_FINITE), (_DATE, Marker.DATE)):
        if fits(text):
            return value
    if _FRACTION(text):
        return Decimal(text) if len(text) <= 40 else Marker.FRACTION
    return _Word(text) if text in _WORDS else text
