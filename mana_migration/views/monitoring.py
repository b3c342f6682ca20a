"""What machines ask: is it well, and how far is it?"""

from __future__ import annotations

from django.db import DatabaseError, connections
from django.http import Http404, HttpRequest, HttpResponse
from django.utils.crypto import constant_time_compare
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from mana_migration import conf
from mana_migration.engine.totals import BUCKETS
from mana_migration.reports.metrics import CONTENT_TYPE, metrics_text
from mana_migration.selectors.runs import run_snapshot
from mana_migration.states import RunStatus
from mana_migration.views.page import alias_of

#: A staff permission that opens the metrics to a signed-in account.
VIEW_METRICS = "mana_migration.view_metrics"

_DOWN = "database unavailable\n"


@never_cache
@require_safe
def healthz(request: HttpRequest) -> HttpResponse:
    """Answer 200 ``ok`` where every database answers, 503 ``database unavailable`` where one does not."""
    for alias in connections:
        try:
            with connections[alias].cursor() as cursor:
                cursor.execute("SELECT 1")
                cursor.fetchone()
        except DatabaseError:
            return HttpResponse(_DOWN, content_type="text/plain", status=503)
    return HttpResponse("ok\n", content_type="text/plain")


@never_cache
@require_safe
def metrics(request: HttpRequest) -> HttpResponse:
    """Answer with the metrics in Prometheus' text format, to those with the token or the permission.

    404 while they are turned off, which is the default (MANA_MIGRATION_METRICS_ENABLED); 401
    without or with a wrong token; 403 to an account without the permission.
    """
    if not conf.metrics_enabled():
        raise Http404("the metrics are turned off")
    refusal = _refuse(request)
    if refusal is not None:
        return refusal
    alias = alias_of(request)
    try:
        seen = run_snapshot(alias)
    except DatabaseError:
        return HttpResponse(_DOWN, content_type="text/plain", status=503)
    text = metrics_text(seen, statuses=tuple(RunStatus.values), buckets=BUCKETS, database=alias)
    return HttpResponse(text, content_type=CONTENT_TYPE)


def _refuse(request: HttpRequest) -> HttpResponse | None:
    """Return the refusal for those who may not read the metrics, None for those who may."""
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    token = conf.metrics_token()
    if scheme.lower() == "bearer" and token and constant_time_compare(given.strip(), token):
        return None
    if not scheme and request.user.is_authenticated:
        if request.user.is_active and getattr(request.user, "is_staff", True) and request.user.has_perm(VIEW_METRICS):
            return None
        return HttpResponse("not allowed\n", content_type="text/plain", status=403)
    return HttpResponse("unauthorized\n", content_type="text/plain", status=401, headers={"WWW-Authenticate": "Bearer"})
