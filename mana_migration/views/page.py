"""What all pages of the staff have in common: the frame around them."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import urlencode

from django.db import DEFAULT_DB_ALIAS, connections
from django.http import Http404, HttpRequest
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.functional import SimpleLazyObject
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from mana_migration.domain.snapshot import RunSnapshot
from mana_migration.errors import RunNotFoundError
from mana_migration.selectors.runs import run_snapshot
from mana_migration.selectors.user_counts import user_counts
from mana_migration.views import frame

#: The permission that every page needs.
VIEW: Final = "mana_migration.view_migrationrun"

#: Seconds between two polls of the status header while a run is open.
COUNTS_POLL_SECONDS: Final = 10

#: What a refusal is called, by its HTTP status.
_REFUSALS: Final = {
    403: gettext_lazy("Not allowed"),
    404: gettext_lazy("Not found"),
    405: gettext_lazy("Not possible here"),
}

#: The permissions that buttons ask for, by the name that templates know them under.
ACTION_PERMISSIONS: Final = {
    name: f"mana_migration.{name}"
    for name in (
        "start_run",
        "approve_run",
        "pause_run",
        "resume_run",
        "stop_run",
        "rollback_run",
        "rollback_user",
        "export_report",
        "change_migrationrun",
        "view_usermigration",
    )
}


def alias_of(request: HttpRequest) -> str:
    """Return the database that a page is about: the parameter ``database``, else the default one.

    Raises:
        Http404: there is no such alias.
    """
    alias = request.POST.get("database") or request.GET.get("database") or DEFAULT_DB_ALIAS
    if alias not in connections:
        raise Http404(_("There is no database “{alias}”.").format(alias=alias))
    return str(alias)


def address(request: HttpRequest, name: str, *args: Any) -> str:
    """Return the address of a page about the same database."""
    alias = alias_of(request)
    path = reverse(f"mana_migration:{name}", args=args)
    return path if alias == DEFAULT_DB_ALIAS else f"{path}?{urlencode({'database': alias})}"


def refuse(request: HttpRequest, status: int, sentence: str) -> TemplateResponse:
    """Answer with a page that says what happened and offers a way on."""
    context = {
        **frame.context(request),
        "title": _REFUSALS[status],
        "may_view": status != 403 and request.user.has_perm(VIEW),
        "sign_in": frame.sign_in_address(),
    }
    return TemplateResponse(
        request, "mana_migration/refusal.html", {**context, "sentence": sentence, "status": status}, status=status
    )


def render(
    request: HttpRequest,
    template: str,
    context: dict[str, Any],
    *,
    status: int = 200,
    headers: dict[str, str] | None = None,
) -> TemplateResponse:
    """Render a page in the frame of the site's admin, or in our own where there is none."""
    alias = alias_of(request)
    page = {
        **frame.context(request),
        "may": {name: request.user.has_perm(permission) for name, permission in ACTION_PERMISSIONS.items()},
        "alias": alias,
        "aliases": list(connections),
        "alias_query": "" if alias == DEFAULT_DB_ALIAS else f"?{urlencode({'database': alias})}",
        "alias_more": "" if alias == DEFAULT_DB_ALIAS else f"&{urlencode({'database': alias})}",
        "counts": SimpleLazyObject(lambda: user_counts(alias)),  # not every template shows it
        "counts_poll_seconds": COUNTS_POLL_SECONDS,
    }
    return TemplateResponse(request, f"mana_migration/{template}", page | context, status=status, headers=headers)


def snapshot_or_404(request: HttpRequest, run_id: int) -> RunSnapshot:
    """Return what there is to see of a run.

    Raises:
        Http404: there is no such run.
    """
    try:
        seen = run_snapshot(alias_of(request), run_id)
    except RunNotFoundError as error:
        raise Http404(_("There is no run {run}.").format(run=run_id)) from error
    if seen is None:
        raise Http404(_("There is no run yet."))
    return seen
