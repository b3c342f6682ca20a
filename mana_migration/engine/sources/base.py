"""What every reader offers, and how columns are found by name."""

from __future__ import annotations

import contextlib
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self, TypeAlias

from mana_migration.domain.legacy import COLUMNS, Marker, Typing
from mana_migration.errors import SourceError

#: Where a row stands in its file (line of text, row of a sheet; None where there is no such thing) and its raw
#: values in the order of ``COLUMNS``, or a marker instead of them.
SourceRow: TypeAlias = tuple[int | None, Sequence[Any] | Marker]

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,60}")
_SHOWN_NAMES = 30


class LegacySource(ABC):
    """A legacy export that is open; its columns are known to be there."""

    kind: ClassVar[str]
    typing: ClassVar[Typing]
    shows_lines: ClassVar[bool] = False

    @abstractmethod
    def rows(self) -> Iterator[SourceRow]:
        """Yield each row once, in the source's order.

        Raises:
            SourceError: the source breaks off or is no such format after all.
        """

    @abstractmethod
    def close(self) -> None:
        """Let go of the file or the connection."""

    def __enter__(self) -> Self:
        """Return the source."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()


def positions(found: Sequence[str], columns: Mapping[str, str], *, where: str) -> tuple[int, ...]:
    """Return where each column of ours stands among those found.

    Raises:
        SourceError: a column is missing, or its name stands there twice.
    """
    missing = [f"{columns[name]!r}" for name in COLUMNS if columns[name] not in found]
    if missing:
        raise SourceError(
            f"{where}: no column {', '.join(missing)}; {_found(found)}. "
            "Name the columns with --column, such as --column green=green_balance"
        )
    twice = [columns[name] for name in COLUMNS if list(found).count(columns[name]) > 1]
    if twice:
        raise SourceError(f"{where}: column {twice[0]!r} is there twice; remove or rename one of them")
    return tuple(list(found).index(columns[name]) for name in COLUMNS)


def _found(found: Sequence[str]) -> str:
    """Name the columns found, unless they look like a person's data in a file without a header."""
    if not found or not all(_NAME.fullmatch(name) for name in found if name.lower() != "name"):
        plain = [name for name in found if _NAME.fullmatch(name)]
        if len(plain) * 2 <= len(found) or any(re.search(r"^-?\d", name) for name in found):
            return "the first row does not look like a header"
        return f"found {', '.join(plain[:_SHOWN_NAMES])} and {len(found) - len(plain)} with other names"
    more = f" and {len(found) - _SHOWN_NAMES} more" if len(found) > _SHOWN_NAMES else ""
    return f"found {', '.join(found[:_SHOWN_NAMES])}{more}"


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what can go wrong with a file into one clear line.

    Raises:
        SourceError: the file is not there, is no file, or cannot be read.
    """
    try:
        yield
    except FileNotFoundError:
        raise SourceError(f"{path}: there is no such file; check the path") from None
    except IsADirectoryError:
        raise SourceError(f"{path} is a folder; give a file in it") from None
    except PermissionError:
        raise SourceError(f"{path}: this user may not read it; change its permissions or run as another user") from None
    except UnicodeDecodeError:
        raise SourceError(f"{path} is not UTF-8 text; save it as UTF-8 (in a spreadsheet: CSV UTF-8)") from None
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror or error}") from None
