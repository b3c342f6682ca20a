"""What every reader offers, and how columns are found by name."""

from __future__ import annotations

import difflib
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, ClassVar, Final, Self, TypeAlias

from mana_migration.domain.legacy import Marker, Typing
from mana_migration.domain.shapes import is_invisible
from mana_migration.errors import SourceError

#: Where a row is in its file (line of text, row of a sheet; None where there is no such thing) and its raw
#: values in the order of the columns asked for, or a marker instead of them.
SourceRow: TypeAlias = tuple[int | None, Sequence[Any] | Marker]

#: Rows above a header that may be titles.
MOST_TITLES: Final = 20

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,60}")
_HEADING: Final = re.compile(r"[^\W\d][\w .()/-]{0,60}").fullmatch
_NO_HEADER: Final = "the first row does not look like a header"
_SHOWN_NAMES: Final = 30
_NEAR: Final = 0.75


@dataclass(frozen=True, slots=True)
class SourceOptions:
    """How the operator wants a source to be read.

    ``columns``: the source's names by ours; ``table``: the table of a database or the key of a JSON object, None for
    users; ``sheet``: a sheet of a workbook or ``all``, None for the only one that fits; ``backslash``: ``escape`` or
    ``literal``, None to decide by the format.
    """

    columns: Mapping[str, str]
    table: str | None = None
    sheet: str | None = None
    backslash: str | None = None


class LegacySource(ABC):
    """A legacy export that is open; its columns are known to be there.

    ``part``: the sheets or the key that are read, None where there is nothing to choose; ``notes``: what the operator
    must know about how it was read, by code; ``spanning``: rows read so far that span lines;
    ``starts``: the sheets read so far, with the number of the first row of each.
    """

    kind: ClassVar[str]
    typing: ClassVar[Typing]

    def __init__(self) -> None:
        self.part: str | None = None
        self.notes: dict[str, str] = {}
        self.spanning = 0
        self.starts: list[tuple[int, str]] = []

    @property
    @abstractmethod
    def header(self) -> Sequence[str]:
        """Return the names of the columns of ``original``."""

    @abstractmethod
    def rows(self) -> Iterator[SourceRow]:
        """Yield each row once, in the source's order.

        Raises:
            SourceError: the source breaks off or is not such a format after all.
        """

    @abstractmethod
    def original(self) -> list[list[str]]:
        """Return the latest row as it was written, one record or, where quotes are broken, one for each line."""

    def beside(self, options: SourceOptions) -> LegacySource:
        """Open another table of the same database, in the same snapshot; to be closed before this one.

        Raises:
            SourceError: the source is not a database, or the table is not there.
        """
        raise SourceError(f"{self.kind} files have no second table; give the ledger as a file of its own")

    @abstractmethod
    def close(self) -> None:
        """Release the file or the connection."""

    def __enter__(self) -> Self:
        """Return the source."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()


def has_columns(found: Sequence[str], columns: Mapping[str, str]) -> bool:
    """Say whether a row is the header."""
    return all(name in found for name in columns.values())


def positions(found: Sequence[str], columns: Mapping[str, str], *, where: str) -> tuple[int, ...]:
    """Return the place of each column of ours among those found.

    Raises:
        SourceError: a column is missing, or its name is there twice.
    """
    missing = [name for name in columns if columns[name] not in found]
    if missing:
        names = ", ".join(f"{columns[name]!r}" for name in missing)
        raise SourceError(f"{where}: no column {names}; {_advice(found, columns, missing)}")
    twice = [name for name in columns.values() if list(found).count(name) > 1]
    if twice:
        raise SourceError(f"{where}: column {twice[0]!r} is there twice; remove or rename one of them")
    return tuple(list(found).index(name) for name in columns.values())


def _advice(found: Sequence[str], columns: Mapping[str, str], missing: Sequence[str]) -> str:
    """Return what to do about missing columns: the names that are near, or those that were found."""
    free = {_plain(name): name for name in found if name not in columns.values() and _HEADING(name)}
    near: dict[str, str] = {}
    for name in missing:
        match = difflib.get_close_matches(_plain(columns[name]), free, n=1, cutoff=_NEAR)
        if not match and _plain(name) in free:
            match = [_plain(name)]
        if not match and name == "id":
            match = [plain for plain in free if plain.endswith("id") or plain == "username"][:1]
        if match:
            near[name] = free.pop(match[0])
    if near:
        options = " ".join(f"--column {name}={_shell(theirs)}" for name, theirs in near.items())
        names = ", ".join(repr(theirs) for theirs in near.values())
        listed = "" if _found(found) == _NO_HEADER else f"{_found(found)}; "
        return f"{listed}if {names} {'is' if len(near) == 1 else 'are'} meant, give {options}"
    return f"{_found(found)}. Name the columns with --column, such as --column green=green_balance"


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "_", name.casefold()).strip("_")


def _shell(text: str) -> str:
    return text if re.fullmatch(r"[\w.-]+", text) else "'" + text.replace("'", "'\\''") + "'"


def _found(found: Sequence[str]) -> str:
    """Name the columns found, unless they look like a person's data in a file without a header."""
    if not found or not all(_NAME.fullmatch(name) for name in found if name.lower() != "name"):
        plain = [name for name in found if _NAME.fullmatch(name)]
        if len(plain) * 2 <= len(found) or any(re.search(r"^-?\d", name) for name in found):
            return _NO_HEADER
        return f"found {', '.join(plain[:_SHOWN_NAMES])} and {len(found) - len(plain)} with other names"
    more = f" and {len(found) - _SHOWN_NAMES} more" if len(found) > _SHOWN_NAMES else ""
    return f"found {', '.join(found[:_SHOWN_NAMES])}{more}"


def heading(value: Any) -> str:
    """Return the name of a column, without the blanks and invisible characters around it."""
    text = as_text(value)
    return text.strip("".join(one for one in text if one.isspace() or is_invisible(one)))


def as_text(value: Any) -> str:
    """Return a typed value as a CSV file holds it; what is not a value becomes a word that no import accepts."""
    if value is None:
        return ""
    if isinstance(value, Marker):
        return f"#{value.name}!"
    if isinstance(value, (dict, list)):
        return "#NESTED!"
    return str(value).lower() if isinstance(value, bool) else str(value)


def original_of(entry: Any, names: Sequence[str]) -> list[list[str]]:
    """Return an entry of a format that distinguishes no value, no text and null, as a CSV file holds it."""
    if not isinstance(entry, dict):
        return [[as_text(entry)]]
    return [[as_text(entry.get(name, Marker.ABSENT)) if entry.get(name) != "" else "#EMPTY!" for name in names]]
