"""A report as text for a terminal: everything but the users one by one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, tzinfo
from typing import Final

from mana_migration.domain.report import AnyReport, WholeReport
from mana_migration.reports.formatting import number, when
from mana_migration.reports.sections import Cell, Section, sections, title, verdict

#: Rows of one table shown before the rest is left to the exports.
ROWS: Final = 20


def as_lines(report: AnyReport, zone: tzinfo | None = None) -> Iterator[str]:
    """Yield the lines of the report."""
    about = title(report)
    head = f"Report of {'the ' if isinstance(report, WholeReport) else ''}{about[0].lower()}{about[1:]}"
    yield head
    yield "=" * len(head)
    for section in sections(report):
        yield ""
        yield f"{section.title}: {verdict(section)}".removesuffix(": ")
        if section.note:
            yield f"  {section.note}"
        if section.rows:
            yield from _table(section, zone)
    yield ""
    yield (
        f"The {number(report.users_listed)} users one by one: --export json, csv, xlsx or html "
        "(by record id, which only the admin resolves)."
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


def _table(section: Section, zone: tzinfo | None) -> Iterator[str]:
    shown = section.rows[:ROWS]
    if len(section.columns) == 2:
        width = max(len(text_cell(row[0], zone)) for row in shown)
        yield from (f"  {text_cell(row[0], zone):<{width}}  {text_cell(row[1], zone)}" for row in shown)
    else:
        yield from _columns([section.columns, *shown], zone)
    if len(section.rows) > ROWS:
        yield f"  ... and {number(len(section.rows) - ROWS)} more lines in the exports"


def _columns(rows: Sequence[Sequence[Cell]], zone: tzinfo | None) -> Iterator[str]:
    texts = [[text_cell(cell, zone) for cell in row] for row in rows]
    widths = [max(len(row[place]) for row in texts) for place in range(len(texts[0]))]
    right = [all(not isinstance(row[place], str) for row in rows[1:]) for place in range(len(widths))]
    for row in texts:
        cells = zip(row, widths, right, strict=True)
        yield "  " + "  ".join(cell.rjust(width) if end else cell.ljust(width) for cell, width, end in cells).rstrip()
