"""What all pages of the staff have in common: the frame around them."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import urlencode

from django.db import DEFAULT_DB_ALIAS, connections
from django.http import Http404, HttpRequest
from django.template.response import TemplateResponse

from mana_migration.domain.snapshot import RunSnapshot
from mana_migration.errors import RunNotFoundError
from mana_migration.selectors.runs import run_snapshot
from mana_migration.views import frame
from mana_migration.views.access import alias_of

#: The permissions that buttons ask for, by the name that templates know them under.
ACTION_PERMISSIONS: Final = {
    name: f"mana_migration.{name}"
    for name in (
        "start_run",
        "pause_run",
        "resume_run",
        "stop_run",
        "rollback_run",
        "rollback_user",
        "export_report",
        "view_usermigration",
    )
}


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
        raise Http404(str(error)) from error
    if seen is None:
        raise Http404("there is no run yet")
    return seen
