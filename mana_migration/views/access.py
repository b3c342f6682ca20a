"""Who may see what: staff accounts, with the permission that a page or an action names."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, Final

from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import PermissionDenied
from django.db import DEFAULT_DB_ALIAS, connections
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase
from django.views.decorators.cache import never_cache

from mana_migration.engine import sessions
from mana_migration.views import frame

VIEW: Final = "mana_migration.view_migrationrun"

View = Callable[..., HttpResponseBase]


def staff_only(*permissions: str) -> Callable[[View], View]:
    """Let in staff who have the view permission and these.

    Anonymous visitors are sent to sign in when they read; everybody else who lacks something gets
    403.  A poll of a page whose session ended makes the page reload, and so leads to the sign-in.
    """

    def decorate(view: View) -> View:
        @never_cache
        @wraps(view)
        def guarded(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
            if not request.user.is_authenticated:
                return _anonymous(request)
            # A user model may lack is_staff; the permissions decide there, asked one by one as the admin asks.
            if not (request.user.is_active and getattr(request.user, "is_staff", True)):
                raise PermissionDenied
            if not all(request.user.has_perm(permission) for permission in (VIEW, *permissions)):
                raise PermissionDenied
            with sessions.named("page"):
                return view(request, *args, **kwargs)

        return guarded

    return decorate


def _anonymous(request: HttpRequest) -> HttpResponseBase:
    if request.headers.get("HX-Request") == "true":
        return HttpResponse(headers={"HX-Refresh": "true"})
    if request.method not in ("GET", "HEAD"):
        raise PermissionDenied
    return redirect_to_login(request.get_full_path(), login_url=frame.sign_in_address())


def alias_of(request: HttpRequest) -> str:
    """Return the database that a page is about: the parameter ``database``, else the default one.

    Raises:
        Http404: there is no such alias.
    """
    alias = request.POST.get("database") or request.GET.get("database") or DEFAULT_DB_ALIAS
    if alias not in connections:
        raise Http404(f"there is no database {alias!r}")
    return str(alias)
