"""The list of rejected rows as a CSV file, which appears whole or not at all."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from mana_migration.domain.import_results import RejectedRow
from mana_migration.errors import ReportError
from mana_migration.files import new_file

HEADER: Final = ("row", "line", "id", "reasons", "explanation")

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
        raise ReportError(f"{path} exists already and is never overwritten; name another file with --rejects")
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK | os.X_OK):
        raise ReportError(f"{path} cannot be written: {path.parent} is no folder that this user may write to")


def write_rejects(path: Path, rows: Iterable[RejectedRow]) -> None:
    """Write the rows to a new file of mode 0600.

    It holds ids, which the operator needs to find the rows, and no other value of the source.

    Raises:
        ReportError: the name is taken, or the folder cannot be written.
    """
    with new_file(path) as stream:
        text = io.TextIOWrapper(stream, encoding="utf-8", newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(HEADER)
        for row in rows:
            cells = (neutralised(row.id), " ".join(row.reasons), neutralised(row.message))
            writer.writerow((row.row, "" if row.line is None else row.line, *cells))
        text.flush()
        text.detach()
