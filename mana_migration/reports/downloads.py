"""The kinds of reports that pages offer, and how each is written."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, BinaryIO, Final

from mana_migration.reports import export

if TYPE_CHECKING:
    from mana_migration.domain.report import RunReport, WholeReport

#: The file beside the CSV of the users that has everything else.
SUMMARY: Final = "summary.csv"

KINDS: Final = (*export.FORMATS, SUMMARY)


def content_type(kind: str) -> str:
    """Return the content type of a kind of report."""
    return export.CONTENT_TYPES[kind.rpartition(".")[2]]


def write(report: RunReport | WholeReport, kind: str, stream: BinaryIO) -> None:
    """Write a report of this kind to a stream."""
    if kind == SUMMARY:
        import_module("mana_migration.reports.report_csv").write_summary(report, stream)
    else:
        export.write_to(report, kind, stream)
