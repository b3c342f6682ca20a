"""A run's report: in the browser as its self-contained page, and as files to download.

A small run's is made in the request.  That of a larger one is asked for, made by a worker process, and offered then.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, BinaryIO, Final, cast

from django.contrib import messages
from django.http import FileResponse, Http404, HttpRequest, HttpResponseBase, HttpResponseRedirect
from django.utils import timezone
from django.utils.translation import gettext as _

from mana_migration.engine.snapshot import read_only_snapshot
from mana_migration.errors import MigrationError, for_database
from mana_migration.models import ReportFile
from mana_migration.reports import downloads, export, report_html
from mana_migration.reports.formatting import number
from mana_migration.selectors.statistics import statistics as site_statistics
from mana_migration.selectors.user_counts import user_counts
from mana_migration.services import report_files
from mana_migration.services.executors import background
from mana_migration.services.reporting import run_report, whole_report_to_come
from mana_migration.states import ReportStatus
from mana_migration.views.access import ACT, staff_only
from mana_migration.views.page import address, alias_of, render, snapshot_or_404

#: Users up to which a report is made inside a request; chosen, not measured.  A spreadsheet takes ten times as long.
IN_REQUEST: Final = 20_000
IN_REQUEST_XLSX: Final = 2_000

#: Bytes of a download that are kept in memory; the rest waits in a temporary file.
IN_MEMORY: Final = 1_000_000

#: Seconds after which the page of a report that is being made loads again, and after which no worker seems to run.
POLL_SECONDS: Final = 2
WORKER_EXPECTED: Final = 10.0

HTML: Final = "html"
DOWNLOADS: Final = downloads.KINDS


@staff_only(methods=ACT)
def report(request: HttpRequest, run_id: int) -> HttpResponseBase:
    """Show the report, a page of its own with its own policy; by POST ask for that of a large run."""
    return _report(request, run_id, HTML, attached=False)


@staff_only("mana_migration.export_report", methods=ACT)
def download(request: HttpRequest, run_id: int, kind: str) -> HttpResponseBase:
    """Return the report as a file; by POST ask for that of a large run."""
    if kind not in DOWNLOADS:
        raise Http404(_("There is no report of the kind “{kind}”.").format(kind=kind))
    return _report(request, run_id, kind, attached=True)


@staff_only(methods=ACT)
def whole(request: HttpRequest) -> HttpResponseBase:
    """Show the report of the whole migration, which is signed the morning after; by POST ask for a large site's."""
    using = alias_of(request)
    users = user_counts(using).total.users
    if users > IN_REQUEST:
        context = {
            "title": _("The whole migration"),
            "back": address(request, "overview"),
            "being_made": _("A worker process makes the report of the whole migration."),
            "to_be_made": _about(users),
        }
        return _made_by_a_worker(request, None, HTML, context)

    def write(stream: BinaryIO) -> None:
        with whole_report_to_come(using) as found:
            report_html.write(found.whole(), stream)

    return _served(_written(write), HTML)


@staff_only(methods=ACT)
def statistics(request: HttpRequest) -> HttpResponseBase:
    """Show the figures of the whole site; by POST have those of a large site counted by a worker process."""
    using = alias_of(request)
    users, context = user_counts(using).total.users, {"title": _("Statistics"), "back": address(request, "overview")}
    if users <= IN_REQUEST:
        with read_only_snapshot(using):
            figures = site_statistics(using).as_dict()
        return render(
            request, "statistics.html", context | _shown(figures) | {"at": timezone.now(), "counted_now": True}
        )
    file = report_files.latest(None, report_files.STATISTICS, using=using)
    if request.method != "POST" and file is not None and file.status == ReportStatus.READY:
        with _opened(file) as stream:
            figures = json.load(stream)
        return render(request, "statistics.html", context | _shown(figures) | {"at": file.touched_at})
    context |= {
        "being_made": _("A worker process reads every wallet for these figures."),
        "to_be_made": _about(users),
        "button": _("Count now"),
    }
    return _made_by_a_worker(request, None, report_files.STATISTICS, context)


def _shown(figures: dict[str, Any]) -> dict[str, Any]:
    latest = [one | {"at": datetime.fromisoformat(one["at"])} for one in figures["latest"]]
    return {"figures": figures, "latest": latest}


def _about(users: int) -> str:
    sentence = _("The database has about {users} users: a worker process does this, so that no page has to wait.")
    return sentence.format(users=number(users))


def in_request(kind: str) -> int:
    """Return the number of users up to which a report of this kind is made inside a request."""
    return IN_REQUEST_XLSX if kind == "xlsx" else IN_REQUEST


def _ask(request: HttpRequest, run_id: int | None, kind: str) -> HttpResponseBase:
    actor, again = request.user.get_username()[:150], request.POST.get("again") == "on"
    try:
        background.ask_for_report(run_id, kind, actor=actor, again=again, using=alias_of(request))
    except MigrationError as error:
        messages.error(request, for_database(str(error), alias_of(request)))
    return HttpResponseRedirect(request.get_full_path())


def _report(request: HttpRequest, run_id: int, kind: str, *, attached: bool) -> HttpResponseBase:
    seen = snapshot_or_404(request, run_id)
    name = export.default_name(seen.run, kind, seen.taken_at, timezone.get_current_timezone()) if attached else None
    if seen.totals.selected <= in_request(kind):

        def write(stream: BinaryIO) -> None:
            with run_report(alias_of(request), seen.run, again=request.GET.get("again") == "on") as found:
                downloads.write(found, kind, stream)

        return _served(_written(write), kind, name)
    title, back = _("Report of run {run}").format(run=seen.run), address(request, "run", seen.run)
    context = {
        "title": title,
        "back": back,
        "being_made": _("A worker process makes the {kind} report of run {run}.").format(kind=kind, run=seen.run),
        "to_be_made": _(
            "Run {run} has {users} users. A worker process makes its report, so that no page has to wait."
        ).format(run=seen.run, users=number(seen.totals.selected)),
    }
    return _made_by_a_worker(request, seen.run, kind, context, name)


def _made_by_a_worker(
    request: HttpRequest, run_id: int | None, kind: str, context: dict[str, Any], name: str | None = None
) -> HttpResponseBase:
    """Ask for a large report, show that it is being made, or serve it; ``name``: of the file to download."""
    using = alias_of(request)
    if request.method == "POST":
        return _ask(request, run_id, kind)
    file = report_files.latest(run_id, kind, using=using)
    if file is not None and file.status == ReportStatus.READY and request.GET.get("file") == str(file.pk):
        return _served(_opened(file), kind, name)
    waited = 0.0 if file is None else (datetime.now(UTC) - file.created_at).total_seconds()
    context |= {
        "run": run_id,
        "kind": kind,
        "file": file,
        "waiting": file is not None and file.status in (ReportStatus.WANTED, ReportStatus.MAKING),
        "ready": file is not None and file.status == ReportStatus.READY,
        "failed": file is not None and file.status == ReportStatus.FAILED,
        "attached": name is not None,
        "poll_seconds": POLL_SECONDS,
        "worker_command": background.worker_command(using),
        "no_worker": file is not None and file.status == ReportStatus.WANTED and waited >= WORKER_EXPECTED,
    }
    return render(request, "report_file.html", context)


def _opened(file: ReportFile) -> BinaryIO:
    try:
        return report_files.path_of(file).open("rb")
    except FileNotFoundError as error:
        raise Http404(_("The file is not in the report folder of this machine.")) from error


def _served(stream: BinaryIO, kind: str, name: str | None = None) -> FileResponse:
    """Return a report: as a file with this name, or as a page with its own policy."""
    response = FileResponse(stream, content_type=downloads.content_type(kind))
    response.headers["X-Content-Type-Options"] = "nosniff"
    if name:
        response.headers["Content-Disposition"] = f'attachment; filename="{name}"'
    else:
        policy = f"{report_html.content_security_policy()}; frame-ancestors 'none'"
        response.headers["Content-Security-Policy"] = policy
    return response


def _written(write: Callable[[BinaryIO], object]) -> BinaryIO:
    """Write the report aside first: a failure half-way is an error page and not half a file."""
    # Closed by the response. A spooled file has all of a binary file's methods, but not its type.
    stream = cast(BinaryIO, tempfile.SpooledTemporaryFile(max_size=IN_MEMORY))  # noqa: SIM115
    try:
        write(stream)
    except BaseException:
        stream.close()
        raise
    stream.seek(0)
    return stream
