"""A report as text for a terminal: everything but the users one by one."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from datetime import datetime, tzinfo
from typing import Final

from mana_migration.domain.report import AnyReport, WholeReport
from mana_migration.reports.formatting import number, when
from mana_migration.reports.sections import Cell, Section, sections, title, verdict

#: Columns of ids.
ID_COLUMNS: Final = ("record", "run", "batch", "reversal_run")

#: Columns of a terminal that a text needs to be folded in.
LEAST_FOLDED: Final = 24

#: Rows of one table shown before the rest is left to the exports.
ROWS: Final = 20


def as_lines(report: AnyReport, zone: tzinfo | None = None, width: int | None = None) -> Iterator[str]:
    """Yield the lines of the report, folded to the width of a terminal where one is given."""
    about = title(report)
    head = f"Report of {'the ' if isinstance(report, WholeReport) else ''}{about[0].lower()}{about[1:]}"
    yield head
    yield "=" * len(head)
    for section in sections(report):
        yield ""
        yield f"{section.title}: {verdict(section)}".removesuffix(": ")
        if section.note:
            yield from _hanging("  ", section.note, width)
        if section.rows:
            yield from table_lines(section, zone, width)
    yield ""
    yield from _hanging(
        "",
        f"The {number(report.users_listed)} users one by one: --export json, csv, xlsx or html "
        "(by record id, which only the admin resolves).",
        width,
    )


def text_cell(value: Cell, zone: tzinfo | None = None) -> str:
    """Write one cell for people."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, datetime):
        return when(value, zone)
    return number(value) if isinstance(value, int) else f"{value:,.10g}"


def named_cell(column: str, value: Cell, zone: tzinfo | None = None) -> str:
    """Write one cell of a column for people; ids have no separators."""
    return str(value) if column in ID_COLUMNS and isinstance(value, int) else text_cell(value, zone)


def table_lines(section: Section, zone: tzinfo | None = None, width: int | None = None) -> Iterator[str]:
    """Yield the lines of a table, its first rows where it has many."""
    shown = section.rows[:ROWS]
    texts = [
        [named_cell(column, cell, zone) for column, cell in zip(section.columns, row, strict=True)] for row in shown
    ]
    if len(section.columns) == 2:
        first = max(len(row[0]) for row in texts)
        for name, value in texts:
            yield from _hanging(f"  {name:<{first}}  ", value, width)
    else:
        right = [all(not isinstance(row[place], str) for row in shown) for place in range(len(section.columns))]
        yield from _columns(section.columns, texts, right, width)
    if len(section.rows) > ROWS:
        yield f"  ... and {number(len(section.rows) - ROWS)} more lines in the exports"


def _columns(
    head: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[bool], width: int | None
) -> Iterator[str]:
    """Yield the rows in columns; where they are too wide, with the last one folded, else each row as a list."""
    widths = [max(len(row[place]) for row in [head, *rows]) for place in range(len(head))]
    before = 2 + sum(widths[:-1]) + 2 * (len(widths) - 1)
    fits = width is None or before + widths[-1] <= width
    if not fits and (right[-1] or before > int(width or 0) - LEAST_FOLDED):
        yield from _as_lists(head, rows, width)
        return
    for row in [head, *rows]:
        cells = [
            cell.rjust(size) if end else cell.ljust(size) for cell, size, end in zip(row, widths, right, strict=True)
        ]
        yield from _hanging("  " + "".join(f"{cell}  " for cell in cells[:-1]), cells[-1].rstrip(), width)


def _as_lists(head: Sequence[str], rows: Sequence[Sequence[str]], width: int | None) -> Iterator[str]:
    name = max(len(column) for column in head[1:])
    for row in rows:
        yield f"  {head[0]} {row[0]}"
        for column, cell in zip(head[1:], row[1:], strict=True):
            if cell:
                yield from _hanging(f"    {column:<{name}}  ", cell, width)


def _hanging(start: str, text: str, width: int | None) -> Iterator[str]:
    """Yield a text behind its start, folded between words where it is wider than the terminal."""
    if width is None or len(start) + len(text) <= width or len(start) > width - LEAST_FOLDED:
        yield f"{start}{text}".rstrip()
        return
    yield from textwrap.wrap(
        text, width, initial_indent=start, subsequent_indent=" " * len(start), break_long_words=False
    )
