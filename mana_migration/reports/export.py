"""Writing a report to files: where they go by default, and which renderer makes each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, tzinfo
from pathlib import Path
from typing import BinaryIO, Final

from mana_migration.domain.report import ReportToCome, RunReport
from mana_migration.files import free_name, new_file, refuse_taken
from mana_migration.reports import report_csv, report_html, report_json

Writer = Callable[[RunReport, BinaryIO], None]


def _write_xlsx(report: RunReport, stream: BinaryIO) -> None:
    # its library alone would be a fifth of the start of every command
    from mana_migration.reports import report_xlsx  # noqa: PLC0415

    report_xlsx.write(report, stream)


_WRITERS: Final[Mapping[str, Writer]] = {
    "json": report_json.write,
    "csv": report_csv.write_users,
    "html": report_html.write,
    "xlsx": _write_xlsx,
}

#: The formats a report can be written in.
FORMATS: Final = tuple(_WRITERS)

#: What a browser is told about each format.
CONTENT_TYPES: Final = {
    "json": "application/json",
    "csv": "text/csv; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
}


def default_name(run: int, format_: str, made: datetime, zone: tzinfo) -> str:
    """Return the name of a report where none was asked for: migration-report-2026-11-23-run7.json."""
    return f"migration-report-{made.astimezone(zone):%Y-%m-%d}-run{run}.{format_}"


def default_path(folder: Path, run: int, format_: str, made: datetime, zone: tzinfo) -> Path:
    """Return where a report goes by default; a second one on the same day gets a number."""
    return free_name(folder / default_name(run, format_, made, zone))


def paths_of(path: Path, format_: str) -> list[Path]:
    """Return all files that an export writes: CSV has a second one for everything but the users."""
    return [path, path.with_name(f"{path.stem}-summary.csv")] if format_ == "csv" else [path]


def refuse_names_taken(path: Path, format_: str, *, make_folder: bool = False) -> None:
    """Refuse names that could not be written, before any work is done.

    Raises:
        ReportError: a name is taken, or the folder cannot be written.
    """
    for each in paths_of(path, format_):
        refuse_taken(each, make_folder=make_folder)


def write_report(report: ReportToCome, format_: str, path: Path) -> list[Path]:
    """Write a report to new files and return them; none is there before it is complete.

    Raises:
        ReportError: a name is taken, or a file cannot be written.
    """
    paths = paths_of(path, format_)
    with new_file(path) as stream:
        if format_ == "csv":
            report_csv.write_users(report, stream)  # while the rest is gathered
        else:
            _WRITERS[format_](report.whole(), stream)
        for summary in paths[1:]:
            with new_file(summary) as second:
                report_csv.write_summary(report.whole(), second)
    return paths


def write_to(report: RunReport, format_: str, stream: BinaryIO) -> None:
    """Write a report's main file to a stream, for a download."""
    _WRITERS[format_](report, stream)
