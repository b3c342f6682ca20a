"""The list of rejected rows as a CSV file, which appears whole or not at all."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from mana_migration.domain.import_results import RejectedRow
from mana_migration.errors import ReportError
from mana_migration.files import new_file

HEADER: Final = ("row", "line", "id", "reasons", "explanation")

#: The first column of the file with the original rows; an import does not read it.
REASON: Final = "reason"

#: What a spreadsheet takes for the start of a formula.
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n")


def neutralised(text: str) -> str:
    """Return a text that no spreadsheet takes for a formula."""
    return f"'{text}" if text.startswith(_FORMULA) else text


def check_target(path: Path) -> None:
    """Refuse a path that could not be written later, before a million rows are read.

    Raises:
        ReportError: the name is taken (a symbolic link counts), or the folder cannot be written.
    """
    if os.path.lexists(path):
        raise ReportError(f"{path} exists already and is never overwritten; give another name")
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK | os.X_OK):
        raise ReportError(f"{path} cannot be written: {path.parent} is not a folder that this user may write to")


def write_rejects(path: Path, rows: Iterable[RejectedRow]) -> None:
    """Write why each row is bad to a new file of mode 0600.

    It holds ids, by which the operator finds the rows, and no other value of the source.

    Raises:
        ReportError: the name is taken, or the folder cannot be written.
    """
    with _table(path) as write:
        write.writerow(HEADER)
        for row in rows:
            cells = (neutralised(row.id), " ".join(row.reasons), neutralised(row.message))
            write.writerow((row.row, "" if row.line is None else row.line, *cells))


def write_originals(path: Path, header: Sequence[str], rows: Iterable[RejectedRow]) -> None:
    """Write the rows as they were, each behind its reason, to a new file of mode 0600 that can be imported again.

    It holds personal data.  Values are not neutralised for spreadsheets, because an import would read the mark.

    Raises:
        ReportError: the name is taken, or the folder cannot be written.
    """
    with _table(path) as write:
        name = REASON
        while name in header:
            name = f"import_{name}"
        write.writerow((name, *header))
        for row in rows:
            for fields in json.loads(row.original or "[]"):
                write.writerow((neutralised(row.message), *fields))


@contextmanager
def _table(path: Path) -> Iterator[Any]:
    with new_file(path) as stream:
        # bytes that are not UTF-8 are written back as they were read
        text = io.TextIOWrapper(stream, encoding="utf-8", errors="surrogateescape", newline="")
        # with such line ends both of their characters are enclosed in quotation marks where a value has them
        yield csv.writer(text, lineterminator="\r\n")
        text.flush()
        text.detach()
