"""Writing a report to files: where they go by default, and which renderer makes each."""

from __future__ import annotations

from datetime import datetime, tzinfo
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from mana_migration.files import free_name, new_file, refuse_taken

if TYPE_CHECKING:
    from mana_migration.domain.report import AnyReport, ReportToCome

#: The formats a report can be written in.
FORMATS: Final = ("json", "csv", "html", "xlsx")

#: What is sent to a browser about each format.
CONTENT_TYPES: Final = {
    "json": "application/json",
    "csv": "text/csv; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
}


def default_name(run: int | None, format_: str, made: datetime, zone: tzinfo) -> str:
    """Return the name of a report where none was asked for: migration-report-2026-11-23-run7.json, or -all.json."""
    about = "all" if run is None else f"run{run}"
    return f"migration-report-{made.astimezone(zone):%Y-%m-%d}-{about}.{format_}"


def default_path(folder: Path, run: int | None, format_: str, made: datetime, zone: tzinfo) -> Path:
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


def write_report(report: ReportToCome, format_: str, path: Path, *, text_amounts: bool = False) -> list[Path]:
    """Write a report to new files and return them; none is there before it is complete.

    Raises:
        ReportError: a name is taken, or a file cannot be written.
    """
    paths = paths_of(path, format_)
    with new_file(path) as stream:
        write_stream(report, format_, stream, text_amounts=text_amounts)
        for summary in paths[1:]:
            with new_file(summary) as second:
                _module("csv").write_summary(report.whole(), second)
    return paths


def write_stream(report: ReportToCome, format_: str, stream: BinaryIO, *, text_amounts: bool = False) -> None:
    """Write a report's main file to a stream; of CSV that is the users, written while the rest is gathered."""
    if format_ == "csv":
        _module(format_).write(report, stream, text_amounts=text_amounts)
    else:
        _module(format_).write(report.whole(), stream)


def write_to(report: AnyReport, format_: str, stream: BinaryIO) -> None:
    """Write a report's main file to a stream, for a download."""
    _module(format_).write(report, stream)


def _module(format_: str) -> Any:
    """Import a format when it is needed: their libraries together would be half of the start of every command."""
    return import_module(f"mana_migration.reports.report_{format_}")
