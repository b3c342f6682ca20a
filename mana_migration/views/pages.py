"""The pages to read: all runs, one run live, one user explained."""

from __future__ import annotations

from typing import Any, Final

from django.core.paginator import Paginator
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import redirect
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_http_methods, require_safe

from mana_migration.domain.snapshot import RunSnapshot
from mana_migration.models import MigrationRun
from mana_migration.reports import run_lines
from mana_migration.reports.run_charts import run_charts
from mana_migration.selectors import explanation
from mana_migration.selectors.run_list import totals_of
from mana_migration.selectors.runs import run_snapshot
from mana_migration.services.executors import background
from mana_migration.states import Action, RunKind, RunStatus
from mana_migration.views.access import alias_of, staff_only
from mana_migration.views.page import render, snapshot_or_404
from mana_migration.views.reports import DOWNLOADS

RUNS_PER_PAGE: Final = 25

#: Seconds between two looks at an open run.
POLL_SECONDS: Final = 2

#: Seconds after which a page without scripts reloads.
RELOAD_SECONDS: Final = 5


@require_safe
@staff_only()
def overview(request: HttpRequest) -> HttpResponseBase:
    """List all runs, the latest first, below the one that is open."""
    using = alias_of(request)
    runs = MigrationRun.objects.using(using).order_by("-id")
    page = Paginator(runs, RUNS_PER_PAGE).get_page(request.GET.get("p"))
    shown = list(page.object_list)
    totals = totals_of(shown, using=using)
    seen = run_snapshot(using)
    return render(
        request,
        "overview.html",
        {
            "title": "Mana migration",
            "page": page,
            "runs": [(run, totals[run.pk]) for run in shown],
            "seen": seen,
            "can_start": seen is None or not seen.is_open,
            **_headline(seen, using),
        },
    )


@require_safe
@staff_only()
def run_page(request: HttpRequest, run_id: int) -> HttpResponseBase:
    """Show one run as it is, and keep showing it as it goes on."""
    seen = snapshot_or_404(request, run_id)
    return render(
        request, "run.html", {"title": f"{seen.kind_label} run {seen.run}", **_run_context(seen, alias_of(request))}
    )


@require_safe
@staff_only()
def run_fragment(request: HttpRequest, run_id: int) -> HttpResponseBase:
    """Return the changing part of a run's page; where the status is another, make the page reload with its buttons."""
    seen = snapshot_or_404(request, run_id)
    if request.GET.get("status", seen.status) != seen.status:
        return HttpResponse(headers={"HX-Refresh": "true"})
    return render(request, "_run.html", _run_context(seen, alias_of(request)))


@require_http_methods(["GET", "HEAD", "POST"])
@staff_only()
def user_search(request: HttpRequest) -> HttpResponseBase:
    """Find a user by primary key, username or record id; by POST, so that no name ends up in an address."""
    text = request.POST.get("user", "")
    matches = explanation.find(text, using=alias_of(request)) if text else []
    keys = {match.user_pk for match in matches}
    if len(keys) == 1:
        address = reverse("mana_migration:user", args=[keys.pop()])
        alias = alias_of(request)
        return redirect(address if alias == "default" else f"{address}?database={alias}")
    context = {"title": "Explain a user's numbers", "text": text, "matches": matches}
    return render(request, "user_search.html", context, status=404 if text and not matches else 200)


@require_safe
@staff_only()
def user_page(request: HttpRequest, key: str) -> HttpResponseBase:
    """Explain one user's numbers."""
    using = alias_of(request)
    found = explanation.users_with_key(key, using)
    explained = explanation.explain(found[0], using=using) if found else None
    if explained is None:
        raise Http404(f"there is no user {key}")
    return render(request, "user.html", {"title": f"User {explained.user_pk}", "explanation": explained})


def _run_context(seen: RunSnapshot, using: str) -> dict[str, Any]:
    zone, allowed = timezone.get_current_timezone(), RunStatus(seen.status).state.allows
    return {
        "seen": seen,
        "facts": run_lines.facts(seen, zone),
        "charts": run_charts(seen),
        "poll_seconds": POLL_SECONDS,
        "reload_seconds": RELOAD_SECONDS,
        "can_pause": Action.PAUSE in allowed,
        "can_resume": Action.RESUME in allowed,
        "can_stop": Action.STOP in allowed,
        "can_roll_back": Action.ROLL_BACK in allowed and seen.kind == RunKind.MIGRATION and bool(seen.totals.migrated),
        "downloads": DOWNLOADS,
        **_headline(seen, using),
    }


def _headline(seen: RunSnapshot | None, using: str) -> dict[str, Any]:
    """Say how far the run is, whether anybody seems to work on it, and how to start a worker if not."""
    if seen is None:
        return {"share_percent": None, "nobody_works": False}
    waits = seen.status == RunStatus.PAUSED or (bool(seen.waiting) and not seen.progress.stalled)
    works = not seen.is_open or waits or not background.looks_idle(seen.progress.idle)
    share = seen.progress.share
    return {
        "share_percent": None if share is None else share * 100,
        "nobody_works": not works,
        "worker_command": background.worker_command(using),
        "hand_over_command": background.hand_over_command(seen.run, using),
    }
