"""A run's report: in the browser as its self-contained page, and as files to download."""

from __future__ import annotations

import tempfile
from typing import BinaryIO, Final, cast

from django.http import FileResponse, Http404, HttpRequest, HttpResponse, HttpResponseBase
from django.utils.timezone import get_current_timezone

from mana_migration.domain.report import RunReport
from mana_migration.domain.snapshot import RunSnapshot
from mana_migration.reports import export, report_csv, report_html
from mana_migration.services.reporting import run_report
from mana_migration.views.access import staff_only
from mana_migration.views.page import alias_of, render, snapshot_or_404

#: Users up to which a report is made inside a request: about ten seconds. A spreadsheet takes ten times as long.
LARGEST: Final = 1_000_000
LARGEST_XLSX: Final = 100_000

#: Bytes of a download that are kept in memory; the rest waits in a temporary file.
IN_MEMORY: Final = 1_000_000

#: The file beside the CSV of the users that has everything else.
SUMMARY: Final = "summary.csv"

DOWNLOADS: Final = (*export.FORMATS, SUMMARY)


@staff_only()
def report(request: HttpRequest, run_id: int) -> HttpResponseBase:
    """Show the report, a page of its own with its own policy."""
    seen = snapshot_or_404(request, run_id)
    if seen.totals.selected > limit_of("html"):
        return _too_large(request, seen, "html")
    response = _written(request, seen, "html")
    response.headers["Content-Security-Policy"] = f"{report_html.content_security_policy()}; frame-ancestors 'none'"
    return response


@staff_only("mana_migration.export_report")
def download(request: HttpRequest, run_id: int, kind: str) -> HttpResponseBase:
    """Return the report as a file."""
    if kind not in DOWNLOADS:
        raise Http404(f"there is no report of the kind {kind!r}")
    seen = snapshot_or_404(request, run_id)
    if seen.totals.selected > limit_of(kind):
        return _too_large(request, seen, kind)
    response = _written(request, seen, kind)
    name = export.default_name(seen.run, kind, seen.taken_at, get_current_timezone())
    response.headers["Content-Disposition"] = f'attachment; filename="{name}"'
    return response


def limit_of(kind: str) -> int:
    """Return the number of users up to which a page makes a report of this kind."""
    return LARGEST_XLSX if kind == "xlsx" else LARGEST


def _written(request: HttpRequest, seen: RunSnapshot, kind: str) -> FileResponse:
    """Write the report aside first: a failure half-way is an error page and not half a file."""
    # Closed by the response. A spooled file has all of a binary file's methods, but not its type.
    stream = cast(BinaryIO, tempfile.SpooledTemporaryFile(max_size=IN_MEMORY))  # noqa: SIM115
    try:
        with run_report(alias_of(request), seen.run) as found:
            _write(found, kind, stream)
    except BaseException:
        stream.close()
        raise
    stream.seek(0)
    content_type = export.CONTENT_TYPES[kind.rpartition(".")[2]]
    headers = {"X-Content-Type-Options": "nosniff"}
    return FileResponse(stream, content_type=content_type, headers=headers)


def _write(found: RunReport, kind: str, stream: BinaryIO) -> None:
    if kind == SUMMARY:
        report_csv.write_summary(found, stream)
    else:
        export.write_to(found, kind, stream)


def _too_large(request: HttpRequest, seen: RunSnapshot, kind: str) -> HttpResponse:
    context = {
        "title": f"Report of run {seen.run}",
        "seen": seen,
        "largest": limit_of(kind),
        "command": f"python manage.py monitor_migration --export {kind.rpartition('.')[2]} --run {seen.run}",
    }
    return render(request, "too_large.html", context, status=413)
