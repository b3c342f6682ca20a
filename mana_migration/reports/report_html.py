"""A report as one HTML file that asks for nothing from anywhere: styles and charts are inside, scripts are not.

The content security policy lets in this very style sheet, by its hash, and nothing else.  Everything
is escaped by the template; the style sheet is written so that escaping leaves it as it is.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Final

from django.template.loader import render_to_string
from django.utils import translation
from django.utils.html import escape
from django.utils.timezone import get_current_timezone

from mana_migration.domain.report import AnyReport, RunReport, UserDetail, WholeReport
from mana_migration.reports.databook import databook
from mana_migration.reports.formatting import duration, number, percent, when
from mana_migration.reports.report_charts import report_charts
from mana_migration.reports.report_text import named_cell
from mana_migration.reports.sections import USER_COLUMNS, Cell, Section, sections, title, verdict
from mana_migration.states import RunStatus, Tone

#: Users listed one by one in the page; of more, those who failed or were skipped come first.
USERS_LISTED: Final = 5_000

#: Tables whose rows are problems.
PROBLEMS: Final = ("errors", "skipped", "shortfalls")

#: Columns of a user that are no numbers.
_TEXTS: Final = ("status", "handled_at", "error", "message", "reversed_at")

_STYLES: Final = ("charts.css", "report.css")
_STATIC: Final = Path(__file__).resolve().parent.parent / "static" / "mana_migration"


@dataclass(frozen=True, slots=True)
class Tile:
    """One headline figure."""

    label: str
    figure: str
    small: str = ""
    tone: str = Tone.PLAIN

    @property
    def size(self) -> str:
        """Return how small the digits have to be for the figure to stay on one line; a broken number is misread."""
        return "long" if 11 < len(self.figure) <= 18 else "longest" if 18 < len(self.figure) <= 27 else ""


@dataclass(frozen=True, slots=True)
class Table:
    """A section with its cells as text; each column and cell says whether it holds numbers."""

    key: str
    title: str
    note: str
    tone: str
    verdict: str
    columns: Sequence[tuple[str, bool]]
    rows: Sequence[Sequence[tuple[str, bool]]]

    @property
    def wide(self) -> bool:
        """Say whether the table needs the whole width of the page."""
        return len(self.columns) > 4


@lru_cache(maxsize=1)
def style() -> str:
    """Return the style sheet of the report, charts included."""
    return "\n".join((_STATIC / name).read_text(encoding="utf-8") for name in _STYLES)


def content_security_policy() -> str:
    """Return the policy that the page carries, for a view that serves it as well."""
    digest = base64.b64encode(hashlib.sha256(escape(style()).encode()).digest()).decode()
    return f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"


def write(report: AnyReport, stream: BinaryIO) -> None:
    """Write the page; its size has a limit, since it lists at most ``USERS_LISTED`` users."""
    with translation.override(None):  # a report is the same file in every language
        stream.write(render_to_string("mana_migration/report.html", context(report)).encode())


def write_tables(
    found: Sequence[Section], stream: BinaryIO, *, heading: str, status: str, tone: str, made: datetime
) -> None:
    """Write a page of tables alone, with what they are about and what became of it."""
    head = {"title": heading, "heading": heading, "status": status, "tone": tone}
    with translation.override(None):
        page = _page(found) | head | {"made": when(made, get_current_timezone())}
        stream.write(render_to_string("mana_migration/report.html", page).encode())


def _page(found: Sequence[Section]) -> dict[str, Any]:
    """Return what every page has: its policy, its style and its tables."""
    book = databook(found, partial(named_cell, zone=get_current_timezone()))
    return {
        "policy": content_security_policy(),
        "style": style(),
        "tables": [_table(section, sheet.dict) for section, sheet in zip(found, book.sheets(), strict=True)],
    }


def context(report: AnyReport) -> dict[str, Any]:
    """Return what the template shows; every value is text."""
    listed, problems_first = _listed(report)
    found = sorted(sections(report), key=_is_calm)  # sorted() keeps the order of equals
    return {
        **_page(found),
        "title": title(report),
        "made": when(report.generated_at, get_current_timezone()),
        **(_head_of_all(report) if isinstance(report, WholeReport) else _head_of_run(report)),
        "users": {
            "columns": [(name.replace("_", " "), name not in _TEXTS) for name in USER_COLUMNS],
            "rows": [
                [(named_cell(name, cell), name not in _TEXTS) for name, cell in zip(USER_COLUMNS, line, strict=True)]
                for line in listed
            ],
            "listed": number(len(listed)),
            "all": number(report.users_listed),
            "cut": len(listed) < report.users_listed,
            "problems_first": problems_first,
        },
    }


def _head_of_run(report: RunReport) -> dict[str, Any]:
    seen = report.snapshot
    return {
        "status": seen.status_label,
        "tone": RunStatus(seen.status).state.tone,
        "heading": f"{seen.kind_label}: run {seen.run}",
        "started": when(seen.started_at, get_current_timezone()),
        "finished": when(seen.finished_at, get_current_timezone()) if seen.finished_at else "",
        "tiles": _tiles(report),
        "charts": report_charts(report),
    }


def _head_of_all(report: WholeReport) -> dict[str, Any]:
    counts, value = report.statistics.users, report.value
    tiles = [
        Tile("Users migrated", number(counts.migrated), f"of {number(counts.total)}"),
        Tile("Pending", number(counts.pending), "", Tone.WARN if counts.pending else Tone.PLAIN),
        Tile("Mana in the system", number(report.statistics.mana)),
        Tile("Runs", number(len(report.runs))),
    ]
    if value is not None:
        agrees = "agree" if not value.difference else "do NOT agree"
        tiles.append(Tile("Books", agrees, "to the unit", Tone.BAD if value.difference else Tone.GOOD))
    return {
        "status": "complete" if not counts.pending else "users are left",
        "tone": Tone.WARN if counts.pending else Tone.GOOD,
        "heading": title(report),
        "started": when(report.runs[0].started_at, get_current_timezone()) if report.runs else "",
        "finished": "",
        "tiles": tiles,
        "charts": [],
    }


def _tiles(report: RunReport) -> list[Tile]:
    seen, totals, books = report.snapshot, report.snapshot.totals, report.reconciliation
    done = totals.rolled_back if seen.is_rollback else totals.migrated
    rate = seen.error_rate
    share = percent(rate.share) + " of those attempted" if rate.share is not None else ""
    tiles = [
        Tile("Users rolled back" if seen.is_rollback else "Users migrated", number(done), _of_expected(report)),
        Tile("Mana debited" if seen.is_rollback else "Mana credited", number(totals.mana)),
        Tile("Failed", number(totals.failed), share, Tone.WARN if totals.failed else Tone.PLAIN),
        Tile("Skipped", number(totals.skipped), "", Tone.WARN if totals.skipped else Tone.PLAIN),
        Tile("Took", duration(seen.elapsed), f"{number(seen.progress.rate_average)} users a minute"),
        Tile(
            "Books",
            "agree" if books.ok else "do NOT agree",
            "to the unit" if books.ok else "see the reconciliation",
            Tone.GOOD if books.ok else Tone.BAD,
        ),
    ]
    if report.validation is not None:
        words = "no errors" if report.validation.ok else f"{number(report.validation.error_count)} errors"
        tiles.append(Tile("Integrity", words, "", Tone.GOOD if report.validation.ok else Tone.BAD))
    if totals.shortfall or report.shortfall_users:
        small = f"{number(report.shortfall_users)} users had spent mana"
        tiles.append(Tile("Written off", number(totals.shortfall), small, Tone.WARN))
    return tiles


def _of_expected(report: RunReport) -> str:
    progress = report.snapshot.progress
    return "" if progress.expected is None else f"of {number(progress.expected)} selected at the start"


def _listed(report: AnyReport) -> tuple[list[UserDetail], bool]:
    """Return the users to list, and whether those with problems were put first because not all fit."""
    if report.users_listed <= USERS_LISTED:
        return list(report.details), False
    listed = report.details.problems(USERS_LISTED)
    known = {line.record for line in listed}
    others = (line for line in report.details if line.record not in known)
    return [*listed, *islice(others, USERS_LISTED - len(listed))], True


def _is_calm(section: Section) -> bool:
    """Say whether a table has no problem to show; those that have one come first."""
    return section.ok is not False and not (section.rows and section.key in PROBLEMS)


def _table(section: Section, rows: Sequence[Mapping[str, str]]) -> Table:
    numeric = [
        bool(section.rows) and all(_is_number(row[place]) for row in section.rows)
        for place in range(len(section.columns))
    ]
    return Table(
        key=section.key,
        title=section.title,
        note=section.note,
        tone=Tone.PLAIN if section.ok is None else Tone.GOOD if section.ok else Tone.BAD,
        verdict=verdict(section),
        columns=list(zip(section.columns, numeric, strict=True)),
        rows=[list(zip(row.values(), numeric, strict=True)) for row in rows],
    )


def _is_number(cell: Cell) -> bool:
    return cell is None or isinstance(cell, int | float)
