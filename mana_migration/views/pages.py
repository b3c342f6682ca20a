"""The pages to read: all runs, one run live, its users, one user explained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlencode

from django.db.models.functions import Now
from django.http import HttpRequest, HttpResponse, HttpResponseBase, QueryDict
from django.http.response import Http404
from django.shortcuts import redirect
from django.utils.dateparse import parse_date
from django.utils.translation import gettext as _

from mana_migration.domain.results import Totals
from mana_migration.domain.snapshot import RunSnapshot
from mana_migration.engine.snapshot import read_only_snapshot
from mana_migration.models import MigrationRun, UserMigration
from mana_migration.reports.run_charts import run_charts
from mana_migration.selectors import explanation, outcomes
from mana_migration.selectors.run_list import totals_of
from mana_migration.selectors.runs import snapshot_of
from mana_migration.services.executors import background
from mana_migration.states import Action, RunKind, RunStatus, UserStatus
from mana_migration.views.access import ACT, staff_only
from mana_migration.views.page import address, alias_of, render, snapshot_or_404
from mana_migration.views.reports import DOWNLOADS
from mana_migration.views.requests import waiting
from mana_migration.views.words import option_words, setting_words, shown_status

#: Rows of the list of runs, and runs read for them at most: runs of single users share a row.
ROWS, RUNS_READ = 25, 200

#: Users listed on a page.
USERS_PER_PAGE: Final = 100

#: Seconds between two polls of an open run.
POLL_SECONDS: Final = 2

#: Seconds after which a page without scripts reloads.
RELOAD_SECONDS: Final = 5


@dataclass(slots=True)
class Group:
    """Runs that share a row of the list: one, or several of single users one after the other."""

    folded: bool
    runs: list[tuple[MigrationRun, Totals]] = field(default_factory=list)

    @property
    def first(self) -> MigrationRun:
        """Return the latest of its runs, which comes first."""
        return self.runs[0][0]

    @property
    def last(self) -> MigrationRun:
        """Return the earliest of its runs."""
        return self.runs[-1][0]


@staff_only()
def overview(request: HttpRequest) -> HttpResponseBase:
    """List runs, the latest first, below the one that is open."""
    using = alias_of(request)
    filters = _filters(request.GET)
    runs = _filtered(using, filters)
    before = request.GET.get("before", "")
    if before.isascii() and before.isdecimal() and len(before) < 19:
        runs = runs.filter(pk__lt=int(before))
    read = list(runs.annotate(now=Now()).order_by("-id")[: RUNS_READ + 1])
    groups = _grouped(read[:RUNS_READ], totals_of(read[:RUNS_READ], using=using))
    shown = groups[:ROWS]
    last = shown[-1].last.pk if shown else 0
    open_run = next((run for run in read if run.is_open), None) or _open_run(using, before or filters)
    seen = None
    if open_run is not None:
        with read_only_snapshot(using):
            seen = snapshot_of(open_run, using)
    return render(
        request,
        "overview.html",
        {
            "title": _("Mana migration"),
            "groups": shown,
            "waiting": waiting(using),
            "filters": filters,
            "kinds": RunKind.choices,
            "statuses": RunStatus.choices,
            "earlier": _query(request, before=last) if shown and read[-1].pk < last else "",
            "later": bool(before),
            "first_query": _query(request),
            "run": open_run,
            "seen": seen,
            "poll_seconds": POLL_SECONDS,
            **_headline(seen, using),
        },
    )


@staff_only()
def counts_fragment(request: HttpRequest) -> HttpResponseBase:
    """Return the status header, which is polled while a run is open."""
    using = alias_of(request)
    run = _open_run(using, elsewhere=True)
    seen = None
    if run is not None:
        with read_only_snapshot(using):
            seen = snapshot_of(run, using)
    return render(request, "_counts.html", {"seen": seen})


def _open_run(using: str, elsewhere: object) -> MigrationRun | None:
    """Return the open run where the list may not have it."""
    return MigrationRun.objects.using(using).open().annotate(now=Now()).first() if elsewhere else None


def _filters(given: QueryDict) -> dict[str, str]:
    names = ("kind", "status", "since", "actor")
    return {name: value for name in names if (value := given.get(name, "").strip()[:150])}


def _filtered(using: str, filters: Mapping[str, str]) -> Any:
    runs = MigrationRun.objects.using(using).all()
    if filters.get("kind") in RunKind.values:
        runs = runs.filter(kind=filters["kind"])
    if filters.get("status") in RunStatus.values:
        runs = runs.filter(status=filters["status"])
    if since := _date(filters.get("since", "")):
        runs = runs.filter(created_at__date__gte=since)
    if actor := filters.get("actor", "").replace("\0", ""):
        runs = runs.filter(actor__iexact=actor)
    return runs


def _date(text: str) -> Any:
    try:
        return parse_date(text)
    except ValueError:
        return None


def _query(request: HttpRequest, **more: Any) -> str:
    kept = {**_filters(request.GET), **{key: str(value) for key, value in more.items()}}
    if "database" in request.GET:
        kept["database"] = request.GET["database"]
    return urlencode(kept)


def _grouped(runs: Sequence[MigrationRun], totals: Mapping[int, Totals]) -> list[Group]:
    groups: list[Group] = []
    for run in runs:
        single = bool(run.options.get("users")) and not run.is_open
        if not (single and groups and groups[-1].folded):
            groups.append(Group(single))
        groups[-1].runs.append((run, totals[run.pk]))
    for group in groups:
        group.folded = group.folded and len(group.runs) > 1
    return groups


@staff_only()
def run_page(request: HttpRequest, run_id: int) -> HttpResponseBase:
    """Show one run as it is, and keep showing it while it works."""
    seen = snapshot_or_404(request, run_id)
    title = _("{kind} run {run}").format(kind=RunKind(seen.kind).label, run=seen.run)
    return render(request, "run.html", {"title": title, **_run_context(seen, alias_of(request))})


@staff_only()
def run_fragment(request: HttpRequest, run_id: int) -> HttpResponseBase:
    """Return the changing part of a run's page; where the status is another, make the page reload with its buttons."""
    seen = snapshot_or_404(request, run_id)
    if request.GET.get("status", seen.status) != seen.status:
        return HttpResponse(headers={"HX-Refresh": "true"})
    return render(request, "_run.html", _run_context(seen, alias_of(request)))


#: The outcomes whose users can be listed through an index.
_LISTED: Final = (UserStatus.FAILED, UserStatus.SKIPPED, UserStatus.ROLLED_BACK)


@staff_only()
def run_users(request: HttpRequest, run_id: int) -> HttpResponseBase:
    """List the users of a run who failed, were skipped or rolled back, by error."""
    using = alias_of(request)
    run = MigrationRun.objects.using(using).filter(pk=run_id).first()
    if run is None:
        raise Http404(_("There is no run {run}.").format(run=run_id))
    chosen = request.GET.get("status", "")
    chosen = chosen if chosen in _LISTED else UserStatus.FAILED
    error_class = request.GET.get("error_class", "").replace("\0", "")[:40]
    totals = totals_of([run], using=using)[run.pk]
    records = UserMigration.objects.using(using).with_fix().filter(run=run, status=chosen)
    if error_class:
        records = records.filter(error_class=error_class)
    after = request.GET.get("after", "")
    if after.isascii() and after.isdecimal() and len(after) < 19:
        records = records.filter(pk__gt=int(after))
    found = list(records.order_by("pk")[: USERS_PER_PAGE + 1])
    shown = found[:USERS_PER_PAGE]
    kept = {"status": chosen, "error_class": error_class}
    if "database" in request.GET:
        kept["database"] = request.GET["database"]
    more = urlencode({**kept, "after": shown[-1].pk}) if len(found) > USERS_PER_PAGE else ""
    return render(
        request,
        "run_users.html",
        {
            "title": _("Users of run {run}").format(run=run.pk),
            "run": run,
            "records": shown,
            "statuses": [(status.value, status.label) for status in _LISTED],
            "chosen": chosen,
            "error_class": error_class,
            "classes": sorted({*totals.errors, *totals.skips}),
            "more": more,
        },
    )


@staff_only(methods=ACT)
def user_search(request: HttpRequest) -> HttpResponseBase:
    """Find a user by primary key, username, record id or reference; by POST, so that no name ends up in an address."""
    text = request.POST.get("user", "").strip()
    matches = explanation.find(text, using=alias_of(request)) if text else []
    keys = {match.user_pk for match in matches}
    if len(keys) == 1:
        return redirect(address(request, "user", keys.pop()))
    context = {"title": _("Find a user"), "text": text, "matches": matches}
    return render(request, "user_search.html", context, status=404 if text and not matches else 200)


@staff_only()
def user_page(request: HttpRequest, key: str) -> HttpResponseBase:
    """Explain one user's numbers."""
    using = alias_of(request)
    known = explanation.key_of(key)
    explained = None if known is None else explanation.explain(known, using=using)
    if explained is None:
        raise Http404(_("There is no user {user}.").format(user=key))
    title = _("User {user}").format(user=explained.user_pk)
    return render(request, "user.html", {"title": title, "explanation": explained})


def _run_context(seen: RunSnapshot, using: str) -> dict[str, Any]:
    # an open run is not being rolled back
    reversed_since = seen.kind == RunKind.MIGRATION and not seen.is_open
    reversals = outcomes.reversals_of(seen.run, using=using) if reversed_since else []
    allowed = RunStatus(seen.status).state.allows
    still_migrated = seen.totals.migrated - sum(reversal.users for reversal in reversals)
    return {
        "seen": seen,
        "charts": run_charts(seen),
        "options": option_words(seen.options),
        "settings": setting_words(seen.controls, rollback=seen.is_rollback),
        "problems": outcomes.failed_by_class(seen.run, seen.totals.errors, using=using),
        "reversals": reversals,
        "still_migrated": max(0, still_migrated),
        "poll_seconds": POLL_SECONDS,
        "reload_seconds": RELOAD_SECONDS,
        "can_pause": Action.PAUSE in allowed,
        "can_resume": Action.RESUME in allowed,
        "can_stop": Action.STOP in allowed,
        "can_roll_back": Action.ROLL_BACK in allowed and seen.kind == RunKind.MIGRATION and still_migrated > 0,
        "downloads": DOWNLOADS,
        **_headline(seen, using),
    }


def _headline(seen: RunSnapshot | None, using: str) -> dict[str, Any]:
    """Say how far the run is, whether a process seems to work on it, and how to start a worker if not."""
    if seen is None:
        return {"share_percent": None, "no_worker": False}
    waits = seen.status == RunStatus.PAUSED or seen.window_is_over or (bool(seen.waiting) and not seen.progress.stalled)
    works = not seen.is_open or waits or not background.looks_idle(seen.progress.idle)
    share = seen.progress.share
    return {
        "share_percent": None if share is None else share * 100,
        "shown_status": shown_status(seen),
        "still": waits or bool(seen.standstill) or seen.status == RunStatus.CHECKING or seen.progress.stalled,
        "no_worker": not works,
        "worker_command": background.worker_command(using),
        "send_again_command": background.send_again_command(seen.run, using),
    }
